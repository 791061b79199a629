//! sendto() on unconnected UDP sockets, and the way back. A mark set here would miss this very datagram, so everything is rewritten.

use crate::context::{Family, address, cookie, destination, rewrite};
use crate::emit::{PROCEED, audit, proceed, refuse};
use crate::loads;
use crate::maps::{ORIGINALS, UDP_CHOICES, UDP_REVERSE};
use crate::verdict::{Caller, judged};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::abi::{Dest, Original, Service, UdpChoice, UdpKey, dns};
use mesh_common::decide::l4::Verdict;
use mesh_common::reason::{Passed, Reason, Steered};

/// Also for `sendto(::ffff:a.b.c.d)` on an AF_INET6 socket.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    sendmsg(&ctx, Family::V4)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    sendmsg(&ctx, Family::V6)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    recvmsg(&ctx, Family::V4)
}

/// Also for datagrams that `sendmsg4` rewrote, if the socket is AF_INET6.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    recvmsg(&ctx, Family::V6)
}

#[inline(always)]
fn sendmsg(ctx: &SockAddrContext, family: Family) -> i32 {
    let dest = destination(ctx, family);
    if is_settled(ctx, &dest) {
        return PROCEED;
    }
    let caller = Caller::of(ctx);
    let done = match caller.decide(dest) {
        Verdict::Pass(why) => {
            if why == Passed::Audited {
                audit(caller.slot(), &dest);
            }
            Ok(why.code())
        }
        Verdict::Dns => match dest.addr.to_v4() {
            Some(server) => {
                let (addr, port) = if caller.on_host { dns::of_host(caller.slot()) } else { dns::redirect(server) };
                divert(ctx, family, &dest, &Dest { addr, port, ..dest }).map(|()| Steered::Dns.code())
            }
            None => Err(Reason::Ipv6Dns),
        },
        Verdict::Backend(service) => to_backend(ctx, family, &caller, &dest, Some(&service)),
        // None that takes a new flow; one that is draining goes on with those that it has.
        Verdict::Deny(Reason::NoBackend) => to_backend(ctx, family, &caller, &dest, None),
        // The decision hands over TCP only.
        Verdict::Proxy => Err(Reason::Internal),
        Verdict::Deny(reason) => Err(reason),
    };
    match done {
        Ok(code) => proceed(code, &dest, caller.slot()),
        Err(reason) => refuse(reason, &dest, caller.slot()),
    }
}

/// Is this a datagram on a connected socket, judged at connect()? The kernel asks again for AF_INET6 sockets with a v4-mapped peer, with
/// the address that connect() has put in.
#[inline(always)]
fn is_settled(ctx: &SockAddrContext, dest: &Dest) -> bool {
    // SAFETY: the context's socket is valid during the call.
    match unsafe { ORIGINALS.get_ptr_mut(ctx).as_ref() } {
        Some(diverted) => diverted.to.addr == dest.addr && diverted.to.port == dest.port,
        None => false,
    }
}

/// All datagrams of one socket to one VIP go to one backend as long as that is there: datagrams that belong together (QUIC, SIP) must. When it
/// is gone, the next datagram goes to another.
#[inline(always)]
fn to_backend(
    ctx: &SockAddrContext,
    family: Family,
    caller: &Caller,
    dest: &Dest,
    service: Option<&Service>,
) -> Result<u8, Reason> {
    let key = UdpKey { cookie: cookie(ctx), addr: dest.addr, port: dest.port, pad: [0; 6] };
    // SAFETY: read within this program run; an element that is evicted meanwhile may be another flow's, for this one datagram.
    if let Some(before) = unsafe { UDP_CHOICES.get(&key) } {
        if loads::is_there(&before.endpoint) {
            return send(ctx, family, caller, dest, &before.to);
        }
    }
    let Some(service) = service else { return Err(Reason::NoBackend) };
    let Some(chosen) = loads::choose(service, caller) else { return Err(Reason::Internal) };
    let mut choice = UdpChoice::default();
    choice.endpoint.cell = chosen.cell;
    choice.endpoint.stamp = chosen.stamp;
    choice.to.addr = chosen.addr;
    choice.to.port = chosen.port;
    choice.to.proto = dest.proto;
    if UDP_CHOICES.insert(&key, &choice, 0).is_err() {
        return Err(Reason::MapFull);
    }
    send(ctx, family, caller, dest, &choice.to)
}

#[inline(always)]
fn send(ctx: &SockAddrContext, family: Family, caller: &Caller, dest: &Dest, to: &Dest) -> Result<u8, Reason> {
    divert(ctx, family, dest, to)?;
    judged(ctx, caller, to)?;
    Ok(Steered::Backend.code())
}

#[inline(always)]
fn divert(ctx: &SockAddrContext, family: Family, dest: &Dest, to: &Dest) -> Result<(), Reason> {
    if !file(ctx, to, &Original { addr: dest.addr, port: dest.port, pad: 0 }) {
        return Err(Reason::MapFull);
    }
    if rewrite(ctx, family, &to.addr, to.port) { Ok(()) } else { Err(Reason::Internal) }
}

/// Files what datagrams from `to` to this socket really come from. An entry that is there is not written again: the look has marked it as
/// used, and a write takes a lock.
#[inline(always)]
pub(crate) fn file(ctx: &SockAddrContext, to: &Dest, original: &Original) -> bool {
    let key = UdpKey { cookie: cookie(ctx), addr: to.addr, port: to.port, pad: [0; 6] };
    // SAFETY: compared at once.
    if unsafe { UDP_REVERSE.get(&key) }.is_some_and(|filed| filed == original) {
        return true;
    }
    UDP_REVERSE.insert(&key, original, 0).is_ok()
}

/// Shows the address that was asked. An unconnected socket has one entry per server; a connected one hears its one peer only.
#[inline(always)]
fn recvmsg(ctx: &SockAddrContext, family: Family) -> i32 {
    let (addr, port) = address(ctx, family);
    let key = UdpKey { cookie: cookie(ctx), addr, port, pad: [0; 6] };
    // SAFETY: copied at once.
    let filed = unsafe { UDP_REVERSE.get(&key) }.copied();
    // SAFETY: the context's socket is valid during the call.
    let original = filed.or_else(|| unsafe { ORIGINALS.get_ptr_mut(ctx).as_ref() }.map(|diverted| diverted.original));
    if let Some(original) = original {
        rewrite(ctx, family, &original.addr, original.port);
    }
    PROCEED
}
