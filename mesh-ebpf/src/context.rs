//! Reading and writing `bpf_sock_addr`, both families alike.
//!
//! Fields are accessed one by one and volatile: LLVM would merge neighbours into wider accesses that the verifier refuses.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_setsockopt};
use aya_ebpf::programs::{SockAddrContext, SockOpsContext};
use core::ptr::{read_volatile, write_volatile};
use mesh_common::abi::{Addr, Dest};

const SOL_SOCKET: i32 = 1;
const SO_MARK: i32 = 36;

/// Which set of address fields the hook gives. A v4-mapped destination of an AF_INET6 socket comes as `V6` in connect and getpeername.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// Address and port in the context.
#[inline(always)]
pub(crate) fn address(ctx: &SockAddrContext, family: Family) -> (Addr, u16) {
    let sa = ctx.sock_addr;
    // SAFETY: the verifier has checked that the hook's type offers these fields.
    unsafe {
        let addr = match family {
            Family::V4 => Addr::v4(read_volatile(&raw const (*sa).user_ip4).to_ne_bytes()),
            Family::V6 => {
                let w0 = read_volatile(&raw const (*sa).user_ip6[0]).to_ne_bytes();
                let w1 = read_volatile(&raw const (*sa).user_ip6[1]).to_ne_bytes();
                let w2 = read_volatile(&raw const (*sa).user_ip6[2]).to_ne_bytes();
                let w3 = read_volatile(&raw const (*sa).user_ip6[3]).to_ne_bytes();
                Addr([
                    w0[0], w0[1], w0[2], w0[3], w1[0], w1[1], w1[2], w1[3], w2[0], w2[1], w2[2], w2[3], w3[0], w3[1], w3[2],
                    w3[3],
                ])
            }
        };
        (addr, u16::from_be(read_volatile(&raw const (*sa).user_port) as u16))
    }
}

/// What the application asks for.
#[inline(always)]
pub(crate) fn destination(ctx: &SockAddrContext, family: Family) -> Dest {
    let (addr, port) = address(ctx, family);
    // SAFETY: as above.
    let proto = unsafe { read_volatile(&raw const (*ctx.sock_addr).protocol) } as u8;
    Dest { addr, port, proto, pad: 0 }
}

/// Replaces address and port. False if the address is of a family that this socket cannot take.
#[inline(always)]
pub(crate) fn rewrite(ctx: &SockAddrContext, family: Family, addr: &Addr, port: u16) -> bool {
    let sa = ctx.sock_addr;
    // SAFETY: the verifier has checked that the hook's type may write these fields.
    unsafe {
        match family {
            Family::V4 => {
                let Some(v4) = addr.to_v4() else { return false };
                write_volatile(&raw mut (*sa).user_ip4, u32::from_ne_bytes(v4));
            }
            Family::V6 => {
                let a = addr.0;
                write_volatile(&raw mut (*sa).user_ip6[0], u32::from_ne_bytes([a[0], a[1], a[2], a[3]]));
                write_volatile(&raw mut (*sa).user_ip6[1], u32::from_ne_bytes([a[4], a[5], a[6], a[7]]));
                write_volatile(&raw mut (*sa).user_ip6[2], u32::from_ne_bytes([a[8], a[9], a[10], a[11]]));
                write_volatile(&raw mut (*sa).user_ip6[3], u32::from_ne_bytes([a[12], a[13], a[14], a[15]]));
            }
        }
        write_volatile(&raw mut (*sa).user_port, u32::from(port.to_be()));
    }
    true
}

/// Writes the socket's mark.
#[inline(always)]
pub(crate) fn set_mark(ctx: &SockAddrContext, mark: u32) -> bool {
    let mut value = mark;
    // SAFETY: the value outlives the call, and its length is given.
    unsafe { bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_MARK, (&raw mut value).cast(), 4) == 0 }
}

/// A number that names this socket for its whole life.
#[inline(always)]
pub(crate) fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: reads the context only.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// The other side's port, host order: the context has it in network order, in whichever half of the word this machine's byte order puts it.
#[inline(always)]
pub(crate) fn remote_port(ctx: &SockOpsContext) -> u16 {
    u32::from_be(ctx.remote_port()) as u16
}
