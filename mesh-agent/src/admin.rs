//! `GET /ready`, `/metrics`, `/status`, `/names`, `/audit` and `/dump` over a unix socket.

use crate::broker::clear;
use crate::dump;
use crate::egress::Book;
use crate::explain::Names;
use crate::kernel::Kernel;
use crate::metrics::Metrics;
use crate::status::Shared;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh_common::exposition;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

/// Connections at a time: an operator, a scraper, a health check, and room.
const CONNECTIONS: usize = 32;

/// What the endpoints show.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) status: Arc<Shared>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) book: Arc<Book>,
    pub(crate) kernel: Arc<Kernel>,
}

impl Admin {
    /// Opens the socket, for root only.
    pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
        clear(path)?;
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    /// Serves for ever.
    pub(crate) async fn serve(self, listener: UnixListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let admin = self.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let response = admin.answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let mut server = hyper::server::conn::http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
                drop(place);
            });
        }
    }

    fn names(&self) -> Names {
        Names { egress: self.book.cells_of_rules(), heard: self.book.audit.heard(), ..self.status.names() }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match request.uri().path() {
            "/ready" => match self.status.get().ready() {
                Ok(()) => text(StatusCode::OK, "ready\n"),
                Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            "/metrics" => match self.metrics.encode() {
                Ok(body) => with_type(StatusCode::OK, exposition::TYPE, body),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            "/status" => match serde_json::to_string_pretty(&self.status.get()) {
                Ok(body) => with_type(StatusCode::OK, "application/json", body + "\n"),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            "/names" => match serde_json::to_string(&self.names()) {
                Ok(body) => with_type(StatusCode::OK, "application/json", body + "\n"),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            "/audit" => match serde_json::to_string_pretty(&self.book.audit.report()) {
                Ok(body) => with_type(StatusCode::OK, "application/json", body + "\n"),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            "/dump" => match dump::tables(&self.kernel.maps()) {
                Ok(tables) => with_type(StatusCode::OK, "application/json", tables.to_string()),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            },
            _ => text(StatusCode::NOT_FOUND, "there are /ready, /metrics, /status, /names, /audit and /dump\n"),
        }
    }
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body.into())
}

fn with_type(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
