//! What the agent counts, and what the kernel has counted, as Prometheus reads it.

use crate::edges::Edges;
use crate::kernel::Kernel;
use crate::status::Shared;
use mesh_common::abi::maps;
use mesh_common::exposition;
use mesh_common::reason::{Passed, Reason, Steered};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

/// Why a broker connection ended, or never began.
#[derive(Clone, Copy, Debug, EncodeLabelValue, Eq, Hash, PartialEq)]
pub enum BrokerEnd {
    /// By the client.
    Closed,
    /// By an error of the system.
    Failed,
    /// By a message that the protocol does not allow.
    Malformed,
    /// The client did not read.
    Slow,
    /// The limit of connections.
    TooManyConnections,
    /// SO_PEERCRED is not the proxy's user.
    WrongUser,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct EndLabel {
    reason: BrokerEnd,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct TypeLabel {
    resource: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct MapLabel {
    map: &'static str,
}

/// The tables that may be full. Those that forget by themselves are not among them.
const TABLES: [(&str, u32); 9] = [
    (maps::SERVICES, maps::SERVICES_MAX),
    (maps::BACKENDS, maps::BACKENDS_MAX),
    (maps::ENDPOINTS, maps::ENDPOINTS_MAX),
    (maps::WORKLOADS, maps::WORKLOADS_MAX),
    (maps::PROTECTED, maps::PROTECTED_MAX),
    (maps::EGRESS_EXACT, maps::EGRESS_EXACT_MAX),
    (maps::EGRESS_CIDR, maps::EGRESS_CIDR_MAX),
    (maps::LEARNED, maps::LEARNED_MAX),
    (maps::PODS_BY_NETNS, maps::PODS_MAX),
];

/// All metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    ends: Family<EndLabel, Counter>,
    brokered: Counter,
    refused: Counter,
    deliveries: Family<TypeLabel, Counter>,
    enrol_failures: Counter,
    lessons: Family<ResultLabel, Counter>,
    ended: Counter,
    corrected: Counter,
    former: Counter,
    revoked: Counter,
    learned: Gauge,
    entries: Family<MapLabel, Gauge>,
    /// Pods that this node should have in the mesh.
    pub wanted: Gauge,
    /// Pods that it has.
    pub enrolled: Gauge,
    /// The difference.
    pub missing: Gauge,
    /// Pods of which no veth is guarded.
    pub unguarded: Gauge,
    /// Pods that would be in the mesh but for the operator.
    pub bypassed: Gauge,
}

impl Metrics {
    /// Registers everything; the kernel's counters are read at each scrape.
    #[must_use]
    pub fn new(kernel: Arc<Kernel>, status: Arc<Shared>) -> Self {
        let mut registry = Registry::with_prefix("mesh_agent");
        let (ends, deliveries) = (Family::default(), Family::default());
        let (brokered, refused, enrol_failures) = (Counter::default(), Counter::default(), Counter::default());
        let (lessons, learned) = (Family::default(), Gauge::default());
        registry.register("dns_lessons", "Addresses in DNS answers, by what became of them", Family::clone(&lessons));
        registry.register("learned_addresses", "Addresses outside the mesh that are allowed by name", learned.clone());
        let (ended, corrected) = (Counter::default(), Counter::default());
        registry.register("udp_sockets_ended", "UDP sockets ended because their backend is gone", ended.clone());
        registry.register(
            "connection_counts_corrected",
            "By how much backends' counts of connections were wrong",
            corrected.clone(),
        );
        let former = Counter::default();
        registry.register(
            "former_connections_ended",
            "Connections ended because their pod had made them, past the proxy, before it was in the mesh",
            former.clone(),
        );
        let revoked = Counter::default();
        registry.register("egress_connections_revoked", "Connections ended with the rule that had allowed them", revoked.clone());
        let (wanted, enrolled, unguarded) = (Gauge::default(), Gauge::default(), Gauge::default());
        let (bypassed, missing) = (Gauge::default(), Gauge::default());
        registry.register("pods_missing", "Pods that this node should have in the mesh and has not", missing.clone());
        registry.register("pods_bypassed", "Pods that mesh-agent bypass has taken out of the mesh", bypassed.clone());
        registry.register("pods_unguarded", "Pods whose veth has no guard against raw packets", unguarded.clone());
        registry.register("broker_connections_ended", "Broker connections that ended, by reason", Family::clone(&ends));
        registry.register("brokered_sockets", "Sockets made in pods for mesh-proxy", brokered.clone());
        registry.register("brokered_sockets_refused", "Sockets asked for beyond a pod's limit", refused.clone());
        registry.register(
            "xds_deliveries",
            "Deliveries of the control plane, by what became of them",
            Family::clone(&deliveries),
        );
        registry.register("enrol_failures", "Attempts to enrol a pod that failed", enrol_failures.clone());
        registry.register("pods_wanted", "Pods that this node should have in the mesh", wanted.clone());
        registry.register("pods_enrolled", "Pods that this node has in the mesh", enrolled.clone());
        let (entries, capacity) = (Family::<MapLabel, Gauge>::default(), Family::<MapLabel, Gauge>::default());
        registry.register("map_entries", "Entries of the kernel's tables", Family::clone(&entries));
        registry.register("map_capacity", "How many entries each of them holds", Family::clone(&capacity));
        for (map, max) in TABLES {
            entries.get_or_create(&MapLabel { map }).set(0);
            capacity.get_or_create(&MapLabel { map }).set(max.into());
        }
        registry.register_collector(Box::new(Edges::new(Arc::clone(&kernel), status)));
        registry.register_collector(Box::new(KernelCounters(kernel)));
        Self {
            registry,
            ends,
            brokered,
            refused,
            deliveries,
            enrol_failures,
            lessons,
            ended,
            corrected,
            former,
            revoked,
            learned,
            entries,
            wanted,
            enrolled,
            missing,
            unguarded,
            bypassed,
        }
    }

    /// The text that Prometheus scrapes.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(exposition::classic(&text))
    }

    pub(crate) fn broker_end(&self, reason: BrokerEnd) {
        self.ends.get_or_create(&EndLabel { reason }).inc();
    }

    pub(crate) fn sockets_brokered(&self, count: u64) {
        self.brokered.inc_by(count);
    }

    pub(crate) fn sockets_refused(&self, count: u64) {
        self.refused.inc_by(count);
    }

    pub(crate) fn delivery(&self, resource: &'static str, result: &'static str) {
        self.deliveries.get_or_create(&TypeLabel { resource, result }).inc();
    }

    pub(crate) fn lesson(&self, result: &'static str) {
        self.lessons.get_or_create(&ResultLabel { result }).inc();
    }

    pub(crate) fn learned_now(&self, count: usize) {
        self.learned.set(count as i64);
        self.holds(maps::LEARNED, count);
    }

    /// A table has this many entries now.
    pub(crate) fn holds(&self, map: &'static str, entries: usize) {
        self.entries.get_or_create(&MapLabel { map }).set(entries as i64);
    }

    pub(crate) fn sockets_ended(&self, count: u64) {
        self.ended.inc_by(count);
    }

    pub(crate) fn former_ended(&self, count: u64) {
        self.former.inc_by(count);
    }

    pub(crate) fn revoked(&self, count: u64) {
        self.revoked.inc_by(count);
    }

    pub(crate) fn counts_corrected(&self, connections: u64) {
        self.corrected.inc_by(connections);
    }

    pub(crate) fn enrol_failed(&self) {
        self.enrol_failures.inc();
    }
}

/// The kernel's counter array. Codes that were never counted are there with 0, so that a rate can be taken of the first.
struct KernelCounters(Arc<Kernel>);

impl fmt::Debug for KernelCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KernelCounters")
    }
}

impl Collector for KernelCounters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(counters) = self.0.maps().counters() else { return Ok(()) };
        let value = |code: u8| counters.get(usize::from(code)).copied().unwrap_or_default();
        let mut refusals = encoder.encode_descriptor("refusals", "Flows refused in the kernel", None, MetricType::Counter)?;
        for reason in Reason::ALL {
            let labels = [("reason", reason.label())];
            ConstCounter::new(value(reason.code())).encode(refusals.encode_family(&labels)?)?;
        }
        let mut flows =
            encoder.encode_descriptor("flows", "Flows let pass or steered in the kernel", None, MetricType::Counter)?;
        let passed = Passed::ALL.iter().map(|p| (p.code(), p.label()));
        for (code, label) in passed.chain(Steered::ALL.iter().map(|s| (s.code(), s.label()))) {
            ConstCounter::new(value(code)).encode(flows.encode_family(&[("verdict", label)])?)?;
        }
        Ok(())
    }
}
