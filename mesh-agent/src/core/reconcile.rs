//! From what the kernel's tables hold to what they should hold, in an order of which any prefix is safe.
//!
//! The agent may die between any two operations. So in every prefix each service cell points at a whole set of backends, either the old
//! or the new one; denials come before permissions that depend on them; what still may be pointed at is removed last.

use super::desired::{Desired, Port};
use mesh_common::abi::{Addr, Backend, BackendKey, Config, Dest, Service};
use std::collections::{BTreeMap, BTreeSet};

/// What the kernel holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Actual {
    /// The one cell.
    pub config: Config,
    /// By VIP, port and protocol.
    pub services: BTreeMap<Dest, Service>,
    /// By service number, generation and index.
    pub backends: BTreeMap<BackendKey, Backend>,
    /// Addresses of workloads.
    pub workloads: BTreeSet<Addr>,
    /// Control-plane and admin endpoints.
    pub protected: BTreeSet<Dest>,
}

impl Actual {
    /// What an operation makes of it.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::AddProtected(dest) => drop(self.protected.insert(*dest)),
            Op::AddWorkload(addr) => drop(self.workloads.insert(*addr)),
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
    /// One backend of a set that no cell points at yet.
    SetBackend(BackendKey, Backend),
    /// The settings.
    SetConfig(Config),
    /// The flip: from here on, this set.
    SetService(Dest, Service),
}

/// The operations that turn `actual` into `desired`; none if they agree.
#[must_use]
pub fn reconcile(desired: &Desired, actual: &Actual) -> Vec<Op> {
    let mut ops: Vec<Op> = desired.protected.difference(&actual.protected).copied().map(Op::AddProtected).collect();
    ops.extend(desired.workloads.difference(&actual.workloads).copied().map(Op::AddWorkload));

    let (sets, flips, current) = services(desired, actual);
    ops.extend(sets.into_iter().map(|(key, backend)| Op::SetBackend(key, backend)));
    ops.extend(flips.into_iter().map(|(dest, service)| Op::SetService(dest, service)));
    if desired.config != actual.config {
        ops.push(Op::SetConfig(desired.config));
    }
    ops.extend(actual.services.keys().filter(|dest| !desired.services.contains_key(dest)).copied().map(Op::DeleteService));

    let mut stale = actual.backends.keys().filter(|key| !is_current(key, &current)).copied().peekable();
    if stale.peek().is_some() {
        ops.push(Op::Grace);
    }
    ops.extend(stale.map(Op::DeleteBackend));
    ops.extend(actual.workloads.difference(&desired.workloads).copied().map(Op::DeleteWorkload));
    ops.extend(actual.protected.difference(&desired.protected).copied().map(Op::DeleteProtected));
    ops
}

/// Sets to write, cells to flip, and the set of each service number that will then be in force.
type Services = (Vec<(BackendKey, Backend)>, Vec<(Dest, Service)>, BTreeMap<u32, Service>);

fn services(desired: &Desired, actual: &Actual) -> Services {
    let highest = actual.services.values().map(|s| s.id).chain(actual.backends.keys().map(|k| k.service)).max();
    let mut free =
        Numbers { next: highest.map_or(1, |id| id.wrapping_add(1)), used: actual.services.values().map(|s| s.id).collect() };
    let (mut sets, mut flips, mut current) = (Vec::new(), Vec::new(), BTreeMap::new());
    for (dest, port) in &desired.services {
        let before = actual.services.get(dest);
        let service = match before {
            Some(before) if holds(before, port, actual) => Service { mode: port.mode, ..*before },
            _ => {
                let id = before.map_or_else(|| free.take(), |before| before.id);
                let generation = before.map_or(0, |before| before.generation.wrapping_add(1));
                let fresh = Service { id, generation, backends: port.backends.len() as u32, mode: port.mode, pad: [0; 3] };
                sets.extend(port.backends.iter().enumerate().map(|(index, backend)| (key(&fresh, index as u32), *backend)));
                fresh
            }
        };
        if before != Some(&service) {
            flips.push((*dest, service));
        }
        current.insert(service.id, service);
    }
    (sets, flips, current)
}

/// Does the cell point at exactly these backends already?
fn holds(before: &Service, port: &Port, actual: &Actual) -> bool {
    before.backends as usize == port.backends.len()
        && port
            .backends
            .iter()
            .enumerate()
            .all(|(index, backend)| actual.backends.get(&key(before, index as u32)) == Some(backend))
}

fn key(service: &Service, index: u32) -> BackendKey {
    BackendKey { service: service.id, generation: service.generation, index }
}

fn is_current(key: &BackendKey, current: &BTreeMap<u32, Service>) -> bool {
    current.get(&key.service).is_some_and(|service| service.generation == key.generation && key.index < service.backends)
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
