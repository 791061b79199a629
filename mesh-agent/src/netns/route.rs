//! The capture route of a pod: `ip rule fwmark CAPTURE_MARK lookup 15001` and `ip route local default dev lo src POD table 15001`.
//!
//! Four netlink messages, written out: a blocking socket inside a visiting thread needs no runtime. Must run inside the pod's namespace.

use mesh_common::ports;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

/// Before `main` (32766), after `local` (0): what is local stays local.
const RULE_PRIORITY: u32 = 15_001;
/// Index of `lo`, the first interface of every namespace.
const LOOPBACK: u32 = 1;
/// `FRA_*` numbers of linux/fib_rules.h, which libc does not name for all targets.
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FR_ACT_TO_TBL: u8 = 1;
/// Marks the route as ours in `ip route show table 15001`.
const PROTOCOL: u8 = 115;

/// Sets rule and route for this address; what is there already stays.
///
/// # Errors
/// Names the message that the kernel refused.
pub fn capture(address: IpAddr) -> io::Result<()> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
    // The route first: a rule without one would fall through to the main table.
    request("the capture route", libc::RTM_NEWROUTE, flags, &route(address))?;
    match request("the capture rule", libc::RTM_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &rule(address)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Removes both; what is gone already is fine.
///
/// # Errors
/// Names the message that the kernel refused.
pub fn release(address: IpAddr) -> io::Result<()> {
    for (what, kind, body) in
        [("the capture rule", libc::RTM_DELRULE, rule(address)), ("the capture route", libc::RTM_DELROUTE, route(address))]
    {
        match request(what, kind, 0, &body) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
            other => other?,
        }
    }
    Ok(())
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    family as u8
}

/// `struct fib_rule_hdr` and its attributes.
fn rule(address: IpAddr) -> Vec<u8> {
    // family, dst_len, src_len, tos, table (see FRA_TABLE), two reserved, action, flags.
    let mut body = vec![family(address), 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
    attribute(&mut body, FRA_PRIORITY, &RULE_PRIORITY.to_ne_bytes());
    attribute(&mut body, FRA_FWMARK, &ports::CAPTURE_MARK.to_ne_bytes());
    attribute(&mut body, FRA_TABLE, &ports::CAPTURE_TABLE.to_ne_bytes());
    body
}

/// `struct rtmsg` and its attributes.
fn route(address: IpAddr) -> Vec<u8> {
    // family, dst_len (0: default), src_len, tos, table (see RTA_TABLE), protocol, scope, type, flags.
    let scope = if address.is_ipv4() { libc::RT_SCOPE_HOST } else { libc::RT_SCOPE_UNIVERSE };
    let mut body = vec![family(address), 0, 0, 0, 0, PROTOCOL, scope, libc::RTN_LOCAL, 0, 0, 0, 0];
    attribute(&mut body, libc::RTA_TABLE, &ports::CAPTURE_TABLE.to_ne_bytes());
    attribute(&mut body, libc::RTA_OIF, &LOOPBACK.to_ne_bytes());
    match address {
        IpAddr::V4(v4) => attribute(&mut body, libc::RTA_PREFSRC, &v4.octets()),
        IpAddr::V6(v6) => attribute(&mut body, libc::RTA_PREFSRC, &v6.octets()),
    }
    body
}

/// Header and content; all contents here are multiples of four bytes long, so no padding is needed.
fn attribute(body: &mut Vec<u8>, kind: u16, content: &[u8]) {
    debug_assert_eq!(content.len() % 4, 0, "netlink attributes are aligned to four bytes");
    body.extend_from_slice(&(content.len() as u16 + 4).to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(content);
}

fn request(what: &str, kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
    exchange(kind, flags, body).map_err(|error| match error.raw_os_error() {
        // Kept as they are: callers tell "exists" and "gone" by them.
        Some(libc::EEXIST | libc::ENOENT | libc::ESRCH) => error,
        _ => io::Error::new(error.kind(), format!("{what}: {error}")),
    })
}

fn exchange(kind: u16, flags: i32, body: &[u8]) -> io::Result<()> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&1u32.to_ne_bytes());
    message.extend_from_slice(&0u32.to_ne_bytes());
    message.extend_from_slice(body);

    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(netlink.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0u8; 4096];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    // NLMSG_ERROR: the header (16 bytes), then the negated errno, 0 for an acknowledgement.
    let Some(code) = answer.get(16..20).filter(|_| length >= 20) else {
        return Err(io::Error::other("the kernel's netlink answer is too short"));
    };
    let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_lengths_that_they_state() {
        for address in [IpAddr::from([9, 0, 1, 2]), IpAddr::from([0xfd00u16, 0, 0, 0, 0, 0, 0, 2])] {
            for body in [rule(address), route(address)] {
                let mut rest = &body[12..];
                while !rest.is_empty() {
                    let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
                    assert!(length >= 4 && length <= rest.len());
                    rest = &rest[length..];
                }
            }
        }
    }
}
