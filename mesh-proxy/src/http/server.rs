//! A client's connection from its first bytes to its end: which protocol it speaks, and why it ended. HTTP/1 is served by [`http1`], HTTP/2 by hyper.

use super::body::ResponseBody;
use super::incoming::{Brought, Incoming};
use super::life::{Life, wait};
use super::rewind::Rewind;
use super::tunnel::Client;
use super::{Connection, exchange, http1};
use crate::buffers::Input;
use crate::core::detect::{self, Protocol};
use crate::core::h1::asked::Refused;
use crate::shared::Shared;
use crate::stream::Stream;
use http::Method;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite};

/// Serves a connection to its end. In a planned stop that is the answer to its next request: an idle connection that we closed while the
/// client sends would be a failed request, so it stays open until then, or until the time for it is nearly over.
pub async fn serve(connection: Connection, mut stream: Stream) {
    let shared = connection.guest.pod().shared.clone();
    let mut input = Input::default();
    let detected = tokio::select! {
        // What has come is served, even at the last moment.
        biased;
        detected = detect(&mut stream, &mut input) => detected,
        () = wait(connection.options.downstream.idle_timeout) => return,
        () = shared.drain.closing() => return,
    };
    // Else closed, or never spoke: nothing was asked.
    let Ok(Some(protocol)) = detected else { return };
    let connection = Rc::new(connection);
    let served = match protocol {
        Protocol::Http2 => Box::pin(http2(connection, Rewind::new(input.freeze(), stream))).await,
        // What is no HTTP/1 gets its 400.
        Protocol::Http1 | Protocol::Tls | Protocol::Other => http1::serve(&connection, input, stream).await,
    };
    ended(&shared, &served);
}

/// Reads until the protocol is known. `None`: closed before.
async fn detect(stream: &mut Stream, input: &mut Input) -> io::Result<Option<Protocol>> {
    loop {
        if poll_fn(|cx| input.poll_fill(stream, cx)).await? == 0 {
            return Ok(None);
        }
        if let Some(protocol) = detect::detect(&input.bytes) {
            return Ok(Some(protocol));
        }
    }
}

/// Why a connection ended, if not as it should.
pub(super) enum Ended {
    /// HTTP/2, as the library says.
    Failed(hyper::Error),
    /// What came is no HTTP/1, and its client was told so.
    Refused(Refused),
    /// A head did not end in time, and its client was told so.
    Late,
    /// The client went away.
    Gone(io::Error),
}

/// Counts a connection that did not end in good order.
fn ended(shared: &Shared, served: &Result<(), Ended>) {
    let reason = match served {
        Ok(()) => return,
        Err(Ended::Late) => "request_headers_timeout",
        Err(Ended::Refused(refused)) => refused.label(),
        Err(Ended::Failed(error)) if error.is_timeout() => return,
        Err(Ended::Failed(error)) if error.is_parse() => "bad_request",
        Err(Ended::Failed(error)) => {
            tracing::debug!(%error, "client connection ended");
            "client_gone"
        }
        Err(Ended::Gone(error)) => {
            tracing::debug!(%error, "client connection ended");
            "client_gone"
        }
    };
    shared.metrics.refuse(reason);
}

/// Serves HTTP/2. Its end is a GOAWAY: what the client has begun is finished, and it begins nothing more here.
pub(super) async fn http2<S>(connection: Rc<Connection>, stream: S) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (shared, options) = (connection.guest.pod().shared.clone(), connection.options.downstream.clone());
    let life = Rc::<Life>::default();
    let mut server = hyper::server::conn::http2::Builder::new(Local);
    server.timer(TokioTimer::new()).max_header_list_size(u32::try_from(options.head_bytes).unwrap_or(u32::MAX));
    let http2 = &options.http2;
    server.max_concurrent_streams(http2.max_streams);
    if let Some(window) = http2.stream_window {
        server.initial_stream_window_size(window);
    }
    if let Some(window) = http2.connection_window {
        server.initial_connection_window_size(window);
    }
    if let Some((interval, timeout)) = http2.ping {
        server.keep_alive_interval(interval).keep_alive_timeout(timeout);
    }
    let service = service_fn(|request| answer(Rc::clone(&connection), Rc::clone(&life), request));
    let served = server.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let result = tokio::select! {
        biased;
        result = &mut served => result,
        () = shared.drain.begun() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
        () = life.over(&options) => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    result.map_err(Ended::Failed)
}

async fn answer(
    connection: Rc<Connection>,
    life: Rc<Life>,
    request: Request<hyper::body::Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let active = life.begin();
    let (mut parts, body) = request.into_parts();
    let client = if parts.method == Method::CONNECT { parts.extensions.remove::<OnUpgrade>() } else { None };
    let client = client.map(Client::Http2);
    let brought = Brought { body: Incoming::Http2(body), client, misframed: None, plain: false };
    let mut response = exchange::handle(&connection, &mut parts, brought).await;
    response.body_mut().hold(active);
    Ok(response)
}

/// Runs hyper's tasks on the thread that owns the pod.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
