//! Which version of the configuration one client holds: by the snapshots that it was given and those that it says it holds whole.

use mesh_xds::server::Snapshot;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

#[derive(Default)]
pub(super) struct Holding {
    /// Oldest first; the last is the newest, with the version that it is of now. A snapshot that nobody holds any more is never answered.
    given: VecDeque<(Weak<Snapshot>, u64)>,
    held: Option<u64>,
    /// The newest is held.
    settled: bool,
}

impl Holding {
    /// The newest snapshot is what this version makes of it, which may be what the version before made.
    pub(super) fn give(&mut self, snapshot: &Arc<Snapshot>, version: u64) {
        match self.given.back_mut() {
            Some((last, of)) if last.as_ptr() == Arc::as_ptr(snapshot) => *of = version,
            _ => {
                self.given.retain(|(old, _)| old.strong_count() > 0);
                self.given.push_back((Arc::downgrade(snapshot), version));
                self.settled = false;
            }
        }
        if self.settled {
            self.held = Some(version);
        }
    }

    /// The client holds this one whole.
    pub(super) fn settle(&mut self, snapshot: &Arc<Snapshot>) {
        let place = self.given.iter().position(|(given, _)| given.as_ptr() == Arc::as_ptr(snapshot));
        let Some(place) = place else { return };
        self.given.drain(..place);
        self.held = self.given.front().map(|(_, version)| *version);
        self.settled = self.given.len() == 1;
    }

    /// The newest version that the client holds whole.
    pub(super) const fn version(&self) -> Option<u64> {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_held_when_its_snapshot_is_and_a_newer_one_that_changes_nothing_too() {
        let mut holding = Holding::default();
        let (first, second) = (Arc::<Snapshot>::default(), Arc::<Snapshot>::default());
        holding.give(&first, 3);
        assert_eq!(holding.version(), None);
        holding.settle(&first);
        assert_eq!(holding.version(), Some(3));
        holding.give(&first, 4);
        assert_eq!(holding.version(), Some(4), "nothing changes for this client");
        holding.give(&second, 5);
        holding.give(&second, 6);
        assert_eq!(holding.version(), Some(4), "not yet answered");
        holding.settle(&first);
        assert_eq!(holding.version(), Some(4), "an answer to what was replaced");
        holding.settle(&second);
        assert_eq!(holding.version(), Some(6));
        holding.settle(&Arc::default());
        assert_eq!(holding.version(), Some(6), "nobody gave it that");
    }
}
