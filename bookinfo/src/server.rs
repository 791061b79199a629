//! The HTTP server of every role: accepts, routes what all roles share, logs one line per request, drains on SIGTERM.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::{conn::auto, graceful::GracefulShutdown};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

use crate::{App, Role, forward, productpage, shop};

pub(crate) type Reply = Response<Full<Bytes>>;

/// Time for requests in flight once the task is asked to end; Mesos kills after 3 s by default.
const DRAIN: Duration = Duration::from_secs(2);

pub(crate) async fn serve(address: SocketAddr, app: Arc<App>) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(podname = app.identity.podname, version = app.identity.version, %address, "{} is up", app.role.name());
    let graceful = GracefulShutdown::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => accept(stream, client, &app, &graceful),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    drop(listener);
    tracing::info!("draining");
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still in flight");
    }
    Ok(())
}

fn accept(stream: TcpStream, client: SocketAddr, app: &Arc<App>, graceful: &GracefulShutdown) {
    let app = Arc::clone(app);
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(logged(&app, client, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%client, error, "connection ended early");
        }
    });
}

async fn logged(app: &App, client: SocketAddr, request: Request<Incoming>) -> Reply {
    let (start, method, path) = (Instant::now(), request.method().clone(), request.uri().path().to_owned());
    let header =
        |name| request.headers().get(name).and_then(|value: &http::HeaderValue| value.to_str().ok()).unwrap_or("-").to_owned();
    let (request_id, end_user) = (header("x-request-id"), header("end-user"));
    let reply = route(app, client, request).await;
    let (status, millis) = (reply.status().as_u16(), start.elapsed().as_millis());
    tracing::info!(%method, path, status, millis, %client, request_id, end_user, "request");
    reply
}

async fn route(app: &App, client: SocketAddr, request: Request<Incoming>) -> Reply {
    let path = request.uri().path().trim_end_matches('/').to_owned();
    if path == "/whoami" && request.method() == Method::GET {
        return whoami(app, client, &request);
    }
    if app.role == Role::Productpage {
        if let Some(reply) = productpage::route(app, &path, request).await {
            return reply;
        }
        return not_found(app);
    }
    if request.method() != Method::GET {
        return error(app, StatusCode::METHOD_NOT_ALLOWED, "only GET is served here");
    }
    match path.split('/').collect::<Vec<_>>()[..] {
        ["", "health"] => {
            json(StatusCode::OK, &shop::signed(json!({ "status": format!("{} is healthy", title(app.role)) }), &app.identity))
        }
        ["", service, id] if service == app.role.name() => match id.parse() {
            Ok(id) => json(StatusCode::OK, &shop::signed(answer(app, id, &request).await, &app.identity)),
            Err(_) => error(app, StatusCode::BAD_REQUEST, "please provide numeric product id"),
        },
        _ => not_found(app),
    }
}

async fn answer(app: &App, id: u64, request: &Request<Incoming>) -> Value {
    match app.role {
        Role::Details => shop::details(id),
        Role::Ratings => shop::ratings(id),
        Role::Reviews | Role::Productpage => match shop::star_color(&app.identity.version) {
            None => shop::reviews(id, None),
            Some(color) => {
                let ratings = app.backends.ratings(id, forward::forwarded(request.headers())).await;
                shop::reviews(id, Some((color, &ratings)))
            }
        },
    }
}

/// Who asks, as this process sees it: the client's address from `accept()` and the headers that arrived.
fn whoami(app: &App, client: SocketAddr, request: &Request<Incoming>) -> Reply {
    let headers: serde_json::Map<String, Value> = request
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    let body = json!({ "client": client.to_string(), "headers": headers });
    json(StatusCode::OK, &shop::signed(body, &app.identity))
}

fn title(role: Role) -> String {
    let name = role.name();
    name[..1].to_uppercase() + &name[1..]
}

pub(crate) fn json(status: StatusCode, value: &Value) -> Reply {
    let mut reply = Response::new(Full::from(format!("{value}\n")));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    reply
}

pub(crate) fn error(app: &App, status: StatusCode, reason: &str) -> Reply {
    json(status, &shop::signed(json!({ "error": reason }), &app.identity))
}

pub(crate) fn not_found(app: &App) -> Reply {
    error(app, StatusCode::NOT_FOUND, "there is nothing at this path")
}
