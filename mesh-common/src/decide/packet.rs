//! May this packet leave the pod? Asked on the host side of the pod's veth for what may have gone around the socket hooks: raw and packet
//! sockets, protocols without hooks, connections older than the pod's enrolment.
//!
//! The answer for a destination is [`l4::decide`]'s, so a packet gets nowhere that a connect() could not get. Beyond that a packet may
//! answer what came in, and may go on with what a socket hook has let pass.

use super::l4::{self, Flow, TCP, Tables, UDP, Verdict};
use crate::abi::{Addr, Config, Dest, Pod, way};
use crate::reason::{Passed, Reason};

/// `IPPROTO_ICMP`.
pub const ICMP: u8 = 1;
/// `IPPROTO_ICMPV6`.
pub const ICMPV6: u8 = 58;

/// What a packet says of itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Packet {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, or 0 where there is none.
    pub src_port: u16,
    /// Destination port, or 0 where there is none; of ICMP echoes their number.
    pub dst_port: u16,
    /// IP protocol.
    pub proto: u8,
    /// ICMP's type, else 0.
    pub icmp: u8,
    /// Asks for a new TCP connection: SYN without ACK.
    pub opens: bool,
    /// In the middle of a TCP connection: neither SYN nor FIN nor RST.
    pub carries: bool,
    /// Not the first fragment: without ports.
    pub fragment: bool,
}

impl Packet {
    /// Where to, as the tables of destinations have it.
    #[must_use]
    #[inline(always)]
    pub const fn dest(&self) -> Dest {
        let port = if self.proto == ICMP || self.proto == ICMPV6 { 0 } else { self.dst_port };
        Dest { addr: self.dst, port, proto: self.proto, pad: 0 }
    }
}

/// What is known of flows, beside destinations.
pub trait Flows {
    /// Has a socket hook let this socket's packets to this address (and port, unless it is a fragment) pass?
    fn is_judged(&self, packet: &Packet) -> bool;
    /// Is it part of an exchange that began inbound, or on a judged socket?
    fn is_known(&self, packet: &Packet) -> bool;
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// Its destination is allowed, or it is what the link itself needs.
    Pass,
    /// Its destination is not allowed, and passes by the outbound policy AUDIT.
    Audited,
    /// Its socket was judged: the rest of this flow may follow, also where the socket cannot be told any more (RST, TIME_WAIT).
    Judged,
    /// Part of a known flow.
    Known,
    /// Not let out.
    Drop(Reason),
}

/// Decides on a packet that leaves the pod.
#[inline(always)]
pub fn leaving<T: Tables + Flows>(packet: &Packet, pod: &Pod, config: &Config, tables: &T) -> Outcome {
    if is_link(packet, pod) {
        return Outcome::Pass;
    }
    let v4 = packet.src.to_v4().is_some();
    if packet.src != if v4 { pod.addr4 } else { pod.addr6 } {
        return Outcome::Drop(Reason::Spoofed);
    }
    // Most packets by far, and the cheapest answer. It is none to a packet that begins or ends something: of that, what is not allowed any more
    // must be remembered.
    if packet.carries && tables.is_judged(packet) {
        return Outcome::Pass;
    }
    let allowed = allowed(&packet.dest(), pod, config, tables);
    if let Allowed::Yes = allowed {
        return Outcome::Pass;
    }
    if tables.is_judged(packet) {
        return Outcome::Judged;
    }
    // A SYN begins a connection of its own, whatever came in on these ports before.
    if !packet.opens && !packet.fragment && tables.is_known(packet) {
        return Outcome::Known;
    }
    if let Allowed::Audited = allowed { Outcome::Audited } else { Outcome::Drop(Reason::Bypass) }
}

/// Must a packet that comes to the pod be remembered, so that it can be answered? Not if the pod may send there anyway: should that end while a
/// connection lasts, its socket has been judged by its packets.
#[inline(always)]
pub fn opens_answer<T: Tables>(packet: &Packet, pod: &Pod, config: &Config, tables: &T) -> bool {
    let asks = match packet.proto {
        TCP => packet.opens,
        UDP => true,
        ICMP => packet.icmp == icmp::ECHO,
        ICMPV6 => packet.icmp == icmp::ECHO_V6,
        _ => false,
    };
    let back = Dest { addr: packet.src, port: packet.src_port, proto: packet.proto, pad: 0 };
    asks && !packet.fragment && !matches!(allowed(&back, pod, config, tables), Allowed::Yes)
}

#[derive(Clone, Copy)]
enum Allowed {
    Yes,
    Audited,
    No,
}

/// Would a connect() be let pass to exactly this address? A VIP that the mesh serves never appears on the wire.
#[inline(always)]
fn allowed<T: Tables>(dest: &Dest, pod: &Pod, config: &Config, tables: &T) -> Allowed {
    if dest.addr == config.node && (dest.proto == ICMP || dest.proto == ICMPV6) {
        return Allowed::Yes;
    }
    // Loopback and own addresses pass in connect() because they stay inside; here nothing stays inside.
    if dest.addr.is_loopback() || dest.addr.is_unspecified() {
        return Allowed::No;
    }
    // As the proxy's own sockets: no hand-over.
    let flow = Flow { dest: *dest, pod: Some(pod), brokered: true };
    match l4::decide(&flow, config, tables) {
        // Where the proxy looks at the host that is asked for, nothing gets by way of a packet: its own sockets were judged.
        Verdict::Pass(Passed::Egress) if dest.proto == TCP && tables.egress(pod.policy, dest) == Some(way::PROXY) => Allowed::No,
        Verdict::Pass(Passed::Audited) => Allowed::Audited,
        Verdict::Pass(_) => Allowed::Yes,
        _ => Allowed::No,
    }
}

/// ICMP types.
pub mod icmp {
    /// ICMP echo request.
    pub const ECHO: u8 = 8;
    /// ICMP echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// ICMPv6 echo request.
    pub const ECHO_V6: u8 = 128;
    /// ICMPv6 echo reply.
    pub const ECHO_REPLY_V6: u8 = 129;
    /// Multicast listener report and done, version 1.
    pub const MLD: [u8; 2] = [131, 132];
    /// Multicast listener report, version 2.
    pub const MLD_V2: u8 = 143;
    /// Router solicitation.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
}

/// What the link needs and no router carries on: DHCP's question, neighbour discovery, multicast listener reports.
#[inline(always)]
fn is_link(packet: &Packet, pod: &Pod) -> bool {
    if packet.fragment {
        return false;
    }
    if packet.proto == UDP && packet.src_port == 68 && packet.dst_port == 67 {
        let from_here = packet.src.is_unspecified() || packet.src == pod.addr4;
        return from_here && packet.dst == Addr::v4([255; 4]);
    }
    if packet.proto != ICMPV6 || !(is_link_local(&packet.src) || packet.src == pod.addr6 || packet.src.is_unspecified()) {
        return false;
    }
    let d = &packet.dst.0;
    let multicast = d[0] == 0xff && d[1] == 0x02;
    match packet.icmp {
        icmp::NEIGHBOUR_SOLICITATION | icmp::NEIGHBOUR_ADVERTISEMENT => {
            multicast || is_link_local(&packet.dst) || is_beside(&packet.dst, &pod.addr6)
        }
        icmp::ROUTER_SOLICITATION | icmp::MLD_V2 => multicast,
        other => multicast && (other == icmp::MLD[0] || other == icmp::MLD[1]),
    }
}

#[inline(always)]
fn is_link_local(addr: &Addr) -> bool {
    addr.0[0] == 0xfe && addr.0[1] & 0xc0 == 0x80
}

/// In the same /64, which IPv6 gives a link.
#[inline(always)]
fn is_beside(a: &Addr, b: &Addr) -> bool {
    let (a, b) = (&a.0, &b.0);
    b[0] != 0
        && a[0] == b[0]
        && a[1] == b[1]
        && a[2] == b[2]
        && a[3] == b[3]
        && a[4] == b[4]
        && a[5] == b[5]
        && a[6] == b[6]
        && a[7] == b[7]
}

#[cfg(test)]
mod tests;
