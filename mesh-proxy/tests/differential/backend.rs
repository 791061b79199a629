//! A backend that does as the request's `x-script` says, attempt by attempt, and remembers what arrived.
//!
//! Scripts are words separated by commas, one per attempt, the last one for all that follow: a status (`200`, `503`), `reset` (the connection ends
//! without a response), `never` (no response), `hang` (the response comes when the test says so), `rl` (503 that says rate limited), `grpc:N` (a gRPC
//! status in the headers), `hdr` (500 with the header `x-retry-me`).

use super::certificates::Certificates;
use super::oracle::free_port;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

const PLAIN: usize = 6;

/// One request as a backend saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrived {
    pub port: u16,
    pub method: String,
    pub target: String,
    /// Sorted by name; of a name that occurs more than once, in their order.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// It came over TLS: the name that was asked for, and whether a client certificate was shown.
    pub tls: Option<(String, bool)>,
    /// How many requests came over its connection until now.
    pub nth: usize,
}

/// What arrived, by the request's `x-case`; and which of those that hang may go on.
#[derive(Clone)]
pub struct Seen(Arc<Mutex<HashMap<String, Vec<Arrived>>>>, watch::Sender<HashSet<String>>);

impl Default for Seen {
    fn default() -> Self {
        Self(Arc::default(), watch::Sender::new(HashSet::new()))
    }
}

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

    /// Answers all that hang in this group, now and later: those whose `x-case` is its name, a slash, and more.
    pub fn open(&self, group: &str) {
        self.1.send_modify(|open| _ = open.insert(group.to_owned()));
    }

    async fn opened(&self, case: &str) {
        let group = case.split('/').next().unwrap_or_default();
        let mut open = self.1.subscribe();
        let _ = open.wait_for(|open| open.contains(group)).await;
    }

    pub fn count(&self, case: &str) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(case).map_or(0, Vec::len)
    }
}

/// Those that clusters are made of.
pub struct Backends {
    pub plain: Vec<SocketAddr>,
    /// For clusters whose connections carry one request.
    pub brief: SocketAddr,
    /// With TLS.
    pub simple: SocketAddr,
    /// With TLS, also of the client.
    pub mutual: SocketAddr,
    /// Nobody listens there.
    pub dead: SocketAddr,
    pub certificates: Certificates,
}

impl Backends {
    pub fn start(seen: &Seen) -> Self {
        let certificates = Certificates::new();
        Self {
            plain: (0..PLAIN).map(|_| start(seen, None)).collect(),
            brief: start(seen, None),
            simple: start(seen, Some(certificates.server(false))),
            mutual: start(seen, Some(certificates.server(true))),
            dead: SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())),
            certificates,
        }
    }
}

/// Starts one on a thread of its own, with TLS if told how; its address.
fn start(seen: &Seen, tls: Option<Arc<rustls::ServerConfig>>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has ports");
    let address = listener.local_addr().expect("bound");
    let seen = seen.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(listen(listener, seen, tls.map(TlsAcceptor::from)));
    });
    address
}

async fn listen(listener: TcpListener, seen: Seen, tls: Option<TlsAcceptor>) {
    listener.set_nonblocking(true).expect("a socket");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let port = listener.local_addr().expect("bound").port();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (seen, tls) = (seen.clone(), tls.clone());
        tokio::spawn(async move {
            let Some(tls) = tls else { return serve(stream, port, seen, None).await };
            let Ok(stream) = tls.accept(stream).await else { return };
            let session = stream.get_ref().1;
            let name = session.server_name().unwrap_or_default().to_owned();
            let certified = session.peer_certificates().is_some();
            serve(stream, port, seen, Some((name, certified))).await;
        });
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, port: u16, seen: Seen, tls: Option<(String, bool)>) {
    let requests = AtomicUsize::new(0);
    let service = hyper::service::service_fn(|request| {
        let nth = requests.fetch_add(1, Ordering::Relaxed) + 1;
        answer(Connection { port, tls: tls.clone(), nth }, seen.clone(), request)
    });
    // How it ends is the proxies' affair.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// What a request's connection says of it.
struct Connection {
    port: u16,
    tls: Option<(String, bool)>,
    nth: usize,
}

async fn answer(of: Connection, seen: Seen, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, &'static str> {
    let Connection { port, tls, nth } = of;
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
        tls,
        nth,
    };
    let case = of("x-case");
    let attempt = seen.add(&case, arrived);
    let script = of("x-script");
    let step = script.split(',').nth(attempt - 1).or_else(|| script.split(',').next_back()).unwrap_or_default();
    let mut response = Response::builder().header("x-backend", "yes").header("server", "backend");
    response = match step {
        "reset" => return Err("as the script says"),
        "never" => return std::future::pending().await,
        "hang" => {
            seen.opened(&case).await;
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
