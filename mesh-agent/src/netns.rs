//! Work inside another network namespace: sockets, addresses, cookies.
//!
//! A thread that enters a namespace never comes back: each visit is a fresh thread that ends with it, so that no other work can ever run
//! in a pod's namespace by accident. A visit costs about 50 µs.

use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

pub mod diag;
mod netlink;
pub mod route;
pub mod sockets;
pub mod veth;

/// `SO_NETNS_COOKIE`, which libc does not name.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// A network namespace, kept alive by its file descriptor.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    /// Opens `/proc/PID/ns/net` or a bind mount of one.
    ///
    /// # Errors
    /// If the path cannot be opened; the process may have ended.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Arc::new(File::open(path)?) })
    }

    /// Device and inode: the same for every path to this namespace.
    ///
    /// # Errors
    /// Never in practice: the file is open.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let meta = self.file.metadata()?;
        Ok((meta.dev(), meta.ino()))
    }

    /// Runs `work` inside, on a thread of its own.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or `work` panics.
    pub fn visit<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let visitor = std::thread::Builder::new().name("in-pod".to_owned()).spawn_scoped(scope, || {
                setns(&*self.file, CloneFlags::CLONE_NEWNET)?;
                Ok::<T, io::Error>(work())
            })?;
            visitor.join().map_err(|_panic| io::Error::other("work inside a namespace panicked"))?
        })
    }

    /// The kernel's number of this namespace, never used twice until the machine restarts.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    pub fn cookie(&self) -> io::Result<u64> {
        self.visit(|| {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            cookie_of(&socket)
        })?
    }

    /// The addresses of its interfaces, but loopback's and link-local ones.
    ///
    /// # Errors
    /// If the namespace cannot be entered or asked.
    pub fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        self.visit(|| {
            let mut found = Vec::new();
            for interface in nix::ifaddrs::getifaddrs()? {
                let Some(address) = interface.address else { continue };
                if let Some(v4) = address.as_sockaddr_in() {
                    found.push(IpAddr::V4(v4.ip()));
                } else if let Some(v6) = address.as_sockaddr_in6() {
                    found.push(IpAddr::V6(v6.ip()));
                }
            }
            found.retain(|ip| !ip.is_loopback() && !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()));
            found.sort_unstable();
            found.dedup();
            Ok(found)
        })?
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Which namespace a path leads to: device and inode.
///
/// # Errors
/// If the path does not exist.
pub fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = std::fs::metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// The cookie of the namespace in which this socket was made.
///
/// # Errors
/// On Linux before 5.14.
pub fn cookie_of(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = 8;
    // SAFETY: the buffer is as long as `length` says, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut length)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// The pod's sockets that the proxy serves; the agent keeps a duplicate of each, so that neither can take them away alone.
#[derive(Debug)]
pub struct PodSockets {
    /// Captured TCP over IPv4, 127.0.0.1:15001.
    pub outbound_v4: OwnedFd,
    /// Captured TCP over IPv6, \[::1\]:15001, where the pod has IPv6.
    pub outbound_v6: Option<OwnedFd>,
    /// DNS, 0.0.0.0:15053.
    pub dns_udp: OwnedFd,
    /// DNS over TCP, 127.0.0.1:15053.
    pub dns_tcp: OwnedFd,
    /// Captured TCP from outside, of pods with captured ports.
    pub inbound: Inbound,
}

/// The listeners of captured ports, if there are such ports.
#[derive(Debug, Default)]
pub struct Inbound {
    /// Over IPv4, 127.0.0.1:15006.
    pub v4: Option<OwnedFd>,
    /// Over IPv6, \[::1\]:15006, where the pod has IPv6.
    pub v6: Option<OwnedFd>,
}

pub(crate) fn loopback_v4(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

pub(crate) fn loopback_v6(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::LOCALHOST, port))
}
