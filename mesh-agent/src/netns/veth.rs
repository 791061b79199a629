//! The host's ends of a pod's veths: asked of this thread's own namespace, where they live.

use super::Namespace;
use super::netlink::{Request, attributes, number};
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// `NETNSA_*` of linux/net_namespace.h.
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const RTM_GETNSID: u16 = 90;
/// `IFLA_*` of linux/if_link.h, without the flag for nested attributes.
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
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
    let mut found = Vec::new();
    Request::new(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; INFO]).ask(|kind, body| {
        if kind == libc::RTM_NEWLINK {
            found.extend(host_end(body, nsid));
        }
    })?;
    Ok(found)
}

/// The number by which this namespace knows the pod's; none if no device of it leads there.
fn nsid(pod: &Namespace) -> io::Result<Option<i32>> {
    // struct rtgenmsg: the family, padded.
    let request = Request::new(RTM_GETNSID, 0, &[0; 4]).with(NETNSA_FD, &pod.as_fd().as_raw_fd().to_ne_bytes());
    let mut found = None;
    request.ask(|kind, body| {
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

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}
