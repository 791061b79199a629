//! The pods in the mesh, as the broker serves them: one list, shared by the main loop that fills it and those who read it.

use crate::core::limit::Bucket;
use crate::core::resources::Workload;
use crate::netns::{Namespace, PodSockets};
use mesh_common::broker;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{broadcast, watch};

/// Changes that a client may lag behind: more pods than a node has. One that lags further is disconnected and gets the whole list anew.
const CHANGES: usize = 2048;

/// One pod in the mesh.
#[derive(Debug)]
pub struct Served {
    /// Who it is.
    pub workload: Workload,
    /// Where it lives.
    pub namespace: Namespace,
    /// Its listeners; the agent's own duplicates.
    pub sockets: Arc<PodSockets>,
    /// How many sockets may be brokered for it now.
    pub(crate) bucket: Arc<Mutex<Bucket>>,
}

/// Something that clients must hear of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// New or described anew.
    Pod(u32),
    /// Left.
    Gone(u32),
}

/// The list, by slot.
#[derive(Debug)]
pub struct Roster {
    pods: Mutex<BTreeMap<u32, Arc<Served>>>,
    changes: broadcast::Sender<Change>,
    listed: watch::Sender<bool>,
}

impl Default for Roster {
    fn default() -> Self {
        Self { pods: Mutex::default(), changes: broadcast::Sender::new(CHANGES), listed: watch::Sender::new(false) }
    }
}

impl Roster {
    /// Every pod of the node was looked at once: from now on, what is not in the list has left.
    pub(crate) fn is_listed(&self) {
        self.listed.send_if_modified(|listed| !std::mem::replace(listed, true));
    }

    /// Is it so?
    pub(crate) fn listed(&self) -> bool {
        *self.listed.borrow()
    }

    /// Waits for that. Before it, the list must be told to nobody: an agent that has just started would seem to have lost every pod, and
    /// its clients would drop listeners that work.
    pub(crate) async fn until_listed(&self) {
        // The sender lives as long as we do.
        let _ = self.listed.subscribe().wait_for(|listed| *listed).await;
    }

    /// A pod is enrolled, with these listeners.
    pub fn enrolled(&self, slot: u32, workload: Workload, namespace: Namespace, sockets: PodSockets) {
        let bucket = Arc::new(Mutex::new(Bucket::default()));
        self.put(slot, Served { workload, namespace, sockets: Arc::new(sockets), bucket });
    }

    /// A pod's description has changed; its listeners have not.
    pub fn described(&self, slot: u32, workload: Workload) {
        let Some(old) = self.get(slot) else { return };
        let (namespace, sockets, bucket) = (old.namespace.clone(), Arc::clone(&old.sockets), Arc::clone(&old.bucket));
        self.put(slot, Served { workload, namespace, sockets, bucket });
    }

    /// A pod has left.
    pub fn left(&self, slot: u32) {
        let mut pods = self.pods.lock();
        if pods.remove(&slot).is_some() {
            // Nobody listening is fine.
            let _ = self.changes.send(Change::Gone(slot));
        }
    }

    /// The pod with this number.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<Arc<Served>> {
        self.pods.lock().get(&slot).cloned()
    }

    /// All pods, and everything that changes from now on: nothing between them is lost.
    #[must_use]
    pub fn subscribe(&self) -> (Vec<u32>, broadcast::Receiver<Change>) {
        let pods = self.pods.lock();
        (pods.keys().copied().collect(), self.changes.subscribe())
    }

    /// All pods.
    #[must_use]
    pub fn all(&self) -> Vec<(u32, Arc<Served>)> {
        self.pods.lock().iter().map(|(slot, pod)| (*slot, Arc::clone(pod))).collect()
    }

    fn put(&self, slot: u32, pod: Served) {
        let mut pods = self.pods.lock();
        pods.insert(slot, Arc::new(pod));
        let _ = self.changes.send(Change::Pod(slot));
    }
}

impl From<&Workload> for broker::Workload {
    fn from(w: &Workload) -> Self {
        Self {
            id: w.id.clone(),
            app: w.app.clone(),
            namespace: w.namespace.clone(),
            addresses: w.addresses.clone(),
            labels: w.labels.clone(),
        }
    }
}
