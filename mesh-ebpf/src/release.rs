//! The end of a socket: its connection no longer counts for the backend that it had.

use crate::emit::PROCEED;
use crate::loads;
use crate::maps::ORIGINALS;
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_sk_storage_get;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use core::ptr::null_mut;
use mesh_common::abi::Diverted;

/// When the last descriptor of the socket is closed, by whomever.
#[cgroup_sock(sock_release)]
pub fn release(ctx: SockContext) -> i32 {
    // SAFETY: the context is the socket, valid during the call; the value is copied.
    let diverted = unsafe {
        let value = bpf_sk_storage_get((&raw const ORIGINALS).cast_mut().cast(), ctx.as_ptr(), null_mut(), 0).cast::<Diverted>();
        value.as_ref().copied()
    };
    if let Some(diverted) = diverted {
        loads::leave(&diverted);
    }
    PROCEED
}
