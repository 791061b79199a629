//! Connections from outside that the proxy takes for a pod's application: it dials the application beside which it stands, and the application
//! sees the client.
//!
//! The proxy binds the socket with which it dials to its client's address. That address is another machine's: the bind hook notes it and binds to
//! none. Before the SYN, when the source port is known, it is filed by the connection's addresses; at the other end, which is in the same
//! namespace, it goes over to the accepted socket, whose getpeername() and accept() show it (`peername.rs`). Nothing is routed and no
//! address is anybody else's, so there is no way back to be prepared.

use crate::context::{Family, address, remote_port, rewrite};
use crate::emit::{PROCEED, REFUSE};
use crate::maps::{CLIENTS, DIALLED, INBOUND, LISTENS, ORIGINALS, PODS_BY_NETNS, TAGS};
use crate::tcp_events::socket;
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_sk_storage_get};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::{SockAddrContext, SockOpsContext};
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::ptr::{null_mut, read_volatile};
use mesh_common::abi::{Addr, DialledKey, Diverted, InboundKey, NO_CELL, Original, silent};

const AF_INET: u32 = 2;

#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    bind(&ctx, Family::V4)
}

#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    bind(&ctx, Family::V6)
}

/// Of brokered sockets only: nobody but the agent can make one.
#[inline(always)]
fn bind(ctx: &SockAddrContext, family: Family) -> i32 {
    // SAFETY: the context's socket is valid during the call.
    if unsafe { TAGS.get_ptr_mut(ctx) }.is_null() {
        return PROCEED;
    }
    let (addr, port) = address(ctx, family);
    let mut client = Original { addr, port, pad: 0 };
    // SAFETY: the context's socket is valid during the call; the value that may be there is written whole.
    let noted = unsafe {
        match CLIENTS.get_or_insert_ptr_mut(ctx, Some(&mut client)).as_mut() {
            Some(cell) => {
                *cell = client;
                true
            }
            None => false,
        }
    };
    let nobody = match family {
        Family::V4 => Addr::v4([0; 4]),
        Family::V6 => Addr([0; 16]),
    };
    if noted && rewrite(ctx, family, &nobody, 0) { PROCEED } else { REFUSE }
}

/// A connection begins that connect() left alone. If the proxy makes it as somebody, says so to its other end.
#[inline(always)]
pub(crate) fn dialled(ctx: &SockOpsContext) {
    let Some(addr) = to_itself(ctx) else { return };
    let Some(sk) = socket(ctx) else { return };
    // SAFETY: the socket is valid during the call; the value is copied.
    let client = unsafe {
        let value = bpf_sk_storage_get((&raw const CLIENTS).cast_mut().cast(), sk.cast(), null_mut(), 0).cast::<Original>();
        value.as_ref().copied()
    };
    let Some(client) = client else { return };
    let key = key(ctx, addr, ctx.local_port() as u16, remote_port(ctx));
    // An LRU has room; if not, the application sees the pod's own address.
    let _ = DIALLED.insert(&key, &client, 0);
}

/// A connection was accepted. accept() returns after this.
#[inline(always)]
pub(crate) fn accepted(ctx: &SockOpsContext) {
    let Some(addr) = to_itself(ctx) else { return };
    let key = key(ctx, addr, remote_port(ctx), ctx.local_port() as u16);
    // SAFETY: copied at once.
    let Some(client) = unsafe { DIALLED.get(&key) }.copied() else { return };
    let _ = DIALLED.remove(&key);
    let Some(sk) = socket(ctx) else { return };
    let to = Original { addr, port: key.port, pad: 0 };
    let mut shown = Diverted { original: client, to, cell: NO_CELL, stamp: 0, client: 0 };
    // SAFETY: the socket is valid during the call, and the value outlives the call that copies it.
    unsafe {
        let map = (&raw const ORIGINALS).cast_mut().cast();
        bpf_sk_storage_get(map, sk.cast(), (&raw mut shown).cast(), BPF_SK_STORAGE_GET_F_CREATE.into());
    }
}

/// Somebody listens: if the port is one that the proxy takes, connections are captured from now on.
#[inline(always)]
pub(crate) fn listens(ctx: &SockOpsContext) {
    // SAFETY: reads the context only.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: read within this program run.
    let Some(pod) = (unsafe { PODS_BY_NETNS.get(&netns) }) else { return };
    let key = InboundKey { slot: pod.slot, port: ctx.local_port() as u16, pad: 0 };
    if let Some(count) = LISTENS.get_ptr_mut(&key) {
        // SAFETY: an aligned cell of the map, which programs only add to.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(count, 1) };
    }
}

/// Does the proxy take what comes from outside to this port of the pod? Not while nobody listens there: the kernel refuses then, as without
/// the mesh.
#[inline(always)]
pub(crate) fn takes(slot: u32, port: u16) -> bool {
    let key = InboundKey { slot, port, pad: 0 };
    // SAFETY: each value is one aligned word, copied at once.
    let (noted, count) = unsafe {
        let Some(noted) = INBOUND.get(&key).copied() else { return false };
        (noted, LISTENS.get(&key).copied().unwrap_or_default())
    };
    noted != silent(count)
}

/// The address of both ends, if it is one: so is every connection from the proxy to the application beside it.
#[inline(always)]
fn to_itself(ctx: &SockOpsContext) -> Option<Addr> {
    if ctx.family() == AF_INET {
        let remote = ctx.remote_ip4();
        return if ctx.local_ip4() == remote { Some(Addr::v4(remote.to_ne_bytes())) } else { None };
    }
    // SAFETY: the context is valid during the call.
    let (local, remote) = unsafe { (words(&raw const (*ctx.ops).local_ip6), words(&raw const (*ctx.ops).remote_ip6)) };
    if local == remote { Some(remote) } else { None }
}

/// An address of a socket that can show IPv6; of a v4-mapped one it is `::ffff:a.b.c.d`.
#[inline(always)]
fn words(words: *const [u32; 4]) -> Addr {
    let word = |i: usize| {
        // SAFETY: four words of the context; each read by itself, as the verifier wants.
        unsafe { read_volatile(words.cast::<u32>().add(i)) }.to_ne_bytes()
    };
    let (a, b, c, d) = (word(0), word(1), word(2), word(3));
    Addr([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]])
}

#[inline(always)]
fn key(ctx: &SockOpsContext, addr: Addr, client_port: u16, port: u16) -> DialledKey {
    // SAFETY: reads the context only.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    DialledKey { netns, addr, client_port, port, pad: 0 }
}
