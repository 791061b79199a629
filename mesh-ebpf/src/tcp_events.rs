//! sockops: one program for all that happens to TCP sockets. Every connection calls it before its SYN and when it was accepted, every listener
//! once; only connections that are counted ask for more.

use crate::maps::ORIGINALS;
use crate::{edges, host, inbound};
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
    BPF_SOCK_OPS_TCP_LISTEN_CB, bpf_sock,
};
use aya_ebpf::helpers::bpf_sk_storage_get;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use core::ptr::{null_mut, read_volatile};
use mesh_common::abi::{Diverted, NO_CELL};

#[sock_ops]
pub fn tcp_events(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => match diverted(&ctx) {
            Some(diverted) if diverted.cell != NO_CELL => {
                let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
            }
            Some(diverted) => host::file(&ctx, &diverted),
            None => inbound::dialled(&ctx),
        },
        BPF_SOCK_OPS_STATE_CB => {
            if let Some(diverted) = diverted(&ctx) {
                edges::turned(&ctx, &diverted, ctx.arg(0), ctx.arg(1));
            }
        }
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => inbound::accepted(&ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => inbound::listens(&ctx),
        _ => {}
    }
    1
}

/// The socket in question.
#[inline(always)]
pub(crate) fn socket(ctx: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: the context is valid during the call; the pointer is checked.
    let sk = unsafe { read_volatile(&raw const (*ctx.ops).__bindgen_anon_2.sk) };
    if sk.is_null() { None } else { Some(sk) }
}

/// What connect() has filed on it.
#[inline(always)]
fn diverted(ctx: &SockOpsContext) -> Option<Diverted> {
    let sk = socket(ctx)?;
    // SAFETY: the socket is valid during the call; the value is copied.
    unsafe {
        let value = bpf_sk_storage_get((&raw const ORIGINALS).cast_mut().cast(), sk.cast(), null_mut(), 0).cast::<Diverted>();
        value.as_ref().copied()
    }
}
