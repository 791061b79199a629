//! Which threads own a pod: one, or several where somebody said that one is too little (docs/design/0022). Each of several is a whole
//! owner, with connections, limits and cursors of its own; the first accepts for all and hands every connection to the next in turn.

use crate::worker::Command;
use mesh_common::broker::Family;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use tokio::sync::mpsc;

/// Label of a pod that is to be spread over so many threads.
pub const LABEL: &str = "mesh.io/proxy-threads";

/// A thread's part in a pod.
#[derive(Debug)]
pub struct Share {
    /// How many threads own it; limits are divided by this.
    pub threads: u32,
    /// What the pod captures.
    pub families: Vec<Family>,
    /// Of the one that accepts: the others, which take turns with it.
    pub others: Vec<mpsc::Sender<Command>>,
}

/// Whose the slots are.
#[derive(Debug)]
pub struct Owners {
    threads: usize,
    by_slot: HashMap<u32, Vec<usize>>,
}

impl Owners {
    /// Of so many threads.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { threads, by_slot: HashMap::new() }
    }

    /// A pod's threads for as long as it lives: those with the fewest pods when it came, and never more than there are.
    pub fn settle(&mut self, slot: u32, wanted: usize) -> &[usize] {
        let mut load = vec![0; self.threads];
        self.by_slot.values().flatten().for_each(|index| load[*index] += 1);
        self.by_slot.entry(slot).or_insert_with(|| {
            let mut indices: Vec<usize> = (0..load.len()).collect();
            indices.sort_by_key(|index| load[*index]);
            indices.truncate(wanted.max(1));
            indices
        })
    }

    /// The same of a pod that is known.
    #[must_use]
    pub fn of(&self, slot: u32) -> &[usize] {
        self.by_slot.get(&slot).map_or(&[], Vec::as_slice)
    }

    /// The pod has left.
    pub fn forget(&mut self, slot: u32) -> Vec<usize> {
        self.by_slot.remove(&slot).unwrap_or_default()
    }
}

/// How many threads a pod's labels ask for.
#[must_use]
pub fn wanted(labels: &BTreeMap<String, String>) -> usize {
    let Some(text) = labels.get(LABEL) else { return 1 };
    text.parse().ok().filter(|threads| *threads > 0).unwrap_or_else(|| {
        tracing::warn!(label = LABEL, text, "not a number of threads from 1 up: the pod has one");
        1
    })
}

/// Brokered sockets, dealt to the threads in equal parts. Whoever asked for them, the others take as much.
#[must_use]
pub fn deal(sockets: Vec<OwnedFd>, threads: usize) -> Vec<Vec<OwnedFd>> {
    let mut hands: Vec<Vec<OwnedFd>> = (0..threads.max(1)).map(|_| Vec::new()).collect();
    for (index, socket) in sockets.into_iter().enumerate() {
        hands[index % threads.max(1)].push(socket);
    }
    hands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_has_the_threads_with_the_fewest_pods_and_keeps_them() {
        let mut owners = Owners::new(3);
        assert_eq!(owners.settle(1, 1), [0]);
        assert_eq!(owners.settle(2, 2), [1, 2]);
        assert_eq!(owners.settle(3, 1), [0]);
        assert_eq!(owners.settle(1, 3), [0], "it has settled");
        assert_eq!(owners.settle(4, 9).len(), 3, "there are no more");
        assert_eq!((owners.of(2), owners.of(5)), (&[1, 2][..], &[][..]));
        assert_eq!((owners.forget(2), owners.forget(2)), (vec![1, 2], vec![]));
        assert_eq!(owners.settle(2, 0), [1], "never none");
    }

    #[test]
    fn a_label_asks_for_threads() {
        let labels = |text: &str| BTreeMap::from([(LABEL.to_owned(), text.to_owned())]);
        assert_eq!([wanted(&labels("4")), wanted(&labels("0")), wanted(&labels("x")), wanted(&BTreeMap::new())], [4, 1, 1, 1]);
    }

    #[test]
    fn sockets_are_dealt_in_equal_parts() {
        let socket = || std::net::UdpSocket::bind("127.0.0.1:0").expect("bind").into();
        let dealt = |count: usize, threads| deal((0..count).map(|_| socket()).collect(), threads);
        for (count, threads, expected) in [(7, 3, vec![3, 2, 2]), (4, 1, vec![4]), (1, 2, vec![1, 0])] {
            assert_eq!(dealt(count, threads).iter().map(Vec::len).collect::<Vec<_>>(), expected);
        }
    }
}
