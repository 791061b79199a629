//! The operator's endpoints, HTTP over a unix socket: `/ready`, `/metrics`, `/status`.

use crate::core::compile::Unsupported;
use crate::core::enrolment::Enrolment;
use crate::core::registry::Registry;
use crate::marathon::follow::Progress;
use crate::mesos;
use crate::metrics::Metrics;
use crate::serve::Publisher;
use crate::store::Store;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use mesh_common::exposition;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// What there is to see.
pub(crate) struct Admin {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) store: Store,
    /// What the Mesos master lists.
    pub(crate) agents: watch::Receiver<mesos::Said>,
    /// Of each Marathon.
    pub(crate) marathon: Vec<Arc<Mutex<Progress>>>,
    /// The last translation; `None` until Marathon has answered once.
    pub(crate) world: Mutex<Option<World>>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl crate::api::Runs for Admin {
    fn registry(&self) -> Option<Arc<Registry>> {
        self.world.lock().as_ref().map(|world| world.registry.clone())
    }

    fn gateways(&self) -> BTreeSet<IpAddr> {
        self.publisher.gateways()
    }
}

impl Admin {
    fn marathon(&self) -> Vec<Progress> {
        self.marathon.iter().map(|progress| progress.lock().clone()).collect()
    }
}

/// The result of the last compilation, for people.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) registry: Arc<Registry>,
    pub(crate) unsupported: Vec<Unsupported>,
}

/// Binds the socket, taking the place of one that nobody listens on.
pub(crate) async fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another mesh-control listens on it"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Serves until the socket fails.
pub(crate) async fn serve(listener: UnixListener, admin: Arc<Admin>) -> io::Result<()> {
    let router = Router::new().route("/ready", get(ready)).route("/metrics", get(metrics)).route("/status", get(status));
    let router = router.route("/backup", get(backup)).with_state(admin);
    axum::serve(listener, router).await
}

async fn ready(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    if admin.world.lock().is_some() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    let waiting = admin.marathon().into_iter().filter(|marathon| marathon.heard.is_none()).map(|marathon| {
        let why = marathon.error.as_deref().unwrap_or("not yet answered");
        format!("waiting for the first snapshot of Marathon at {}: {why}\n", marathon.url)
    });
    (StatusCode::SERVICE_UNAVAILABLE, waiting.collect())
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let marathon = admin.marathon();
    let headers = [("content-type", exposition::TYPE)];
    (headers, admin.metrics.render(&marathon, &admin.enrolment(), SystemTime::now()))
}

/// Everything that is stored, Secrets too: who may open the socket is root, or of its group.
async fn backup(State(admin): State<Arc<Admin>>) -> Response {
    match tokio::task::block_in_place(|| admin.store.backup()) {
        Ok(backup) => Json(backup).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

impl Admin {
    /// Wanted against enrolled, as of now.
    fn enrolment(&self) -> Enrolment {
        let registry = self.world.lock().as_ref().map(|world| world.registry.clone()).unwrap_or_default();
        let agents = self.agents.borrow().clone();
        let (clients, version) = self.publisher.enrolment();
        Enrolment::new(&registry, &clients, agents.as_ref().map(|agents| agents.as_slice()), version)
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let now = SystemTime::now();
    let marathon = admin.marathon().into_iter().map(|marathon| {
        json!({
            "url": marathon.url, "connected": marathon.connected, "error": marathon.error, "events": marathon.events,
            "snapshots": marathon.snapshots, "reconnects": marathon.reconnects,
            "ageSeconds": marathon.age(now).map(|age| age.as_secs()),
        })
    });
    let world = admin.world.lock().clone();
    let registry = world.as_ref().map(|world| world.registry.clone()).unwrap_or_default();
    let services = registry.services.values().map(|service| {
        let ports = service.ports.iter().map(|((number, transport), port)| {
            json!({
                "port": number,
                "transport": format!("{transport:?}").to_uppercase(),
                "protocol": port.protocol.as_str(),
                "mode": format!("{:?}", port.mode).to_lowercase(),
                "endpoints": port.endpoints.iter().map(|e| json!({
                    "address": e.at_home, "elsewhere": e.elsewhere, "workload": e.workload, "weight": port.weight(e), "labels": e.labels,
                })).collect::<Vec<_>>(),
            })
        });
        json!({"name": service.name, "addresses": service.addresses, "ports": ports.collect::<Vec<_>>()})
    });
    let without_effect = world
        .iter()
        .flat_map(|world| &world.unsupported)
        .map(|u| json!({"kind": u.kind, "namespace": u.namespace, "name": u.name, "field": u.field, "reason": u.reason}));
    Json(json!({
        "ready": world.is_some(),
        "marathon": marathon.collect::<Vec<_>>(),
        "nodes": admin.publisher.clients(),
        "enrolment": admin.enrolment(),
        "services": services.collect::<Vec<_>>(),
        "workloads": registry.workloads.len(),
        "problems": registry.problems,
        "rulesWithoutEffect": without_effect.collect::<Vec<_>>(),
    }))
}
