//! WebSocket: a request that asks for it is routed as any other; if the endpoint agrees (101), the two connections become one stream of
//! bytes until either end closes it. Only HTTP/1.1, and only where the listener's `upgrade_configs` names it.

use super::attempt::Answer;
use super::body::ResponseBody;
use super::record::Record;
use crate::pod::{Guest, Pod};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::rc::Rc;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// What the client asks to go on with: `None` if nothing. `h2c` is an offer that may be declined.
pub(super) fn wanted(headers: &HeaderMap) -> Option<&HeaderValue> {
    let lists_upgrade = |value: &HeaderValue| value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("upgrade"));
    let asked = headers.get(header::UPGRADE).filter(|upgrade| *upgrade != "h2c")?;
    headers.get(header::CONNECTION).is_some_and(lists_upgrade).then_some(asked)
}

/// The client's end, if it asks for a WebSocket over HTTP/1.1.
pub(super) fn client(parts: &mut Parts) -> Option<OnUpgrade> {
    let websocket = wanted(&parts.headers)?.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes());
    if websocket && parts.version == Version::HTTP_11 { parts.extensions.remove() } else { None }
}

/// Says on the next connection what the client said on its own.
pub(super) fn ask(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, WEBSOCKET);
}

/// Did the endpoint agree?
pub(super) fn agreed((response, _lease): &Answer) -> bool {
    response.status() == StatusCode::SWITCHING_PROTOCOLS
}

/// The answer that makes the two ends one. The request is over with it; both connections count until they end.
pub(super) fn open(
    (mut response, mut lease): Answer,
    client: OnUpgrade,
    pod: &Rc<Pod>,
    mut record: Record,
) -> Response<ResponseBody> {
    let server = hyper::upgrade::on(&mut response);
    // It is no connection for requests any more.
    lease.became_a_tunnel();
    // The client's connection is no longer the one that was counted. At the limit it goes on all the same.
    let guest = Guest::enter(pod);
    let pod = Rc::clone(pod);
    tokio::task::spawn_local(async move {
        let copied = match tokio::try_join!(client, server) {
            Ok((client, server)) => tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await,
            Err(error) => Err(std::io::Error::other(error)),
        };
        tracing::info!(target: "access", pod = pod.workload().id, ?copied, "websocket ended");
        drop((guest, lease));
    });
    let (parts, _empty) = response.into_parts();
    record.status = parts.status.as_u16();
    let mut answer = Response::new(ResponseBody::full(Bytes::new(), record));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = parts.headers;
    ask(answer.headers_mut());
    answer
}
