//! What all threads see: the snapshot in force, metrics, and what `/status` tells. Locks here are for pods that come and go, never for requests.

use crate::clock;
use crate::config::Config;
use crate::core::stock::TOTAL;
use crate::drain::Drain;
use crate::metrics::Metrics;
use crate::telemetry::Telemetry;
use crate::worker::Command;
use crate::xds::state::State;
use arc_swap::ArcSwap;
use mesh_common::broker::Workload;
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::{mpsc, watch};

/// Shared by all threads of the process.
pub struct Shared {
    /// The snapshot in force.
    pub config: ArcSwap<Config>,
    /// Counters.
    pub metrics: Metrics,
    /// Spans, access log, Istio's metrics.
    pub telemetry: Telemetry,
    /// By slot.
    pub pods: Mutex<BTreeMap<u32, Arc<PodStatus>>>,
    /// For `/ready` and `/status`.
    pub progress: Mutex<Progress>,
    /// The planned stop.
    pub drain: Drain,
    /// Who the node's gateway is, if there is one.
    pub gateway: Workload,
    /// Threads that it is spread over.
    pub gateway_threads: usize,
    /// True once the first configuration is complete. Before, listeners are held and not accepted from: whoever connects waits in the
    /// backlog instead of getting a 404 that no rule wants.
    pub serving: watch::Sender<bool>,
    /// Bumped when a snapshot is in force.
    pub changed: watch::Sender<u64>,
    /// Brokered sockets that all pods together may hold.
    pub stock_total: usize,
    /// Of the node, for headers.
    pub hostname: String,
    /// The threads that own pods, for those who ask what they see. They end when who started them drops its own senders.
    pub workers: Mutex<Vec<mpsc::WeakSender<Command>>>,
    /// When the process started.
    pub since: Instant,
}

impl Default for Shared {
    fn default() -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _hard)| soft);
        Self {
            config: ArcSwap::default(),
            metrics: Metrics::default(),
            telemetry: Telemetry::default(),
            pods: Mutex::default(),
            progress: Mutex::default(),
            drain: Drain::default(),
            gateway: Workload::default(),
            gateway_threads: 1,
            serving: watch::Sender::default(),
            changed: watch::Sender::default(),
            workers: Mutex::default(),
            since: Instant::now(),
            hostname: nix::unistd::gethostname().map_or_else(|_error| String::new(), |name| name.to_string_lossy().into_owned()),
            stock_total: TOTAL.min(usize::try_from(limit / 2).unwrap_or(TOTAL)),
        }
    }
}

/// What is known of broker and control plane.
#[derive(Debug, Default)]
pub struct Progress {
    /// Why the broker's list of pods is not complete; `None`: it was complete once.
    pub broker_ready: bool,
    /// Why the agent is away now.
    pub broker_lost: Option<String>,
    /// What configuration is missing; `None` before the first delivery and when nothing is.
    pub config_missing: Option<String>,
    /// At least one delivery came.
    pub config_seen: bool,
    /// By type and name.
    pub versions: BTreeMap<String, BTreeMap<String, String>>,
}

/// A pod, for `/status`.
#[derive(Debug, Default)]
pub struct PodStatus {
    /// Marathon's instance.
    pub workload: String,
    /// Marathon's app.
    pub app: String,
    /// Sockets in stock, IPv4 and IPv6.
    pub stock: [AtomicUsize; 2],
    /// Open client connections.
    pub connections: AtomicUsize,
}

impl Shared {
    /// Puts what the control plane sent in force, for all requests from now on.
    pub fn publish(&self, state: &mut State) {
        self.config.store(Arc::new(state.config(clock::now())));
        self.changed.send_modify(|changed| *changed += 1);
        let mut progress = self.progress.lock();
        progress.config_seen = true;
        progress.config_missing = state.missing();
        progress.versions.clone_from(state.versions());
        let complete = progress.config_missing.is_none();
        drop(progress);
        if complete {
            self.serve();
        }
    }

    /// What is told of a pod that comes; `spread`: of all its threads together.
    pub fn enter(&self, slot: u32, workload: &Workload, spread: bool) -> Arc<PodStatus> {
        let mut pods = self.pods.lock();
        if let Some(known) = pods.get(&slot).filter(|known| spread && known.workload == workload.id) {
            return Arc::clone(known);
        }
        let status = Arc::new(PodStatus { workload: workload.id.clone(), app: workload.app.clone(), ..PodStatus::default() });
        pods.insert(slot, Arc::clone(&status));
        status
    }

    /// From now on connections are accepted.
    pub fn serve(&self) {
        self.serving.send_if_modified(|serving| !std::mem::replace(serving, true));
    }

    /// Returns once connections may be accepted.
    pub async fn may_accept(&self) {
        let mut serving = self.serving.subscribe();
        // The sender is ours: it cannot be gone.
        let _ = serving.wait_for(|serving| *serving).await;
    }

    /// Why this process is not ready yet; `None`: it is. Once ready, an absent agent or control plane does not unmake it.
    pub fn unready(&self) -> Option<String> {
        if self.drain.is_begun() {
            return Some("draining".to_owned());
        }
        let progress = self.progress.lock();
        if !progress.broker_ready {
            return Some(progress.broker_lost.clone().unwrap_or_else(|| "the agent has not listed its pods yet".to_owned()));
        }
        if !progress.config_seen {
            return Some("nothing from mesh-control yet".to_owned());
        }
        progress.config_missing.clone()
    }
}

impl PodStatus {
    /// Reads a gauge.
    #[must_use]
    pub fn get(gauge: &AtomicUsize) -> usize {
        gauge.load(Ordering::Relaxed)
    }
}
