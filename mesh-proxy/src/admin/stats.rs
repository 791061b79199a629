//! The page `/stats`: `NAME: VALUE` lines under Envoy's names, and this process's own counters under theirs.

use super::clusters::sorted;
use crate::config::Config;
use crate::core::balance::Health;
use crate::pod::upstream::Seen;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What is known of the process.
pub(super) struct Process<'a> {
    pub(super) ready: bool,
    pub(super) draining: bool,
    pub(super) uptime: Duration,
    pub(super) threads: usize,
    /// The page for Prometheus.
    pub(super) metrics: &'a str,
}

/// All of them, in order.
pub(super) fn page(process: &Process<'_>, config: &Config, seen: &BTreeMap<Arc<str>, Seen>) -> Vec<(String, String)> {
    let mut all: Vec<(String, u64)> = server(process, config);
    let none = Seen::default();
    for cluster in sorted(config) {
        let seen = seen.get(&cluster.name).unwrap_or(&none);
        // As Envoy does: a colon ends a name.
        let name = cluster.name.replace(':', "_");
        let mut add = |stat: String, value: u64| all.push((format!("cluster.{name}.{stat}"), value));
        for (stat, value) in seen.stats.named() {
            add(format!("upstream_{stat}"), value);
        }
        for (stat, value) in seen.outlier.named() {
            add(format!("outlier_detection.{stat}"), value);
        }
        let endpoints = &cluster.balancer.members().endpoints;
        let healthy = endpoints.iter().filter(|endpoint| endpoint.health == Health::Healthy);
        let ejected = |address| seen.hosts.get(&address).is_some_and(|host| host.ejected_by > 0);
        add("membership_total".to_owned(), endpoints.len() as u64);
        add("membership_healthy".to_owned(), healthy.filter(|endpoint| !ejected(endpoint.address)).count() as u64);
        add("pods".to_owned(), seen.pods);
    }
    let mut lines: Vec<(String, String)> = all.into_iter().map(|(name, value)| (name, value.to_string())).collect();
    lines.extend(own(process.metrics));
    lines.sort();
    lines
}

fn server(process: &Process<'_>, config: &Config) -> Vec<(String, u64)> {
    // Envoy's numbers: live, draining, initializing.
    let state = match (process.draining, process.ready) {
        (true, _) => 1,
        (false, true) => 0,
        (false, false) => 3,
    };
    let lines = [
        ("server.live", u64::from(state == 0)),
        ("server.state", state),
        ("server.uptime", process.uptime.as_secs()),
        ("server.concurrency", process.threads as u64),
        ("cluster_manager.active_clusters", config.clusters.len() as u64),
        ("listener_manager.total_listeners_active", (config.listeners.len() + config.gateway.len()) as u64),
    ];
    lines.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Samples of `mesh_proxy_*`: what is counted of requests by who asked whom is too much for people, and in `/metrics`.
fn own(metrics: &str) -> impl Iterator<Item = (String, String)> {
    let samples = metrics.lines().filter(|line| line.starts_with("mesh_proxy_"));
    samples.filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::clusters::tests::{NAME, sample};

    #[test]
    fn names_are_envoys_and_the_processes_own_come_with_them() {
        let (config, seen) = sample();
        let metrics =
            "# TYPE mesh_proxy_stock gauge\nmesh_proxy_stock 4\nmesh_proxy_x_total{reason=\"a b\"} 2\nistio_requests_total 9\n";
        let process = Process { ready: true, draining: false, uptime: Duration::from_secs(5), threads: 2, metrics };
        let page = page(&process, &config, &seen);
        for (name, value) in [
            ("server.state", "0"),
            ("server.uptime", "5"),
            ("cluster_manager.active_clusters", "1"),
            (&*format!("cluster.{NAME}.upstream_rq_total"), "21"),
            (&*format!("cluster.{NAME}.outlier_detection.ejections_active"), "0"),
            (&*format!("cluster.{NAME}.membership_total"), "2"),
            (&*format!("cluster.{NAME}.membership_healthy"), "1"),
            ("mesh_proxy_stock", "4"),
            ("mesh_proxy_x_total{reason=\"a b\"}", "2"),
        ] {
            assert!(page.contains(&(name.to_owned(), value.to_owned())), "{name}: {page:?}");
        }
        assert!(page.is_sorted() && !page.iter().any(|(name, _)| name.starts_with("istio")));
    }
}
