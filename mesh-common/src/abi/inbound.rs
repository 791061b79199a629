//! Connections from outside a pod that the proxy takes before the application: of which ports, and who the application is to see.

use super::Addr;

/// Key of `INBOUND` and `LISTENS`: a port of a pod whose connections the proxy takes.
///
/// A port on which the application does not listen is left alone, so that the kernel refuses as it would without the mesh. The programs count
/// each listen() on the port in `LISTENS`; the agent, when it has seen that nobody listens, notes in `INBOUND` the count that held before it looked
/// ([`silent`]). So an application that begins to listen is captured from that call on, whatever the agent has seen meanwhile.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct InboundKey {
    /// [`super::Pod::slot`].
    pub slot: u32,
    /// The port, host order.
    pub port: u16,
    /// Always zero.
    pub pad: u16,
}

/// Value of `INBOUND`: the application listens, as far as is known.
pub const HEARD: u64 = 0;

/// Value of `INBOUND`: nobody listened when so many calls of listen() had been counted.
#[must_use]
#[inline(always)]
pub const fn silent(listens: u64) -> u64 {
    listens + 1
}

/// Key of `DIALLED`: a connection of the proxy to the application beside which it stands, as both of its ends see it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct DialledKey {
    /// Cookie of the pod's network namespace.
    pub netns: u64,
    /// Its own address, which both ends have.
    pub addr: Addr,
    /// The proxy's port, host order.
    pub client_port: u16,
    /// The application's, host order.
    pub port: u16,
    /// Always zero.
    pub pad: u32,
}

const _: () = {
    assert!(size_of::<InboundKey>() == 8);
    assert!(size_of::<DialledKey>() == 32);
};
