//! What the outbound policy AUDIT has let out, added up by workload and destination; and the names under which DNS has shown addresses to pods.
//! The kernel counts by a pod's number, which another pod may have later, and forgets what was silent longest.

use mesh_common::abi::{AuditKey, Dest};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

/// Destinations of all workloads that are kept: a node's pods of some weeks. What comes beyond is counted by the kernel only.
pub const KEPT_MAX: usize = 65_536;
/// Addresses of each of two generations of names: more than the pods of a node talk to.
const NAMED_MAX: usize = 8192;
/// Names of one address: of a CDN's there may be thousands, and the last ones tell most.
const NAMES_MAX: usize = 4;

/// Whose traffic it was.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Owner {
    /// Istio's namespace.
    pub namespace: String,
    /// Marathon's path.
    pub app: String,
    /// Marathon's instance id.
    pub pod: String,
}

/// What was let out up to now.
#[derive(Debug, Default)]
pub struct Ledger {
    last: BTreeMap<AuditKey, u64>,
    totals: BTreeMap<(Owner, Dest), u64>,
}

impl Ledger {
    /// Takes what the kernel says now. What nobody is known to have done waits until somebody is: an agent that has just started knows no pod.
    pub fn take(&mut self, now: BTreeMap<AuditKey, u64>, owner: impl Fn(u32) -> Option<Owner>) {
        let mut next = BTreeMap::new();
        for (key, count) in &now {
            let last = self.last.get(key).copied().unwrap_or_default();
            // Less than before: forgotten and begun anew meanwhile.
            let grown = if *count < last { *count } else { count - last };
            if grown == 0 {
                next.insert(*key, *count);
                continue;
            }
            let Some(owner) = owner(key.slot) else {
                next.insert(*key, count - grown);
                continue;
            };
            next.insert(*key, *count);
            let is_full = self.totals.len() >= KEPT_MAX;
            match self.totals.get_mut(&(owner.clone(), key.dest)) {
                Some(total) => *total += grown,
                None if is_full => {}
                None => drop(self.totals.insert((owner, key.dest), grown)),
            }
        }
        self.last = next;
    }

    /// Everything up to now.
    #[must_use]
    pub const fn totals(&self) -> &BTreeMap<(Owner, Dest), u64> {
        &self.totals
    }
}

/// Which names pods have asked for, by the addresses that they were answered with. Two generations: when the younger is full, the older goes.
#[derive(Debug, Default)]
pub struct Heard {
    young: BTreeMap<IpAddr, VecDeque<String>>,
    old: BTreeMap<IpAddr, VecDeque<String>>,
}

impl Heard {
    /// A pod is told that this name has this address.
    pub fn hear(&mut self, name: &str, ip: IpAddr) {
        if self.young.len() >= NAMED_MAX && !self.young.contains_key(&ip) {
            self.old = std::mem::take(&mut self.young);
        }
        let older = self.old.get(&ip);
        let names = self.young.entry(ip).or_insert_with(|| older.cloned().unwrap_or_default());
        names.retain(|known| known != name);
        names.push_front(name.to_owned());
        names.truncate(NAMES_MAX);
    }

    /// The names of an address, the last one first.
    #[must_use]
    pub fn names(&self, ip: IpAddr) -> Vec<String> {
        let found = self.young.get(&ip).or_else(|| self.old.get(&ip));
        found.map(|names| names.iter().cloned().collect()).unwrap_or_default()
    }

    /// All addresses with their names.
    #[must_use]
    pub fn all(&self) -> BTreeMap<IpAddr, Vec<String>> {
        self.old.keys().chain(self.young.keys()).map(|ip| (*ip, self.names(*ip))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32, port: u16) -> AuditKey {
        AuditKey { slot, dest: Dest { port, ..Dest::default() } }
    }

    fn named(pod: &str) -> impl Fn(u32) -> Option<Owner> {
        let pod = pod.to_owned();
        move |slot| (slot == 1).then(|| Owner { pod: pod.clone(), ..Owner::default() })
    }

    #[test]
    fn what_was_let_out_is_added_up_by_who_had_the_slot() {
        let mut ledger = Ledger::default();
        ledger.take([(key(1, 80), 3), (key(2, 80), 9)].into(), named("a"));
        ledger.take([(key(1, 80), 5)].into(), named("b"));
        ledger.take([(key(1, 80), 5)].into(), named("b"));
        ledger.take([(key(1, 80), 1)].into(), named("b"));
        let totals: Vec<_> =
            ledger.totals().iter().map(|((owner, dest), count)| (owner.pod.as_str(), dest.port, *count)).collect();
        assert_eq!(totals, [("a", 80, 3), ("b", 80, 3)], "two more, and one after the kernel had begun anew");
        let mut early = Ledger::default();
        early.take([(key(1, 80), 4)].into(), |_| None);
        early.take([(key(1, 80), 4)].into(), named("a"));
        assert_eq!(early.totals().values().collect::<Vec<_>>(), [&4], "counted before anybody knew the pod");
    }

    #[test]
    fn the_last_names_of_an_address_are_known_and_their_number_is_bounded() {
        let mut heard = Heard::default();
        let ip: IpAddr = "203.0.113.9".parse().expect("literal");
        for name in ["a", "b", "c", "a", "d", "e"] {
            heard.hear(name, ip);
        }
        assert_eq!(heard.names(ip), ["e", "d", "a", "c"]);
        for i in 0..NAMED_MAX as u32 {
            heard.hear("x", IpAddr::from((0x0a00_0000 + i).to_be_bytes()));
        }
        heard.hear("f", ip);
        assert_eq!(heard.names(ip), ["f", "e", "d", "a"], "in the older generation still");
        assert!(heard.all().len() <= 2 * NAMED_MAX && heard.names("::1".parse().expect("literal")).is_empty());
    }
}
