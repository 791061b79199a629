//! sk_lookup: gives captured connections, those that leave the pod and those that come to it, to the pod's listeners. One instance per pod, told whose it is by a read-only global, so that
//! it does not depend on addresses being unique on the node.
//!
//! Addresses stay as they were: `getsockname` on the accepted socket is the original destination.

use crate::inbound;
use crate::maps::{CONFIG, LISTENERS};
use aya_ebpf::bindings::{BPF_SK_LOOKUP_F_NO_REUSEPORT, sk_action};
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use core::ptr::read_volatile;
use mesh_common::abi::{Addr, ListenerKey, Pod, egress, listener};
use mesh_common::decide::l4::TCP;
use mesh_common::ports;

/// Whose instance this is: the agent writes it before loading (`abi::POD_GLOBAL`).
#[unsafe(no_mangle)]
pub(crate) static POD: Pod = Pod { slot: u32::MAX, policy: 0, addr4: Addr([0; 16]), addr6: Addr([0; 16]), outbound: egress::OF_MESH };

const AF_INET: u32 = 2;

#[sk_lookup]
pub fn steer(ctx: SkLookupContext) -> u32 {
    // SAFETY: the context is valid during the call.
    let lookup = unsafe { &*ctx.lookup };
    if lookup.protocol != u32::from(TCP) {
        return sk_action::SK_PASS;
    }
    let v4 = lookup.family == AF_INET;
    let (local, remote) = if v4 {
        (Addr::v4(lookup.local_ip4.to_ne_bytes()), Addr::v4(lookup.remote_ip4.to_ne_bytes()))
    } else {
        (address(&raw const lookup.local_ip6), address(&raw const lookup.remote_ip6))
    };
    // SAFETY: a valid static; volatile, because the agent changes it behind the compiler's back.
    let pod = unsafe { read_volatile(&raw const POD) };
    let domain = lookup.local_port == u32::from(ports::DOMAIN);
    let kind = if is_captured(&pod, &local, &remote, lookup.ingress_ifindex, domain) {
        match (v4, domain) {
            (true, false) => listener::OUTBOUND_V4,
            (true, true) => listener::DNS_TCP_V4,
            (false, false) => listener::OUTBOUND_V6,
            (false, true) => listener::DNS_TCP_V6,
        }
    } else if is_from_outside(&pod, &local, &remote, lookup.ingress_ifindex) && inbound::takes(pod.slot, lookup.local_port as u16) {
        if v4 { listener::INBOUND_V4 } else { listener::INBOUND_V6 }
    } else {
        return sk_action::SK_PASS;
    };
    // The exact socket: while an old agent's listener and a new one's share the port, the group must not choose.
    match LISTENERS.redirect_sk_lookup(&ctx, ListenerKey { slot: pod.slot, kind }, u64::from(BPF_SK_LOOKUP_F_NO_REUSEPORT)) {
        Ok(()) => sk_action::SK_PASS,
        Err(_) => sk_action::SK_DROP,
    }
}

/// A connection that left this pod and came back by the capture route (which leads over lo): it comes from the pod itself, whatever
/// address it was bound to, and not to the pod itself; or it asks for DNS, which the decision takes at any address, Docker's 127.0.0.11
/// included. Loopback and link-local are none of our business.
#[inline(always)]
fn is_captured(pod: &Pod, local: &Addr, remote: &Addr, ingress_ifindex: u32, domain: bool) -> bool {
    let to_here = is_own(pod, local) || local.is_loopback() || is_link_local(local);
    is_from_here(pod, remote, ingress_ifindex) && (domain || !to_here)
}

/// A connection to the pod that neither the pod makes (its executor, which checks its health, shares its namespace), nor the proxy to the
/// application beside it, nor its own node, which looks after it.
#[inline(always)]
fn is_from_outside(pod: &Pod, local: &Addr, remote: &Addr, ingress_ifindex: u32) -> bool {
    let from_node = CONFIG.get(0).is_some_and(|config| config.node == *remote);
    is_own(pod, local) && !from_node && !is_from_here(pod, remote, ingress_ifindex)
}

#[inline(always)]
fn is_from_here(pod: &Pod, remote: &Addr, ingress_ifindex: u32) -> bool {
    /// The loopback device is the first of every namespace (`LOOPBACK_IFINDEX`).
    const LO: u32 = 1;
    is_own(pod, remote) || remote.is_loopback() || ingress_ifindex == LO
}

#[inline(always)]
fn is_own(pod: &Pod, addr: &Addr) -> bool {
    *addr == pod.addr4 || *addr == pod.addr6
}

#[inline(always)]
fn is_link_local(addr: &Addr) -> bool {
    addr.0[0] == 0xfe && addr.0[1] & 0xc0 == 0x80
}

#[inline(always)]
fn address(words: *const [u32; 4]) -> Addr {
    let word = |i: usize| {
        // SAFETY: four words of the context; each read by itself, as the verifier wants.
        unsafe { read_volatile(words.cast::<u32>().add(i)) }.to_ne_bytes()
    };
    let (a, b, c, d) = (word(0), word(1), word(2), word(3));
    Addr([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]])
}
