//! What a VIP's port stands for: its cell, its backends, and how many connections each of them has.
//!
//! A backend is written under the index that it has in its service, so that a change of one writes one or two cells and the service's. What it
//! is dialled by, an [`Endpoint`], is counted in one cell of `LOADS` whatever number of services it serves.

use super::{Addr, Dest};

/// How a service's port is served (DESIGN: direct, kernel, proxy).
pub mod mode {
    /// Left alone.
    pub const DIRECT: u8 = 0;
    /// The kernel picks the backend in connect().
    pub const KERNEL: u8 = 1;
    /// Handed to mesh-proxy.
    pub const PROXY: u8 = 2;
}

/// How the kernel picks a backend.
pub mod choice {
    /// Of two, drawn by weight, the one with fewer connections for its weight.
    pub const LEAST: u8 = 0;
    /// One, drawn by weight.
    pub const RANDOM: u8 = 1;
    /// By the client's address: the backends are a Maglev table.
    pub const SOURCE: u8 = 2;
}

/// What a VIP's port stands for. Value of `SERVICES`, keyed by [`Dest`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Service {
    /// Number of this (service, port), first half of [`BackendKey`].
    pub id: u32,
    /// How many backends there are, numbered from zero.
    pub backends: u32,
    /// One of [`mode`].
    pub mode: u8,
    /// One of [`choice`].
    pub choice: u8,
    /// 1: only pods dial it whose egress policy, or everybody's, has the VIP.
    pub scoped: u8,
    /// Always zero.
    pub pad: u8,
}

/// Key of `BACKENDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BackendKey {
    /// [`Service::id`].
    pub service: u32,
    /// 0 up to, not including, [`Service::backends`].
    pub index: u32,
}

/// One backend, as this node must dial it. Value of `BACKENDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Backend {
    /// Where to.
    pub addr: Addr,
    /// Port, host order.
    pub port: u16,
    /// Always zero.
    pub pad: u16,
    /// [`Endpoint::cell`].
    pub cell: u32,
    /// [`Endpoint::stamp`].
    pub stamp: u32,
    /// Relative to the service's others, at least 1.
    pub weight: u32,
    /// Walker's alias method: of 2^32 draws of this index, so many and one more are this backend's, the rest those of the index `alias`.
    pub share: u32,
    /// See [`Self::share`].
    pub alias: u32,
}

/// Where the connections to an address, port and protocol are counted. Value of `ENDPOINTS`, keyed by [`Dest`]: the agent's memory, of
/// which programs read only the keys.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Endpoint {
    /// Index in `LOADS`, never 0.
    pub cell: u32,
    /// [`Load::stamp`] of that cell as long as it is this endpoint's.
    pub stamp: u32,
}

/// [`Diverted::cell`](super::Diverted::cell) of what is not counted.
pub const NO_CELL: u32 = 0;

/// How many connections an endpoint has from this node. Value of `LOADS`, which the agent has in its memory too.
///
/// Cell 0 is nobody's: its stamp is the last one that was given out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Load {
    /// Connections now; below zero, for a moment, after a correction. As wide as BPF's atomic addition is in Rust.
    pub active: i64,
    /// Whose count this is; 0: nobody's. Never given out twice.
    pub stamp: u32,
    /// Always zero.
    pub pad: u32,
}

/// Where the datagrams of an unconnected socket to a VIP go, as long as that backend is there. Value of `UDP_CHOICES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct UdpChoice {
    /// [`Endpoint`] of the backend.
    pub endpoint: Endpoint,
    /// Where to: what [`Backend`] said.
    pub to: Dest,
}

const _: () = {
    assert!(size_of::<Service>() == 12);
    assert!(size_of::<BackendKey>() == 8);
    assert!(size_of::<Backend>() == 40);
    assert!(size_of::<Endpoint>() == 8);
    assert!(size_of::<Load>() == 16);
    assert!(size_of::<UdpChoice>() == 28);
};
