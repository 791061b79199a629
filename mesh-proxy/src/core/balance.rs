//! Which endpoint takes the next request, by the policies and the arithmetic of Envoy.
//!
//! A cluster has one [`Balancer`] per update, shared by all pods; it knows who may be chosen ([`View`]). A pod has one [`Cursor`] per
//! cluster, which knows whose turn it is: turns are exact, and nothing is locked. Nothing here counts requests or ejects endpoints.

mod cursor;
mod edf;
pub mod maglev;
mod priority;
mod ring;
mod slow_start;
#[cfg(test)]
mod tests;
mod view;

use crate::core::peer::Peer;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use cursor::{Ask, Cursor, Picking};
pub use ring::{Function, RingSize};
pub use slow_start::SlowStart;
use view::Share;
pub use view::{Reduced, View};

/// Where a request may go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// Dialled from the pod.
    pub address: SocketAddr,
    /// Relative share; 0 takes nothing.
    pub weight: u32,
    /// As the control plane sees it.
    pub health: Health,
    /// 0 goes before 1.
    pub priority: usize,
    /// Its locality's number in [`Members::localities`].
    pub locality: usize,
    /// Who it is, for telemetry.
    pub peer: Option<Arc<Peer>>,
}

/// Envoy's classes of health.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Health {
    /// Takes something only in panic.
    Unhealthy,
    /// Takes something only where there is too little that is healthy.
    Degraded,
    /// Takes requests.
    Healthy,
}

/// All endpoints of a cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Members {
    /// In the order of the update.
    pub endpoints: Vec<Endpoint>,
    /// The weight of each locality of each priority.
    pub localities: Vec<u32>,
    /// Its region, zone and sub-zone, for operators.
    pub places: Vec<[String; 3]>,
    /// In percent: how much more than its part a level can take.
    pub overprovisioning: u32,
    /// Availability of a level goes by weights instead of numbers.
    pub weighted_health: bool,
}

impl Default for Members {
    fn default() -> Self {
        Self { endpoints: Vec::new(), localities: Vec::new(), places: Vec::new(), overprovisioning: 140, weighted_health: false }
    }
}

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Policy {
    /// In turn; with unequal weights a weighted turn.
    RoundRobin,
    /// The least busy of some random ones; with unequal weights the turn is weighted by `weight / (active + 1) ^ bias`.
    LeastRequest {
        /// How many are looked at.
        choices: u32,
        /// How much being busy counts.
        bias: f64,
    },
    /// Any, whatever the weights.
    Random,
    /// By hash, on a ring.
    RingHash(RingSize),
    /// By hash, in a table of this size.
    Maglev(u64),
    /// Where the client wanted to go; the cluster has no endpoints of its own.
    OriginalDestination,
}

impl Policy {
    /// Does it ask for a hash?
    #[must_use]
    pub fn hashes(self) -> bool {
        matches!(self, Self::RingHash(_) | Self::Maglev(_))
    }
}

/// What a cluster says of its balancing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How to choose.
    pub policy: Policy,
    /// In percent: with a smaller share of healthy endpoints all are used. 0: never.
    pub panic_threshold: u32,
    /// Localities have weights.
    pub locality_weighted: bool,
    /// New endpoints warm up.
    pub slow_start: Option<SlowStart>,
}

/// Balances over the endpoints of one update.
#[derive(Debug)]
pub struct Balancer {
    settings: Settings,
    members: Members,
    /// When endpoints were first seen healthy; empty unless they warm up.
    since: HashMap<SocketAddr, Duration>,
    view: Arc<View>,
}

impl Balancer {
    /// `before` is what the cluster had until `now`: endpoints that it knew are not new.
    #[must_use]
    pub fn new(settings: Settings, members: Members, before: Option<&Self>, now: Duration) -> Self {
        let mut since = HashMap::new();
        if settings.slow_start.is_some() {
            let known = |address| before.and_then(|before| before.since.get(address)).copied();
            // What a cluster had when it began to warm up is not new, then and at every later update; an endpoint that was never healthy is
            // new when it is.
            let healthy = |of: &&Endpoint| of.health == Health::Healthy;
            let old = |of: &Endpoint| {
                before.is_some_and(|before| before.members.endpoints.iter().filter(healthy).any(|old| old.address == of.address))
            };
            for endpoint in members.endpoints.iter() {
                let first = known(&endpoint.address).or_else(|| (healthy(&endpoint) && !old(endpoint)).then_some(now));
                since.extend(first.map(|first| (endpoint.address, first)));
            }
        }
        let view = View::new(&settings, &members, &|_| false, &|address| since.get(&address).copied());
        Self { settings, members, since, view: Arc::new(view) }
    }

    /// What the cluster says.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What there is, also what may not be chosen.
    #[must_use]
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// For pods that have ejected nobody.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// For a pod that has ejected some.
    #[must_use]
    pub fn without(&self, ejected: &dyn Fn(SocketAddr) -> bool) -> View {
        View::new(&self.settings, &self.members, ejected, &|address| self.since.get(&address).copied())
    }

    /// May this endpoint be chosen, whatever a pod has ejected? Idle connections to others are of no use.
    #[must_use]
    pub fn takes(&self, address: SocketAddr) -> bool {
        self.settings.policy == Policy::OriginalDestination || self.view.takes(address)
    }
}

#[cfg(test)]
fn shares(weights: &[u32]) -> Vec<Share> {
    let sum: u32 = weights.iter().sum();
    let share =
        |(host, weight): (u32, &u32)| Share { host, key: format!("9.0.1.{host}:80"), part: f64::from(*weight) / f64::from(sum) };
    (0..).zip(weights).map(share).collect()
}
