//! What a test asks the program `judge`, which answers with `decide::l4::Verdict::code`.

use super::{Dest, Pod};

/// A flow, as `decide::l4::Flow` has it; behind an Ethernet header of zeros, without which the kernel runs no tc program.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Question {
    /// Where to.
    pub dest: Dest,
    /// Who, if it is enrolled.
    pub pod: Pod,
    /// 1 if the pod counts.
    pub enrolled: u8,
    /// 1 for a socket of the proxy.
    pub brokered: u8,
    /// Always zero.
    pub pad: [u8; 2],
}

impl Question {
    /// Bytes before it.
    pub const OFFSET: usize = 14;
    /// Bytes of it.
    pub const LENGTH: usize = size_of::<Self>();

    /// As the program reads it.
    #[cfg(feature = "user")]
    #[must_use]
    pub fn packet(&self) -> [u8; Self::OFFSET + Self::LENGTH] {
        let mut packet = [0; Self::OFFSET + Self::LENGTH];
        // SAFETY: plain data without padding (asserted below), as many bytes as it has.
        let bytes: [u8; Self::LENGTH] = unsafe { core::mem::transmute(*self) };
        packet[Self::OFFSET..].copy_from_slice(&bytes);
        packet
    }
}

const _: () = assert!(Question::LENGTH == 20 + 44 + 4);
