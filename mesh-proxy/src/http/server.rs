//! A client's connection from its first bytes to its end: which protocol, within which limits, and when it ends.

use super::admit::Misframed;
use super::body::ResponseBody;
use super::life::{Life, unless, wait};
use super::patience::Patience;
use super::rewind::Rewind;
use super::wire::Wire;
use super::{Connection, exchange, h2c};
use crate::config::Downstream;
use crate::core::detect::{self, Protocol};
use crate::limits::HEADERS;
use crate::shared::Shared;
use bytes::BytesMut;
use http::{HeaderValue, Method, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Bytes that are read from a connection at once, at least: what hyper wants.
const BUFFER: usize = 64 * 1024;

/// Serves a connection to its end. In a planned stop that is the answer to its next request: an idle connection that we closed while the
/// client sends would be a failed request, so it stays open until then, or until the time for it is nearly over.
pub async fn serve<S>(connection: Connection, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = connection.guest.pod().shared.clone();
    let detected = tokio::select! {
        // What has come is served, even at the last moment.
        biased;
        detected = detect(&mut stream) => detected,
        () = wait(connection.options.downstream.idle_timeout) => return,
        () = shared.drain.closing() => return,
    };
    // Else closed, or never spoke: nothing was asked.
    let Ok(Some((protocol, head))) = detected else { return };
    let connection = Rc::new(connection);
    let served = match protocol {
        Protocol::Http2 => Box::pin(http2(connection, Rewind::new(head.freeze(), stream))).await,
        // What is no HTTP/1 gets its 400.
        Protocol::Http1 | Protocol::Tls | Protocol::Other => http1(connection, head, stream).await,
    };
    ended(&shared, served);
}

/// Reads until the protocol is known. `None`: closed before.
async fn detect<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<Option<(Protocol, BytesMut)>> {
    let mut head = BytesMut::with_capacity(4096);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
        if let Some(protocol) = detect::detect(&head) {
            return Ok(Some((protocol, head)));
        }
    }
}

/// Why a connection ended, if not as it should.
pub(super) enum Ended {
    /// As the library says.
    Failed(hyper::Error),
    /// A head did not end in time, and its client was told so.
    Late,
}

/// Counts a connection that did not end in good order.
pub(super) fn ended(shared: &Shared, served: Result<(), Ended>) {
    let reason = match &served {
        Ok(()) => return,
        Err(Ended::Late) => "request_headers_timeout",
        // Idle for long enough.
        Err(Ended::Failed(error)) if error.is_timeout() => return,
        Err(Ended::Failed(error)) if error.is_parse() => "bad_request",
        Err(Ended::Failed(error)) => {
            tracing::debug!(%error, "client connection ended");
            "client_gone"
        }
    };
    shared.metrics.refuse(reason);
}

async fn http1<S>(connection: Rc<Connection>, head: BytesMut, stream: S) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (shared, options) = (connection.guest.pod().shared.clone(), connection.options.downstream.clone());
    let life = Arc::<Life>::default();
    let io = TokioIo::new(Wire::new(head.freeze(), stream, Arc::clone(&life), options.request_headers_timeout));
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(Patience::default()).header_read_timeout(options.idle_timeout).max_header_size(options.head_bytes);
    server.max_buf_size(options.head_bytes.max(BUFFER));
    // Without a word the library has room for these on its stack; fewer are counted when they have come.
    if options.headers > HEADERS {
        server.max_headers(options.headers);
    }
    // In a box while there is a request: the library keeps room for it with every connection that rests, and moves it about.
    let service = service_fn(|request| Box::pin(answer(Rc::clone(&connection), Arc::clone(&life), request)));
    let served = server.serve_connection(io, service).with_upgrades();
    tokio::pin!(served);
    let closing = pin!(closing(&shared, &life, &options));
    let ages = options.max_connection_duration.is_some();
    let result = unless(served.as_mut(), closing, || ages || shared.drain.is_begun());
    let result = match result.await {
        Some(result) => result,
        None => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if life.is_late() { Err(Ended::Late) } else { result.map_err(Ended::Failed) }
}

/// Returns when an HTTP/1 connection is to be closed if it is idle, and after its answer if not.
async fn closing(shared: &Shared, life: &Life, options: &Downstream) {
    tokio::select! {
        () = shared.drain.closing() => {}
        () = life.aged(options) => {}
    }
}

/// Serves HTTP/2. Its end is a GOAWAY: what the client has begun is finished, and it begins nothing more here.
pub(super) async fn http2<S>(connection: Rc<Connection>, stream: S) -> Result<(), Ended>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (shared, options) = (connection.guest.pod().shared.clone(), connection.options.downstream.clone());
    let life = Arc::<Life>::default();
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
    let service = service_fn(|request| answer(Rc::clone(&connection), Arc::clone(&life), request));
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
    life: Arc<Life>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let (active, ambiguous) = life.begin();
    let is_http1 = request.version() < Version::HTTP_2;
    let is_connect = request.method() == Method::CONNECT;
    let (mut parts, body) = request.into_parts();
    if !connection.tls
        && let Some(frame) = h2c::offered(&parts, &body)
        && let Some(response) = h2c::accept(&connection, &mut parts, frame)
    {
        return Ok(response);
    }
    let misframed = if is_http1 { Misframed::find(ambiguous, &parts.headers) } else { None };
    if let Some(misframed) = misframed {
        parts.extensions.insert(misframed);
    }
    let mut response = exchange::handle(&connection, Request::from_parts(parts, body)).await;
    response.body_mut().hold(active);
    let stays = response.status() == StatusCode::SWITCHING_PROTOCOLS || (is_connect && response.status().is_success());
    let shared = &connection.guest.pod().shared;
    let last = misframed.is_some() || response.body().leaves_request() || life.ends(&connection.options.downstream);
    if is_http1 && !stays && (last || shared.drain.is_begun()) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
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
