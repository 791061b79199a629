//! The capture route of a pod: `ip rule fwmark CAPTURE_MARK lookup 15001` and `ip route local default dev lo src POD table 15001`.
//!
//! Must run inside the pod's namespace.

use super::netlink::Request;
use mesh_common::ports;
use std::io;
use std::net::IpAddr;

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
    send("the capture route", route(libc::RTM_NEWROUTE, flags, address), &[])?;
    send("the capture rule", rule(libc::RTM_NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, address), &[libc::EEXIST])
}

/// Removes both; what is gone already is fine.
///
/// # Errors
/// Names the message that the kernel refused.
pub fn release(address: IpAddr) -> io::Result<()> {
    let gone = [libc::ENOENT, libc::ESRCH];
    send("the capture rule", rule(libc::RTM_DELRULE, 0, address), &gone)?;
    send("the capture route", route(libc::RTM_DELROUTE, 0, address), &gone)
}

fn send(what: &str, request: Request, fine: &[i32]) -> io::Result<()> {
    match request.ask(|_, _| {}) {
        Err(error) if error.raw_os_error().is_some_and(|code| fine.contains(&code)) => Ok(()),
        other => other.map_err(|error| io::Error::new(error.kind(), format!("{what}: {error}"))),
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    family as u8
}

/// `struct fib_rule_hdr` and its attributes.
fn rule(kind: u16, flags: i32, address: IpAddr) -> Request {
    // family, dst_len, src_len, tos, table (see FRA_TABLE), two reserved, action, flags.
    Request::new(kind, flags, &[family(address), 0, 0, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0])
        .with(FRA_PRIORITY, &RULE_PRIORITY.to_ne_bytes())
        .with(FRA_FWMARK, &ports::CAPTURE_MARK.to_ne_bytes())
        .with(FRA_TABLE, &ports::CAPTURE_TABLE.to_ne_bytes())
}

/// `struct rtmsg` and its attributes.
fn route(kind: u16, flags: i32, address: IpAddr) -> Request {
    // family, dst_len (0: default), src_len, tos, table (see RTA_TABLE), protocol, scope, type, flags.
    let scope = if address.is_ipv4() { libc::RT_SCOPE_HOST } else { libc::RT_SCOPE_UNIVERSE };
    let request = Request::new(kind, flags, &[family(address), 0, 0, 0, 0, PROTOCOL, scope, libc::RTN_LOCAL, 0, 0, 0, 0])
        .with(libc::RTA_TABLE, &ports::CAPTURE_TABLE.to_ne_bytes())
        .with(libc::RTA_OIF, &LOOPBACK.to_ne_bytes());
    match address {
        IpAddr::V4(v4) => request.with(libc::RTA_PREFSRC, &v4.octets()),
        IpAddr::V6(v6) => request.with(libc::RTA_PREFSRC, &v6.octets()),
    }
}
