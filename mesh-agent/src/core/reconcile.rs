//! From what the kernel's tables hold to what they should hold, in an order of which any prefix is safe.
//!
//! The agent may die between any two operations. So in every prefix each service cell points at backends only that the old or the new set
//! has, as many as it says; denials come before permissions that depend on them; what still may be pointed at is removed last. A backend keeps
//! its index as long as it can, so that a change of one writes two or three cells.

use super::cells::Cells;
use super::desired::Desired;
use super::slots::{Slot, arrange};
use mesh_common::abi::{Addr, Backend, BackendKey, Config, Dest, Endpoint, Service, maps};
use std::collections::{BTreeMap, BTreeSet};

/// What the kernel holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actual {
    /// The one cell.
    pub config: Config,
    /// By VIP, port and protocol.
    pub services: BTreeMap<Dest, Service>,
    /// By service number and index.
    pub backends: BTreeMap<BackendKey, Backend>,
    /// Where connections are counted.
    pub endpoints: BTreeMap<Dest, Endpoint>,
    /// The last stamp that was given out.
    pub last_stamp: u32,
    /// Addresses of workloads.
    pub workloads: BTreeSet<Addr>,
    /// Control-plane and admin endpoints.
    pub protected: BTreeSet<Dest>,
}

impl Actual {
    /// How many entries each table has.
    #[must_use]
    pub fn sizes(&self) -> [(&'static str, usize); 5] {
        [
            (maps::SERVICES, self.services.len()),
            (maps::BACKENDS, self.backends.len()),
            (maps::ENDPOINTS, self.endpoints.len()),
            (maps::WORKLOADS, self.workloads.len()),
            (maps::PROTECTED, self.protected.len()),
        ]
    }

    /// What an operation makes of it.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::AddProtected(dest) => drop(self.protected.insert(*dest)),
            Op::AddWorkload(addr) => drop(self.workloads.insert(*addr)),
            Op::Claim(dest, endpoint) => {
                self.last_stamp = endpoint.stamp;
                self.endpoints.insert(*dest, *endpoint);
            }
            Op::Release(dest, _) => drop(self.endpoints.remove(dest)),
            Op::DeleteBackend(key) => drop(self.backends.remove(key)),
            Op::DeleteProtected(dest) => drop(self.protected.remove(dest)),
            Op::DeleteService(dest) => drop(self.services.remove(dest)),
            Op::DeleteWorkload(addr) => drop(self.workloads.remove(addr)),
            Op::Grace => {}
            Op::SetBackend(key, backend) => drop(self.backends.insert(*key, *backend)),
            Op::SetConfig(config) => self.config = *config,
            Op::SetService(dest, service) => drop(self.services.insert(*dest, *service)),
        }
    }
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A destination that no workload may dial.
    AddProtected(Dest),
    /// An address that is a workload's.
    AddWorkload(Addr),
    /// From here on, this cell counts the endpoint's connections.
    Claim(Dest, Endpoint),
    /// No longer.
    DeleteBackend(BackendKey),
    /// No longer.
    DeleteProtected(Dest),
    /// No longer.
    DeleteService(Dest),
    /// No longer.
    DeleteWorkload(Addr),
    /// Wait until no program can still hold a cell that it read before this.
    Grace,
    /// It no longer does, and flows that go there are moved.
    Release(Dest, Endpoint),
    /// One backend in its place.
    SetBackend(BackendKey, Backend),
    /// The settings.
    SetConfig(Config),
    /// So many backends, this mode.
    SetService(Dest, Service),
}

/// The operations that turn `actual` into `desired`; none if they agree.
#[must_use]
pub fn reconcile(desired: &Desired, actual: &Actual) -> Vec<Op> {
    let mut ops: Vec<Op> = desired.protected.difference(&actual.protected).copied().map(Op::AddProtected).collect();
    ops.extend(desired.workloads.difference(&actual.workloads).copied().map(Op::AddWorkload));

    let endpoints = desired.endpoints();
    let services = services(desired, &endpoints, actual);
    ops.extend(services.claims.into_iter().map(|(dest, endpoint)| Op::Claim(dest, endpoint)));
    ops.extend(services.sets.into_iter().map(|(key, backend)| Op::SetBackend(key, backend)));
    ops.extend(services.flips.into_iter().map(|(dest, service)| Op::SetService(dest, service)));
    if desired.config != actual.config {
        ops.push(Op::SetConfig(desired.config));
    }
    ops.extend(actual.services.keys().filter(|dest| !desired.services.contains_key(dest)).copied().map(Op::DeleteService));

    let counts = services.counts;
    let mut stale =
        actual.backends.keys().filter(|key| counts.get(&key.service).is_none_or(|count| key.index >= *count)).peekable();
    if stale.peek().is_some() {
        ops.push(Op::Grace);
    }
    ops.extend(stale.copied().map(Op::DeleteBackend));
    let released = actual.endpoints.iter().filter(|(dest, _)| !endpoints.contains(dest));
    ops.extend(released.map(|(dest, endpoint)| Op::Release(*dest, *endpoint)));
    ops.extend(actual.workloads.difference(&desired.workloads).copied().map(Op::DeleteWorkload));
    ops.extend(actual.protected.difference(&desired.protected).copied().map(Op::DeleteProtected));
    ops
}

/// What is to be written for services.
#[derive(Default)]
struct Services {
    claims: Vec<(Dest, Endpoint)>,
    sets: Vec<(BackendKey, Backend)>,
    flips: Vec<(Dest, Service)>,
    /// How many backends each service number will have.
    counts: BTreeMap<u32, u32>,
}

fn services(desired: &Desired, dialled: &BTreeSet<Dest>, actual: &Actual) -> Services {
    let highest = actual.services.values().map(|s| s.id).chain(actual.backends.keys().map(|k| k.service)).max();
    let mut free =
        Numbers { next: highest.map_or(1, |id| id.wrapping_add(1)), used: actual.services.values().map(|s| s.id).collect() };
    let mut cells = Cells::new(&actual.endpoints, actual.last_stamp);
    let mut all = Services::default();
    let mut endpoints = BTreeMap::new();
    for dest in dialled {
        let Some((endpoint, new)) = cells.of(dest) else { continue };
        endpoints.insert(*dest, endpoint);
        if new {
            all.claims.push((*dest, endpoint));
        }
    }
    for (dest, port) in &desired.services {
        let before = actual.services.get(dest);
        let id = before.map_or_else(|| free.take(), |before| before.id);
        let key = |index: usize| BackendKey { service: id, index: index as u32 };
        let held = |index: usize| actual.backends.get(&key(index)).filter(|_| before.is_some());
        let now: Vec<Option<Dest>> = (0..before.map_or(0, |before| before.backends as usize))
            .map(|index| held(index).map(|b| Dest { addr: b.addr, port: b.port, proto: dest.proto, pad: 0 }))
            .collect();
        let slots = arrange(port.choice, &port.backends, &now);
        let scoped = u8::from(port.scoped);
        let service = Service { id, backends: slots.len() as u32, mode: port.mode, choice: port.choice, scoped, pad: 0 };
        for (index, slot) in slots.into_iter().enumerate() {
            let backend = backend(&slot, endpoints.get(&slot.to).copied().unwrap_or_default());
            if actual.backends.get(&key(index)) != Some(&backend) {
                all.sets.push((key(index), backend));
            }
        }
        if before != Some(&service) {
            all.flips.push((*dest, service));
        }
        all.counts.insert(id, service.backends);
    }
    all
}

fn backend(slot: &Slot, endpoint: Endpoint) -> Backend {
    let Endpoint { cell, stamp } = endpoint;
    let Slot { to, weight, share, alias } = *slot;
    Backend { addr: to.addr, port: to.port, pad: 0, cell, stamp, weight, share, alias }
}

/// Service numbers that nobody uses.
struct Numbers {
    next: u32,
    used: BTreeSet<u32>,
}

impl Numbers {
    fn take(&mut self) -> u32 {
        // Ends: there are 2^32 numbers and at most `maps::SERVICES_MAX` services.
        while !self.used.insert(self.next) {
            self.next = self.next.wrapping_add(1);
        }
        self.next
    }
}

#[cfg(test)]
mod tests;
