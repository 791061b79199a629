//! The connections that pods have outside: which learned addresses are in use, and ending those that a rule no longer allows.

use crate::core::desired::ip;
use crate::netns::diag::{self, Connected};
use crate::served::{Roster, Served};
use mesh_common::abi::Dest;
use mesh_common::decide::l4::{TCP, UDP};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use tracing::warn;

/// The connected sockets of a pod's namespace: its own, and those that were brokered for it.
fn sockets(pod: &Served) -> Vec<Connected> {
    let list = || Ok::<_, io::Error>([diag::connected(TCP)?, diag::connected(UDP)?].concat());
    match pod.namespace.visit(list).and_then(|listed| listed) {
        Ok(sockets) => sockets,
        // A namespace that has just gone has no connections either.
        Err(error) => {
            warn!(pod = pod.workload.id, %error, "the connections of a pod cannot be listed");
            Vec::new()
        }
    }
}

/// Which of these addresses some pod has a connection to.
pub(super) fn in_use(roster: &Roster, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let mut used = BTreeSet::new();
    for (_, pod) in roster.all() {
        used.extend(sockets(&pod).iter().map(|socket| ip(socket.peer.addr)).filter(|ip| addresses.contains(ip)));
    }
    used
}

/// Ends the connections of pods to what `revoked` says of their namespace's policy and the destination. Returns how many.
pub(super) fn end(roster: &Roster, policy: impl Fn(&str) -> u32, revoked: impl Fn(u32, &Dest) -> bool) -> u64 {
    let mut ended = 0;
    for (_, pod) in roster.all() {
        // On the node's own network the list is the node's: whose a socket is cannot be told there.
        if pod.workload.host_network {
            continue;
        }
        let own = policy(&pod.workload.namespace);
        let stale: Vec<Connected> = sockets(&pod).into_iter().filter(|socket| revoked(own, &socket.peer)).collect();
        if stale.is_empty() {
            continue;
        }
        // One that was closed meanwhile is gone already.
        let done = pod.namespace.visit(|| stale.iter().filter(|socket| diag::destroy(socket).is_ok()).count() as u64);
        ended += done.unwrap_or_default();
    }
    ended
}
