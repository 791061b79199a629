//! Counters of the API; `run` registers them.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// A request, by what it was and how it ended.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(crate) struct RequestLabels {
    pub(crate) verb: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) code: u16,
}

/// Why a connection ended before a request.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(crate) struct RefusalLabels {
    pub(crate) reason: &'static str,
}

/// All of them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct ApiMetrics {
    pub(crate) requests: Family<RequestLabels, Counter>,
    pub(crate) refused: Family<RefusalLabels, Counter>,
    pub(crate) connections: Gauge,
    pub(crate) watches: Gauge,
}

impl ApiMetrics {
    /// Names them.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("mesh_control_api_requests", "Requests of the configuration API", self.requests.clone());
        let help = "Connections of the configuration API that ended before a request";
        registry.register("mesh_control_api_refused_connections", help, self.refused.clone());
        registry.register("mesh_control_api_connections", "Open connections of the configuration API", self.connections.clone());
        registry.register("mesh_control_api_watches", "Open watches of the configuration API", self.watches.clone());
    }
}
