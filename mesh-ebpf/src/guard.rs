//! tc on the host side of each pod's veth: what leaves the pod around the socket hooks is judged here. One instance per pod, told whose it
//! is by the same global as `steer`.
//!
//! `skb->sk` survives the veth, so what a socket hook has let pass is known by the socket's own storage; the socket's mark does not.

use crate::emit::{audit, count, report};
use crate::maps::{CONFIG, FLOWS, JUDGED, KernelTables};
use crate::reject;
use crate::steer::POD;
use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, TC_ACT_SHOT, TC_ACT_UNSPEC, bpf_sock};
use aya_ebpf::helpers::{bpf_sk_fullsock, bpf_sk_storage_get};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use core::ptr::{null_mut, read_volatile};
use mesh_common::abi::{Addr, Dest, FlowKey, Original, Pod, Service};
use mesh_common::decide::l4::{TCP, Tables, UDP};
use mesh_common::decide::packet::{self, Flows, ICMP, ICMPV6, Outcome, Packet, icmp};
use mesh_common::reason::{Passed, Reason};

/// Go on with the next program of the device.
const NEXT: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT as i32;
/// Bytes of the Ethernet header.
pub(crate) const LINK: usize = 14;
const UDPLITE: u8 = 136;

/// A packet from the pod: ingress of the host's end.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let pod = pod();
    let packet = match parse(&ctx) {
        Parsed::Packet(packet) => packet,
        Parsed::Arp(sender) if sender == pod.addr4 || sender.is_unspecified() => return NEXT,
        Parsed::Arp(sender) => return refuse(Reason::Spoofed, &Dest { addr: sender, ..Dest::default() }, &pod),
        Parsed::Unknown(to) => return refuse(Reason::Bypass, &Dest { addr: to, ..Dest::default() }, &pod),
    };
    let Some(config) = CONFIG.get(0) else { return DROP };
    match packet::leaving(&packet, &pod, config, &Tabled { ctx: &ctx, slot: pod.slot }) {
        Outcome::Pass | Outcome::Known => {
            if packet.carries {
                note(&ctx, &packet);
            }
            NEXT
        }
        Outcome::Audited => {
            // Of a connection once.
            if (packet.opens || packet.proto != TCP) && !is_hooked(&ctx, &packet) {
                count(Passed::Audited.code());
                audit(pod.slot, &packet.dest());
            }
            NEXT
        }
        Outcome::Judged => {
            remember(&key(pod.slot, &packet, true));
            NEXT
        }
        Outcome::Drop(reason) => {
            let verdict = refuse(reason, &packet.dest(), &pod);
            // Who connects has a source that is its own; an answer to another would be one to nobody.
            if packet.opens && reason == Reason::Bypass { reject::reset(&ctx).unwrap_or(verdict) } else { verdict }
        }
    }
}

/// A packet to the pod: egress of the host's end. Nothing is refused here, only remembered.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    // Most packets by far; of TCP only what opens a connection is remembered.
    if Usual::of(&ctx).is_some_and(|usual| !is_opening(usual.flags())) {
        return NEXT;
    }
    let pod = pod();
    if let (Parsed::Packet(packet), Some(config)) = (parse(&ctx), CONFIG.get(0)) {
        if packet::opens_answer(&packet, &pod, config, &KernelTables) {
            remember(&key(pod.slot, &packet, false));
        }
    }
    NEXT
}

/// The connection of an accepted socket, which no hook has judged, is judged here: the rest of its packets ask no table. Only a TCP
/// socket is told so: it sends to its one peer. A raw socket would take the note for every packet that it makes.
#[inline(always)]
fn note(ctx: &TcContext, packet: &Packet) {
    const STREAM: u32 = 1;
    let Some(sk) = full_socket(ctx) else { return };
    // SAFETY: a full socket of the context, valid during the call; the value outlives the call that copies it.
    unsafe {
        if read_volatile(&raw const (*sk).type_) != STREAM || read_volatile(&raw const (*sk).protocol) != u32::from(TCP) {
            return;
        }
        let map = (&raw const JUDGED).cast_mut().cast();
        let mut value = Original { addr: packet.dst, port: packet.dst_port, pad: 0 };
        // One that is there is the hook's, and for another destination or it would have been the answer: it stays.
        bpf_sk_storage_get(map, sk.cast(), (&raw mut value).cast(), BPF_SK_STORAGE_GET_F_CREATE.into());
    }
}

/// Is its socket of a kind that a hook has judged, and counted?
#[inline(always)]
fn is_hooked(ctx: &TcContext, packet: &Packet) -> bool {
    const STREAM: u32 = 1;
    const DATAGRAM: u32 = 2;
    let Some(sk) = full_socket(ctx) else { return false };
    // SAFETY: a full socket of the context, valid during the call.
    let (kind, proto) = unsafe { (read_volatile(&raw const (*sk).type_), read_volatile(&raw const (*sk).protocol)) };
    (kind == STREAM || kind == DATAGRAM) && proto == u32::from(packet.proto)
}

/// The socket that the packet is from, if it still is one.
#[inline(always)]
fn full_socket(ctx: &TcContext) -> Option<*mut bpf_sock> {
    // SAFETY: the context's socket is valid during the call; each pointer is checked.
    unsafe {
        let sk = read_volatile(&raw const (*ctx.skb.skb).__bindgen_anon_2.sk);
        if sk.is_null() {
            return None;
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() { None } else { Some(sk) }
    }
}

#[inline(always)]
fn pod() -> Pod {
    // SAFETY: a valid static; volatile, because the agent changes it behind the compiler's back.
    unsafe { read_volatile(&raw const POD) }
}

#[inline(always)]
fn refuse(reason: Reason, dest: &Dest, pod: &Pod) -> i32 {
    // No process: whoever made the packet may be long gone.
    report(reason, dest, pod.slot, 0);
    DROP
}

/// An entry that is there is not written again: that would take a lock for each packet.
#[inline(always)]
fn remember(key: &FlowKey) {
    // SAFETY: only asked whether it exists.
    if unsafe { FLOWS.get(key) }.is_none() {
        let _ = FLOWS.insert(key, &0, 0);
    }
}

#[inline(always)]
fn key(slot: u32, packet: &Packet, leaving: bool) -> FlowKey {
    let (remote, remote_port, local_port) =
        if leaving { (packet.dst, packet.dst_port, packet.src_port) } else { (packet.src, packet.src_port, packet.dst_port) };
    // An echo and its reply have one number, which is in both port fields.
    let local_port = if packet.proto == ICMP || packet.proto == ICMPV6 { 0 } else { local_port };
    FlowKey { slot, remote, remote_port, local_port, proto: packet.proto, pad: [0; 3] }
}

/// The decision's tables, with this packet's socket.
struct Tabled<'a> {
    ctx: &'a TcContext,
    slot: u32,
}

impl Tables for Tabled<'_> {
    #[inline(always)]
    fn service(&self, dest: &Dest) -> Option<Service> {
        KernelTables.service(dest)
    }
    #[inline(always)]
    fn is_protected(&self, dest: &Dest) -> bool {
        KernelTables.is_protected(dest)
    }
    #[inline(always)]
    fn is_workload(&self, addr: &Addr) -> bool {
        KernelTables.is_workload(addr)
    }
    #[inline(always)]
    fn is_endpoint(&self, dest: &Dest) -> bool {
        KernelTables.is_endpoint(dest)
    }
    #[inline(always)]
    fn egress(&self, policy: u32, dest: &Dest) -> Option<u32> {
        KernelTables.egress(policy, dest)
    }
}

impl Flows for Tabled<'_> {
    #[inline(always)]
    fn is_judged(&self, packet: &Packet) -> bool {
        // Only what runs through the hooks can have been judged: a UDP-Lite socket's sendmsg() is, its connect() is not.
        if packet.proto != TCP && packet.proto != UDP {
            return false;
        }
        let Some(sk) = full_socket(self.ctx) else { return false };
        // SAFETY: a full socket of the context, valid during the call; the value is copied.
        let judged = unsafe {
            let value = bpf_sk_storage_get((&raw const JUDGED).cast_mut().cast(), sk.cast(), null_mut(), 0).cast::<Original>();
            match value.as_ref() {
                Some(value) => *value,
                None => return false,
            }
        };
        judged.addr == packet.dst && (packet.fragment || judged.port == packet.dst_port)
    }

    #[inline(always)]
    fn is_known(&self, packet: &Packet) -> bool {
        // Of ICMP only the reply to an echo.
        let icmp = packet.proto == ICMP || packet.proto == ICMPV6;
        if icmp && packet.icmp != icmp::ECHO_REPLY && packet.icmp != icmp::ECHO_REPLY_V6 {
            return false;
        }
        // SAFETY: only asked whether it exists.
        unsafe { FLOWS.get(&key(self.slot, packet, true)) }.is_some()
    }
}

/// No address.
const NOBODY: Addr = Addr([0; 16]);

enum Parsed {
    Packet(Packet),
    /// The sender's address.
    Arp(Addr),
    /// Neither IP nor ARP, or too short, or with headers that nobody needs; to this address, if it is one.
    Unknown(Addr),
}

#[inline(always)]
fn parse(ctx: &TcContext) -> Parsed {
    // SAFETY: a field of the context. A tag that the device took off would be put on again on the way.
    if unsafe { read_volatile(&raw const (*ctx.skb.skb).vlan_present) } != 0 {
        return Parsed::Unknown(NOBODY);
    }
    if let Some(usual) = Usual::of(ctx) {
        return Parsed::Packet(usual.packet());
    }
    match ctx.load::<[u8; 2]>(12) {
        Ok([0x08, 0x00]) => match parse_v4(ctx) {
            Some(packet) => Parsed::Packet(packet),
            None => Parsed::Unknown(ctx.load(LINK + 16).map_or(NOBODY, Addr::v4)),
        },
        Ok([0x86, 0xdd]) => match parse_v6(ctx) {
            Some(packet) => Parsed::Packet(packet),
            None => Parsed::Unknown(ctx.load(LINK + 24).map_or(NOBODY, Addr)),
        },
        Ok([0x08, 0x06]) => ctx.load(LINK + 14).map_or(Parsed::Unknown(NOBODY), |sender| Parsed::Arp(Addr::v4(sender))),
        _ => Parsed::Unknown(NOBODY),
    }
}

/// The headers of nearly all packets, read in one piece and word by word: IPv4 without options, TCP.
struct Usual([u32; 10]);

impl Usual {
    #[inline(always)]
    fn of(ctx: &TcContext) -> Option<Self> {
        // SAFETY: a field of the context; on the host's side the kernel has read it from the frame.
        if unsafe { read_volatile(&raw const (*ctx.skb.skb).protocol) } != u32::from(0x0800u16.to_be()) {
            return None;
        }
        let head = Self(ctx.load(LINK).ok()?);
        let usual = head.word(0) >> 24 == 0x45 && head.word(1) & 0x1fff == 0 && head.word(2) >> 16 & 0xff == u32::from(TCP);
        if usual { Some(head) } else { None }
    }

    #[inline(always)]
    const fn word(&self, index: usize) -> u32 {
        u32::from_be(self.0[index])
    }

    #[inline(always)]
    const fn flags(&self) -> u8 {
        (self.word(8) >> 16) as u8
    }

    #[inline(always)]
    fn packet(&self) -> Packet {
        Packet {
            src: Addr::v4(self.0[3].to_ne_bytes()),
            dst: Addr::v4(self.0[4].to_ne_bytes()),
            src_port: (self.word(5) >> 16) as u16,
            dst_port: self.word(5) as u16,
            proto: TCP,
            opens: is_opening(self.flags()),
            carries: is_carrying(self.flags()),
            ..Packet::default()
        }
    }
}

/// SYN without ACK.
#[inline(always)]
const fn is_opening(flags: u8) -> bool {
    flags & 0x12 == 0x02
}

/// Neither FIN nor SYN nor RST.
#[inline(always)]
const fn is_carrying(flags: u8) -> bool {
    flags & 0x07 == 0
}

#[inline(always)]
fn parse_v4(ctx: &TcContext) -> Option<Packet> {
    let header: [u8; 20] = ctx.load(LINK).ok()?;
    // Without options: by those for source routing a node on the way, which may be a workload's, sends the packet on to where nobody has judged.
    if header[0] != 0x45 {
        return None;
    }
    let packet = Packet {
        src: Addr::v4([header[12], header[13], header[14], header[15]]),
        dst: Addr::v4([header[16], header[17], header[18], header[19]]),
        proto: header[9],
        fragment: u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0,
        ..Packet::default()
    };
    transport(ctx, packet, LINK + 20)
}

#[inline(always)]
fn parse_v6(ctx: &TcContext) -> Option<Packet> {
    let header: [u8; 40] = ctx.load(LINK).ok()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let mut packet = Packet {
        src: Addr(ctx.load(LINK + 8).ok()?),
        dst: Addr(ctx.load(LINK + 24).ok()?),
        proto: header[6],
        ..Packet::default()
    };
    let mut offset = LINK + 40;
    // At most one header before the payload's: hop-by-hop options of listener reports, or a fragment's.
    if packet.proto == 0 || packet.proto == 44 {
        let more: [u8; 8] = ctx.load(offset).ok()?;
        if packet.proto == 44 {
            packet.fragment = u16::from_be_bytes([more[2], more[3]]) & 0xfff8 != 0;
        } else if more[1] != 0 || more[0] != ICMPV6 {
            return None;
        }
        packet.proto = more[0];
        offset += 8;
    }
    if is_header(packet.proto) { None } else { transport(ctx, packet, offset) }
}

/// Another header between IPv6's and the payload. By a routing header a node on the way sends the packet on to where nobody has judged.
#[inline(always)]
const fn is_header(next: u8) -> bool {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const OPTIONS: u8 = 60;
    // Mobility, host identity, shim6.
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | OPTIONS | 135 | 139 | 140)
}

#[inline(always)]
fn transport(ctx: &TcContext, mut packet: Packet, offset: usize) -> Option<Packet> {
    if packet.fragment {
        return Some(packet);
    }
    match packet.proto {
        TCP | UDP | UDPLITE => {
            let ports: [u8; 4] = ctx.load(offset).ok()?;
            packet.src_port = u16::from_be_bytes([ports[0], ports[1]]);
            packet.dst_port = u16::from_be_bytes([ports[2], ports[3]]);
            if packet.proto == TCP {
                let flags: u8 = ctx.load(offset + 13).ok()?;
                packet.opens = is_opening(flags);
                packet.carries = is_carrying(flags);
            }
        }
        ICMP | ICMPV6 => {
            let head: [u8; 8] = ctx.load(offset).ok()?;
            packet.icmp = head[0];
            let number = u16::from_be_bytes([head[4], head[5]]);
            packet.src_port = number;
            packet.dst_port = number;
        }
        _ => {}
    }
    Some(packet)
}
