//! What one pod knows of one cluster: whose turn it is, connections, requests in flight, whom it avoids.

mod answer;
mod bytes;
mod counts;
mod detection;
mod dial;
mod endpoint;
mod http1;
mod lease;
mod pool;
mod seen;

use crate::clock;
use crate::config::Cluster;
use crate::core::balance::{Ask, Cursor, Picking, Reduced};
use crate::core::budget::Limits;
use crate::core::outlier::Report;
use crate::core::table::Table;
pub use answer::Inflow;
pub use bytes::TcpLease;
pub use counts::{Counted, Counts, HostCounts, HostStats, Stats, count};
use detection::Detection;
pub use dial::Transport;
use endpoint::Endpoint;
pub use http1::Broken;
pub use lease::{Lease, NoLease, Wanted};
use rand::RngCore;
pub use seen::{Seen, SeenHost};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

/// See the module.
pub struct Upstream {
    cursor: RefCell<Cursor>,
    /// What is left to choose from while some are ejected.
    reduced: RefCell<Reduced>,
    endpoints: RefCell<Table<SocketAddr, Rc<Endpoint>>>,
    detection: Detection,
    /// Threads that own the pod: each has its part of the limits.
    threads: u32,
    /// What is under way, and what happened.
    pub counts: Rc<Counts>,
}

impl Upstream {
    pub(super) fn new(cursor: Cursor, threads: u32) -> Self {
        Self {
            cursor: RefCell::new(cursor),
            reduced: RefCell::default(),
            endpoints: RefCell::default(),
            detection: Detection::new(),
            threads,
            counts: Rc::default(),
        }
    }

    /// Chooses an endpoint; tries again, at most `again` times, while it is one of `tried`.
    pub fn pick(
        &self,
        cluster: &Cluster,
        ask: &Ask,
        tried: &[SocketAddr],
        again: u32,
        rng: &mut dyn RngCore,
    ) -> Option<SocketAddr> {
        let endpoints = self.endpoints.borrow();
        let active = |address: SocketAddr| endpoints.get(&address).map_or(0, |endpoint| endpoint.active());
        let balancer = &cluster.balancer;
        let picking = Picking { ask: *ask, tried, again, now: clock::now(), active: &active };
        let ejected = self.ejected();
        let mut cursor = self.cursor.borrow_mut();
        if ejected.is_empty() {
            return cursor.pick(balancer.settings(), balancer.view(), &picking, rng);
        }
        let view = self.reduced.borrow_mut().view(balancer, self.ejections(), &|address| ejected.contains(&address));
        cursor.pick(balancer.settings(), &view, &picking, rng)
    }

    fn endpoint(&self, address: SocketAddr) -> Rc<Endpoint> {
        let known = self.endpoints.borrow().get(&address).cloned();
        known.unwrap_or_else(|| Rc::clone(self.endpoints.borrow_mut().entry(address).or_default()))
    }

    /// What may be under way on this thread.
    fn limits(&self, cluster: &Cluster) -> Limits {
        cluster.pool.limits.divided(self.threads)
    }

    /// May one more retry begin? Counted until the guard is dropped.
    #[must_use]
    pub fn retry(&self, cluster: &Cluster) -> Option<Counted> {
        let counts = &self.counts;
        let number = |cell: &std::cell::Cell<u64>| u32::try_from(cell.get()).unwrap_or(u32::MAX);
        let requests = number(&counts.rq_active).saturating_add(number(&counts.rq_pending_active));
        if !self.limits(cluster).retries.allow(number(&counts.rq_retry_active), requests) {
            count(&counts.rq_retry_overflow);
            return None;
        }
        count(&counts.rq_retry);
        Some(Counted::enter(counts, |counts| &counts.rq_retry_active))
    }

    /// A request to this endpoint got no response.
    pub fn ended(&self, address: SocketAddr, report: Report) {
        self.endpoint(address).counts.ended(report);
    }

    pub(super) fn sweep(&self, cluster: Option<&Cluster>) {
        self.detection.retain(cluster);
        let tls = cluster.map_or(0, |cluster| cluster.pool.tls_id());
        self.endpoints.borrow_mut().retain(|address, endpoint| {
            // Draining endpoints take nothing: what is idle there would be closed under the next request.
            let empty = endpoint.sweep(cluster.is_some_and(|cluster| cluster.balancer.takes(*address)), tls);
            // What was counted at an endpoint is known as long as it is one.
            !empty || cluster.is_some_and(|cluster| cluster.balancer.members().endpoints.iter().any(|e| e.address == *address))
        });
    }
}
