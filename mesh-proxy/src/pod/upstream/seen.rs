//! What an operator is shown of clusters: sums over the pods of a thread, then over the threads. Nothing here is asked by a request.

use super::Upstream;
use super::counts::{HostStats, Stats};
use crate::core::outlier;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// A cluster, as one pod or several see it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// Pods that asked it.
    pub pods: u64,
    /// Of the cluster.
    pub stats: Stats,
    /// Of outlier detection.
    pub outlier: outlier::Counts,
    /// Of those endpoints that were asked.
    pub hosts: BTreeMap<SocketAddr, SeenHost>,
}

/// An endpoint, as one pod or several see it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SeenHost {
    /// What happened there.
    pub stats: HostStats,
    /// Pods that have ejected it.
    pub ejected_by: u64,
}

impl Seen {
    /// Adds what others saw.
    pub fn add(&mut self, other: &Self) {
        self.pods += other.pods;
        self.stats.add(&other.stats);
        self.outlier.add(&other.outlier);
        for (address, host) in &other.hosts {
            let known = self.hosts.entry(*address).or_default();
            known.stats.add(&host.stats);
            known.ejected_by += host.ejected_by;
        }
    }
}

impl Upstream {
    /// Adds what this pod sees.
    pub fn look(&self, seen: &mut Seen) {
        seen.pods += 1;
        seen.stats.add(&self.counts.read());
        seen.outlier.add(&self.detection.counts());
        for (address, endpoint) in self.endpoints.borrow().iter() {
            seen.hosts.entry(*address).or_default().stats.add(&endpoint.counts.read());
        }
        for address in self.ejected().iter() {
            seen.hosts.entry(*address).or_default().ejected_by += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_over_all_that_anybody_saw() {
        let (here, there) = (SocketAddr::from(([9, 0, 1, 1], 80)), SocketAddr::from(([9, 0, 1, 2], 80)));
        let one = |address: SocketAddr, total: u64, ejected_by: u64| {
            let host = SeenHost { stats: HostStats { rq_total: total, ..HostStats::default() }, ejected_by };
            let stats = Stats { rq_total: total, ..Stats::default() };
            Seen { pods: 1, stats, hosts: BTreeMap::from([(address, host)]), ..Seen::default() }
        };
        let mut sum = one(here, 1, 0);
        sum.add(&one(here, 2, 1));
        sum.add(&one(there, 4, 1));
        assert_eq!((sum.pods, sum.stats.rq_total), (3, 7));
        let host = |address| (sum.hosts[&address].stats.rq_total, sum.hosts[&address].ejected_by);
        assert_eq!((host(here), host(there)), ((3, 1), (4, 1)));
    }
}
