//! Adding up what the kernel has counted by client and VIP: the kernel forgets those that were silent longest, and clients come and go. What
//! Prometheus is told only grows, and has names.

use mesh_common::abi::{Edge, EdgeKey};
use std::collections::BTreeMap;

/// By whom, to what: the labels of an edge.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Names {
    /// Marathon's path of the client. Empty: a process that is no workload of the mesh.
    pub workload: String,
    /// The service's name, or its address where it has none.
    pub service: String,
    /// The port that was asked for.
    pub port: u16,
}

/// What was counted up to now.
#[derive(Debug, Default)]
pub struct Ledger {
    /// What the kernel said the last time, and whose it was: the end of a client's last connections may be counted after it has left.
    last: BTreeMap<EdgeKey, (Edge, Names)>,
    totals: BTreeMap<Names, Edge>,
}

impl Ledger {
    /// Takes what the kernel says now. `name` says who is behind a key; a client in a namespace of its own keeps the name under which it was
    /// first seen, a slot may have another owner by now.
    pub fn take(&mut self, now: BTreeMap<EdgeKey, Edge>, name: impl Fn(&EdgeKey) -> Names) {
        let mut next = BTreeMap::new();
        for (key, edge) in now {
            let (grown, names) = match self.last.remove(&key) {
                Some((last, names)) if !names.workload.is_empty() && key.slot().is_none() => (since(&last, &edge), names),
                Some((last, _)) => (since(&last, &edge), name(&key)),
                None => (edge, name(&key)),
            };
            add(self.totals.entry(names.clone()).or_default(), &grown);
            next.insert(key, (edge, names));
        }
        self.last = next;
    }

    /// Everything up to now, by name.
    #[must_use]
    pub const fn totals(&self) -> &BTreeMap<Names, Edge> {
        &self.totals
    }
}

/// What came after `last`; all of it, if the kernel has forgotten and begun anew meanwhile.
fn since(last: &Edge, now: &Edge) -> Edge {
    let fields = |edge: &Edge| [edge.opened, edge.closed, edge.failed, edge.sent, edge.received, edge.rtt];
    if fields(now).iter().zip(fields(last)).any(|(now, last)| *now < last) {
        return *now;
    }
    Edge {
        opened: now.opened - last.opened,
        closed: now.closed - last.closed,
        failed: now.failed - last.failed,
        sent: now.sent - last.sent,
        received: now.received - last.received,
        rtt: now.rtt - last.rtt,
    }
}

const fn add(to: &mut Edge, more: &Edge) {
    to.opened += more.opened;
    to.closed += more.closed;
    to.failed += more.failed;
    to.sent += more.sent;
    to.received += more.received;
    to.rtt += more.rtt;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(client: u64) -> EdgeKey {
        EdgeKey { client, ..EdgeKey::default() }
    }

    fn opened(opened: u64) -> Edge {
        Edge { opened, ..Edge::default() }
    }

    fn shop(_: &EdgeKey) -> Names {
        Names { workload: "/shop".to_owned(), ..Names::default() }
    }

    fn stranger(_: &EdgeKey) -> Names {
        Names::default()
    }

    #[test]
    fn totals_only_grow_whatever_the_kernel_forgets() {
        let mut ledger = Ledger::default();
        let total = |ledger: &Ledger| ledger.totals()[&shop(&key(1))].opened;
        ledger.take([(key(1), opened(5)), (key(2), opened(1))].into(), shop);
        assert_eq!(total(&ledger), 6, "both instances");
        ledger.take([(key(1), opened(7))].into(), shop);
        assert_eq!(total(&ledger), 8, "the second was forgotten, not undone");
        ledger.take([(key(1), opened(1)), (key(2), opened(2))].into(), shop);
        assert_eq!(total(&ledger), 11, "the first began anew");
    }

    #[test]
    fn a_clients_last_words_are_its_own() {
        let mut ledger = Ledger::default();
        ledger.take([(key(1), opened(3))].into(), shop);
        ledger.take([(key(1), opened(4))].into(), stranger);
        assert_eq!(ledger.totals()[&shop(&key(1))].opened, 4, "it has left, and its connection ended after");
        ledger.take([(key(2), opened(1))].into(), stranger);
        ledger.take([(key(2), opened(2))].into(), shop);
        assert_eq!(ledger.totals()[&shop(&key(1))].opened, 5, "one that is known late is known from then on");
        assert_eq!(ledger.totals()[&Names::default()].opened, 1);
    }
}
