//! Metrics of the connections that the kernel has balanced, by workload and service: read from the kernel at each scrape.

use crate::core::desired::ip;
use crate::core::edges::{Ledger, Names};
use crate::kernel::Kernel;
use crate::status::Shared;
use mesh_common::abi::{Edge, EdgeKey};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The collector.
pub(crate) struct Edges {
    kernel: Arc<Kernel>,
    status: Arc<Shared>,
    ledger: Mutex<Ledger>,
}

impl Edges {
    pub(crate) fn new(kernel: Arc<Kernel>, status: Arc<Shared>) -> Self {
        Self { kernel, status, ledger: Mutex::default() }
    }

    /// Who is behind each number now.
    fn known(&self) -> Known {
        let pods = self.status.get().pods.into_iter();
        let pods = pods.flat_map(|pod| {
            let on_host = pod.slot.map(|slot| EdgeKey::ON_HOST | u64::from(slot));
            [pod.netns_cookie, on_host].into_iter().flatten().map(move |client| (client, pod.app.clone()))
        });
        let services = self.status.names().services.into_iter();
        let services = services.flat_map(|(name, _, vips)| vips.into_iter().map(move |vip| (vip, name.clone()))).collect();
        Known { pods: pods.collect(), services }
    }
}

struct Known {
    pods: BTreeMap<u64, String>,
    services: BTreeMap<std::net::IpAddr, String>,
}

impl Known {
    fn name(&self, key: &EdgeKey) -> Names {
        let vip = ip(key.vip.addr);
        let service = self.services.get(&vip).cloned().unwrap_or_else(|| vip.to_string());
        Names { workload: self.pods.get(&key.client).cloned().unwrap_or_default(), service, port: key.vip.port }
    }
}

impl fmt::Debug for Edges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Edges")
    }
}

/// A field of every edge: the name of its metric, and what it is.
type Field = (&'static str, &'static str, fn(&Edge) -> u64);

const FIELDS: [Field; 5] = [
    ("edge_connections_opened", "Connections to a VIP that a backend has accepted, by client and service", |edge| edge.opened),
    ("edge_connections_closed", "Of those, how many have ended: bytes and round trips are of these", |edge| edge.closed),
    ("edge_connections_failed", "Connections to a VIP that no backend has accepted", |edge| edge.failed),
    ("edge_sent_bytes", "Bytes that clients have sent to backends, once a connection has ended", |edge| edge.sent),
    ("edge_received_bytes", "Bytes that clients have received from backends, once a connection has ended", |edge| edge.received),
];

impl Collector for Edges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(now) = self.kernel.maps().edges() else { return Ok(()) };
        let known = self.known();
        let mut ledger = self.ledger.lock();
        ledger.take(now, |key| known.name(key));
        let labels = |names: &Names| {
            [("workload", names.workload.clone()), ("service", names.service.clone()), ("port", names.port.to_string())]
        };
        for (name, help, field) in FIELDS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (names, edge) in ledger.totals() {
                ConstCounter::new(field(edge)).encode(family.encode_family(&labels(names))?)?;
            }
        }
        const RTT: &str = "Round-trip times that TCP has estimated at the ends of connections, added up: divide by those closed";
        let mut family = encoder.encode_descriptor("edge_rtt_seconds", RTT, None, MetricType::Counter)?;
        for (names, edge) in ledger.totals() {
            ConstCounter::new(edge.rtt as f64 / 1e6).encode(family.encode_family(&labels(names))?)?;
        }
        Ok(())
    }
}
