//! Counters and gauges in Prometheus' text form.

use crate::api::ApiMetrics;
use crate::core::enrolment::Enrolment;
use crate::marathon::follow::Progress;
use mesh_common::exposition;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

/// All of them. Marathon's are copied from its [`Progress`] when somebody asks.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) services: Gauge,
    pub(crate) workloads: Gauge,
    pub(crate) clients: Gauge,
    pub(crate) unsupported: Gauge,
    pub(crate) problems: Gauge,
    pub(crate) compilations: Counter,
    pub(crate) compile_seconds: Counter<f64, AtomicU64>,
    pub(crate) nacks: Counter,
    pub(crate) api: ApiMetrics,
}

impl Metrics {
    /// The text.
    pub(crate) fn render(&self, marathon: &[Progress], enrolment: &Enrolment, now: SystemTime) -> String {
        let mut registry = Registry::default();
        registry.register("mesh_control_services", "Services in the registry", self.services.clone());
        registry.register("mesh_control_workloads", "Instances of apps and pods in the registry", self.workloads.clone());
        registry.register("mesh_control_xds_clients", "Connected xDS clients", self.clients.clone());
        registry.register(
            "mesh_control_rules_without_effect",
            "Fields of rules that are stored and not in force",
            self.unsupported.clone(),
        );
        registry.register(
            "mesh_control_registry_problems",
            "Labels and definitions that were left out or contradict each other",
            self.problems.clone(),
        );
        registry.register("mesh_control_compilations", "Compilations of registry and rules", self.compilations.clone());
        registry.register("mesh_control_compile_seconds", "Time spent in compilations", self.compile_seconds.clone());
        registry.register("mesh_control_xds_nacks", "Refusals by xDS clients", self.nacks.clone());
        self.api.register(&mut registry);
        of_marathon(&mut registry, marathon, now);
        register(&mut registry, enrolment);
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        exposition::classic(&text)
    }
}

type ByNode = Family<Vec<(&'static str, String)>, Gauge>;

/// Wanted against enrolled, of every node.
fn register(registry: &mut Registry, enrolment: &Enrolment) {
    let (wanted, enrolled, missing) = (ByNode::default(), ByNode::default(), ByNode::default());
    for node in &enrolment.nodes {
        let of = |family: &ByNode, count: usize| {
            family.get_or_create(&vec![("node", node.node.clone())]).set(i64::try_from(count).unwrap_or(i64::MAX));
        };
        of(&wanted, node.wanted);
        of(&enrolled, node.enrolled);
        of(&missing, node.missing.len());
    }
    registry.register("mesh_control_workloads_wanted", "Workloads of a node that should be in the mesh", wanted);
    registry.register("mesh_control_workloads_enrolled", "Workloads of a node that should be in the mesh and are", enrolled);
    registry.register("mesh_control_workloads_missing", "Workloads of a node that should be in the mesh and are not", missing);
    let without = Gauge::<i64>::default();
    without.set(i64::try_from(enrolment.nodes.iter().filter(|node| node.lacks_mesh()).count()).unwrap_or(i64::MAX));
    registry.register("mesh_control_nodes_without_agent", "Nodes on which no mesh-agent is connected", without);
}

/// The label `marathon` is the URL in use.
fn of_marathon(registry: &mut Registry, all: &[Progress], now: SystemTime) {
    let label = |marathon: &Progress| vec![("marathon".to_owned(), marathon.url.clone())];
    let connected = Family::<Vec<(String, String)>, Gauge>::default();
    let age = Family::<Vec<(String, String)>, Gauge<f64, AtomicU64>>::default();
    for marathon in all {
        connected.get_or_create(&label(marathon)).set(i64::from(marathon.connected));
        if let Some(passed) = marathon.age(now) {
            age.get_or_create(&label(marathon)).set(passed.as_secs_f64());
        }
    }
    registry.register(
        "mesh_control_marathon_connected",
        "1 while the event stream and the last question were answered",
        connected,
    );
    let help = "Since the registry was last known to be what Marathon says; grows while Marathon is away";
    registry.register("mesh_control_marathon_age_seconds", help, age);
    for (name, help, value) in [
        ("mesh_control_marathon_events", "Events received", (|marathon| marathon.events) as fn(&Progress) -> u64),
        ("mesh_control_marathon_snapshots", "Answers taken into the registry", |marathon| marathon.snapshots),
        ("mesh_control_marathon_reconnects", "Event streams that ended", |marathon| marathon.reconnects),
    ] {
        let counter = Family::<Vec<(String, String)>, Counter>::default();
        for marathon in all {
            counter.get_or_create(&label(marathon)).inc_by(value(marathon));
        }
        registry.register(name, help, counter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::enrolment::{Missing, Node};
    use std::time::Duration;

    #[test]
    fn names_and_values() {
        let metrics = Metrics::default();
        metrics.nacks.inc();
        let node =
            Node { node: "192.0.2.11".to_owned(), wanted: 3, enrolled: 2, missing: vec![Missing::default()], ..Node::default() };
        let enrolment = Enrolment { nodes: vec![node], ..Enrolment::default() };
        let now = SystemTime::now();
        let here = Progress { url: "http://a".to_owned(), connected: true, events: 7, ..Default::default() };
        let away = Progress { url: "http://b".to_owned(), heard: now.checked_sub(Duration::from_secs(90)), ..Default::default() };
        let text = metrics.render(&[here, away], &enrolment, now);
        for line in [
            "mesh_control_xds_nacks_total 1",
            "mesh_control_marathon_connected{marathon=\"http://a\"} 1",
            "mesh_control_marathon_events_total{marathon=\"http://a\"} 7",
            "mesh_control_marathon_age_seconds{marathon=\"http://b\"} 90.0",
            "mesh_control_workloads_wanted{node=\"192.0.2.11\"} 3",
            "mesh_control_workloads_enrolled{node=\"192.0.2.11\"} 2",
            "mesh_control_workloads_missing{node=\"192.0.2.11\"} 1",
            "mesh_control_nodes_without_agent 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
    }
}
