//! Which cell counts whose connections: each address, port and protocol that backends are dialled by has one, as long as it is one's.

use mesh_common::abi::{Dest, Endpoint, maps};
use std::collections::{BTreeMap, BTreeSet};

/// Gives out cells and stamps.
pub(super) struct Cells<'a> {
    now: &'a BTreeMap<Dest, Endpoint>,
    used: BTreeSet<u32>,
    last: u32,
    next: u32,
}

impl<'a> Cells<'a> {
    /// `last` is the last stamp that was given out, by any agent.
    pub(super) fn new(now: &'a BTreeMap<Dest, Endpoint>, last: u32) -> Self {
        let used: BTreeSet<u32> = now.values().map(|endpoint| endpoint.cell).collect();
        // Behind the highest: a cell that was given back is given out again as late as may be.
        let next = used.last().map_or(1, |cell| cell + 1);
        Self { now, used, last, next }
    }

    /// The endpoint's cell, and whether it is new. `None` if there is none left, which the check of what is desired prevents.
    pub(super) fn of(&mut self, to: &Dest) -> Option<(Endpoint, bool)> {
        if let Some(endpoint) = self.now.get(to) {
            return Some((*endpoint, false));
        }
        if self.used.len() + 1 >= maps::ENDPOINTS_MAX as usize {
            return None;
        }
        loop {
            let cell = if self.next >= maps::ENDPOINTS_MAX { 1 } else { self.next };
            self.next = cell + 1;
            if self.used.insert(cell) {
                self.last = self.last.checked_add(1).unwrap_or(1);
                return Some((Endpoint { cell, stamp: self.last }, true));
            }
        }
    }
}
