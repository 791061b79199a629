//! Requests of netlink, written out: a blocking socket inside a visiting thread needs no runtime. Knows messages and attributes, never
//! what they are about.

use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use std::io;
use std::os::fd::AsRawFd;

const HEADER: usize = 16;
/// Without the flags for nested attributes and byte order.
const TYPE_MASK: u16 = 0x3fff;
/// Larger than any message that the kernel writes into a dump.
const ANSWER: usize = 64 * 1024;

/// A message to the kernel.
pub(super) struct Request(Vec<u8>);

impl Request {
    /// With the fixed part of its body. What is no dump is acknowledged, so that every answer has an end.
    pub(super) fn new(kind: u16, flags: i32, body: &[u8]) -> Self {
        let end = if flags & libc::NLM_F_DUMP == libc::NLM_F_DUMP { 0 } else { libc::NLM_F_ACK };
        let flags = (libc::NLM_F_REQUEST | end | flags) as u16;
        // The length is written when it is known.
        let mut message = vec![0; 4];
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        // One request on a socket of its own: number 1, from nobody in particular.
        message.extend_from_slice(&1u32.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(body);
        Self(message)
    }

    /// With an attribute more.
    pub(super) fn with(mut self, kind: u16, content: &[u8]) -> Self {
        self.0.extend_from_slice(&(content.len() as u16 + 4).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Asks about routes and links, and hands out the answer's messages: type and body.
    pub(super) fn ask(self, hear: impl FnMut(u16, &[u8])) -> io::Result<()> {
        self.ask_of(SockProtocol::NetlinkRoute, hear)
    }

    /// Asks a part of the kernel.
    pub(super) fn ask_of(mut self, of: SockProtocol, mut hear: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, of)?;
        sendto(netlink.as_raw_fd(), &self.0, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut buffer = vec![0; ANSWER];
        loop {
            let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some(head) = rest.get(..HEADER) {
                let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
                let kind = u16::from_ne_bytes([head[4], head[5]]);
                let body = rest.get(HEADER..length).ok_or_else(short)?;
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    // The negated errno, 0 for an acknowledgement.
                    libc::NLMSG_ERROR => return number(body).map_or_else(|| Err(short()), said),
                    _ => hear(kind, body),
                }
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn said(code: i32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

fn short() -> io::Error {
    io::Error::other("the kernel's netlink answer is too short")
}

/// The attributes in a body behind its fixed part, or nested in another.
pub(super) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = rest.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first four bytes.
pub(super) fn number(value: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let request = Request::new(7, 0, &[9; 4]).with(1, b"odd").with(2, &5i32.to_ne_bytes()).with(3 | 0x8000, &[]);
        let body = &request.0[HEADER + 4..];
        assert_eq!(body.len() % 4, 0);
        let read: Vec<_> = attributes(body).collect();
        assert_eq!(read, [(1, &b"odd"[..]), (2, &5i32.to_ne_bytes()), (3, &[])]);
        assert_eq!(number(read[1].1), Some(5));
        assert_eq!(attributes(&body[..5]).count(), 0, "one that is cut off is none");
    }

    #[test]
    fn only_dumps_end_without_an_acknowledgement() {
        let flags = |request: &Request| i32::from(u16::from_ne_bytes([request.0[6], request.0[7]]));
        assert_eq!(flags(&Request::new(7, libc::NLM_F_CREATE, &[])) & libc::NLM_F_ACK, libc::NLM_F_ACK);
        assert_eq!(flags(&Request::new(7, libc::NLM_F_DUMP, &[])) & libc::NLM_F_ACK, 0);
    }
}
