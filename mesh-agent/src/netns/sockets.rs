//! The sockets that the agent makes in a pod. Every function here must run inside the pod's namespace ([`super::Namespace::visit`]).

use super::{Inbound, PodSockets, loopback_v4, loopback_v6};
use mesh_common::abi::host;
use mesh_common::broker::Family;
use mesh_common::ports;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// As long as the kernel allows (net.core.somaxconn caps it): the proxy may be away for the moment of its upgrade.
const BACKLOG: i32 = 65_535;

/// Opens the listeners of a pod.
///
/// # Errors
/// Names the listener that could not be opened.
pub fn open(ipv6: bool) -> io::Result<PodSockets> {
    Ok(PodSockets {
        outbound_v4: named("127.0.0.1:15001", listen(loopback_v4(ports::OUTBOUND)))?,
        outbound_v6: if ipv6 { Some(named("[::1]:15001", listen(loopback_v6(ports::OUTBOUND)))?) } else { None },
        dns_udp: named("UDP 0.0.0.0:15053", dns_udp(SocketAddr::from((Ipv4Addr::UNSPECIFIED, ports::DNS))))?,
        dns_tcp: named("127.0.0.1:15053", listen(loopback_v4(ports::DNS)))?,
        inbound: Inbound::default(),
    })
}

/// Opens the listeners for what comes to the pod's captured ports.
///
/// # Errors
/// Names the listener that could not be opened.
pub fn open_inbound(ipv6: bool) -> io::Result<Inbound> {
    Ok(Inbound {
        v4: Some(named("127.0.0.1:15006", listen(loopback_v4(ports::INBOUND)))?),
        v6: if ipv6 { Some(named("[::1]:15006", listen(loopback_v6(ports::INBOUND)))?) } else { None },
    })
}

/// Opens the listeners of a workload on the node's own network, at addresses of its slot (`abi::host`): nobody outside reaches them. What is
/// meant for IPv6 comes over IPv4 too, to a socket that can show an IPv6 address.
///
/// # Errors
/// Names the listener that could not be opened.
pub fn open_on_host(slot: u32) -> io::Result<PodSockets> {
    let at = |v6, port| SocketAddr::from((Ipv4Addr::from(host::listener(slot, v6)), port));
    let (v4, v6, dns) = (at(false, ports::OUTBOUND), at(true, ports::OUTBOUND), at(false, ports::DNS));
    let named = |at: SocketAddr, result: io::Result<OwnedFd>| {
        result.map_err(|error| io::Error::new(error.kind(), format!("listener {at} on the node: {error}")))
    };
    Ok(PodSockets {
        outbound_v4: named(v4, on_host(v4, Domain::IPV4))?,
        // A kernel without IPv6 has nothing to show.
        outbound_v6: on_host(v6, Domain::IPV6).ok(),
        dns_udp: named(dns, dns_udp(dns))?,
        dns_tcp: named(dns, on_host(dns, Domain::IPV4))?,
        inbound: Inbound::default(),
    })
}

fn on_host(at: SocketAddr, domain: Domain) -> io::Result<OwnedFd> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    let at = match (domain, at) {
        (Domain::IPV6, SocketAddr::V4(v4)) => {
            socket.set_only_v6(false)?;
            SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()))
        }
        _ => at,
    };
    socket.bind(&SockAddr::from(at))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Unconnected sockets for the proxy to dial with.
///
/// # Errors
/// If the kernel has no more.
pub fn unconnected(family: Family, count: usize) -> io::Result<Vec<OwnedFd>> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    // TCP by its own number: an MPTCP socket's tag would not be found on its subflows.
    (0..count).map(|_| Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP)).map(OwnedFd::from)).collect()
}

/// Has listeners that were shut down listen again, in their places in the sockhash. Returns how many. Runs in any namespace.
///
/// # Errors
/// If a listener cannot be revived.
pub fn revive(sockets: &PodSockets) -> io::Result<usize> {
    let mut revived = 0;
    let Inbound { v4, v6 } = &sockets.inbound;
    let all = [Some(&sockets.outbound_v4), sockets.outbound_v6.as_ref(), Some(&sockets.dns_tcp), v4.as_ref(), v6.as_ref()];
    for socket in all.into_iter().flatten() {
        revived += usize::from(revive_one(socket)?);
    }
    Ok(revived)
}

/// The same for one listener. True if it had to be.
///
/// # Errors
/// If it cannot be revived.
pub fn revive_one(socket: &OwnedFd) -> io::Result<bool> {
    let socket = SockRef::from(socket);
    let dead = !socket.is_listener()?;
    if dead {
        socket.listen(BACKLOG)?;
    }
    Ok(dead)
}

/// A listener of the node's gateway, to be opened in the node's own namespace. `SO_REUSEPORT` for the reason below; an ordinary process
/// that has the port keeps it, and this fails.
///
/// # Errors
/// If the port is taken or the address is not the node's.
pub fn gateway(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        // 0.0.0.0 beside [::] is a listener of its own, as in Envoy.
        socket.set_only_v6(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn named(what: &str, result: io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    result.map_err(|error| io::Error::new(error.kind(), format!("listener {what} in the pod: {error}")))
}

/// `SO_REUSEPORT`: after an agent's restart the proxy still holds the former agent's listeners; the new ones open beside them and take
/// over in the sockhash. `IP_TRANSPARENT`: the reply to a captured connection leaves from a foreign address.
fn listen(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        set_int(&socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// One socket: questions arrive at addresses of 127.128.0.0/9, and IP_PKTINFO says at which.
fn dns_udp(at: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    set_int(&socket, libc::SOL_IP, libc::IP_PKTINFO)?;
    socket.bind(&SockAddr::from(at))?;
    Ok(socket.into())
}

fn set_int(socket: &impl AsFd, level: libc::c_int, name: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is `length` bytes long and outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const one).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
