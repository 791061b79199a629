//! Marathon's REST API. Routes only; `apps`, `pods` and `events` answer.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, RawQuery, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use serde_json::{Value, json};

use crate::core::command::Refused;
use crate::core::spec::{Invalid, Kind};
use crate::core::view;
use crate::world::World;
use serve::Remote;

pub(crate) mod agent;
pub(crate) mod apps;
mod broken;
pub(crate) mod events;
pub(crate) mod master;
pub(crate) mod pods;
pub(crate) mod serve;

#[cfg(test)]
mod tests;

const VERSION: &str = "1.11.24";

pub(crate) fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/ping", get(|| async { ([(header::CONTENT_TYPE, "text/plain")], "pong\n") }))
        .route("/v2/info", get(info))
        .route("/v2/leader", get(|| async { axum::Json(json!({"leader": "198.18.0.1:8080"})) }))
        .route("/v2/apps", any(apps::collection))
        .route("/v2/apps/{*path}", any(apps::one))
        .route("/v2/tasks", get(apps::tasks))
        .route("/v2/tasks/delete", axum::routing::post(apps::delete_tasks))
        .route("/v2/pods", any(pods::collection))
        .route("/v2/pods/{*path}", any(pods::one))
        .route("/v2/deployments", get(deployments))
        .route("/v2/queue", get(queue))
        .route("/v2/groups", get(group_root))
        .route("/v2/groups/{*path}", get(group))
        .route("/v2/events", any(events::stream))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, json!({"message": "HTTP 404 Not Found"})) })
        .layer(axum::middleware::map_response(from_the_leader))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&world), broken::answer))
        .with_state(world)
}

/// Each answer of the leader says so.
async fn from_the_leader(mut response: Response) -> Response {
    response.headers_mut().insert("x-marathon-leader", HeaderValue::from_static("http://198.18.0.1:8080"));
    response
}

async fn info(State(world): State<Arc<World>>) -> axum::Json<Value> {
    axum::Json(json!({
        "name": "marathon",
        "version": VERSION,
        "buildref": "marathon-sim",
        "elected": true,
        "leader": "198.18.0.1:8080",
        "frameworkId": world.core().framework_id,
        "marathon_config": {
            "master": "zk://leader.mesos:2181/mesos", "default_network_name": "dcos", "mesos_bridge_name": "mesos-bridge",
            "features": ["vips", "task_killing", "external_volumes", "gpu_resources"], "local_port_min": 10000,
            "local_port_max": 20000, "reconciliation_interval": 600_000, "reconciliation_initial_delay": 15000, "ha": true,
            "checkpoint": true, "hostname": "198.18.0.1", "webui_url": null, "failover_timeout": 604_800, "executor": "//cmd",
        },
        "zookeeper_config": {"zk": "zk://leader.mesos:2181/marathon", "zk_timeout": 10000, "zk_session_timeout": 10000},
        "http_config": {"http_port": 8080, "https_port": 8443},
    }))
}

async fn deployments(State(world): State<Arc<World>>) -> axum::Json<Value> {
    let core = world.core();
    axum::Json(core.deployments.iter().map(crate::core::deploy::Deployment::view).collect())
}

async fn queue(State(world): State<Arc<World>>) -> axum::Json<Value> {
    axum::Json(view::queue(&world.core(), jiff::Timestamp::now()))
}

async fn group_root(State(world): State<Arc<World>>) -> axum::Json<Value> {
    axum::Json(view::group(&world.core(), "/"))
}

async fn group(State(world): State<Arc<World>>, axum::extract::Path(path): axum::extract::Path<String>) -> Response {
    let id = crate::core::ids::canonical(&path);
    let core = world.core();
    if !core.specs.keys().any(|spec| spec.starts_with(&format!("{id}/"))) {
        return problem(StatusCode::NOT_FOUND, json!({"message": format!("Group '{id}' does not exist")}));
    }
    axum::Json(view::group(&core, &id)).into_response()
}

/// What a handler knows of its request.
pub(crate) struct Request {
    pub(crate) uri: Uri,
    pub(crate) client: IpAddr,
    query: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn new(uri: Uri, RawQuery(query): RawQuery, client: Option<&ConnectInfo<Remote>>) -> Self {
        let query = query.unwrap_or_default();
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(key), decode(value))
        };
        let query = query.split('&').filter(|p| !p.is_empty()).map(pair).collect();
        let client = client.map_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), |c| c.0.0.ip());
        Self { uri, client, query }
    }

    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.query.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        self.all(key).any(|v| v == "true" || v.is_empty())
    }
}

fn decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let mut digit = || char::from(bytes.next()?).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match byte {
            b'+' => out.push(b' '),
            b'%' => out.push(digit().unwrap_or(0) * 16 + digit().unwrap_or(0)),
            _ => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// An error in Marathon's form.
pub(crate) fn problem(status: StatusCode, body: Value) -> Response {
    (status, axum::Json(body)).into_response()
}

pub(crate) fn unknown(kind: Kind, id: &str) -> Response {
    let noun = if kind == Kind::App { "App" } else { "Pod" };
    problem(StatusCode::NOT_FOUND, json!({"message": format!("{noun} '{id}' does not exist")}))
}

pub(crate) fn invalid(errors: &[Invalid]) -> Response {
    let details: Vec<Value> = errors.iter().map(|e| json!({"path": e.path, "errors": [e.error]})).collect();
    problem(StatusCode::UNPROCESSABLE_ENTITY, json!({"message": "Object is not valid", "details": details}))
}

pub(crate) fn refused(refused: Refused) -> Response {
    match refused {
        Refused::Unknown { kind, id } => unknown(kind, &id),
        Refused::Exists { kind, id } => {
            let noun = if kind == Kind::App { "app" } else { "pod" };
            problem(StatusCode::CONFLICT, json!({"message": format!("An {noun} with id [{id}] already exists.")}))
        }
        Refused::Locked { id, deployments } => {
            let message = format!(
                "App is locked by one or more deployments. Override with the option '?force=true'. View details at \
                 '/v2/deployments/<DEPLOYMENT_ID>'. ({id})"
            );
            problem(StatusCode::CONFLICT, json!({"message": message, "deployments": deployments}))
        }
    }
}

/// A body that is a JSON object, or the answer to give.
#[expect(clippy::result_large_err, reason = "the error is the response that is sent")]
pub(crate) fn object(body: &[u8]) -> Result<Value, Response> {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) if value.is_object() => Ok(value),
        Ok(_) => Err(invalid(&[Invalid::new("/", "error.expected.jsobject")])),
        Err(error) => {
            let details = json!([{"path": "/", "errors": [error.to_string()]}]);
            Err(problem(StatusCode::BAD_REQUEST, json!({"message": "Invalid JSON", "details": details})))
        }
    }
}
