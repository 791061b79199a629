//! Metric families of the process itself. What Istio counts of requests is in [`crate::telemetry`].

use crate::telemetry::Telemetry;
use mesh_common::exposition;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A closed set of reasons.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct ReasonLabel {
    /// See `mesh_common::reason` and the proxy's own.
    pub reason: &'static str,
}

/// All families.
#[derive(Debug, Default)]
pub struct Metrics {
    /// `mesh_proxy_connections_refused_total`
    pub refused: Family<ReasonLabel, Counter>,
    /// `mesh_proxy_connections_total`
    pub connections: Counter,
    /// `mesh_proxy_detection_timeouts_total`
    pub detection_timeouts: Counter,
    /// `mesh_proxy_gateway_listeners`
    pub gateway_listeners: Gauge,
    /// `mesh_proxy_gateway_listeners_refused`
    pub gateway_refused: Gauge,
    /// `mesh_proxy_connections_open`
    pub open: Gauge,
    /// `mesh_proxy_upstream_connections_total`
    pub upstream_connections: Counter,
    /// `mesh_proxy_upstream_connect_failures_total`
    pub upstream_failures: Counter,
    /// `mesh_proxy_upstream_secrets_missing_total`
    pub secrets_missing: Counter,
    /// `mesh_proxy_retries_total`
    pub retries: Counter,
    /// `mesh_proxy_mirrors_lost_total`
    pub mirrors_lost: Family<ReasonLabel, Counter>,
    /// `mesh_proxy_responses_malformed_total`
    pub malformed: Family<ReasonLabel, Counter>,
    /// `mesh_proxy_stale_total`
    pub stale: Counter,
    /// `mesh_proxy_sockets_received_total`
    pub sockets_received: Counter,
    /// `mesh_proxy_stock_empty_total`
    pub stock_empty: Counter,
    /// `mesh_proxy_stock_timeouts_total`
    pub stock_timeouts: Counter,
    /// `mesh_proxy_stock`
    pub stock: Gauge,
    /// `mesh_proxy_config_nacks_total`
    pub nacks: Counter,
}

impl Metrics {
    /// The page for Prometheus, with the families of telemetry.
    #[must_use]
    pub fn encode(&self, telemetry: &Telemetry) -> String {
        let mut registry = Registry::default();
        telemetry.register(&mut registry);
        let refused = "Client connections closed without service, by reason";
        registry.register("mesh_proxy_connections_refused", refused, self.refused.clone());
        registry.register("mesh_proxy_connections", "Client connections accepted", self.connections.clone());
        let late = "Connections whose protocol was not known when the time for its detection was over: servers that speak first";
        registry.register("mesh_proxy_detection_timeouts", late, self.detection_timeouts.clone());
        let listening = "Ports of the node that this proxy serves as a gateway";
        registry.register("mesh_proxy_gateway_listeners", listening, self.gateway_listeners.clone());
        let refused = "Ports of Gateways that mesh-agent does not open; its answer is in the log";
        registry.register("mesh_proxy_gateway_listeners_refused", refused, self.gateway_refused.clone());
        registry.register("mesh_proxy_connections_open", "Client connections open now", self.open.clone());
        registry.register("mesh_proxy_upstream_connections", "Connections to endpoints", self.upstream_connections.clone());
        registry.register("mesh_proxy_upstream_connect_failures", "Failed ones", self.upstream_failures.clone());
        let missing = "Connections to endpoints that were not made because a Secret of the cluster's TLS is missing";
        registry.register("mesh_proxy_upstream_secrets_missing", missing, self.secrets_missing.clone());
        registry.register("mesh_proxy_retries", "Attempts beyond the first", self.retries.clone());
        registry.register(
            "mesh_proxy_mirrors_lost",
            "Copies of requests that no mirror answered, by reason",
            self.mirrors_lost.clone(),
        );
        let malformed = "Responses of endpoints that were no HTTP/1, by what was wrong";
        registry.register("mesh_proxy_responses_malformed", malformed, self.malformed.clone());
        let stale = "Requests sent again since an idle connection was closed by its endpoint";
        registry.register("mesh_proxy_stale", stale, self.stale.clone());
        registry.register("mesh_proxy_sockets_received", "Brokered sockets received", self.sockets_received.clone());
        registry.register("mesh_proxy_stock_empty", "Times a request found no brokered socket", self.stock_empty.clone());
        registry.register("mesh_proxy_stock_timeouts", "Times none came in time", self.stock_timeouts.clone());
        registry.register("mesh_proxy_stock", "Brokered sockets in stock", self.stock.clone());
        registry.register("mesh_proxy_config_nacks", "Deliveries of the control plane that were refused", self.nacks.clone());
        let mut out = String::new();
        // Writing to a string fails only if a metric's own encoder does, and these are the library's.
        if text::encode(&mut out, &registry).is_err() {
            tracing::error!("metrics could not be encoded");
        }
        exposition::classic(&out)
    }

    /// Counts a copy that was not made or not answered.
    pub fn mirror_lost(&self, reason: &'static str) {
        self.mirrors_lost.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a response that was no HTTP.
    pub fn malformed(&self, reason: &'static str) {
        self.malformed.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts a refused connection.
    pub fn refuse(&self, reason: &'static str) {
        self.refused.get_or_create(&ReasonLabel { reason }).inc();
    }
}
