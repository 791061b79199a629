//! This node's state and how it follows: deliveries into the kernel's tables, containers into enrolled pods.

use crate::balance::{self, Balance};
use crate::bypass;
use crate::core::desired::{self, Desired};
use crate::core::enrol::{self, Plan, Step};
use crate::core::reconcile::{Actual, Op, reconcile};
use crate::core::resources::{Service, Workload, World};
use crate::egress::Book;
use crate::explain::Names;
use crate::inbound;
use crate::kernel::Kernel;
use crate::metrics::Metrics;
use crate::netns::{Namespace, PodSockets, sockets};
use crate::places::Places;
use crate::pod;
use crate::served::Roster;
use crate::status::{PodStatus, Shared, Status};
use mesh_common::abi::{Pod, maps};
use mesh_common::decide::l4::UDP;
use mesh_xds::agent as wire;
use mesh_xds::client::Delivery;
use mesh_xds::node::Node as NodeId;
use mesh_xds::report::Report;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

mod admit;
mod host;
pub(crate) use host::OnHost;

/// How often the kernel's tables are read in full, in case somebody else has written them.
const AUDIT: Duration = Duration::from_secs(30);
/// How long a restarted agent tells its clients of nobody while the Mesos agent does not answer: who is not told of, they would drop.
const MESOS_PATIENCE: Duration = Duration::from_secs(10);
/// Refusals named in one NACK; more would only hide the first.
const NAMED_MAX: usize = 10;

/// From where the node learns who runs on it, and who should not be in the mesh.
pub(crate) struct Sources {
    pub(crate) places: Places,
    pub(crate) on_host: OnHost,
    /// What the operator says (`bypass.rs`).
    pub(crate) bypass_file: PathBuf,
}

/// Everything that the main loop owns.
pub(crate) struct Node {
    kernel: Arc<Kernel>,
    roster: Arc<Roster>,
    metrics: Arc<Metrics>,
    status: Arc<Shared>,
    book: Arc<Book>,
    places: Places,
    address: IpAddr,
    ours: Vec<String>,
    world: World,
    /// What the tables hold, as far as we know; `None` to read them again.
    actual: Option<Actual>,
    audited: Instant,
    started: Instant,
    /// Tables hold a whole snapshot.
    filled: bool,
    tables_error: Option<String>,
    /// Pods whose listeners this process holds, by cookie.
    held: BTreeMap<u64, (Pod, Workload)>,
    failures: BTreeMap<String, String>,
    on_host: OnHost,
    /// When each of `world.announced` was.
    announced_at: BTreeMap<String, Instant>,
    balance: Balance,
    bypass_file: PathBuf,
    /// A UDP backend is gone: sockets may be connected to it.
    stuck: bool,
    /// What the control plane was told last.
    reported: Option<Report>,
}

impl Node {
    pub(crate) fn new(
        kernel: Arc<Kernel>,
        roster: Arc<Roster>,
        metrics: Arc<Metrics>,
        status: Arc<Shared>,
        book: Arc<Book>,
        sources: Sources,
        id: &NodeId,
    ) -> Self {
        let Sources { places, on_host, bypass_file } = sources;
        Self {
            kernel,
            roster,
            metrics,
            status,
            book,
            places,
            address: id.address,
            ours: vec![id.address.to_string(), id.name.clone()],
            world: World::default(),
            actual: None,
            audited: Instant::now(),
            started: Instant::now(),
            filled: false,
            tables_error: None,
            held: BTreeMap::new(),
            failures: BTreeMap::new(),
            on_host,
            announced_at: BTreeMap::new(),
            balance: Balance::default(),
            bypass_file,
            // Of a former agent's time.
            stuck: true,
            reported: None,
        }
    }

    pub(crate) fn containers(&self) -> &Path {
        self.places.containers()
    }

    /// Puts a delivery in force. An error is the text of the NACK; what was valid is in force all the same.
    pub(crate) fn take(&mut self, delivery: &Delivery) -> Result<(), String> {
        let mut problems: Vec<String> = self.world.apply(delivery).iter().map(ToString::to_string).collect();
        problems.extend(self.fill().err());
        let resource = match delivery.type_url.as_str() {
            wire::MESH => "mesh",
            wire::WORKLOAD => "workload",
            wire::EGRESS => "egress",
            _ => "service",
        };
        let more = problems.len().saturating_sub(NAMED_MAX);
        problems.truncate(NAMED_MAX);
        let mut text = problems.join("; ");
        if more > 0 {
            text.push_str(&format!("; and {more} more"));
        }
        let refused = !text.is_empty();
        self.metrics.delivery(resource, if refused { "nack" } else { "ack" });
        self.status.update(|status| {
            let xds = status.xds.entry(resource).or_default();
            xds.deliveries += 1;
            if refused {
                xds.nacks += 1;
                xds.last_nack = Some(text.clone());
            }
            self.describe(status);
        });
        // A pod that is wanted from now on is not enrolled yet: "ready" must not be said in between.
        self.report(&Plan::default());
        if refused { Err(text) } else { Ok(()) }
    }

    /// Writes the tables. Nothing is written before all four types are known: half a world would refuse what the other half allows.
    fn fill(&mut self) -> Result<(), String> {
        if !self.world.complete() {
            return Ok(());
        }
        let result = desired::desired(&self.world, self.address).map_err(|e| e.to_string()).and_then(|d| self.write(&d));
        let result = result.and_then(|()| self.book.follow(&self.world, self.address));
        match &result {
            Ok(()) => self.filled = true,
            // A write that failed halfway: only the kernel knows how far it got.
            Err(_) => self.actual = None,
        }
        self.tables_error = result.clone().err();
        result
    }

    fn write(&mut self, desired: &Desired) -> Result<(), String> {
        let mut maps = self.kernel.maps();
        let mut actual = match self.actual.take() {
            Some(actual) => actual,
            None => maps.read().map_err(|e| e.to_string())?,
        };
        let ops = reconcile(desired, &actual);
        maps.write(&ops).map_err(|e| e.to_string())?;
        ops.iter().for_each(|op| actual.apply(op));
        self.stuck |= ops.iter().any(|op| matches!(op, Op::Release(to, _) if to.proto == UDP));
        for (map, entries) in actual.sizes() {
            self.metrics.holds(map, entries);
        }
        self.actual = Some(actual);
        Ok(())
    }

    /// What the operator says. A file that cannot be read leaves everything as it is.
    fn heed_bypass(&mut self) {
        match bypass::read(&self.bypass_file) {
            Ok(bypass) if bypass != self.world.bypass => {
                self.world.bypass = bypass;
                let out: Vec<&str> = self.world.bypassed(&self.ours).map(|w| w.id.as_str()).collect();
                warn!(pods = out.join(", "), "who is out of the mesh by `mesh-agent bypass` has changed");
            }
            Ok(_) => {}
            Err(error) => warn!(file = %self.bypass_file.display(), %error, "the bypass file cannot be read"),
        }
    }

    /// Moves what hangs on backends that are gone, and has the counts of connections agree with the kernel's list of sockets.
    fn rebalance(&mut self, audit: bool) {
        let namespaces = self.places.namespaces();
        if std::mem::take(&mut self.stuck) || audit {
            match balance::sweep(&self.kernel, &namespaces) {
                Ok(ended) => self.metrics.sockets_ended(ended),
                Err(error) => warn!(%error, "UDP sockets to backends that are gone are not looked for"),
            }
        }
        if audit {
            match self.balance.look(&self.kernel, &namespaces) {
                Ok(corrected) => self.metrics.counts_corrected(corrected),
                Err(error) => warn!(%error, "connections are counted, but the counts are not checked"),
            }
        }
    }

    /// Follows the containers. True if every wanted pod is in the mesh.
    pub(crate) fn settle(&mut self, now: Instant) -> bool {
        let audit = now.duration_since(self.audited) > AUDIT;
        if audit {
            self.audited = now;
            self.actual = None;
            self.book.distrust();
            self.held.iter().filter(|(cookie, _)| !self.kernel.is_guarded(**cookie)).for_each(|(cookie, (pod, workload))| {
                self.guard(*cookie, pod, workload);
            });
            if let Err(reason) = self.fill() {
                error!(reason, "the kernel's tables cannot be written");
            }
        }
        self.book.tend();
        let said = self.on_host.said();
        let places = self.places.scan(now, said.as_deref().map_or(&[], Vec::as_slice));
        if !self.filled {
            return false;
        }
        self.rebalance(audit);
        self.heed_bypass();
        self.forget_announced(now);
        self.expect(said.as_deref(), now);
        let known = self.kernel.maps().pods();
        let (known, on_host) = match known.and_then(|known| Ok((known, self.kernel.maps().host_pods()?))) {
            Ok(known) => known,
            Err(error) => {
                error!(%error, "the kernel's tables of pods cannot be read");
                return false;
            }
        };
        self.metrics.holds(maps::PODS_BY_NETNS, known.len());
        self.revive();
        self.listen_in();
        // What somebody has unpinned is enrolled again.
        self.held.retain(|cookie, _| self.kernel.is_steered(*cookie));
        let on_host: BTreeMap<_, _> = on_host.into_iter().map(|(slot, (_, keys))| (slot, keys)).collect();
        let mut plan = enrol::plan(&self.world, &self.ours, &places, &known, &self.held, &on_host.keys().copied().collect());
        for step in &plan.steps {
            self.step(step, &known);
        }
        let pods: BTreeSet<u32> = known.values().map(|pod| pod.slot).chain(self.held.values().map(|(pod, _)| pod.slot)).collect();
        plan.pending.extend(self.settle_host(&said, &on_host, &pods).pending);
        // A restarted agent does not know yet who its predecessor's workloads on the node's own network are.
        if on_host.is_empty() || said.is_some() || now > self.started + MESOS_PATIENCE {
            self.roster.is_listed();
        }
        self.report(&plan);
        // Of those that are to come nobody else says when they have gone.
        if !plan.pending.is_empty() || self.world.announced.values().any(|(_, workload)| workload.host_network) {
            self.ask_mesos();
        }
        plan.pending.is_empty() && self.failures.is_empty()
    }

    fn step(&mut self, step: &Step, known: &BTreeMap<u64, Pod>) {
        match step {
            Step::Leave(cookie, pod) => {
                self.held.remove(cookie);
                self.roster.left(pod.slot);
                match pod::leave(&self.kernel, *cookie, pod) {
                    Ok(()) => info!(slot = pod.slot, "a pod has left the mesh"),
                    Err(error) => error!(slot = pod.slot, %error, "a pod could not be taken out of the mesh"),
                }
            }
            Step::Describe(cookie, pod, workload) => self.describe_anew(*cookie, pod, workload),
            Step::Enrol(cookie, pod, workload) => {
                let Some(namespace) = self.places.namespace(*cookie) else { return };
                let enrolled = pod::enrol(&self.kernel, *cookie, pod, &namespace).and_then(|opened| {
                    let inbound = pod::capture(&self.kernel, pod, &workload.inbound, &namespace)?;
                    Ok(PodSockets { inbound, ..opened })
                });
                match enrolled {
                    Ok(opened) => {
                        info!(pod = workload.id, slot = pod.slot, cookie, "a pod is in the mesh");
                        // Before the proxy hears of it, and has sockets there.
                        if !known.contains_key(cookie) {
                            self.end_former(workload, &namespace);
                        }
                        self.roster.enrolled(pod.slot, workload.clone(), namespace, opened);
                        self.held.insert(*cookie, (*pod, workload.clone()));
                        self.guard(*cookie, pod, workload);
                        self.failures.remove(&workload.id);
                    }
                    Err(error) => self.cannot(workload, &error),
                }
            }
        }
    }

    /// What the pod has done before it was in the mesh must not go on around it.
    fn end_former(&self, workload: &Workload, namespace: &Namespace) {
        match pod::end_former(namespace, &self.world.proxied()) {
            Ok(0) => {}
            Ok(ended) => {
                self.metrics.former_ended(ended as u64);
                info!(pod = workload.id, ended, "connections that a pod made before it was in the mesh were ended");
            }
            Err(error) => {
                warn!(pod = workload.id, %error, "connections that a pod made before it was in the mesh may go on around it")
            }
        }
    }

    /// The kernel first: the proxy must not know a pod by a namespace whose rules are not in force.
    fn describe_anew(&mut self, cookie: u64, pod: &Pod, workload: &Workload) {
        let Some((before, _)) = self.held.get(&cookie) else { return };
        if before != pod {
            let Some(namespace) = self.places.namespace(cookie) else { return };
            if let Err(error) = pod::judge(&self.kernel, cookie, pod, &namespace) {
                return self.cannot(workload, &error);
            }
            self.guard(cookie, pod, workload);
            self.failures.remove(&workload.id);
        }
        self.held.insert(cookie, (*pod, workload.clone()));
        self.roster.described(pod.slot, workload.clone());
    }

    fn cannot(&mut self, workload: &Workload, error: &pod::Error) {
        self.metrics.enrol_failed();
        let text = error.to_string();
        if self.failures.insert(workload.id.clone(), text.clone()).as_ref() != Some(&text) {
            warn!(pod = workload.id, error = text, "a pod cannot be enrolled; trying again");
        }
    }

    /// The backstop behind the hooks. A pod without is in the mesh all the same, and counted.
    fn guard(&self, cookie: u64, pod: &Pod, workload: &Workload) {
        let Some(namespace) = self.places.namespace(cookie) else { return };
        match self.kernel.guard(cookie, pod, &namespace) {
            Ok(0) => warn!(pod = workload.id, "no veth of this pod has its other end here: raw packets of it are not judged"),
            Ok(_) => {}
            Err(error) => warn!(pod = workload.id, %error, "the veth of a pod is not guarded: raw packets of it are not judged"),
        }
    }

    /// Who listens on captured ports? Where nobody does, the kernel refuses by itself.
    fn listen_in(&self) {
        for (slot, pod) in self.roster.all() {
            if !pod.workload.inbound.is_empty()
                && let Err(error) = inbound::look(&self.kernel, slot, &pod.workload, &pod.namespace)
            {
                warn!(slot, %error, "who listens on captured ports is not known: connections are accepted before they are refused");
            }
        }
    }

    /// Any holder of a listener's duplicate can shut it down for all; the next look revives it.
    fn revive(&self) {
        for (slot, pod) in self.roster.all() {
            match sockets::revive(&pod.sockets) {
                Ok(0) => {}
                Ok(count) => warn!(slot, count, "listeners of a pod were shut down; they listen again"),
                Err(error) => error!(slot, %error, "a listener of a pod is dead"),
            }
        }
    }

    fn report(&mut self, plan: &Plan) {
        let wanted: Vec<&Workload> = self.world.wanted(&self.ours).collect();
        let bypassed: Vec<String> = self.world.bypassed(&self.ours).map(|w| w.id.clone()).collect();
        self.failures.retain(|id, _| wanted.iter().any(|w| w.id == *id));
        let pending: BTreeMap<&str, &str> = plan.pending.iter().map(|(id, reason)| (id.as_str(), *reason)).collect();
        let pods: Vec<PodStatus> = wanted.iter().map(|w| self.pod_status(w, &pending)).collect();
        let enrolled = pods.iter().filter(|pod| pod.enrolled).count();
        self.metrics.wanted.set(pods.len() as i64);
        self.metrics.bypassed.set(bypassed.len() as i64);
        self.metrics.enrolled.set(enrolled as i64);
        self.metrics.missing.set((pods.len() - enrolled) as i64);
        self.metrics.unguarded.set(self.held.keys().filter(|cookie| !self.kernel.is_guarded(**cookie)).count() as i64);
        self.status.update(|status| {
            status.wanted = pods.len();
            status.enrolled = enrolled;
            status.pods = pods;
            status.bypassed = bypassed;
            status.tables_filled = self.filled;
            status.tables_error.clone_from(&self.tables_error);
        });
    }

    /// What the control plane should hear of this node, if it has not heard it yet. Not before the tables are filled: a former agent's pods
    /// may be in the mesh all the same.
    pub(crate) fn news(&mut self) -> Option<Report> {
        if !self.filled {
            return None;
        }
        let report = self.status.get().report();
        let is_news = self.reported.as_ref() != Some(&report);
        is_news.then(|| self.reported.insert(report).clone())
    }

    fn pod_status(&self, workload: &Workload, pending: &BTreeMap<&str, &str>) -> PodStatus {
        let held = self.held.iter().find(|(_, (_, told))| told.id == workload.id);
        let on_host = self.on_host.slot_of(&workload.id);
        let failure = self.failures.get(&workload.id).map(String::as_str);
        let reason = failure.or_else(|| pending.get(workload.id.as_str()).copied());
        PodStatus {
            slot: held.map(|(_, (pod, _))| pod.slot).or(on_host),
            id: workload.id.clone(),
            app: workload.app.clone(),
            addresses: workload.addresses.clone(),
            netns_cookie: held.map(|(cookie, _)| *cookie),
            host_network: workload.host_network,
            enrolled: (held.is_some() || on_host.is_some()) && reason.is_none(),
            reason: reason.map(str::to_owned),
        }
    }

    fn describe(&self, status: &mut Status) {
        status.resources = [
            ("services", self.world.services.len()),
            ("workloads", self.world.workloads.len()),
            ("egress", self.world.egress.len()),
        ]
        .into_iter()
        .collect();
        let services = self.world.services.iter();
        let services = services.map(|(name, s)| (name.clone(), s.names.clone(), s.addresses.clone())).collect();
        let published = self.world.services.values().flat_map(Service::published).collect();
        self.status.rename(Names { services, published, ..Names::default() });
        let conflicts = self.world.conflicts();
        status.conflicts = conflicts
            .iter()
            .map(|(dest, owner, other)| {
                format!("{}:{} is claimed by {owner}, which has it, and by {other}", desired::ip(dest.addr), dest.port)
            })
            .collect();
    }
}
