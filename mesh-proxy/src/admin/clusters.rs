//! The page `/clusters`: clusters, their limits and their endpoints, in the lines of Envoy's page of that name. Numbers are sums over the pods
//! of the node; limits are of each pod.

use crate::config::{Cluster, Config};
use crate::core::balance::{Endpoint, Health};
use crate::core::budget::Retries;
use crate::pod::upstream::{Seen, SeenHost};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::net::SocketAddr;
use std::sync::Arc;

/// All clusters in order of their names.
pub(super) fn page(config: &Config, seen: &BTreeMap<Arc<str>, Seen>) -> String {
    let none = Seen::default();
    let mut out = String::new();
    for cluster in sorted(config) {
        Lines { out: &mut out, cluster }.write(seen.get(&cluster.name).unwrap_or(&none));
    }
    out
}

/// By name.
pub(super) fn sorted(config: &Config) -> Vec<&Cluster> {
    let mut clusters: Vec<&Cluster> = config.clusters.values().map(Arc::as_ref).collect();
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    clusters
}

struct Lines<'a> {
    out: &'a mut String,
    cluster: &'a Cluster,
}

impl Lines<'_> {
    fn line(&mut self, middle: impl Display, name: &str, value: impl Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.out, "{}::{middle}::{name}::{value}", self.cluster.name);
    }

    fn write(&mut self, seen: &Seen) {
        self.limits();
        let members = self.cluster.balancer.members();
        for endpoint in &members.endpoints {
            let host = seen.hosts.get(&endpoint.address).copied().unwrap_or_default();
            self.host(endpoint.address, &host);
            let failed_check = (host.ejected_by > 0).then_some("/failed_outlier_check");
            let eds = match endpoint.health {
                Health::Healthy => None,
                Health::Degraded => Some("/degraded_eds_health"),
                Health::Unhealthy => Some("/failed_eds_health"),
            };
            let flags: String = failed_check.into_iter().chain(eds).collect();
            self.line(endpoint.address, "health_flags", if flags.is_empty() { "healthy" } else { &flags });
            self.place(endpoint);
        }
        // Those of an ORIGINAL_DST cluster, and those that have left and are still in use.
        for (address, host) in &seen.hosts {
            if !members.endpoints.iter().any(|endpoint| endpoint.address == *address) {
                self.host(*address, host);
            }
        }
    }

    fn limits(&mut self) {
        const DEFAULT: &str = "default_priority";
        let limits = &self.cluster.pool.limits;
        self.line(DEFAULT, "max_connections", limits.connections);
        self.line(DEFAULT, "max_pending_requests", limits.pending);
        self.line(DEFAULT, "max_requests", limits.requests);
        match limits.retries {
            Retries::Most(most) => self.line(DEFAULT, "max_retries", most),
            Retries::Budget { percent, least } => {
                self.line(DEFAULT, "retry_budget_percent", percent);
                self.line(DEFAULT, "min_retry_concurrency", least);
            }
        }
    }

    fn host(&mut self, address: SocketAddr, host: &SeenHost) {
        for (name, value) in host.stats.named() {
            self.line(address, name, value);
        }
        self.line(address, "ejected_by_pods", host.ejected_by);
    }

    fn place(&mut self, endpoint: &Endpoint) {
        let address = endpoint.address;
        self.line(address, "weight", endpoint.weight);
        let places = &self.cluster.balancer.members().places;
        let none = Default::default();
        let place = places.get(endpoint.locality).unwrap_or(&none);
        for (name, part) in ["region", "zone", "sub_zone"].into_iter().zip(place) {
            self.line(address, name, part);
        }
        self.line(address, "priority", endpoint.priority);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::PoolSettings;
    use crate::core::balance::{Balancer, Members, Policy, Settings};
    use crate::core::budget::Limits;
    use crate::pod::upstream::{HostStats, Stats};
    use std::time::Duration;

    pub(in crate::admin) const NAME: &str = "outbound|9080|v1|reviews.marathon.l4lb.thisdcos.directory";

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([9, 0, 1, last], 9080))
    }

    /// A cluster of two endpoints, of which one is ejected; and one more that has left.
    pub(in crate::admin) fn sample() -> (Config, BTreeMap<Arc<str>, Seen>) {
        let endpoint =
            |last, health, locality| Endpoint { address: address(last), weight: 2, health, priority: 0, locality, peer: None };
        let members = Members {
            endpoints: vec![endpoint(1, Health::Healthy, 0), endpoint(2, Health::Unhealthy, 1)],
            localities: vec![0, 0],
            places: vec![["r", "a", ""], ["r", "b", "s"]].into_iter().map(|place| place.map(str::to_owned)).collect(),
            ..Members::default()
        };
        let settings = Settings { policy: Policy::RoundRobin, panic_threshold: 50, locality_weighted: false, slow_start: None };
        let limits = Limits { connections: 1, retries: Retries::Budget { percent: 20.0, least: 3 }, ..Limits::default() };
        let cluster = Cluster {
            name: NAME.into(),
            service: NAME.parse().ok(),
            pool: Arc::new(PoolSettings { limits, ..PoolSettings::default() }),
            balancer: Balancer::new(settings, members, None, Duration::ZERO),
        };
        let config = Config { clusters: [(NAME.into(), Arc::new(cluster))].into_iter().collect(), ..Config::default() };
        let host = |active, ejected_by| SeenHost {
            stats: HostStats { cx_active: active, rq_total: 7, ..HostStats::default() },
            ejected_by,
        };
        let hosts = BTreeMap::from([(address(1), host(1, 0)), (address(2), host(0, 2)), (address(3), host(4, 0))]);
        let stats = Stats { rq_total: 21, ..Stats::default() };
        (config, BTreeMap::from([(NAME.into(), Seen { pods: 2, stats, hosts, ..Seen::default() })]))
    }

    #[test]
    fn lines_are_envoys() {
        let (config, seen) = sample();
        let page = page(&config, &seen);
        for line in [
            "default_priority::max_connections::1",
            "default_priority::max_requests::4294967295",
            "default_priority::retry_budget_percent::20",
            "9.0.1.1:9080::cx_active::1",
            "9.0.1.1:9080::rq_total::7",
            "9.0.1.1:9080::health_flags::healthy",
            "9.0.1.1:9080::weight::2",
            "9.0.1.2:9080::health_flags::/failed_outlier_check/failed_eds_health",
            "9.0.1.2:9080::ejected_by_pods::2",
            "9.0.1.2:9080::region::r",
            "9.0.1.2:9080::zone::b",
            "9.0.1.2:9080::priority::0",
            "9.0.1.3:9080::cx_active::4",
        ] {
            assert!(page.lines().any(|found| found == format!("{NAME}::{line}")), "{line}\n{page}");
        }
        assert!(!page.contains("9.0.1.3:9080::weight"), "{page}");
    }

    #[test]
    fn a_cluster_that_nobody_asked_is_shown_with_zeros() {
        let page = page(&sample().0, &BTreeMap::new());
        assert!(page.contains(&format!("{NAME}::9.0.1.1:9080::rq_total::0\n")), "{page}");
    }
}
