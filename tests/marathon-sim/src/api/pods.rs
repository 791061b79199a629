//! /v2/pods with its `::` suffixes.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Extension, Path, RawQuery, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::serve::Remote;
use super::{Request, invalid, object, problem, refused, unknown};
use crate::core::command::{Accepted, Command, Refused};
use crate::core::ids;
use crate::core::spec::{Kind, pod, texts};
use crate::core::view::pod::{instance as view_instance, status};
use crate::world::World;

type Client = Option<Extension<ConnectInfo<Remote>>>;

fn not_allowed() -> Response {
    problem(StatusCode::METHOD_NOT_ALLOWED, json!({"message": "HTTP 405 Method Not Allowed"}))
}

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
        // "Are pods supported?"
        Method::HEAD => StatusCode::OK.into_response(),
        Method::GET => {
            let core = world.core();
            axum::Json(core.entries(Kind::Pod).map(|s| s.raw.clone()).collect::<Value>()).into_response()
        }
        Method::POST => store(&world, &request, &body, None),
        _ => not_allowed(),
    }
}

/// `::status`, `{id}`, `{id}::status`, `{id}::versions[/{version}]`, `{id}::instances[/{instance}]`.
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
    let (id, suffix) = path.split_once("::").map_or((path.as_str(), None), |(id, suffix)| (id, Some(suffix)));
    if id.trim_matches('/').is_empty() && suffix == Some("status") {
        let core = world.core();
        return axum::Json(core.entries(Kind::Pod).map(|s| status(&core, s)).collect::<Value>()).into_response();
    }
    let id = ids::canonical(id);
    let Some(suffix) = suffix else { return definition(&world, &request, &method, &id, &body) };
    match suffix.split_once('/').unwrap_or((suffix, "")) {
        ("status", "") => {
            let core = world.core();
            match core.spec(&id, Kind::Pod) {
                Some(spec) => axum::Json(status(&core, spec)).into_response(),
                None => unknown(Kind::Pod, &id),
            }
        }
        ("versions", version) => versions(&world, &id, version),
        ("instances", instance) if method == Method::DELETE => delete_instances(&world, &request, &id, instance, &body),
        _ => problem(StatusCode::NOT_FOUND, json!({"message": "HTTP 404 Not Found"})),
    }
}

fn definition(world: &World, request: &Request, method: &Method, id: &str, body: &[u8]) -> Response {
    match *method {
        Method::GET => match world.core().spec(id, Kind::Pod) {
            Some(spec) => axum::Json(&spec.raw).into_response(),
            None => unknown(Kind::Pod, id),
        },
        Method::PUT => store(world, request, body, Some(id)),
        Method::DELETE => {
            let command = Command::Delete { id: id.to_owned(), kind: Kind::Pod };
            match world.apply(command, request.flag("force"), request.uri.path(), request.client) {
                Ok(accepted) => (StatusCode::ACCEPTED, deployment(&accepted)).into_response(),
                Err(error) => refused(error),
            }
        }
        _ => not_allowed(),
    }
}

fn deployment(accepted: &Accepted) -> [(&'static str, String); 1] {
    [("marathon-deployment-id", accepted.deployment.clone().unwrap_or_default())]
}

/// POST, or PUT of the whole definition.
fn store(world: &World, request: &Request, body: &[u8], put: Option<&str>) -> Response {
    let mut raw = match object(body) {
        Ok(raw) => raw,
        Err(response) => return response,
    };
    if let Some(id) = put {
        crate::core::spec::default(&mut raw, "id", json!(id));
    }
    let spec = match pod::parse(raw) {
        Ok(spec) => spec,
        Err(errors) => return invalid(&errors),
    };
    let id = spec.id.clone();
    if put.is_some_and(|put| put != id) {
        let why = "Ids of the pod definition and of the request path must be the same";
        return invalid(&[crate::core::spec::Invalid::new("/id", why)]);
    }
    let command = if put.is_some() { Command::Update(spec) } else { Command::Create(spec) };
    match world.apply(command, request.flag("force"), request.uri.path(), request.client) {
        Err(error) => refused(error),
        Ok(accepted) => {
            let code = if put.is_some() { StatusCode::OK } else { StatusCode::CREATED };
            let stored = world.core().spec(&id, Kind::Pod).map(|s| s.raw.clone());
            (code, deployment(&accepted), [("location", format!("/v2/pods{id}"))], axum::Json(stored)).into_response()
        }
    }
}

fn versions(world: &World, id: &str, version: &str) -> Response {
    let core = world.core();
    let Some(entry) = core.specs.get(id).filter(|e| e.current().kind == Kind::Pod) else { return unknown(Kind::Pod, id) };
    if version.is_empty() {
        return axum::Json(entry.versions.iter().rev().map(|s| json!(s.version)).collect::<Value>()).into_response();
    }
    match entry.versions.iter().find(|s| s.version == version) {
        Some(spec) => axum::Json(&spec.raw).into_response(),
        None => problem(StatusCode::NOT_FOUND, json!({"message": format!("Pod '{id}' does not exist in version {version}")})),
    }
}

/// One by path, or several by a JSON array of ids; answers with their statuses.
fn delete_instances(world: &World, request: &Request, id: &str, instance: &str, body: &[u8]) -> Response {
    let ids = if instance.is_empty() {
        let wrapped = serde_json::from_slice(body).map_or(json!({}), |ids: Value| json!({"ids": ids}));
        texts(&wrapped, "ids")
    } else {
        vec![instance.to_owned()]
    };
    let found: Vec<(String, Value)> = {
        let core = world.core();
        if core.spec(id, Kind::Pod).is_none() {
            return unknown(Kind::Pod, id);
        }
        core.instances_of(id).filter(|i| ids.contains(&i.id)).map(|i| (i.id.clone(), view_instance(i))).collect()
    };
    if found.is_empty() {
        return problem(StatusCode::NOT_FOUND, json!({"message": format!("pod instances '{}' do not exist", ids.join(", "))}));
    }
    let command = Command::Kill {
        instances: found.iter().map(|(id, _)| id.clone()).collect(),
        wipe: request.flag("wipe"),
        scale: request.flag("scale"),
    };
    let result: Result<Accepted, Refused> = world.apply(command, request.flag("force"), request.uri.path(), request.client);
    match result {
        Err(error) => refused(error),
        Ok(_) if instance.is_empty() => axum::Json(found.into_iter().map(|(_, v)| v).collect::<Value>()).into_response(),
        Ok(_) => axum::Json(found.into_iter().map(|(_, v)| v).next()).into_response(),
    }
}
