//! HTTP for every role: one thread, one line on standard output per request.

use super::roles::{Asked, Server};
use crate::Role;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::hash::BuildHasher;
use std::io::Write;
use std::net::Ipv4Addr;
use std::rc::Rc;
use tokio::net::TcpListener;

pub(crate) fn line(text: &str) {
    // Nobody reads it any more: nothing to be done.
    let _ = writeln!(std::io::stdout(), "{text}");
}

pub(crate) async fn serve(port: u16, server: Server) -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    line(&format!("{:?} is up on port {port}", server.role));
    let server = Rc::new(server);
    tokio::task::LocalSet::new()
        .run_until(async move {
            loop {
                let (stream, client) = listener.accept().await?;
                let server = Rc::clone(&server);
                tokio::task::spawn_local(async move {
                    let service = service_fn(move |request| handle(Rc::clone(&server), request));
                    let connection = auto::Builder::new(LocalExecutor);
                    if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
                        line(&format!("{client}: {error}"));
                    }
                });
            }
        })
        .await
}

/// HTTP/2 streams run on the connection's own thread.
#[derive(Clone)]
struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Counted as in flight until it is dropped, also when the client goes away.
struct InFlight(Rc<Server>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end();
    }
}

async fn handle(server: Rc<Server>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    server.begin();
    let _in_flight = InFlight(Rc::clone(&server));
    let (parts, body) = request.into_parts();
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: Vec<(String, String)> = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    // A body that breaks off ends the connection anyway.
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    if server.role == Role::Sniffer {
        line(&format!("{} {path} {headers:?} {}", parts.method, String::from_utf8_lossy(&body)));
    }
    // A hasher with fresh keys is random enough for a coin.
    let dice = u32::try_from(RandomState::new().hash_one(()) % 100).unwrap_or_default();
    let answer = server.answer(&Asked { method: parts.method.as_str(), path, headers }, dice);
    if answer.crash {
        line("crashing, as asked");
        std::process::exit(1);
    }
    tokio::time::sleep(answer.after).await;
    let mut response = Response::new(Full::from(answer.body));
    *response.status_mut() = http::StatusCode::from_u16(answer.status).unwrap_or_default();
    Ok(response)
}
