//! The admin socket: HTTP over a unix socket, for operators and probes. Reads, never changes anything.

mod dump;

use crate::privilege::Report;
use crate::shared::{PodStatus, Shared};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;

/// A client that sends no request within this time is disconnected.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves for ever.
pub async fn serve(listener: UnixListener, shared: Arc<Shared>, report: Report) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an admin connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (shared, report) = (Arc::clone(&shared), report.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request: Request<Incoming>| {
                let response = respond(request.method(), request.uri().path(), &shared, &report);
                async { Ok::<_, Infallible>(response) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "an admin connection broke");
            }
        });
    }
}

fn respond(method: &Method, path: &str, shared: &Shared, report: &Report) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const JSON: &str = "application/json";
    let answer = |status, kind: &'static str, body: String| {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        response
    };
    let pretty = |value: &Value| format!("{value:#}\n");
    match (method, path) {
        (&Method::GET, "/ready") => match shared.unready() {
            None => answer(StatusCode::OK, TEXT, "ready\n".to_owned()),
            Some(reason) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
        },
        (&Method::GET, "/metrics") => answer(
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            shared.metrics.encode(&shared.telemetry),
        ),
        (&Method::GET, "/status") => answer(StatusCode::OK, JSON, pretty(&status(shared, report))),
        (&Method::GET, "/config_dump") => answer(StatusCode::OK, JSON, pretty(&dump::config(&shared.config.load()))),
        (&Method::GET, "/clusters") => answer(StatusCode::OK, TEXT, dump::clusters(&shared.config.load())),
        (&Method::GET, _) => {
            answer(StatusCode::NOT_FOUND, TEXT, "known are /ready, /metrics, /status, /config_dump, /clusters\n".to_owned())
        }
        _ => answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned()),
    }
}

fn status(shared: &Shared, report: &Report) -> Value {
    let pods: Vec<Value> = shared.pods.lock().iter().map(|(slot, pod)| pod_status(*slot, pod)).collect();
    let unready = shared.unready();
    let progress = shared.progress.lock();
    json!({
        "ready": unready.is_none(),
        "reason": unready,
        "privilege": report,
        "broker": { "listed": progress.broker_ready, "lost": progress.broker_lost },
        "pods": pods,
        "brokered_sockets_received": shared.metrics.sockets_received.get(),
        "brokered_sockets_in_stock": shared.metrics.stock.get(),
        "connections_open": shared.metrics.open.get(),
        "config": { "generation": shared.config.load().generation, "missing": progress.config_missing, "versions": progress.versions },
    })
}

fn pod_status(slot: u32, pod: &PodStatus) -> Value {
    let [v4, v6] = [0, 1].map(|family: usize| PodStatus::get(&pod.stock[family]));
    json!({
        "slot": slot,
        "workload": pod.workload,
        "app": pod.app,
        "stock": { "v4": v4, "v6": v6 },
        "connections": PodStatus::get(&pod.connections),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::state::State;
    use http_body_util::BodyExt;

    async fn get(shared: &Shared, path: &str) -> (u16, String) {
        let report = Report {
            uid: vec![65534; 4],
            gid: vec![65534; 4],
            groups: Vec::new(),
            capabilities: [0; 4],
            bounding: 0,
            no_new_privs: true,
            seccomp: 0,
        };
        let response = respond(&Method::GET, path, shared, &report);
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("whole").to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn ready_says_what_is_missing_and_every_page_answers() {
        let shared = Shared::default();
        assert_eq!(get(&shared, "/ready").await, (503, "the agent has not listed its pods yet\n".to_owned()));
        shared.progress.lock().broker_ready = true;
        assert_eq!(get(&shared, "/ready").await, (503, "nothing from mesh-control yet\n".to_owned()));
        shared.publish(&mut State::default());
        assert_eq!(get(&shared, "/ready").await, (503, "no clusters from mesh-control yet\n".to_owned()));
        shared.progress.lock().config_missing = None;
        assert_eq!(get(&shared, "/ready").await.0, 200);
        shared.progress.lock().broker_lost = Some("closed by the agent".to_owned());
        assert_eq!(get(&shared, "/ready").await.0, 200, "an absent agent does not unmake readiness");
        let status: Value = serde_json::from_str(&get(&shared, "/status").await.1).expect("JSON");
        assert_eq!(
            (&status["privilege"]["no_new_privs"], &status["broker"]["lost"]),
            (&json!(true), &json!("closed by the agent"))
        );
        assert!(get(&shared, "/metrics").await.1.contains("mesh_proxy_stock 0"));
        assert_eq!(get(&shared, "/clusters").await, (200, String::new()));
        assert_eq!(get(&shared, "/config_dump").await.0, 200);
        assert_eq!(get(&shared, "/else").await.0, 404);
    }
}
