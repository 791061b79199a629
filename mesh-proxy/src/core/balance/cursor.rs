//! Whose turn it is: what one pod remembers of its choices in one cluster. Small, and begun anew where the endpoints change.

use super::edf::Edf;
use super::view::{Group, Host, View};
use super::{Policy, Settings};
use rand::{Rng, RngCore};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// What a choice may depend on besides the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Of the request; `None`: any endpoint will do.
    pub hash: Option<u64>,
    /// Where the client wanted to go.
    pub original: SocketAddr,
}

/// A choice to be made.
#[derive(Clone, Copy)]
pub struct Picking<'a> {
    /// What is asked.
    pub ask: Ask,
    /// Tried in vain: avoided, for so many more attempts.
    pub tried: &'a [SocketAddr],
    /// See `tried`.
    pub again: u32,
    /// For endpoints that warm up.
    pub now: Duration,
    /// Requests that this pod has at an endpoint.
    pub active: &'a dyn Fn(SocketAddr) -> u32,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    start: usize,
    /// To notice that the endpoints have changed. A weak reference keeps the address from being used again, so that comparing it does.
    view: Weak<View>,
    /// One per group in use, which is one in most clusters.
    turns: Vec<(Place, Turn)>,
    localities: Vec<((usize, bool), Edf)>,
}

/// Which hosts of a view take turns.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Place {
    level: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    All,
    Of { degraded: bool },
    Locality { degraded: bool, number: usize },
}

#[derive(Clone, Debug, Default)]
struct Turn {
    next: usize,
    weighted: Option<Edf>,
}

impl Cursor {
    /// Begins anywhere, so that many pods do not all begin at the same endpoint.
    pub fn new(rng: &mut dyn RngCore) -> Self {
        Self { start: rng.random_range(0..usize::from(u16::MAX)), ..Self::default() }
    }

    /// Chooses; `None` if nothing may be chosen.
    pub fn pick(
        &mut self,
        settings: &Settings,
        view: &Arc<View>,
        picking: &Picking<'_>,
        rng: &mut dyn RngCore,
    ) -> Option<SocketAddr> {
        if settings.policy == Policy::OriginalDestination {
            return Some(picking.ask.original);
        }
        if !std::ptr::eq(self.view.as_ptr(), Arc::as_ptr(view)) {
            self.view = Arc::downgrade(view);
            self.localities.clear();
            self.turns.iter_mut().for_each(|(_, turn)| turn.weighted = None);
        }
        // Without a hash any host will do, and it is one for all attempts, which then go round from there.
        let hash = if settings.policy.hashes() { Some(picking.ask.hash.unwrap_or_else(|| rng.next_u64())) } else { None };
        let mut chosen = None;
        for attempt in 0..=picking.again {
            let address = match hash {
                Some(hash) => view.hashed(settings, hash, attempt)?,
                None => self.turn(settings, view, picking, rng)?,
            };
            chosen = Some(address);
            if !picking.tried.contains(&address) {
                break;
            }
        }
        chosen
    }

    /// Priority, then locality, then host.
    fn turn(&mut self, settings: &Settings, view: &View, picking: &Picking<'_>, rng: &mut dyn RngCore) -> Option<SocketAddr> {
        let number = if view.levels.len() == 1 && view.loads.degraded[0] == 0 { 0 } else { rng.next_u64() };
        let (index, degraded) = view.loads.choose(number);
        let level = &view.levels[index];
        let parts = if degraded { &level.degraded_localities } else { &level.healthy_localities };
        let (kind, group) = if view.loads.panic[index] {
            (Kind::All, &level.all)
        } else if parts.is_empty() {
            (Kind::Of { degraded }, if degraded { &level.degraded } else { &level.healthy })
        } else {
            let weight = |part: usize| parts[part].weight;
            let key = (index, degraded);
            let position = self.localities.iter().position(|(of, _)| *of == key).unwrap_or_else(|| {
                self.localities.push((key, Edf::new((0..parts.len()).map(weight), rng)));
                self.localities.len() - 1
            });
            let number = self.localities[position].1.pick(weight)?;
            (Kind::Locality { degraded, number }, &parts[number].group)
        };
        let chosen = self.among(settings, view, Place { level: index, kind }, group, picking, rng)?;
        Some(view.host(group.hosts[chosen]).address)
    }

    /// One of a group, by its number there.
    fn among(
        &mut self,
        settings: &Settings,
        view: &View,
        place: Place,
        group: &Group,
        picking: &Picking<'_>,
        rng: &mut dyn RngCore,
    ) -> Option<usize> {
        let count = group.hosts.len();
        if count <= 1 {
            return count.checked_sub(1);
        }
        let host = |number: usize| view.host(group.hosts[number]);
        let warming =
            settings.slow_start.zip(view.newest).is_some_and(|(slow, newest)| picking.now.saturating_sub(newest) <= slow.window);
        match settings.policy {
            Policy::RoundRobin | Policy::LeastRequest { .. } if !group.equal || warming => {
                let weight = |number| weight(settings, host(number), picking);
                let turn = turn_of(&mut self.turns, place, self.start);
                turn.weighted.get_or_insert_with(|| Edf::new((0..count).map(weight), rng)).pick(weight)
            }
            Policy::RoundRobin => {
                let turn = turn_of(&mut self.turns, place, self.start);
                // Those that were weighted while somebody warmed up are so no longer.
                turn.weighted = None;
                let chosen = turn.next % count;
                turn.next = turn.next.wrapping_add(1);
                Some(chosen)
            }
            Policy::LeastRequest { choices, .. } => {
                let active = |number: &usize| (picking.active)(host(*number).address);
                // The first of those that are equally busy, which `min_by_key` is.
                (0..choices).map(|_| rng.random_range(0..count)).min_by_key(active)
            }
            _ => Some(rng.random_range(0..count)),
        }
    }
}

fn turn_of(turns: &mut Vec<(Place, Turn)>, place: Place, start: usize) -> &mut Turn {
    let position = turns.iter().position(|(of, _)| *of == place).unwrap_or_else(|| {
        turns.push((place, Turn { next: start, weighted: None }));
        turns.len() - 1
    });
    &mut turns[position].1
}

/// What a host weighs at this moment.
fn weight(settings: &Settings, host: &Host, picking: &Picking<'_>) -> f64 {
    let weight = f64::from(host.weight);
    let weight = match settings.policy {
        Policy::LeastRequest { bias, .. } => weight / (f64::from((picking.active)(host.address)) + 1.0).powf(bias),
        _ => weight,
    };
    match (settings.slow_start, host.since) {
        (Some(slow), Some(since)) => weight * slow.factor(picking.now.saturating_sub(since)),
        _ => weight,
    }
}
