//! What leaves the process about requests: spans, lines of the access log, Istio's metrics. What they say is decided in [`crate::core`];
//! here are the queues and who empties them. Nothing here makes a request wait: what does not fit is dropped and counted.

pub mod edges;
pub mod log;
pub mod pod;
pub mod tcp;
pub mod zipkin;

use prometheus_client::registry::Registry;
use std::sync::{Arc, OnceLock};

/// Of a process.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// Spans on their way to a collector.
    pub spans: zipkin::Spans,
    /// Lines on their way to standard output.
    pub log: log::Log,
    /// `istio_*`.
    pub edges: Arc<edges::Edges>,
    node: OnceLock<String>,
}

impl Telemetry {
    /// The node's id for the control plane, as spans name it. Set once; empty before.
    #[must_use]
    pub fn node(&self) -> &str {
        self.node.get().map_or("", String::as_str)
    }

    /// See [`Self::node`].
    pub fn set_node(&self, node: String) {
        // A process is one node all its life: the first stays.
        let _ = self.node.set(node);
    }

    /// Adds all families of this module.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(Arc::clone(&self.edges)));
        let dropped = "Spans that no collector has got, by reason";
        registry.register("mesh_proxy_spans_dropped", dropped, self.spans.dropped.clone());
        registry.register("mesh_proxy_spans_reported", "Spans that a collector has taken", self.spans.reported.clone());
        registry.register("mesh_proxy_access_log_lost", "Lines that found the access log's buffer full", self.log.lost.clone());
        let overflow = "Requests and connections counted without their labels, as the limit of label sets was reached";
        registry.register("mesh_proxy_telemetry_overflow", overflow, self.edges.overflowed.clone());
    }
}
