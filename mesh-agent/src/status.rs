//! What the agent says of itself: `GET /status`, and whether it is ready.

use crate::explain::Names;
use mesh_common::abi;
use mesh_xds::report::Report;
use parking_lot::RwLock;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The whole answer.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Node id towards the control plane.
    pub node: String,
    /// Of this program.
    pub version: &'static str,
    /// Of the kernel's maps.
    pub abi_version: u32,
    /// Do the programs judge?
    pub hooks_attached: bool,
    /// Does the kernel hold a first whole snapshot?
    pub tables_filled: bool,
    /// Pods that should be in the mesh.
    pub wanted: usize,
    /// Pods that are.
    pub enrolled: usize,
    /// All of them.
    pub pods: Vec<PodStatus>,
    /// Workloads that would be in the mesh, and that `mesh-agent bypass` has taken out.
    pub bypassed: Vec<String>,
    /// Sizes of what the control plane has sent.
    pub resources: BTreeMap<&'static str, usize>,
    /// Each resource type's last delivery.
    pub xds: BTreeMap<&'static str, XdsStatus>,
    /// Two services that claim one VIP and port.
    pub conflicts: Vec<String>,
    /// Why the tables were not written the last time.
    pub tables_error: Option<String>,
}

/// One pod.
#[derive(Clone, Debug, Serialize)]
pub struct PodStatus {
    /// Its number on this node, if it is enrolled.
    pub slot: Option<u32>,
    /// Marathon's instance id.
    pub id: String,
    /// Marathon's path.
    pub app: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The kernel's number of its namespace.
    pub netns_cookie: Option<u64>,
    /// Does it share the node's own namespace?
    pub host_network: bool,
    /// Is it in the mesh?
    pub enrolled: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One resource type.
#[derive(Clone, Debug, Default, Serialize)]
pub struct XdsStatus {
    /// How many came.
    pub deliveries: u64,
    /// How many were refused, wholly or in part.
    pub nacks: u64,
    /// The last refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_nack: Option<String>,
}

/// The status, shared with the admin socket.
#[derive(Debug)]
pub struct Shared(RwLock<Status>, RwLock<Names>);

impl Shared {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(node: String) -> Self {
        let status = RwLock::new(Status {
            node,
            version: env!("CARGO_PKG_VERSION"),
            abi_version: abi::ABI_VERSION,
            hooks_attached: false,
            tables_filled: false,
            wanted: 0,
            enrolled: 0,
            pods: Vec::new(),
            bypassed: Vec::new(),
            resources: BTreeMap::new(),
            xds: BTreeMap::new(),
            conflicts: Vec::new(),
            tables_error: None,
        });
        Self(status, RwLock::default())
    }

    /// What the agent knows by name now, pods included.
    #[must_use]
    pub fn names(&self) -> Names {
        let pods = self.0.read().pods.iter().filter_map(|p| Some((p.slot?, p.id.clone(), p.app.clone()))).collect();
        Names { pods, ..self.1.read().clone() }
    }

    /// Changes all names but the pods'.
    pub fn rename(&self, names: Names) {
        *self.1.write() = names;
    }

    /// Changes it.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.0.write());
    }

    /// A copy.
    #[must_use]
    pub fn get(&self) -> Status {
        self.0.read().clone()
    }
}

impl Status {
    /// The same, as the control plane is told.
    #[must_use]
    pub fn report(&self) -> Report {
        let (enrolled, missing): (Vec<_>, Vec<_>) = self.pods.iter().partition(|pod| pod.enrolled);
        let reason = |pod: &PodStatus| pod.reason.clone().unwrap_or_else(|| "not yet".to_owned());
        Report {
            enrolled: enrolled.into_iter().map(|pod| pod.id.clone()).collect(),
            missing: missing.into_iter().map(|pod| (pod.id.clone(), reason(pod))).collect(),
            bypassed: self.bypassed.iter().cloned().collect(),
        }
    }

    /// Does everything work that should?
    ///
    /// # Errors
    /// Says what is missing.
    pub fn ready(&self) -> Result<(), String> {
        if !self.hooks_attached {
            return Err("the eBPF programs are not attached".to_owned());
        }
        if !self.tables_filled {
            return Err(match &self.tables_error {
                Some(error) => format!("the kernel's tables are not filled: {error}"),
                None => "no first snapshot of Mesh, Workload, Service and Egress from the control plane yet".to_owned(),
            });
        }
        match self.pods.iter().find(|pod| !pod.enrolled) {
            Some(pod) => Err(format!("pod {} is not enrolled: {}", pod.id, pod.reason.as_deref().unwrap_or("not yet"))),
            None => Ok(()),
        }
    }
}
