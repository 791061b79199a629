//! sendto() on unconnected UDP sockets, and the way back. A mark set here would miss this very datagram, so everything is rewritten.

use crate::context::{Family, address, cookie, destination, rewrite};
use crate::emit::{PROCEED, count, refuse};
use crate::maps::{ORIGINALS, UDP_REVERSE};
use crate::verdict::{Caller, backend, judged};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::abi::{Addr, Dest, Original, UdpKey, dns};
use mesh_common::decide::l4::Verdict;
use mesh_common::reason::{Reason, Steered};

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
        Verdict::Pass(why) => Ok(why.code()),
        Verdict::Dns => match dest.addr.to_v4() {
            Some(server) => {
                let (addr, port) = dns::redirect(server);
                divert(ctx, family, &dest, &addr, port).map(|()| Steered::Dns.code())
            }
            None => Err(Reason::Ipv6Dns),
        },
        Verdict::Backend(service) => match backend(&service, sticky(ctx, &dest)) {
            Some(to) => {
                let to_dest = Dest { addr: to.addr, port: to.port, ..dest };
                let done = divert(ctx, family, &dest, &to.addr, to.port).and_then(|()| judged(ctx, &caller, &to_dest));
                done.map(|()| Steered::Backend.code())
            }
            None => Err(Reason::Internal),
        },
        // The decision hands over TCP only.
        Verdict::Proxy => Err(Reason::Internal),
        Verdict::Deny(reason) => Err(reason),
    };
    match done {
        Ok(code) => {
            count(code);
            PROCEED
        }
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

/// A number that is the same for all datagrams of one socket to one service, and uniform over sockets: datagrams that belong together
/// (QUIC, SIP) must reach one backend as long as the set of backends stays.
#[inline(always)]
fn sticky(ctx: &SockAddrContext, dest: &Dest) -> u32 {
    let a = dest.addr.0;
    let host = u32::from_ne_bytes([a[12], a[13], a[14], a[15]]);
    let mut x = cookie(ctx) ^ (u64::from(host) << 32) ^ u64::from(dest.port).rotate_left(20);
    // splitmix64's finaliser.
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x >> 32) as u32
}

#[inline(always)]
fn divert(ctx: &SockAddrContext, family: Family, dest: &Dest, to: &Addr, port: u16) -> Result<(), Reason> {
    let key = UdpKey { cookie: cookie(ctx), addr: *to, port, pad: [0; 6] };
    let original = Original { addr: dest.addr, port: dest.port, pad: 0 };
    if UDP_REVERSE.insert(&key, &original, 0).is_err() {
        return Err(Reason::MapFull);
    }
    if rewrite(ctx, family, to, port) { Ok(()) } else { Err(Reason::Internal) }
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
