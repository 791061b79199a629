//! socket(): workloads on the node's own network make no raw sockets. What these send passes no other hook, and no veth lies between such a
//! workload and the node, at which a guard could judge it.
//!
//! Sockets of `AF_PACKET` pass no hook of cgroups at all.

use crate::emit::{PROCEED, refuse};
use crate::host;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use core::ptr::read_volatile;
use mesh_common::abi::Dest;
use mesh_common::reason::Reason;

const SOCK_RAW: u32 = 3;

#[cgroup_sock(sock_create)]
pub fn create(ctx: SockContext) -> i32 {
    // SAFETY: the context is the socket, valid during the call; each field is read by itself, as the verifier wants.
    let (kind, proto) = unsafe { (read_volatile(&raw const (*ctx.sock).type_), read_volatile(&raw const (*ctx.sock).protocol)) };
    if kind != SOCK_RAW {
        return PROCEED;
    }
    match host::workload(&ctx) {
        // To nobody yet: the socket's protocol is what there is to tell.
        Some(pod) => refuse(Reason::Bypass, &Dest { proto: proto as u8, ..Dest::default() }, pod.slot),
        None => PROCEED,
    }
}
