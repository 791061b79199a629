//! Workloads that share the node's own network namespace (Marathon's default): how the kernel knows them, and where their connections are
//! handed over.
//!
//! They have no address of their own and no route that could lead to a listener, so their connections are rewritten to an address of
//! 127.128.0.0/9 that says whose they are:
//!
//! ```text
//! 01111111.1 SSSSSSS.SSS F HHHH.HHHHHHHH
//!            slot        |  hash of the destination, never 0
//!                        the destination is IPv6
//! ```
//!
//! The hash spreads one workload's connections over 4,095 addresses: to a single one there could be as many as there are ephemeral ports,
//! and the search for a free one would cost more than all the rest.

use super::{Dest, maps};
use crate::decide::choose::mix;
use crate::ports;

/// Key of `HOST_PODS`. One workload has one entry of kind `SLOT`, and one or more by which its processes are known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HostKey {
    /// The kernel's number of the cgroup, the class id, or the slot.
    pub id: u64,
    /// One of the constants.
    pub kind: u32,
    /// Always zero.
    pub pad: u32,
}

impl HostKey {
    /// `id` is a cgroup2 id.
    pub const CGROUP: u32 = 1;
    /// `id` is a net_cls class id of cgroup v1.
    pub const CLASS: u32 = 2;
    /// `id` is a slot: for sockets that are tagged with it.
    pub const SLOT: u32 = 3;

    /// Processes below this cgroup.
    #[must_use]
    #[inline(always)]
    pub const fn cgroup(id: u64) -> Self {
        Self { id, kind: Self::CGROUP, pad: 0 }
    }

    /// Processes with this class id.
    #[must_use]
    #[inline(always)]
    pub const fn class(id: u32) -> Self {
        Self { id: id as u64, kind: Self::CLASS, pad: 0 }
    }

    /// Sockets with this tag.
    #[must_use]
    #[inline(always)]
    pub const fn slot(slot: u32) -> Self {
        Self { id: slot as u64, kind: Self::SLOT, pad: 0 }
    }
}

/// At how many depths of the cgroup tree there may be workloads' cgroups: `/mesos/ID` of Mesos, `/docker/ID` or
/// `/system.slice/docker-ID.scope` of Docker, and room for two more.
pub const LEVELS: usize = 4;

/// The deepest of them.
pub const LEVEL_MAX: u32 = 32;

/// The one cell of `HOST`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Host {
    /// Cookie of the node's own network namespace; 0 as long as no workload of it was enrolled.
    pub netns: u64,
    /// The kernel's number of the cgroup whose depth the self-check is to measure.
    pub root: u64,
    /// The depths at which processes' cgroups are looked up, 0 for none. The root's depth is 0.
    pub levels: [u32; LEVELS],
    /// The depth of `root` plus one, 0 if the process that made the self-check is not in it: a cgroup namespace shows depths from its own root.
    pub depth: u32,
    /// Always zero.
    pub pad: u32,
}

/// Name of the global that says whether class ids are asked for (not 0): the helper is there only if the kernel knows net_cls.
pub const CLASSES_GLOBAL: &str = "CLASSES";

/// Key of `HANDED`: a connection that was handed over, as both of its ends see it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct HandedKey {
    /// The client's address, network order.
    pub client: [u8; 4],
    /// The listener's, in 127.128.0.0/9.
    pub listener: [u8; 4],
    /// Host order.
    pub client_port: u16,
    /// Host order.
    pub listener_port: u16,
}

const HASH_BITS: u32 = 12;
const HASH_MASK: u32 = (1 << HASH_BITS) - 1;
const FAMILY_BIT: u32 = 1 << HASH_BITS;
const SLOT_SHIFT: u32 = HASH_BITS + 1;
const BASE: u32 = u32::from_be_bytes([127, 128, 0, 0]);

/// Where the listener of a slot is bound: what is handed over comes at this and at 4,094 more addresses.
#[must_use]
#[inline(always)]
pub const fn listener(slot: u32, v6: bool) -> [u8; 4] {
    address(slot, v6, 1)
}

/// Where a connection of this slot to this destination is handed over.
#[must_use]
#[inline(always)]
pub fn handed(slot: u32, dest: &Dest) -> [u8; 4] {
    let a = &dest.addr.0;
    let high = u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]);
    let low = u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]);
    let hash = mix(high.rotate_left(16) ^ low ^ (dest.port as u64) << 40) as u32;
    address(slot, dest.addr.to_v4().is_none(), hash)
}

#[inline(always)]
const fn address(slot: u32, v6: bool, hash: u32) -> [u8; 4] {
    let hash = if hash & HASH_MASK == 0 { 1 } else { hash & HASH_MASK };
    let family = if v6 { FAMILY_BIT } else { 0 };
    (BASE | (slot % maps::PODS_MAX) << SLOT_SHIFT | family | hash).to_be_bytes()
}

/// Whose address it is, and whether for IPv6 destinations; `None` if it is outside 127.128.0.0/9.
#[must_use]
#[inline(always)]
pub const fn owner(address: [u8; 4]) -> Option<(u32, bool)> {
    let bits = u32::from_be_bytes(address);
    if bits & !0x007f_ffff != BASE {
        return None;
    }
    Some((bits >> SLOT_SHIFT & (maps::PODS_MAX - 1), bits & FAMILY_BIT != 0))
}

/// Is this one of the addresses and ports at which the mesh listens on the node? Nobody dials them; connections are rewritten to them.
#[must_use]
#[inline(always)]
pub fn is_listener(dest: &Dest) -> bool {
    (dest.port == ports::OUTBOUND || dest.port == ports::DNS) && dest.addr.to_v4().is_some_and(|v4| owner(v4).is_some())
}

const _: () = {
    assert!(size_of::<HostKey>() == 16);
    assert!(size_of::<Host>() == 40);
    assert!(size_of::<HandedKey>() == 12);
    // The slot is what the other bits leave.
    assert!(maps::PODS_MAX.is_power_of_two() && maps::PODS_MAX.trailing_zeros() + SLOT_SHIFT == 23);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::Addr;
    use std::collections::BTreeSet;

    #[test]
    fn an_address_says_whose_connection_it_is() {
        for slot in [0, 1, 511, maps::PODS_MAX - 1] {
            for v6 in [false, true] {
                let at = listener(slot, v6);
                assert_eq!(at[0], 127);
                assert_eq!(owner(at), Some((slot, v6)));
            }
            let v4 = Dest { addr: Addr::v4([9, 0, 1, 2]), port: 80, proto: 6, pad: 0 };
            assert_eq!(owner(handed(slot, &v4)), Some((slot, false)));
            let v6 = Dest { addr: Addr([0xfd; 16]), ..v4 };
            assert_eq!(owner(handed(slot, &v6)), Some((slot, true)));
        }
        for outside in [[127, 0, 0, 1], [127, 127, 255, 255], [128, 128, 0, 1], [9, 0, 1, 2]] {
            assert_eq!(owner(outside), None, "{outside:?}");
        }
    }

    #[test]
    fn destinations_spread_and_none_is_a_network_address() {
        let mut seen = BTreeSet::new();
        for (last, port) in (0..=255u8).flat_map(|last| (80..112u16).map(move |port| (last, port))) {
            let at = handed(3, &Dest { addr: Addr::v4([11, 1, 2, last]), port, proto: 6, pad: 0 });
            assert_ne!(u32::from_be_bytes(at) & HASH_MASK, 0);
            seen.insert(at);
        }
        // 8,192 destinations into 4,095 addresses: drawn at random, 3,540 were met.
        assert!(seen.len() > 3_000, "{}", seen.len());
    }

    #[test]
    fn only_the_meshs_ports_are_its_listeners() {
        let dest = |v4, port| Dest { addr: Addr::v4(v4), port, proto: 6, pad: 0 };
        assert!(is_listener(&dest(listener(5, false), ports::OUTBOUND)) && is_listener(&dest(listener(5, true), ports::DNS)));
        assert!(!is_listener(&dest(listener(5, false), 80)) && !is_listener(&dest([127, 0, 0, 1], ports::OUTBOUND)));
    }
}
