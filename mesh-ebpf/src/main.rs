//! The kernel half of the mesh. Each program looks up, asks [`mesh_common::decide::l4`], acts and counts; none decides.
//!
//! | program | hook | file |
//! |---|---|---|
//! | `connect4`, `connect6` | cgroup connect | `connect.rs` |
//! | `sendmsg4`, `sendmsg6`, `recvmsg4`, `recvmsg6` | cgroup UDP | `datagram.rs` |
//! | `tcp_events` | sockops | `tcp_events.rs` (what they come to: `edges.rs`, `host.rs`, `inbound.rs`) |
//! | `bind4`, `bind6` | cgroup bind | `inbound.rs` |
//! | `create`, `release` | cgroup socket creation and release | `create.rs`, `release.rs` |
//! | `getpeername4`, `getpeername6` | cgroup | `peername.rs` |
//! | `from_pod`, `to_pod` | tc at the host's end of the veth, one instance per pod | `guard.rs` |
//! | `getsockname4`, `getsockname6` | cgroup | `host.rs` |
//! | `steer_node` | sk_lookup, the node's own namespace | `host.rs` |
//! | `judge` | none: asked by tests | `judge.rs` |
//! | `steer` | sk_lookup, one instance per pod | `steer.rs` |

#![no_std]
#![no_main]
// One instruction, in `loads.rs`. Whatever builds this crate is a nightly or is told to behave like one, since it builds `core` too.
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "there is no other way to it")]

mod connect;
mod context;
mod create;
mod datagram;
mod edges;
mod emit;
mod guard;
mod host;
mod inbound;
mod judge;
mod loads;
mod maps;
mod peername;
mod reject;
mod release;
mod steer;
mod tcp_events;
mod verdict;

/// Found by the agent in the object before it loads it.
#[used]
#[unsafe(no_mangle)]
static MESH_ABI: [u8; 12] = mesh_common::abi::ABI_MARKER;

/// Never reached: the verifier refuses a program that could get here, because the loop has no end.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
