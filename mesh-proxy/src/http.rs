//! A captured HTTP connection: which protocol, then request by request through [`exchange`].

mod admit;
mod attempt;
pub mod body;
mod dress;
mod exchange;
mod ids;
mod local;
mod mirror;
mod prepare;
mod pulse;
mod record;
mod rewind;
mod tunnel;

use crate::config::{Config, Http, HttpOptions, Inbound, Serve};
use crate::core::detect::{self, Protocol};
use crate::pod::Guest;
use body::ResponseBody;
use bytes::BytesMut;
use http::{HeaderValue, Method, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rewind::Rewind;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Bytes that are read from a connection at once, at least: what hyper wants.
const BUFFER: usize = 64 * 1024;

/// One client connection.
pub struct Connection {
    /// Keeps the count of the pod's connections.
    pub guest: Guest,
    /// Where the client wanted to go.
    pub destination: SocketAddr,
    /// The client's end.
    pub peer: SocketAddr,
    /// It is encrypted.
    pub tls: bool,
    /// By what its listener and filter chain are found for each request.
    pub inbound: Inbound,
    /// How its listener treats it; what concerns single requests is looked up for each.
    pub options: Arc<HttpOptions>,
}

impl Connection {
    /// What is in force for its requests now.
    fn http<'c>(&self, config: &'c Config) -> Option<&'c Http> {
        match self.inbound.serve(config, &self.guest.pod().workload()) {
            Some(Serve::Http(http)) => Some(http),
            _ => None,
        }
    }
}

/// Serves a connection to its end. In a planned stop that is the answer to its next request: an idle connection that we closed while the
/// client sends would be a failed request, so it stays open until then, or until the time for it is nearly over.
pub async fn serve<S>(connection: Connection, mut stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let shared = connection.guest.pod().shared.clone();
    let (idle, head_bytes) = (connection.options.idle_timeout, connection.options.head_bytes);
    let detected = tokio::select! {
        detected = detect(&mut stream) => detected,
        () = wait(idle) => return,
        () = shared.drain.closing() => return,
    };
    // Else closed, or never spoke: nothing was asked.
    let Ok(Some((protocol, head))) = detected else { return };
    let io = TokioIo::new(Rewind::new(head.freeze(), stream));
    let connection = Rc::new(connection);
    let service = service_fn(move |request: Request<Incoming>| {
        let connection = Rc::clone(&connection);
        async move {
            let is_http1 = request.version() < Version::HTTP_2;
            let is_connect = request.method() == Method::CONNECT;
            let mut response = exchange::handle(&connection, request).await;
            let stays = response.status() == StatusCode::SWITCHING_PROTOCOLS || is_connect;
            if is_http1 && !stays && connection.guest.pod().shared.drain.is_begun() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<Response<ResponseBody>, Infallible>(response)
        }
    });
    let served = match protocol {
        Protocol::Http2 => {
            let mut server = hyper::server::conn::http2::Builder::new(Local);
            server.timer(TokioTimer::new()).max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX));
            let served = server.serve_connection(io, service);
            tokio::pin!(served);
            tokio::select! {
                served = &mut served => served,
                // GOAWAY: what the client has begun is finished, and it begins nothing more here.
                () = shared.drain.begun() => {
                    served.as_mut().graceful_shutdown();
                    served.await
                }
            }
        }
        // What is no HTTP/1 gets its 400.
        Protocol::Http1 | Protocol::Tls | Protocol::Other => {
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(idle).max_header_size(head_bytes);
            server.max_buf_size(head_bytes.max(BUFFER));
            let served = server.serve_connection(io, service).with_upgrades();
            tokio::pin!(served);
            tokio::select! {
                served = &mut served => served,
                () = shared.drain.closing() => {
                    served.as_mut().graceful_shutdown();
                    served.await
                }
            }
        }
    };
    if let Err(error) = served {
        shared.metrics.refuse(if error.is_parse() { "bad_request" } else { "client_gone" });
        tracing::debug!(%error, "client connection ended");
    }
}

async fn wait(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
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

/// Runs hyper's tasks on the thread that owns the pod.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
