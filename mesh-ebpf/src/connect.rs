//! connect(): the decision once per connection, and once per connected UDP socket.

use crate::context::{Family, address, destination, rewrite, set_mark};
use crate::datagram::file;
use crate::emit::{self, proceed, refuse};
use crate::host;
use crate::loads;
use crate::maps::{LEARNED, ORIGINALS};
use crate::verdict::{Caller, judged};
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock_tuple;
use aya_ebpf::helpers::{bpf_sk_lookup_tcp, bpf_sk_release};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::abi::{self, Addr, Dest, Diverted, Endpoint, NO_CELL, Original, dns, probe};
use mesh_common::decide::l4::{TCP, UDP, Verdict};
use mesh_common::ports;
use mesh_common::reason::{Passed, Reason, Steered};

/// `BPF_F_CURRENT_NETNS`: the namespace of the socket in the context.
const CURRENT_NETNS: u64 = -1i32 as u64;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Family::V4)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Family::V6)
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    let dest = destination(ctx, family);
    if is_probe(&dest) {
        // The linker drops what nothing refers to (`#[used]` would put the map into a section of its own, for which BTF has no place).
        core::hint::black_box(&LEARNED);
        host::measure();
        return emit::end(probe::ERRNO);
    }
    let caller = Caller::of(ctx);
    let done = match caller.decide(dest) {
        Verdict::Pass(why) => settle(ctx, &caller, 0).and_then(|()| {
            if why == Passed::Audited {
                emit::audit(caller.slot(), &dest);
            }
            match why {
                // Never on the wire.
                Passed::Loopback | Passed::OwnAddress => Ok(why.code()),
                _ => judged(ctx, &caller, &dest).map(|()| why.code()),
            }
        }),
        Verdict::Proxy => hand_over(ctx, family, &caller, &dest, ports::OUTBOUND).map(|()| Steered::Proxy.code()),
        Verdict::Dns => to_dns(ctx, family, &caller, &dest).map(|()| Steered::Dns.code()),
        Verdict::Backend(service) => match loads::choose(&service, &caller) {
            Some(backend) => {
                let dest = Dest { addr: backend.addr, port: backend.port, ..dest };
                let endpoint = Endpoint { cell: backend.cell, stamp: backend.stamp };
                let done = divert(ctx, family, &caller, &dest, endpoint).and_then(|()| judged(ctx, &caller, &dest));
                done.map(|()| Steered::Backend.code())
            }
            None => Err(Reason::Internal),
        },
        Verdict::Deny(reason) => Err(reason),
    };
    match done {
        Ok(code) => proceed(code, &dest, caller.slot()),
        Err(reason) => refuse(reason, &dest, caller.slot()),
    }
}

#[inline(always)]
fn is_probe(dest: &Dest) -> bool {
    dest.port == probe::PORT && dest.addr == Addr::v4(probe::ADDR)
}

/// The destination stays: writes the mark, and forgets what an earlier connect() of this socket was rewritten from.
///
/// The mark of a process outside the mesh, or on the node's own network, is its own business; a pod's is written even to 0, since a socket may
/// be connected again.
#[inline(always)]
fn settle(ctx: &SockAddrContext, caller: &Caller, mark: u32) -> Result<(), Reason> {
    // SAFETY: the context's socket is valid during the call.
    unsafe {
        if let Some(diverted) = ORIGINALS.get_ptr_mut(ctx).as_ref().copied() {
            loads::leave(&diverted);
            let _ = ORIGINALS.delete((*ctx.sock_addr).__bindgen_anon_1.sk);
        }
    }
    if caller.pod.is_some() && !caller.on_host && !set_mark(ctx, mark) { Err(Reason::Internal) } else { Ok(()) }
}

#[inline(always)]
fn to_dns(ctx: &SockAddrContext, family: Family, caller: &Caller, dest: &Dest) -> Result<(), Reason> {
    let Some(server) = dest.addr.to_v4() else { return Err(Reason::Ipv6Dns) };
    match dest.proto {
        TCP => hand_over(ctx, family, caller, dest, ports::DNS),
        UDP => {
            let (addr, port) = if caller.on_host { dns::of_host(caller.slot()) } else { dns::redirect(server) };
            divert(ctx, family, caller, &Dest { addr, port, ..*dest }, Endpoint { cell: NO_CELL, stamp: 0 })
        }
        _ => Err(Reason::Internal),
    }
}

/// Marks the socket, so that the pod's policy rule delivers it locally and `steer` gives it to a listener. Asks first whether there is
/// one: without, IPv4 would hang, because the kernel cannot route a reset from a foreign address.
///
/// On the node's own network there is no such rule: the connection is rewritten to the workload's listener.
#[inline(always)]
fn hand_over(ctx: &SockAddrContext, family: Family, caller: &Caller, dest: &Dest, port: u16) -> Result<(), Reason> {
    if caller.on_host {
        let at = abi::host::handed(caller.slot(), dest);
        if !listens_v4(ctx, at, port) {
            return Err(Reason::ProxyGone);
        }
        return divert(ctx, family, caller, &Dest { addr: Addr::v4(at), port, ..*dest }, Endpoint { cell: NO_CELL, stamp: 0 });
    }
    let v4 = dest.addr.to_v4();
    let listening = if v4.is_some() { listens_v4(ctx, [127, 0, 0, 1], port) } else { listens_v6(ctx, port) };
    if !listening {
        return Err(Reason::ProxyGone);
    }
    settle(ctx, caller, ports::CAPTURE_MARK)
}

#[inline(always)]
fn listens_v4(ctx: &SockAddrContext, addr: [u8; 4], port: u16) -> bool {
    // bpf_sock_tuple.ipv4: source and destination address, source and destination port.
    let tuple = [0, u32::from_ne_bytes(addr), u32::from(port.to_be()) << 16];
    listens(ctx, tuple.as_ptr().cast(), 12)
}

#[inline(always)]
fn listens_v6(ctx: &SockAddrContext, port: u16) -> bool {
    let tuple = [0, 0, 0, 0, 0, 0, 0, 1u32.to_be(), u32::from(port.to_be()) << 16];
    listens(ctx, tuple.as_ptr().cast(), 36)
}

#[inline(always)]
fn listens(ctx: &SockAddrContext, tuple: *const bpf_sock_tuple, length: u32) -> bool {
    // SAFETY: the tuple is `length` bytes long and outlives the call; the reference is given back.
    unsafe {
        let sk = bpf_sk_lookup_tcp(ctx.as_ptr(), tuple.cast_mut(), length, CURRENT_NETNS, 0);
        if sk.is_null() {
            return false;
        }
        bpf_sk_release(sk.cast());
    }
    true
}

/// Rewrites the destination, remembers what was asked for, and counts the connection for its backend.
#[inline(always)]
fn divert(ctx: &SockAddrContext, family: Family, caller: &Caller, to: &Dest, endpoint: Endpoint) -> Result<(), Reason> {
    let (addr, asked_port) = address(ctx, family);
    settle(ctx, caller, 0)?;
    let original = Original { addr, port: asked_port, pad: 0 };
    let Endpoint { cell, stamp } = endpoint;
    let to_place = Original { addr: to.addr, port: to.port, pad: 0 };
    let mut diverted = Diverted { original, to: to_place, cell, stamp, client: caller.client() };
    // SAFETY: the context's socket is valid during the call.
    if unsafe { ORIGINALS.get_or_insert_ptr_mut(ctx, Some(&mut diverted)) }.is_null() {
        return Err(Reason::MapFull);
    }
    loads::add(endpoint, 1);
    if to.proto == UDP && cell != NO_CELL && !file(ctx, to, &original) {
        return Err(Reason::MapFull);
    }
    if rewrite(ctx, family, &to.addr, to.port) { Ok(()) } else { Err(Reason::Internal) }
}
