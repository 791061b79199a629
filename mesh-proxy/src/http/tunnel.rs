//! Connections that become something else. An upgrade is routed as any other request; if the endpoint agrees (101), the two connections become
//! one stream of bytes until either end closes it. CONNECT may end here: then its stream goes to an endpoint of the cluster over TCP. What
//! may pass says the listener, or the route; upgrades are of HTTP/1.1 only.

use super::attempt::Answer;
use super::body::ResponseBody;
use super::dress::Dress;
use super::local::Local;
use super::record::Record;
use super::rewind::Rewind;
use crate::config::Cluster;
use crate::core::balance::Ask;
use crate::core::flags::Flags;
use crate::pod::upstream::Upstream;
use crate::pod::{Guest, Pod};
use crate::stream::Stream;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::io;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::sync::oneshot;

/// The client's end of a connection that may become something else.
pub(super) enum Client {
    /// The stream, once the answer has been sent; no answer, no stream.
    Http1(oneshot::Receiver<Rewind<Stream>>),
    /// A stream of its connection.
    Http2(OnUpgrade),
}

impl Client {
    /// Copies both ways until both ends have said that there is no more.
    async fn join(self, server: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<(u64, u64)> {
        match self {
            Self::Http1(stream) => match stream.await {
                Ok(mut client) => copy_bidirectional(&mut client, server).await,
                Err(_gone) => Err(io::ErrorKind::NotConnected.into()),
            },
            Self::Http2(upgrade) => {
                let client = upgrade.await.map_err(io::Error::other)?;
                copy_bidirectional(&mut TokioIo::new(client), server).await
            }
        }
    }
}

/// What the client asks to go on with: `None` if nothing. `h2c` is an offer that may be declined, and Envoy declines it too.
pub(super) fn wanted(parts: &Parts) -> Option<String> {
    let headers = &parts.headers;
    let asked = headers.get(header::UPGRADE)?.to_str().ok()?;
    let lists_upgrade = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("upgrade"));
    let asks = parts.version == Version::HTTP_11 && headers.get_all(header::CONNECTION).iter().any(lists_upgrade);
    (asks && !asked.eq_ignore_ascii_case("h2c")).then(|| asked.to_ascii_lowercase())
}

/// Says on the next connection what the client said on its own.
pub(super) fn ask(headers: &mut HeaderMap, kind: &str) {
    if let Ok(kind) = HeaderValue::try_from(kind) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, kind);
    }
}

/// Did the endpoint agree?
pub(super) fn agreed((response, _lease): &Answer) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// The answer that makes the two ends one. The request is over with it; both connections count until they end.
pub(super) fn open(
    (response, mut lease): Answer,
    client: Client,
    pod: &Rc<Pod>,
    mut record: Box<Record>,
) -> Response<ResponseBody> {
    // It is no connection for requests any more. HTTP/2 has no such answer.
    let server = lease.became_a_tunnel();
    // The client's connection is no longer the one that was counted. At the limit it goes on all the same.
    let guest = Guest::enter(pod);
    let pod = Rc::clone(pod);
    tokio::task::spawn_local(async move {
        let copied = match server {
            Some((first, server)) => client.join(&mut Rewind::new(first, server)).await,
            None => Ok((0, 0)),
        };
        tracing::debug!(pod = pod.workload().id, ?copied, "upgraded connection ended");
        drop((guest, lease));
    });
    let (parts, _empty) = response.into_parts();
    record.status = parts.status.as_u16();
    let mut answer = Response::new(ResponseBody::full(Bytes::new(), record));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = parts.headers;
    answer
}

/// Ends a CONNECT here: 200, and what follows goes to an endpoint as it is.
pub(super) async fn connect(
    (cluster, upstream, ask): (&Cluster, &Rc<Upstream>, Ask),
    client: Client,
    pod: &Rc<Pod>,
    dress: &Dress<'_>,
    mut record: Box<Record>,
) -> Response<ResponseBody> {
    let Some(address) = pod.with_rng(|rng| upstream.pick(cluster, &ask, &[], 0, rng)) else {
        return dress.local(Local::no_healthy_upstream(), record);
    };
    record.upstream = Some(address);
    let Some(lease) = upstream.occupy(cluster, address) else { return dress.local(Local::overflow(), record) };
    let mut server = match upstream.connect_tcp(pod, cluster, (None, address)).await {
        Ok(server) => server,
        Err(error) => return dress.local(Local::reset(&error.to_string(), false, Flags::CONNECT_FAILURE), record),
    };
    let guest = Guest::enter(pod);
    let own = Rc::clone(pod);
    tokio::task::spawn_local(async move {
        let copied = client.join(&mut server).await;
        tracing::debug!(pod = own.workload().id, ?copied, "CONNECT ended");
        drop((guest, lease));
    });
    dress.made(StatusCode::OK, HeaderMap::new(), Bytes::new(), record)
}
