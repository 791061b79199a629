//! What one pod knows of one cluster: whose turn it is, idle connections, requests in flight, counters.

use crate::clock;
use crate::config::Cluster;
use crate::core::balance::{Ask, Cursor, Picking};
use crate::core::flags::Flags;
use crate::http::body::RequestBody;
use crate::limits::IDLE_CONNECTIONS;
use hyper::client::conn::http1::SendRequest;
use prometheus_client::metrics::counter::Counter;
use rand::RngCore;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::time::Instant;

/// See the module.
pub struct Upstream {
    cursor: RefCell<Cursor>,
    endpoints: RefCell<HashMap<SocketAddr, Rc<EndpointState>>>,
    counters: RefCell<HashMap<(u16, Flags), Counter>>,
    /// Requests of this pod in flight to the cluster.
    pub requests: Cell<u32>,
}

/// One endpoint.
#[derive(Default)]
pub struct EndpointState {
    active: Cell<u32>,
    /// It takes no more requests: connections are not kept.
    retired: Cell<bool>,
    idle: RefCell<Vec<Idle>>,
}

struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
    used: u32,
}

/// A connection in use by one request, or the lack of one that counts as a request all the same.
pub struct Lease {
    endpoint: Rc<EndpointState>,
    /// The connection; `None` while there is none.
    pub sender: Option<SendRequest<RequestBody>>,
    /// Requests that it carried before.
    pub used: u32,
}

impl Upstream {
    pub(super) fn new(cursor: Cursor) -> Self {
        Self { cursor: RefCell::new(cursor), endpoints: RefCell::default(), counters: RefCell::default(), requests: Cell::new(0) }
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
        let active = |address: SocketAddr| endpoints.get(&address).map_or(0, |endpoint| endpoint.active.get());
        let balancer = &cluster.balancer;
        let picking = Picking { ask: *ask, tried, again, now: clock::now(), active: &active };
        self.cursor.borrow_mut().pick(balancer.settings(), balancer.view(), &picking, rng)
    }

    /// Counts a request to an endpoint, with an idle connection if `reuse` and there is one.
    #[must_use]
    pub fn lease(&self, address: SocketAddr, reuse: bool) -> Lease {
        let known = self.endpoints.borrow().get(&address).cloned();
        let endpoint = known.unwrap_or_else(|| Rc::clone(self.endpoints.borrow_mut().entry(address).or_default()));
        endpoint.active.set(endpoint.active.get() + 1);
        let (sender, used) =
            if reuse { endpoint.take_idle() } else { None }.map_or((None, 0), |idle| (Some(idle.sender), idle.used));
        Lease { endpoint, sender, used }
    }

    /// The counter for a kind of answer; `make` finds it in the process-wide family.
    pub fn counter(&self, code: u16, flags: Flags, make: impl FnOnce() -> Counter) -> Counter {
        self.counters.borrow_mut().entry((code, flags)).or_insert_with(make).clone()
    }

    pub(super) fn forget_counters(&self) {
        self.counters.borrow_mut().clear();
    }

    pub(super) fn sweep(&self, cluster: Option<&Cluster>) {
        let now = Instant::now();
        self.endpoints.borrow_mut().retain(|address, endpoint| {
            // Draining endpoints take nothing: what is idle there would be closed under the next request.
            let cluster = cluster.filter(|cluster| cluster.balancer.takes(*address));
            endpoint.retired.set(cluster.is_none());
            endpoint.idle.borrow_mut().retain(|idle| {
                let in_time = cluster.is_some_and(|cluster| cluster.idle_timeout.is_none_or(|limit| now - idle.since < limit));
                in_time && !idle.sender.is_closed()
            });
            endpoint.active.get() > 0 || !endpoint.idle.borrow().is_empty()
        });
    }
}

impl EndpointState {
    /// The most recently used connection that is still open; the others rest and time out.
    fn take_idle(&self) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|idle| !idle.sender.is_closed());
        let position = idle.iter().rposition(|idle| idle.sender.is_ready())?;
        Some(idle.remove(position))
    }
}

impl Lease {
    /// The exchange is complete: the connection may serve the next one.
    pub fn complete(mut self, most_requests: Option<u32>) {
        let used = self.used + 1;
        let Some(sender) = self.sender.take() else { return };
        let mut idle = self.endpoint.idle.borrow_mut();
        let keep = !self.endpoint.retired.get() && !sender.is_closed();
        if keep && most_requests.is_none_or(|most| used < most) && idle.len() < IDLE_CONNECTIONS {
            idle.push(Idle { sender, since: Instant::now(), used });
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.active.set(self.endpoint.active.get().saturating_sub(1));
    }
}
