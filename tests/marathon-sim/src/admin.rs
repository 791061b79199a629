//! `STATE/sim.sock`: HTTP and JSON for the client commands and for tests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::core::ids;
use crate::core::instance::{Instance, State as TaskState};
use crate::faults::Faults;
use crate::node::executor::Executor;
use crate::node::netns::NetNs;
use crate::node::{cgroup, forward};
use crate::world::World;

pub(crate) struct Admin {
    pub(crate) world: Arc<World>,
    pub(crate) executor: Arc<Executor>,
    pub(crate) info: Value,
    pub(crate) shutdown: Notify,
    pub(crate) forwards: Mutex<Vec<(Forward, forward::Handle)>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Forward {
    #[serde(default = "any_port")]
    pub(crate) listen: SocketAddr,
    pub(crate) app: String,
    pub(crate) port: u16,
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/info", get(async |State(admin): State<Arc<Admin>>| axum::Json(admin.info.clone())))
        .route("/instances", get(instances))
        .route("/namespaces", get(namespaces))
        .route("/forwards", get(list_forwards).post(add_forward))
        .route("/faults", get(faults).post(set_faults))
        .route("/shutdown", post(shutdown))
        .with_state(admin)
}

async fn shutdown(State(admin): State<Arc<Admin>>) -> axum::Json<Value> {
    admin.shutdown.notify_one();
    axum::Json(json!({"pid": std::process::id()}))
}

async fn faults(State(admin): State<Arc<Admin>>) -> axum::Json<Faults> {
    axum::Json(admin.world.faults())
}

async fn set_faults(State(admin): State<Arc<Admin>>, axum::Json(wanted): axum::Json<Faults>) -> axum::Json<Faults> {
    admin.world.set_faults(wanted.clone());
    axum::Json(wanted)
}

async fn namespaces(State(admin): State<Arc<Admin>>) -> axum::Json<BTreeMap<String, String>> {
    axum::Json(admin.executor.topology.names().into_iter().collect())
}

async fn instances(State(admin): State<Arc<Admin>>) -> axum::Json<Value> {
    let core = admin.world.core();
    axum::Json(core.instances.values().map(|i| instance(&admin.executor, i)).collect())
}

fn instance(executor: &Executor, instance: &Instance) -> Value {
    let node = executor.node_names[instance.node].as_str();
    let container = |task: &crate::core::instance::Task| {
        let cgroup = executor.layout.cgroup(node, instance.executor_uuid.as_deref(), &task.uuid);
        let (stdout, stderr) = executor.log_paths(&task.uuid);
        json!({
            "name": task.container,
            "task": task.id,
            "uuid": task.uuid,
            "status": task.state.task_status(),
            "message": task.message,
            "pid": task.pid,
            "pids": cgroup::pids(&cgroup),
            "cgroup": cgroup,
            "stdout": stdout,
            "stderr": stderr,
            "spec": executor.layout.container(&task.uuid).join("task.json"),
        })
    };
    let tasks = if instance.tasks.is_empty() { &instance.ended } else { &instance.tasks };
    let placed = !instance.is_scheduled();
    json!({
        "id": instance.id,
        "app": instance.spec.id,
        "kind": if instance.is_app() { "app" } else { "pod" },
        "version": instance.spec.version,
        "condition": instance.condition,
        "failures": instance.failures,
        "lastFailure": instance.last_failure,
        "running": instance.is_running(),
        "healthy": instance.healthy,
        "node": placed.then_some(node),
        "agent": placed.then(|| instance.hostname.clone()),
        "address": if placed { instance.dial_address() } else { None },
        "address6": instance.v6,
        "network": instance.network_name(),
        "hostPorts": instance.host_ports.iter().map(|((c, i), p)| json!({"container": c, "endpoint": i, "port": p})).collect::<Vec<_>>(),
        "netns": executor.netns_path(&instance.id).ok(),
        "executor": instance.executor_uuid,
        "containers": tasks.iter().map(container).collect::<Vec<_>>(),
    })
}

async fn list_forwards(State(admin): State<Arc<Admin>>) -> axum::Json<Vec<Forward>> {
    axum::Json(admin.forwards.lock().iter().map(|(forward, _)| forward.clone()).collect())
}

async fn add_forward(State(admin): State<Arc<Admin>>, axum::Json(wanted): axum::Json<Forward>) -> Response {
    let app = ids::canonical(&wanted.app);
    if !admin.world.core().specs.contains_key(&app) {
        let known: Vec<String> = admin.world.core().specs.keys().cloned().collect();
        return (StatusCode::NOT_FOUND, axum::Json(json!({"message": format!("no app or pod {app}; there are {known:?}")})))
            .into_response();
    }
    let listener = match tokio::net::TcpListener::bind(wanted.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            let message = format!("listen on {}: {error}", wanted.listen);
            return (StatusCode::CONFLICT, axum::Json(json!({"message": message}))).into_response();
        }
    };
    let listen = listener.local_addr().unwrap_or(wanted.listen);
    let (world, executor, port, target) = (Arc::clone(&admin.world), Arc::clone(&admin.executor), wanted.port, app.clone());
    let handle = forward::serve(listener, move || dial(&world, &executor, &target, port));
    let forward = Forward { listen, app, port };
    admin.forwards.lock().push((forward.clone(), handle));
    axum::Json(forward).into_response()
}

/// A running instance as its node sees it; the oldest one, so that consecutive connections meet the same.
fn dial(world: &World, executor: &Executor, app: &str, port: u16) -> Option<(NetNs, SocketAddr)> {
    let core = world.core();
    let running = core.instances_of(app).filter(|i| i.tasks.iter().any(|t| t.state == TaskState::Running) && !i.stopping);
    let instance = running.min_by_key(|i| i.created)?;
    Some((executor.topology.nodes[instance.node].clone(), SocketAddr::new(instance.dial_address()?, port)))
}
