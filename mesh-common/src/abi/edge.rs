//! What TCP connections that the kernel has balanced have come to, by who has made them and for which VIP.

use super::Dest;

/// Key of `EDGES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EdgeKey {
    /// Cookie of the client's network namespace, which is never given out twice; of a workload on the node's own network its slot and
    /// [`Self::ON_HOST`].
    pub client: u64,
    /// What the application asked for.
    pub vip: Dest,
    /// Always zero.
    pub pad: u32,
}

impl EdgeKey {
    /// No cookie: the kernel counts them upwards from one.
    pub const ON_HOST: u64 = 1 << 63;

    /// The slot of a workload on the node's own network.
    #[must_use]
    pub const fn slot(&self) -> Option<u32> {
        if self.client & Self::ON_HOST == 0 { None } else { Some(self.client as u32) }
    }
}

/// Value of `EDGES`: every field only grows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Edge {
    /// Connections that a backend has accepted.
    pub opened: u64,
    /// Of those, how many have ended; the other fields are of these.
    pub closed: u64,
    /// Connections that no backend has accepted: refused, or given up.
    pub failed: u64,
    /// Bytes that the backend has acknowledged.
    pub sent: u64,
    /// Bytes that the client has received.
    pub received: u64,
    /// Microseconds: the round-trip times that TCP had estimated at the end, added up.
    pub rtt: u64,
}

const _: () = {
    assert!(size_of::<EdgeKey>() == 32);
    assert!(size_of::<Edge>() == 48);
};
