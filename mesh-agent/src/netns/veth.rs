//! The host's ends of a pod's veths: asked of this thread's own namespace, where they live.

use super::Namespace;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// `NETNSA_*` of linux/net_namespace.h.
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const RTM_GETNSID: u16 = 90;
/// `IFLA_*` of linux/if_link.h, without the flag for nested attributes.
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;
/// `struct ifinfomsg`.
const INFO: usize = 16;

/// One device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Veth {
    /// Its name, in this thread's namespace.
    pub name: String,
    /// Its number there.
    pub index: u32,
}

/// The veths of this thread's namespace whose other end is in the pod's.
///
/// # Errors
/// If the kernel does not answer.
pub fn host_ends(pod: &Namespace) -> io::Result<Vec<Veth>> {
    let Some(nsid) = nsid(pod)? else { return Ok(Vec::new()) };
    let mut request = message(libc::RTM_GETLINK, (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16, INFO);
    finish(&mut request);
    let mut found = Vec::new();
    exchange(&request, |kind, body| {
        if kind == libc::RTM_NEWLINK {
            found.extend(host_end(body, nsid));
        }
    })?;
    Ok(found)
}

/// The number by which this namespace knows the pod's; none if no device of it leads there.
fn nsid(pod: &Namespace) -> io::Result<Option<i32>> {
    // struct rtgenmsg: the family, padded.
    let mut request = message(RTM_GETNSID, libc::NLM_F_REQUEST as u16, 4);
    request.extend_from_slice(&8u16.to_ne_bytes());
    request.extend_from_slice(&NETNSA_FD.to_ne_bytes());
    request.extend_from_slice(&pod.as_fd().as_raw_fd().to_ne_bytes());
    finish(&mut request);
    let mut found = None;
    exchange(&request, |kind, body| {
        if kind == RTM_GETNSID - 2 {
            found =
                attributes(body.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == NETNSA_NSID).and_then(|(_, v)| number(v));
        }
    })?;
    Ok(found.filter(|id| *id >= 0))
}

fn host_end(body: &[u8], nsid: i32) -> Option<Veth> {
    let index = u32::try_from(number(body.get(4..8)?)?).ok()?;
    let all = || attributes(body.get(INFO..).unwrap_or_default());
    let get = |wanted| all().find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let kind = attributes(get(IFLA_LINKINFO)?).find(|(kind, _)| *kind == IFLA_INFO_KIND)?.1;
    if text(kind) != "veth" || number(get(IFLA_LINK_NETNSID)?)? != nsid {
        return None;
    }
    Some(Veth { name: text(get(IFLA_IFNAME)?), index })
}

fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = rest.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn number(value: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// A header and an empty body of this length.
fn message(kind: u16, flags: u16, body: usize) -> Vec<u8> {
    let mut message = vec![0; 4];
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.resize(HEADER + body, 0);
    message
}

fn finish(message: &mut [u8]) {
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
}

/// Sends a request and hands out the messages of the answer, to the end of a dump.
fn exchange(request: &[u8], mut hear: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let dump = u16::from_ne_bytes([request[6], request[7]]) & libc::NLM_F_DUMP as u16 != 0;
    let netlink: OwnedFd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(netlink.as_raw_fd(), request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some(head) = rest.get(..HEADER) {
            let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
            let kind = u16::from_ne_bytes([head[4], head[5]]);
            let body = rest.get(HEADER..length).ok_or_else(|| io::Error::other("the kernel's netlink answer is too short"))?;
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(()),
                libc::NLMSG_ERROR => return Err(io::Error::from_raw_os_error(-number(body).unwrap_or_default())),
                _ => hear(kind, body),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        if !dump {
            return Ok(());
        }
    }
}
