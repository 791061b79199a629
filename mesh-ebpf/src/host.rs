//! Workloads on the node's own network: who they are, and how the listener learns what a connection was meant for.
//!
//! Their connections are rewritten to the mesh's listeners (`abi::host`). [`file`] notes what was asked for when the source port is known
//! and nothing is sent yet (`tcp_events.rs`); `getsockname` of the accepted socket shows it, so that the proxy sees the same as in a pod; `steer_node` gives
//! the thousands of addresses of a workload to its one listener.

use crate::emit::PROCEED;
use crate::maps::{HANDED, HOST, HOST_PODS, LISTENERS};
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, BPF_SK_LOOKUP_F_NO_REUSEPORT, bpf_sock, sk_action};
use aya_ebpf::helpers::{bpf_get_cgroup_classid, bpf_get_current_ancestor_cgroup_id};
use aya_ebpf::macros::{cgroup_sock_addr, sk_lookup};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};
use core::ptr::read_volatile;
use mesh_common::abi::{Addr, Dest, Diverted, HandedKey, Host, HostKey, ListenerKey, Pod, host, listener};
use mesh_common::decide::l4::TCP;
use mesh_common::ports;

use crate::context::{Family, address, remote_port, rewrite};

/// Are class ids asked for? The agent writes it before loading, where the kernel knows net_cls (`abi::host::CLASSES_GLOBAL`).
#[unsafe(no_mangle)]
pub(crate) static CLASSES: u32 = 0;

const AF_INET: u32 = 2;

/// The workload of the process that makes the call: by its cgroup, else by its class id.
#[inline(always)]
pub(crate) fn workload(ctx: &impl EbpfContext) -> Option<&'static Pod> {
    let host = settings()?;
    let mut i = 0;
    while i < host::LEVELS {
        let level = host.levels[i];
        if level == 0 || level > host::LEVEL_MAX {
            break;
        }
        // SAFETY: takes a number. 0 where the process is not that deep, which is nobody's id.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        // SAFETY: read within this program run, as `PODS_BY_NETNS` in `verdict.rs`.
        if let Some(pod) = unsafe { HOST_PODS.get(&HostKey::cgroup(id)) } {
            return Some(pod);
        }
        i += 1;
    }
    // SAFETY: a valid static; volatile, because the agent changes it behind the compiler's back.
    if unsafe { read_volatile(&raw const CLASSES) } == 0 {
        return None;
    }
    // SAFETY: reads the task; in these hooks the helper takes no argument.
    let class = unsafe { bpf_get_cgroup_classid(ctx.as_ptr().cast::<__sk_buff>()) };
    // SAFETY: as above.
    if class == 0 { None } else { unsafe { HOST_PODS.get(&HostKey::class(class)) } }
}

/// The workload with this slot, for sockets tagged with it.
#[inline(always)]
pub(crate) fn by_slot(slot: u32) -> Option<&'static Pod> {
    // SAFETY: as above.
    unsafe { HOST_PODS.get(&HostKey::slot(slot)) }
}

/// Does somebody of the node's own network dial the mesh's listeners there? They would be taken for whoever owns the address.
#[inline(always)]
pub(crate) fn is_listener(netns: u64, dest: &Dest) -> bool {
    host::is_listener(dest) && settings().is_some_and(|host| host.netns == netns)
}

/// Part of the self-check: how deep the cgroup lies that the agent takes for the root.
#[inline(always)]
pub(crate) fn measure() {
    let Some(host) = HOST.get_ptr_mut(0) else { return };
    let mut level = 0;
    while level <= host::LEVEL_MAX {
        // SAFETY: takes a number; the cell is the agent's, who waits for this call.
        unsafe {
            if bpf_get_current_ancestor_cgroup_id(level as i32) == (*host).root {
                (*host).depth = level + 1;
                return;
            }
        }
        level += 1;
    }
}

#[inline(always)]
fn settings() -> Option<&'static Host> {
    HOST.get(0).filter(|host| host.netns != 0)
}

/// Files what a connection was meant for that is handed over: its source port is known, and the SYN is not sent.
#[inline(always)]
pub(crate) fn file(ctx: &SockOpsContext, diverted: &Diverted) {
    let listener = ctx.remote_ip4().to_ne_bytes();
    let port = remote_port(ctx);
    if host::owner(listener).is_none() || (port != ports::OUTBOUND && port != ports::DNS) {
        return;
    }
    let client = ctx.local_ip4().to_ne_bytes();
    let key = HandedKey { client, listener, client_port: ctx.local_port() as u16, listener_port: port };
    // An LRU has room; if not, the listener finds nothing and refuses.
    let _ = HANDED.insert(&key, &diverted.original, 0);
}

#[cgroup_sock_addr(getsockname4)]
pub fn getsockname4(ctx: SockAddrContext) -> i32 {
    meant_for(&ctx, Family::V4)
}

#[cgroup_sock_addr(getsockname6)]
pub fn getsockname6(ctx: SockAddrContext) -> i32 {
    meant_for(&ctx, Family::V6)
}

/// An accepted socket shows what its client asked for. A connection that nobody handed over shows the listener's own address, and is refused.
#[inline(always)]
fn meant_for(ctx: &SockAddrContext, family: Family) -> i32 {
    let (local, listener_port) = address(ctx, family);
    let Some(listener) = local.to_v4().filter(|v4| host::owner(*v4).is_some()) else { return PROCEED };
    // SAFETY: the context's socket is valid during the call; each field is read by itself, as the verifier wants.
    let (client, client_port) = unsafe {
        let sk: *mut bpf_sock = (*ctx.sock_addr).__bindgen_anon_1.sk;
        if sk.is_null() {
            return PROCEED;
        }
        let port = u16::from_be(read_volatile(&raw const (*sk).dst_port));
        (read_volatile(&raw const (*sk).dst_ip4).to_ne_bytes(), port)
    };
    let key = HandedKey { client, listener, client_port, listener_port };
    // SAFETY: copied at once.
    if let Some(original) = unsafe { HANDED.get(&key) }.copied() {
        rewrite(ctx, family, &original.addr, original.port);
    }
    PROCEED
}

/// One instance, in the node's own network namespace.
#[sk_lookup]
pub fn steer_node(ctx: SkLookupContext) -> u32 {
    // SAFETY: the context is valid during the call.
    let lookup = unsafe { &*ctx.lookup };
    if lookup.protocol != u32::from(TCP) || lookup.family != AF_INET {
        return sk_action::SK_PASS;
    }
    let dest = Dest { addr: Addr::v4(lookup.local_ip4.to_ne_bytes()), port: lookup.local_port as u16, proto: TCP, pad: 0 };
    if !host::is_listener(&dest) {
        return sk_action::SK_PASS;
    }
    let Some((slot, v6)) = dest.addr.to_v4().and_then(host::owner) else { return sk_action::SK_PASS };
    let kind = match (dest.port == ports::DNS, v6) {
        (true, _) => listener::DNS_TCP_V4,
        (false, false) => listener::OUTBOUND_V4,
        (false, true) => listener::OUTBOUND_V6,
    };
    match LISTENERS.redirect_sk_lookup(&ctx, ListenerKey { slot, kind }, u64::from(BPF_SK_LOOKUP_F_NO_REUSEPORT)) {
        Ok(()) => sk_action::SK_PASS,
        Err(_) => sk_action::SK_DROP,
    }
}
