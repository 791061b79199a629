//! What the connections that connect() has sent to a backend come to, counted by client and VIP.

use crate::maps::EDGES;
use aya_ebpf::bindings::{BPF_ANY, BPF_TCP_CLOSE, BPF_TCP_ESTABLISHED, BPF_TCP_SYN_SENT};
use aya_ebpf::programs::SockOpsContext;
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use core::ptr::read_volatile;
use mesh_common::abi::{Dest, Diverted, Edge, EdgeKey};
use mesh_common::decide::l4::TCP;

/// `srtt_us` is in eighths.
const SRTT_SHIFT: u32 = 3;

/// A connection went from one state to another.
#[inline(always)]
pub(crate) fn turned(ctx: &SockOpsContext, diverted: &Diverted, from: u32, to: u32) {
    if to != BPF_TCP_CLOSE && (from != BPF_TCP_SYN_SENT || to != BPF_TCP_ESTABLISHED) {
        return;
    }
    let Some(edge) = edge(diverted) else { return };
    match (from, to) {
        (BPF_TCP_SYN_SENT, BPF_TCP_ESTABLISHED) => add(&raw mut edge.opened, 1),
        (BPF_TCP_SYN_SENT, BPF_TCP_CLOSE) => add(&raw mut edge.failed, 1),
        _ => {
            // SAFETY: fields of the context, which the kernel reads from the socket.
            let (sent, received, rtt) = unsafe {
                (
                    read_volatile(&raw const (*ctx.ops).bytes_acked),
                    read_volatile(&raw const (*ctx.ops).bytes_received),
                    read_volatile(&raw const (*ctx.ops).srtt_us),
                )
            };
            add(&raw mut edge.closed, 1);
            add(&raw mut edge.sent, sent as i64);
            add(&raw mut edge.received, received as i64);
            add(&raw mut edge.rtt, i64::from(rtt >> SRTT_SHIFT));
        }
    }
}

#[inline(always)]
fn edge(diverted: &Diverted) -> Option<&'static mut Edge> {
    let vip = Dest { addr: diverted.original.addr, port: diverted.original.port, proto: TCP, pad: 0 };
    let key = EdgeKey { client: diverted.client, vip, pad: 0 };
    if let Some(edge) = EDGES.get_ptr_mut(&key) {
        // SAFETY: an element of the map; its fields are only added to, atomically. One that is evicted meanwhile loses this one addition.
        return unsafe { edge.as_mut() };
    }
    let _ = EDGES.insert(&key, &Edge::default(), BPF_ANY.into());
    // SAFETY: as above.
    EDGES.get_ptr_mut(&key).and_then(|edge| unsafe { edge.as_mut() })
}

#[inline(always)]
fn add(field: *mut u64, by: i64) {
    // SAFETY: an aligned field of an element of the map, which everybody changes atomically.
    unsafe { atomic_xadd::<i64, i64, { AtomicOrdering::Relaxed }>(field.cast(), by) };
}
