//! The answer to a connection that the guard of a veth does not let out: a reset, as if the other side refused, so that nobody waits. Only for
//! what begins a connection: its sender is one that waits, and its packet has room for the answer.

use crate::guard::LINK;
use aya_ebpf::bindings::TC_ACT_REDIRECT;
use aya_ebpf::helpers::bpf_redirect;
use aya_ebpf::programs::TcContext;
use core::ptr::read_volatile;
use mesh_common::decide::l4::TCP;

/// The checksum of TCP, from the beginning of its header.
const CHECKSUM: usize = 16;
/// Bytes that a checksum is told of at once.
const WORD: u64 = 4;

/// Turns the packet, a SYN, into its refusal and sends it back by the device that it came by. `None` if it cannot be.
#[inline(always)]
pub(crate) fn reset(ctx: &TcContext) -> Option<i32> {
    let tcp = match ctx.load::<[u8; 2]>(12).ok()? {
        [0x08, 0x00] => {
            let ([from, to], proto) = (ctx.load::<[[u8; 4]; 2]>(LINK + 12).ok()?, ctx.load::<u8>(LINK + 9).ok()?);
            (proto == TCP).then_some(())?;
            ctx.store(LINK + 12, &[to, from], 0).ok()?;
            LINK + 20
        }
        _ => {
            let ([from, to], proto) = (ctx.load::<[[u8; 16]; 2]>(LINK + 8).ok()?, ctx.load::<u8>(LINK + 6).ok()?);
            (proto == TCP).then_some(())?;
            ctx.store(LINK + 8, &[to, from], 0).ok()?;
            LINK + 40
        }
    };
    let [from, to]: [[u8; 6]; 2] = ctx.load(0).ok()?;
    ctx.store(0, &[to, from], 0).ok()?;
    // Addresses and ports that change places leave the checksum as it is.
    let [from, to]: [[u8; 2]; 2] = ctx.load(tcp).ok()?;
    ctx.store(tcp, &[to, from], 0).ok()?;
    let sequence: u32 = ctx.load(tcp + 4).ok()?;
    let [length, flags, window, more]: [u8; 4] = ctx.load(tcp + 12).ok()?;
    let asked = u32::from_ne_bytes([length, flags, window, more]);
    const RESET_ACK: u8 = 0x14;
    let refused = u32::from_ne_bytes([length, RESET_ACK, window, more]);
    change(ctx, tcp, 4, sequence, 0)?;
    let acknowledged: u32 = ctx.load(tcp + 8).ok()?;
    change(ctx, tcp, 8, acknowledged, u32::from_be(sequence).wrapping_add(1).to_be())?;
    change(ctx, tcp, 12, asked, refused)?;
    // SAFETY: a field of the context; the helper only notes where the packet goes.
    unsafe {
        let device = read_volatile(&raw const (*ctx.skb.skb).ifindex);
        let sent = bpf_redirect(device, 0) as i32;
        (sent == TC_ACT_REDIRECT as i32).then_some(sent)
    }
}

/// One word of the header, in network order. A checksum that is still to be made (an application's own packet) stays so.
#[inline(always)]
fn change(ctx: &TcContext, tcp: usize, at: usize, from: u32, to: u32) -> Option<()> {
    ctx.store(tcp + at, &to, 0).ok()?;
    ctx.l4_csum_replace(tcp + CHECKSUM, u64::from(from), u64::from(to), WORD).ok()
}
