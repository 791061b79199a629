//! A backend that does as the request's `x-script` says, attempt by attempt, and remembers what arrived.
//!
//! Scripts are words separated by commas, one per attempt, the last one for all that follow: a status (`200`, `503`), `reset` (the connection ends
//! without a response), `hang` (200 ms before the answer), `rl` (503 that says rate limited), `grpc:N` (a gRPC status in the headers), `hdr` (500 with
//! the header `x-retry-me`).

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One request as a backend saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrived {
    pub port: u16,
    pub method: String,
    pub target: String,
    /// Sorted by name; of a name that occurs more than once, in their order.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

/// What arrived, by the request's `x-case`.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<HashMap<String, Vec<Arrived>>>>);

impl Seen {
    fn add(&self, case: &str, arrived: Arrived) -> usize {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let list = seen.entry(case.to_owned()).or_default();
        list.push(arrived);
        list.len()
    }

    pub fn take(&self, case: &str) -> Vec<Arrived> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(case).unwrap_or_default()
    }

    pub fn count(&self, case: &str) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(case).map_or(0, Vec::len)
    }
}

/// Starts a backend on a thread of its own; its address.
pub fn start(seen: &Seen) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
    let address = listener.local_addr().expect("bound");
    let seen = seen.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(serve(listener, address.port(), seen));
    });
    address
}

async fn serve(listener: TcpListener, port: u16, seen: Seen) {
    listener.set_nonblocking(true).expect("a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let seen = seen.clone();
        let service = hyper::service::service_fn(move |request| answer(port, seen.clone(), request));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(port: u16, seen: Seen, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
    let (parts, body) = request.into_parts();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut headers: Vec<(String, String)> =
        parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    headers.sort_by(|(a, _), (b, _)| a.cmp(b));
    let of = |name: &str| parts.headers.get(name).map(text).unwrap_or_default();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let arrived = Arrived {
        port,
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let attempt = seen.add(&of("x-case"), arrived);
    let script = of("x-script");
    let step = script.split(',').nth(attempt - 1).or_else(|| script.split(',').next_back()).unwrap_or_default();
    let mut response = Response::builder().header("x-backend", "yes").header("server", "backend");
    response = match step {
        "reset" => return Err("as the script says"),
        "hang" => {
            tokio::time::sleep(Duration::from_millis(200)).await;
            response
        }
        "rl" => response.status(503).header("x-envoy-ratelimited", "true"),
        "hdr" => response.status(500).header("x-retry-me", "please"),
        grpc if grpc.starts_with("grpc:") => {
            response.header("content-type", "application/grpc").header("grpc-status", grpc.trim_start_matches("grpc:"))
        }
        status => response.status(status.parse::<u16>().unwrap_or(200)),
    };
    Ok(response.body(Full::from(format!("port {port}"))).expect("a valid response"))
}
