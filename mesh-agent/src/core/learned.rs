//! What DNS answers have taught: which addresses the names of egress rules have, until when; and which are never learned, whoever
//! answers so: a name must not open what is not outside the mesh.

use super::resources::World;
use mesh_common::abi::maps;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Seconds beyond the TTL: an application that has just been answered may take its time to connect, and some keep addresses for a while.
pub const GRACE_SECONDS: u64 = 120;
/// An answer is not believed for longer than this: a day.
pub const TTL_MAX_SECONDS: u64 = 86_400;

/// What became of one address of an answer. The label is what metrics and log show.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Lesson {
    /// New.
    Learned,
    /// Known, and believed for longer now.
    Refreshed,
    /// No rule asks for the name.
    Unwanted,
    /// 127.0.0.0/8, ::1, or the unspecified address.
    Loopback,
    /// 169.254.0.0/16 (where clouds keep secrets), fe80::/10.
    LinkLocal,
    /// Multicast, broadcast.
    Multicast,
    /// In a VIP range, or a service's VIP.
    Vip,
    /// A node's.
    Node,
    /// A workload's.
    Workload,
    /// No room.
    Full,
}

impl Lesson {
    /// As metrics and log show it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Learned => "learned",
            Self::Refreshed => "refreshed",
            Self::Unwanted => "unwanted",
            Self::Loopback => "loopback",
            Self::LinkLocal => "link_local",
            Self::Multicast => "multicast",
            Self::Vip => "vip",
            Self::Node => "node",
            Self::Workload => "workload",
            Self::Full => "full",
        }
    }
}

/// Addresses that belong to the mesh.
#[derive(Clone, Debug, Default)]
pub struct Inside {
    ranges: Vec<(IpAddr, u8)>,
    vips: BTreeSet<IpAddr>,
    nodes: BTreeSet<IpAddr>,
    workloads: BTreeSet<IpAddr>,
}

impl Inside {
    /// As this world has it, seen from the node with this address.
    #[must_use]
    pub fn of(world: &World, node: IpAddr) -> Self {
        let ranges = world.mesh.iter().flat_map(|mesh| mesh.vip_ranges.iter().copied()).collect();
        let nodes = world.workloads.values().filter_map(|w| w.node.parse().ok()).chain([node]);
        Self {
            ranges,
            vips: world.services.values().flat_map(|s| s.addresses.iter().copied()).collect(),
            nodes: nodes.map(|ip: IpAddr| ip.to_canonical()).collect(),
            workloads: world.workloads.values().flat_map(|w| w.addresses.iter().copied()).collect(),
        }
    }

    /// Why this address is never learned, if so.
    #[must_use]
    pub fn forbids(&self, ip: IpAddr) -> Option<Lesson> {
        let (link_local, broadcast) = match ip {
            IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast()),
            IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
        };
        Some(match ip {
            _ if ip.is_loopback() || ip.is_unspecified() => Lesson::Loopback,
            _ if link_local => Lesson::LinkLocal,
            _ if broadcast || ip.is_multicast() => Lesson::Multicast,
            _ if self.vips.contains(&ip) || self.ranges.iter().any(|range| contains(*range, ip)) => Lesson::Vip,
            _ if self.nodes.contains(&ip) => Lesson::Node,
            _ if self.workloads.contains(&ip) => Lesson::Workload,
            _ => return None,
        })
    }
}

fn contains((base, bits): (IpAddr, u8), ip: IpAddr) -> bool {
    let same = |a: u128, b: u128, width: u8| bits == 0 || (a ^ b) >> u32::from(width.saturating_sub(bits)) == 0;
    match (base, ip) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

/// Names, addresses and the second at which each is forgotten.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Learned(BTreeMap<(String, IpAddr), u64>);

impl Learned {
    /// What a former agent has left.
    #[must_use]
    pub fn from_entries(entries: impl IntoIterator<Item = (String, IpAddr, u64)>) -> Self {
        Self(entries.into_iter().map(|(name, ip, expires)| ((name, ip), expires)).collect())
    }

    /// Takes one address of an answer for a name that a rule wants. On [`Lesson::Learned`] and [`Lesson::Refreshed`], returns until when.
    pub fn learn(&mut self, inside: &Inside, name: &str, ip: IpAddr, ttl: u32, now: u64) -> (Lesson, u64) {
        let expires = now + u64::from(ttl).min(TTL_MAX_SECONDS) + GRACE_SECONDS;
        if let Some(why) = inside.forbids(ip) {
            return (why, 0);
        }
        let key = (name.to_owned(), ip);
        if let Some(known) = self.0.get_mut(&key) {
            // Never earlier: another answer has promised it.
            *known = expires.max(*known);
            return (Lesson::Refreshed, *known);
        }
        if self.0.len() >= maps::LEARNED_MAX as usize {
            return (Lesson::Full, 0);
        }
        self.0.insert(key, expires);
        (Lesson::Learned, expires)
    }

    /// Has those that `chosen` (given address and expiry) chooses last until `expires`, and returns them.
    pub fn keep(&mut self, chosen: impl Fn(IpAddr, u64) -> bool, expires: u64) -> Vec<(String, IpAddr, u64)> {
        let kept = self.0.iter_mut().filter(|((_, ip), old)| chosen(*ip, **old)).map(|((name, ip), old)| {
            *old = expires;
            (name.clone(), *ip, expires)
        });
        kept.collect()
    }

    /// Forgets what `keep` (given name, address and expiry) does not keep, and returns it.
    pub fn sift(&mut self, keep: impl Fn(&str, IpAddr, u64) -> bool) -> Vec<(String, IpAddr)> {
        let mut gone = Vec::new();
        self.0.retain(|(name, ip), expires| {
            let kept = keep(name, *ip, *expires);
            if !kept {
                gone.push((name.clone(), *ip));
            }
            kept
        });
        gone
    }

    /// Takes one back that could not be put in force.
    pub fn forget(&mut self, name: &str, ip: IpAddr) {
        self.0.remove(&(name.to_owned(), ip));
    }

    /// Name, address, expiry.
    pub fn iter(&self) -> impl Iterator<Item = (&str, IpAddr, u64)> {
        self.0.iter().map(|((name, ip), expires)| (name.as_str(), *ip, *expires))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests;
