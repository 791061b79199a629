//! What `POST /faults` does to answers: before a handler is asked, and to what it said. Event streams are bent in `events`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::problem;
use crate::core::view::altered;
use crate::faults::{Faults, Nonsense};
use crate::world::World;

/// Largest answer that is bent: what a test's few apps say is far below.
const BODY_MAX: usize = 64 << 20;

pub(super) async fn answer(State(world): State<Arc<World>>, request: Request, next: Next) -> Response {
    let faults = world.faults();
    let (path, get) = (request.uri().path().to_owned(), request.method() == Method::GET);
    let (headers, uri) = (request.headers().clone(), request.uri().to_string());
    world.note(json!({
        "method": request.method().as_str(), "path": path,
        "host": text(&headers, header::HOST), "authorization": text(&headers, header::AUTHORIZATION),
    }));
    if let Some(response) = instead(&faults, &path, &uri, &headers) {
        return response;
    }
    let response = next.run(request).await;
    if path == "/v2/events" || !get || !path.starts_with("/v2/") {
        return response;
    }
    let response = bend(&faults, response).await;
    tokio::time::sleep(Duration::from_millis(faults.slow_ms)).await;
    response
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Answers that need no handler.
fn instead(faults: &Faults, path: &str, uri: &str, headers: &HeaderMap) -> Option<Response> {
    if faults.unavailable {
        return Some(problem(StatusCode::SERVICE_UNAVAILABLE, json!({"message": "made unavailable by POST /faults"})));
    }
    if faults.no_leader {
        return Some(problem(StatusCode::BAD_GATEWAY, json!({"message": "Could not determine the current leader"})));
    }
    if faults.authorization.is_some() && text(headers, header::AUTHORIZATION) != faults.authorization {
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"Mesosphere\"")];
        return Some(
            (challenge, problem(StatusCode::UNAUTHORIZED, json!({"message": "Authentication required"}))).into_response(),
        );
    }
    if !altered::knows(path, faults) {
        return Some(problem(StatusCode::NOT_FOUND, json!({"message": "HTTP 404 Not Found"})));
    }
    let leader = faults.leader.as_ref().filter(|_| path == "/v2/events")?;
    if text(headers, header::HOST).as_ref() == Some(leader) {
        return None;
    }
    let status = faults.redirect.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::FOUND);
    let location = HeaderValue::from_str(&format!("http://{leader}{uri}")).ok()?;
    Some((status, [(header::LOCATION, location)]).into_response())
}

async fn bend(faults: &Faults, response: Response) -> Response {
    if (!altered::needed(faults) && faults.nonsense == Nonsense::None) || response.status() != StatusCode::OK {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let bytes = to_bytes(body, BODY_MAX).await.unwrap_or_default();
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let text = altered::answer(value.clone(), faults).to_string();
    head.headers.remove(header::CONTENT_LENGTH);
    let body = match faults.nonsense {
        Nonsense::None => text,
        Nonsense::Html => {
            head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
            "<html><body>Please log in</body></html>".to_owned()
        }
        Nonsense::Truncated => text.chars().take(text.chars().count() / 2).collect(),
        Nonsense::Empty => "{}".to_owned(),
        Nonsense::Null => "null".to_owned(),
        Nonsense::Array => "[]".to_owned(),
        Nonsense::Elements => elements(value).to_string(),
    };
    Response::from_parts(head, Body::from(body))
}

fn elements(mut value: Value) -> Value {
    let lists = match &mut value {
        Value::Array(list) => vec![list],
        Value::Object(fields) => fields.values_mut().filter_map(Value::as_array_mut).collect(),
        _ => Vec::new(),
    };
    lists.into_iter().flatten().for_each(|element| *element = json!(7));
    value
}
