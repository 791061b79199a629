//! getpeername(): a socket that connect() rewrote shows what the application asked for.

use crate::context::{Family, rewrite};
use crate::emit::PROCEED;
use crate::maps::ORIGINALS;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    restore(&ctx, Family::V4)
}

/// Also for AF_INET6 sockets with a v4-mapped peer.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    restore(&ctx, Family::V6)
}

#[inline(always)]
fn restore(ctx: &SockAddrContext, family: Family) -> i32 {
    // SAFETY: the context's socket is valid during the call; the value is copied.
    if let Some(diverted) = unsafe { ORIGINALS.get_ptr_mut(ctx).as_ref() }.copied() {
        rewrite(ctx, family, &diverted.original.addr, diverted.original.port);
    }
    PROCEED
}
