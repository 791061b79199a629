//! /v2/apps and /v2/tasks.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Extension, Path, RawQuery, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::serve::Remote;
use super::{Request, invalid, object, problem, refused, unknown};
use crate::core::command::{Accepted, Command};
use crate::core::ids;
use crate::core::spec::{Kind, app};
use crate::core::view::app::{Embed, all_tasks, app as view, tasks_of};
use crate::world::World;

type Client = Option<Extension<ConnectInfo<Remote>>>;

pub(crate) async fn collection(
    State(world): State<Arc<World>>,
    method: Method,
    uri: Uri,
    query: RawQuery,
    client: Client,
    body: Bytes,
) -> Response {
    let request = Request::new(uri, query, client.as_deref());
    match method {
        Method::GET => list(&world, &request),
        Method::POST => match object(&body) {
            Ok(raw) => create(&world, &request, raw),
            Err(response) => response,
        },
        _ => problem(StatusCode::METHOD_NOT_ALLOWED, json!({"message": "HTTP 405 Method Not Allowed"})),
    }
}

fn list(world: &World, request: &Request) -> Response {
    let embed = Embed::parse(request.all("embed"));
    let core = world.core();
    let wanted = |id: &str| request.all("id").next().is_none_or(|part| id.contains(part));
    let apps: Vec<Value> = core.entries(Kind::App).filter(|s| wanted(&s.id)).map(|s| view(&core, s, embed)).collect();
    axum::Json(json!({"apps": apps})).into_response()
}

fn create(world: &World, request: &Request, raw: Value) -> Response {
    let spec = match app::parse(raw) {
        Ok(spec) => spec,
        Err(errors) => return invalid(&errors),
    };
    let id = spec.id.clone();
    match world.apply(Command::Create(spec), request.flag("force"), request.uri.path(), request.client) {
        Err(error) => refused(error),
        Ok(accepted) => {
            let core = world.core();
            let body = core.spec(&id, Kind::App).map(|s| view(&core, s, Embed::SINGLE)).unwrap_or_default();
            let location = format!("/v2/apps{id}");
            let headers = [("location", location), ("marathon-deployment-id", accepted.deployment.unwrap_or_default())];
            (StatusCode::CREATED, headers, axum::Json(body)).into_response()
        }
    }
}

/// `{id}`, `{id}/tasks[/{task}]`, `{id}/restart`, `{id}/versions[/{version}]`.
pub(crate) async fn one(
    State(world): State<Arc<World>>,
    Path(path): Path<String>,
    method: Method,
    uri: Uri,
    query: RawQuery,
    client: Client,
    body: Bytes,
) -> Response {
    let request = Request::new(uri, query, client.as_deref());
    let path = path.trim_matches('/').trim_start_matches('/');
    let segments: Vec<&str> = path.split('/').collect();
    let id = |drop: usize| ids::canonical(&segments[..segments.len() - drop].join("/"));
    match segments.as_slice() {
        [_, .., "tasks"] => tasks_of_app(&world, &request, &method, &id(1), None),
        [_, .., "tasks", task] => tasks_of_app(&world, &request, &method, &id(2), Some(task)),
        [_, .., "restart"] if method == Method::POST => act(&world, &request, Command::Restart { id: id(1) }),
        [_, .., "versions"] => versions(&world, &id(1), None),
        [_, .., "versions", version] => versions(&world, &id(2), Some(version)),
        _ => definition(&world, &request, &method, &id(0), &body),
    }
}

fn definition(world: &World, request: &Request, method: &Method, id: &str, body: &[u8]) -> Response {
    match *method {
        Method::GET => {
            let core = world.core();
            match core.spec(id, Kind::App) {
                Some(spec) => axum::Json(json!({"app": view(&core, spec, Embed::SINGLE)})).into_response(),
                None => unknown(Kind::App, id),
            }
        }
        Method::PUT | Method::PATCH => put(world, request, id, body),
        Method::DELETE => act(world, request, Command::Delete { id: id.to_owned(), kind: Kind::App }),
        _ => problem(StatusCode::METHOD_NOT_ALLOWED, json!({"message": "HTTP 405 Method Not Allowed"})),
    }
}

/// PUT changes the fields that it names (`partialUpdate`, the default), which is how clients scale.
fn put(world: &World, request: &Request, id: &str, body: &[u8]) -> Response {
    let change = match object(body) {
        Ok(change) => change,
        Err(response) => return response,
    };
    let partial = request.all("partialUpdate").all(|v| v != "false");
    let old = world.core().spec(id, Kind::App).filter(|_| partial).map(|s| s.raw.clone());
    let mut raw = old.unwrap_or_else(|| json!({}));
    for (key, value) in change.as_object().into_iter().flatten() {
        raw[key] = value.clone();
    }
    raw["id"] = json!(id);
    match app::parse(raw) {
        Ok(spec) => act(world, request, Command::Update(spec)),
        Err(errors) => invalid(&errors),
    }
}

/// Answers with version and deployment, as all changes to an existing app do.
fn act(world: &World, request: &Request, command: Command) -> Response {
    match world.apply(command, request.flag("force"), request.uri.path(), request.client) {
        Ok(accepted) => {
            let status = if accepted.created { StatusCode::CREATED } else { StatusCode::OK };
            (status, [("marathon-deployment-id", accepted.deployment.clone().unwrap_or_default())], deployed(&accepted))
                .into_response()
        }
        Err(error) => refused(error),
    }
}

fn deployed(accepted: &Accepted) -> axum::Json<Value> {
    let mut body = json!({"version": accepted.version});
    if let Some(id) = &accepted.deployment {
        body["deploymentId"] = json!(id);
    }
    axum::Json(body)
}

fn versions(world: &World, id: &str, version: Option<&str>) -> Response {
    let core = world.core();
    let Some(entry) = core.specs.get(id).filter(|e| e.current().kind == Kind::App) else { return unknown(Kind::App, id) };
    let Some(version) = version else {
        let all: Vec<&str> = entry.versions.iter().rev().map(|s| s.version.as_str()).collect();
        return axum::Json(json!({"versions": all})).into_response();
    };
    match entry.versions.iter().find(|s| s.version == version) {
        Some(spec) => axum::Json(&spec.raw).into_response(),
        None => problem(StatusCode::NOT_FOUND, json!({"message": format!("App '{id}' does not exist in version {version}")})),
    }
}

fn tasks_of_app(world: &World, request: &Request, method: &Method, id: &str, task: Option<&str>) -> Response {
    let tasks = {
        let core = world.core();
        if core.spec(id, Kind::App).is_none() {
            return unknown(Kind::App, id);
        }
        tasks_of(&core, id)
    };
    if *method != Method::DELETE {
        return axum::Json(json!({"tasks": tasks})).into_response();
    }
    let doomed: Vec<Value> = tasks.into_iter().filter(|t| task.is_none_or(|id| t["id"] == id)).collect();
    if let (Some(task), true) = (task, doomed.is_empty()) {
        return problem(StatusCode::NOT_FOUND, json!({"message": format!("Task '{task}' does not exist")}));
    }
    match kill(world, request, &doomed) {
        Ok(accepted) if request.flag("scale") => deployed(&accepted).into_response(),
        Ok(_) if task.is_some() => axum::Json(json!({"task": doomed[0]})).into_response(),
        Ok(_) => axum::Json(json!({"tasks": doomed})).into_response(),
        Err(response) => response,
    }
}

#[expect(clippy::result_large_err, reason = "the error is the response that is sent")]
fn kill(world: &World, request: &Request, tasks: &[Value]) -> Result<Accepted, Response> {
    let instance = |t: &Value| t["id"].as_str()?.rsplitn(3, '.').nth(2).map(str::to_owned);
    let command = Command::Kill {
        instances: tasks.iter().filter_map(instance).collect(),
        wipe: request.flag("wipe"),
        scale: request.flag("scale"),
    };
    world.apply(command, request.flag("force"), request.uri.path(), request.client).map_err(refused)
}

pub(crate) async fn tasks(State(world): State<Arc<World>>, uri: Uri, query: RawQuery) -> axum::Json<Value> {
    let request = Request::new(uri, query, None);
    let states: Vec<String> = request.all("status").chain(request.all("status[]")).map(str::to_owned).collect();
    axum::Json(json!({"tasks": all_tasks(&world.core(), &states)}))
}

/// POST /v2/tasks/delete with `{"ids": […]}`.
pub(crate) async fn delete_tasks(State(world): State<Arc<World>>, uri: Uri, query: RawQuery, body: Bytes) -> Response {
    let request = Request::new(uri, query, None);
    let ids = match object(&body) {
        Ok(body) => crate::core::spec::texts(&body, "ids"),
        Err(response) => return response,
    };
    let all = all_tasks(&world.core(), &[]);
    let doomed: Vec<Value> = all.into_iter().filter(|t| ids.iter().any(|id| t["id"] == *id)).collect();
    match kill(&world, &request, &doomed) {
        Ok(accepted) if request.flag("scale") => deployed(&accepted).into_response(),
        Ok(_) => axum::Json(json!({"tasks": doomed})).into_response(),
        Err(response) => response,
    }
}
