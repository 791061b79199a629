//! Counters of the DNS process. Every way to answer, to refuse or to drop has one label, spelled where it is decided.

use super::core::handler::Answered;
use super::core::query::Transport;
use mesh_common::exposition;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;

type OneLabel = [(&'static str, &'static str); 1];
type TwoLabels = [(&'static str, &'static str); 2];
type UpstreamLabel = [(&'static str, String); 1];
type UpstreamOutcome = [(&'static str, String); 2];

/// Why a datagram or connection got no answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dropped {
    /// It was sent to the listener's own address, not captured.
    MeshListener,
    /// The pod has too many connections open.
    PodConnections,
    /// The node has too many connections open.
    NodeConnections,
    /// The client's socket takes no more, or is gone.
    SendFailed,
    /// Over TCP: a message longer than any question.
    TooLong,
    /// Over TCP: nothing came, or nothing was taken, for too long.
    Idle,
    /// Why the pure core ignores it.
    Ignored(&'static str),
}

impl Dropped {
    const fn label(self) -> &'static str {
        match self {
            // The kernel half's name for the same.
            Self::MeshListener => mesh_common::reason::Reason::MeshListener.label(),
            Self::PodConnections => "pod_connections",
            Self::NodeConnections => "node_connections",
            Self::SendFailed => "send_failed",
            Self::TooLong => "too_long",
            Self::Idle => "idle",
            Self::Ignored(label) => label,
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    queries: Family<TwoLabels, Counter>,
    dropped: Family<TwoLabels, Counter>,
    xds: Family<TwoLabels, Counter>,
    upstream: Family<UpstreamOutcome, Counter>,
    upstream_seconds: Family<UpstreamLabel, Histogram, fn() -> Histogram>,
    sizes: Family<OneLabel, Gauge>,
    /// Connections open.
    pub(super) connections: Gauge,
    /// Questions that wait for a resolver.
    pub(super) waiting: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let seconds = || Histogram::new([0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0]);
        let mut metrics = Self {
            registry: Registry::with_prefix("mesh_dns"),
            queries: Family::default(),
            dropped: Family::default(),
            xds: Family::default(),
            upstream: Family::default(),
            upstream_seconds: Family::new_with_constructor(seconds),
            sizes: Family::default(),
            connections: Gauge::default(),
            waiting: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("queries", "Questions answered, by how", metrics.queries.clone());
        registry.register("dropped", "Datagrams and connections without an answer, by reason", metrics.dropped.clone());
        registry.register("xds_deliveries", "Deliveries of the control plane, by what became of them", metrics.xds.clone());
        registry.register("upstream_attempts", "Attempts to ask a resolver, by outcome", metrics.upstream.clone());
        registry.register("upstream_seconds", "Time of a resolver's answers", metrics.upstream_seconds.clone());
        registry.register("held", "Things held: pods, services, names, cached answers", metrics.sizes.clone());
        registry.register("tcp_connections", "Connections open", metrics.connections.clone());
        registry.register("upstream_waiting", "Questions that wait for a resolver", metrics.waiting.clone());
        metrics
    }
}

impl Metrics {
    /// A question was answered.
    pub(super) fn answered(&self, transport: Transport, answered: Answered) {
        self.queries.get_or_create(&[("transport", transport.label()), ("result", answered.label())]).inc();
    }

    /// Something got no answer.
    pub(super) fn dropped(&self, transport: Transport, why: Dropped) {
        self.dropped.get_or_create(&[("transport", transport.label()), ("reason", why.label())]).inc();
    }

    /// A delivery was taken or refused.
    pub(super) fn delivered(&self, kind: &'static str, accepted: bool) {
        self.xds.get_or_create(&[("type", kind), ("answer", if accepted { "ack" } else { "nack" })]).inc();
    }

    /// An attempt to ask a resolver is over (or, for `foreign`, goes on).
    pub(super) fn upstream(&self, server: &str, outcome: &'static str) {
        self.upstream.get_or_create(&[("upstream", server.to_owned()), ("outcome", outcome.to_owned())]).inc();
    }

    /// A resolver answered after so long.
    pub(super) fn upstream_took(&self, server: &str, took: Duration) {
        self.upstream_seconds.get_or_create(&[("upstream", server.to_owned())]).observe(took.as_secs_f64());
    }

    /// The text for Prometheus, with the sizes of now.
    pub(super) fn text(&self, sizes: &[(&'static str, usize)]) -> String {
        for (what, size) in sizes {
            self.sizes.get_or_create(&[("what", what)]).set(i64::try_from(*size).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut text, &self.registry);
        exposition::classic(&text)
    }

    /// A counter's value, for tests.
    #[cfg(test)]
    pub(super) fn count(&self, transport: Transport, reason: &str) -> u64 {
        let (queries, dropped) = (format!("result=\"{reason}\""), format!("reason=\"{reason}\""));
        let transport = format!("transport=\"{}\"", transport.label());
        let text = self.text(&[]);
        let lines = text.lines().filter(|l| l.contains(&transport) && (l.contains(&queries) || l.contains(&dropped)));
        lines.filter_map(|l| l.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}
