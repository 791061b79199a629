//! The workloads of the node's own network: what Mesos says of them into the kernel's table.

use super::Node;
use crate::core::enrol::host::{self as plan, Mark, Plan, Step, Task};
use crate::core::policies::Policies;
use crate::core::resources::Workload;
use crate::host;
use crate::mesos::Said;
use crate::netns::{Namespace, PodSockets};
use crate::pod::Error;
use mesh_common::abi::{HostKey, Pod};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};

/// What the main loop keeps of them.
pub(crate) struct OnHost {
    /// The node's own.
    namespace: Namespace,
    said: watch::Receiver<Said>,
    bell: Arc<Notify>,
    /// Whose listeners this process holds, by slot.
    held: BTreeMap<u32, (BTreeSet<Mark>, Workload)>,
}

impl OnHost {
    /// Follows what the Mesos agent says; rings for it to be asked.
    pub(crate) fn new(said: watch::Receiver<Said>, bell: Arc<Notify>) -> io::Result<Self> {
        let namespace = Namespace::open(Path::new("/proc/self/ns/net"))?;
        Ok(Self { namespace, said, bell, held: BTreeMap::new() })
    }

    pub(super) fn said(&mut self) -> Said {
        self.said.borrow_and_update().clone()
    }

    /// There may be something new to hear.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// The slots in use.
    pub(super) fn slot_of(&self, id: &str) -> Option<u32> {
        self.held.iter().find(|(_, (_, told))| told.id == id).map(|(slot, _)| *slot)
    }
}

impl Node {
    /// Has the Mesos agent asked what runs now.
    pub(crate) fn ask_mesos(&self) {
        self.on_host.ring();
    }

    /// Waits until it has said something new.
    pub(crate) fn mesos(&self) -> watch::Receiver<Said> {
        self.on_host.said.clone()
    }

    /// Takes in what Mesos has started on the node's own network and Marathon has not spoken of yet, by its labels; what a namespace asks for does not
    /// hold there. The control plane's word replaces it. One that Marathon has forgotten while it still runs stays in the mesh until it has ended.
    pub(super) fn expect(&mut self, tasks: Option<&Vec<Task>>, now: Instant) {
        let Some(tasks) = tasks.filter(|_| self.world.complete()) else { return };
        let coming = || tasks.iter().filter_map(|task| Some((&task.container, task.coming.as_deref()?)));
        let world = &mut self.world;
        world.announced.retain(|id, (_, told)| !told.host_network || coming().any(|(_, workload)| workload.id == *id));
        for (container, workload) in coming() {
            let id = &workload.id;
            if !world.workloads.contains_key(id) && !world.announced.contains_key(id) {
                info!(container, workload = id, "a workload on the node's own network is to come");
                world.announced.insert(id.clone(), (container.clone(), workload.clone()));
                self.announced_at.insert(id.clone(), now);
            }
        }
    }

    /// Follows what the Mesos agent said. `taken` are the slots of pods.
    pub(super) fn settle_host(&mut self, said: &Said, known: &BTreeMap<u32, BTreeSet<HostKey>>, taken: &BTreeSet<u32>) -> Plan {
        // What somebody has taken out of the table is enrolled again.
        self.on_host.held.retain(|slot, _| known.contains_key(slot));
        let tasks = said.as_deref().map(Vec::as_slice);
        let plan = plan::plan(&self.world, &self.ours, tasks, known, &self.on_host.held, taken);
        for step in &plan.steps {
            self.step_host(step);
        }
        plan
    }

    fn step_host(&mut self, step: &Step) {
        match step {
            Step::Leave(slot) => {
                self.on_host.held.remove(slot);
                self.roster.left(*slot);
                match host::leave(&self.kernel, *slot) {
                    Ok(()) => info!(slot, "a workload on the node's own network has left the mesh"),
                    Err(error) => error!(slot, %error, "a workload could not be taken out of the mesh"),
                }
            }
            Step::Describe(slot, workload) => {
                if let Some((_, told)) = self.on_host.held.get_mut(slot) {
                    *told = workload.clone();
                    self.roster.described(*slot, self.at_the_node(workload));
                }
            }
            Step::Enrol(slot, marks, workload) => match self.enrol_on_host(*slot, marks, workload) {
                Ok(opened) => {
                    info!(workload = workload.id, slot, ?marks, "a workload on the node's own network is in the mesh");
                    self.roster.enrolled(*slot, self.at_the_node(workload), self.on_host.namespace.clone(), opened);
                    self.on_host.held.insert(*slot, (marks.clone(), workload.clone()));
                    self.failures.remove(&workload.id);
                }
                Err(error) => {
                    self.metrics.enrol_failed();
                    let text = error.to_string();
                    if self.failures.insert(workload.id.clone(), text.clone()).as_ref() != Some(&text) {
                        warn!(workload = workload.id, error = text, "a workload cannot be enrolled; trying again");
                    }
                }
            },
        }
    }

    fn enrol_on_host(&self, slot: u32, marks: &BTreeSet<Mark>, workload: &Workload) -> Result<PodSockets, Error> {
        let policy = Policies::of(&self.world).get(&workload.namespace);
        let pod = Pod { slot, policy, outbound: workload.outbound, ..Pod::default() };
        host::enrol(&self.kernel, &pod, marks, &self.on_host.namespace)
    }

    /// As the proxy knows it: with the address from which its connections leave.
    fn at_the_node(&self, workload: &Workload) -> Workload {
        Workload { addresses: vec![self.address], ..workload.clone() }
    }
}
