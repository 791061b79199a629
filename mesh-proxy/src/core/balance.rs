//! Which endpoint takes the next request. One [`Cursor`] per pod and cluster, so turns are exact and need no lock.

use crate::core::peer::Peer;
use rand::{Rng, RngCore};
use std::net::SocketAddr;
use std::sync::Arc;

/// Where a request may go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// Dialled from the pod.
    pub address: SocketAddr,
    /// Relative share; 0 takes nothing.
    pub weight: u32,
    /// As the control plane sees it.
    pub health: Health,
    /// Who it is, for telemetry.
    pub peer: Option<Arc<Peer>>,
}

/// Envoy's classes of health.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Health {
    /// Takes nothing.
    Unhealthy,
    /// Takes something only where nothing is healthy.
    Degraded,
    /// Takes requests.
    Healthy,
}

/// How to choose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Policy {
    /// In turn; with unequal weights a smooth weighted turn.
    RoundRobin,
    /// The less busy of two random ones; with unequal weights the turn is weighted by `weight / (active + 1)`.
    LeastRequest,
    /// Any, whatever the weights.
    Random,
}

/// The endpoints that may be chosen, computed once per update.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Usable {
    endpoints: Vec<Endpoint>,
    equal: bool,
}

impl Usable {
    /// Keeps the healthy ones, or the degraded if none is. There is no panic mode: nothing unhealthy is ever chosen.
    #[must_use]
    pub fn new(all: &[Endpoint]) -> Self {
        let takes = |endpoint: &&Endpoint| endpoint.weight > 0 && endpoint.health > Health::Unhealthy;
        let best = all.iter().filter(takes).map(|endpoint| endpoint.health).max();
        let endpoints: Vec<Endpoint> = all.iter().filter(takes).filter(|e| Some(e.health) == best).cloned().collect();
        let equal = endpoints.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        Self { endpoints, equal }
    }

    /// In the order of the update.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }
}

/// The state of a turn.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    next: usize,
    /// For weighted turns: who is how far behind. Begun anew when the endpoints change.
    credit: Vec<(SocketAddr, f64)>,
}

impl Cursor {
    /// Begins anywhere, so that many pods do not all begin at the same endpoint.
    pub fn new(rng: &mut dyn RngCore) -> Self {
        Self { next: rng.random_range(0..usize::from(u16::MAX)), credit: Vec::new() }
    }

    /// Chooses; `None` if nothing may be chosen. `active` is the number of requests that this pod has at an endpoint.
    pub fn pick(
        &mut self,
        policy: Policy,
        usable: &Usable,
        active: &dyn Fn(SocketAddr) -> u32,
        rng: &mut dyn RngCore,
    ) -> Option<SocketAddr> {
        let endpoints = &usable.endpoints;
        let n = endpoints.len();
        match (policy, n) {
            (_, 0) => None,
            (_, 1) => Some(endpoints[0].address),
            (Policy::Random, _) => Some(endpoints[rng.random_range(0..n)].address),
            (Policy::RoundRobin, _) if usable.equal => {
                let chosen = self.next % n;
                self.next = self.next.wrapping_add(1);
                Some(endpoints[chosen].address)
            }
            (Policy::RoundRobin, _) => self.weighted_turn(endpoints, &|endpoint| f64::from(endpoint.weight)),
            (Policy::LeastRequest, _) if usable.equal => {
                let (a, b) = (endpoints[rng.random_range(0..n)].address, endpoints[rng.random_range(0..n)].address);
                Some(if active(b) < active(a) { b } else { a })
            }
            (Policy::LeastRequest, _) => {
                self.weighted_turn(endpoints, &|endpoint| f64::from(endpoint.weight) / f64::from(active(endpoint.address) + 1))
            }
        }
    }

    /// Smooth weighted round robin: everyone earns its weight, the richest is chosen and pays for all.
    fn weighted_turn(&mut self, endpoints: &[Endpoint], weight: &dyn Fn(&Endpoint) -> f64) -> Option<SocketAddr> {
        let same = self.credit.len() == endpoints.len() && self.credit.iter().zip(endpoints).all(|((a, _), e)| *a == e.address);
        if !same {
            self.credit = endpoints.iter().map(|endpoint| (endpoint.address, 0.0)).collect();
        }
        let mut total = 0.0;
        let mut richest: Option<usize> = None;
        for (index, endpoint) in endpoints.iter().enumerate() {
            let earned = weight(endpoint);
            total += earned;
            self.credit[index].1 += earned;
            if richest.is_none_or(|best| self.credit[index].1 > self.credit[best].1) {
                richest = Some(index);
            }
        }
        let chosen = richest?;
        self.credit[chosen].1 -= total;
        Some(endpoints[chosen].address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};
    use std::collections::BTreeMap;

    fn endpoint(n: u16, weight: u32, health: Health) -> Endpoint {
        Endpoint { address: SocketAddr::from(([9, 0, 1, 1], n)), weight, health, peer: None }
    }

    fn picks(policy: Policy, endpoints: &[Endpoint], busy: &BTreeMap<u16, u32>, count: usize) -> Vec<u16> {
        let usable = Usable::new(endpoints);
        let mut rng = SmallRng::seed_from_u64(3);
        let mut cursor = Cursor::default();
        let active = |address: SocketAddr| busy.get(&address.port()).copied().unwrap_or(0);
        (0..count).filter_map(|_| cursor.pick(policy, &usable, &active, &mut rng)).map(|address| address.port()).collect()
    }

    #[test]
    fn round_robin_takes_exact_turns() {
        let three = [1, 2, 3].map(|n| endpoint(n, 1, Health::Healthy));
        assert_eq!(picks(Policy::RoundRobin, &three, &BTreeMap::new(), 7), [1, 2, 3, 1, 2, 3, 1]);
    }

    #[test]
    fn unusable_endpoints_are_never_chosen() {
        let mixed = [endpoint(1, 0, Health::Healthy), endpoint(2, 1, Health::Unhealthy), endpoint(3, 1, Health::Degraded)];
        for policy in [Policy::RoundRobin, Policy::LeastRequest, Policy::Random] {
            assert_eq!(picks(policy, &mixed, &BTreeMap::new(), 3), [3, 3, 3], "degraded, as nothing is healthy");
            assert_eq!(picks(policy, &mixed[..2], &BTreeMap::new(), 3), [0_u16; 0]);
        }
        let both = [endpoint(1, 1, Health::Degraded), endpoint(2, 1, Health::Healthy)];
        assert_eq!(picks(Policy::RoundRobin, &both, &BTreeMap::new(), 2), [2, 2]);
    }

    #[test]
    fn least_request_avoids_the_busy() {
        let two = [1, 2].map(|n| endpoint(n, 1, Health::Healthy));
        let busy = BTreeMap::from([(1, 100)]);
        let chosen = picks(Policy::LeastRequest, &two, &busy, 4000);
        let of_busy = chosen.iter().filter(|port| **port == 1).count();
        assert!((850..1150).contains(&of_busy), "only when both dice fall on it, a quarter: {of_busy}");
        let weighted = [endpoint(1, 1, Health::Healthy), endpoint(2, 2, Health::Healthy)];
        let chosen = picks(Policy::LeastRequest, &weighted, &BTreeMap::from([(1, 0), (2, 3)]), 300);
        assert_eq!(chosen.iter().filter(|port| **port == 1).count(), 200, "1/1 against 2/4");
    }

    proptest! {
        #[test]
        fn weighted_turns_are_exact_over_a_cycle(weights in proptest::collection::vec(0_u32..8, 1..6)) {
            let endpoints: Vec<_> = (0..).zip(&weights).map(|(n, weight)| endpoint(n, *weight, Health::Healthy)).collect();
            let cycle: usize = weights.iter().map(|w| *w as usize).sum();
            let chosen = picks(Policy::RoundRobin, &endpoints, &BTreeMap::new(), cycle);
            for (port, weight) in (0_u16..).zip(&weights) {
                // Equal weights take plain turns, which are exact over a cycle as well.
                prop_assert_eq!(chosen.iter().filter(|chosen| **chosen == port).count(), *weight as usize);
            }
        }
    }
}
