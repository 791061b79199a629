//! The sockets of a namespace as the kernel lists them (`sock_diag`), and ending one. Every function here must run inside the namespace.

use super::netlink::Request;
use mesh_common::abi::{Addr, Dest};
use mesh_common::decide::l4::TCP;
use nix::sys::socket::SockProtocol;
use std::io;

/// Of `linux/sock_diag.h`, which libc does not name.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `struct inet_diag_sockid`: ports, addresses, interface, cookie.
const ID: usize = 48;
/// `TCP_ESTABLISHED`, `TCP_SYN_SENT`, `TCP_CLOSE_WAIT`, as bits: the application holds it. A connected UDP socket is "established".
const HELD: u32 = 1 << 1 | 1 << 2 | 1 << 8;

/// `TCP_LISTEN` as a bit.
const LISTENING: u32 = 1 << 10;

/// A connected socket.
#[derive(Clone, Debug)]
pub struct Connected {
    family: u8,
    id: [u8; ID],
    /// Whom it is connected to.
    pub peer: Dest,
    /// The kernel's number of it.
    pub cookie: u64,
}

/// All sockets of this protocol that are connected, of both families.
///
/// # Errors
/// If this kernel has no `tcp_diag` or `udp_diag`.
pub fn connected(proto: u8) -> io::Result<Vec<Connected>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let request = request((SOCK_DIAG_BY_FAMILY, libc::NLM_F_DUMP), (family, proto), HELD, &[0; ID]);
        request.ask_of(SockProtocol::NetlinkSockDiag, |_, body| found.extend(read(body, proto)))?;
    }
    Ok(found)
}

/// Where TCP listens, of both families.
///
/// # Errors
/// If this kernel has no `tcp_diag`.
pub fn listening() -> io::Result<Vec<Dest>> {
    let mut found = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let request = request((SOCK_DIAG_BY_FAMILY, libc::NLM_F_DUMP), (family, TCP), LISTENING, &[0; ID]);
        request.ask_of(SockProtocol::NetlinkSockDiag, |_, body| found.extend(own(body)))?;
    }
    Ok(found)
}

/// Ends it: its owner's next call fails with ECONNABORTED.
///
/// # Errors
/// If it is gone, or this kernel cannot (`CONFIG_INET_DIAG_DESTROY`).
pub fn destroy(socket: &Connected) -> io::Result<()> {
    let request = request((SOCK_DESTROY, 0), (socket.family, socket.peer.proto), HELD, &socket.id);
    request.ask_of(SockProtocol::NetlinkSockDiag, |_, _| {})
}

/// `struct inet_diag_req_v2`.
fn request((kind, flags): (u16, i32), (family, proto): (u8, u8), states: u32, id: &[u8; ID]) -> Request {
    let mut body = vec![family, proto, 0, 0];
    body.extend_from_slice(&states.to_ne_bytes());
    body.extend_from_slice(id);
    Request::new(kind, flags, &body)
}

/// `struct inet_diag_msg`, of which the first four bytes and the id count.
fn read(body: &[u8], proto: u8) -> Option<Connected> {
    let (family, id) = socket(body)?;
    let peer = Dest { addr: address(family, &id, 20)?, port: u16::from_be_bytes([id[2], id[3]]), proto, pad: 0 };
    let cookie = u64::from_ne_bytes(id[40..48].try_into().ok()?);
    (peer.port != 0).then_some(Connected { family, id, peer, cookie })
}

/// The socket's own address.
fn own(body: &[u8]) -> Option<Dest> {
    let (family, id) = socket(body)?;
    Some(Dest { addr: address(family, &id, 4)?, port: u16::from_be_bytes([id[0], id[1]]), proto: TCP, pad: 0 })
}

fn socket(body: &[u8]) -> Option<(u8, [u8; ID])> {
    Some((*body.first()?, body.get(4..4 + ID)?.try_into().ok()?))
}

fn address(family: u8, id: &[u8; ID], at: usize) -> Option<Addr> {
    if i32::from(family) == libc::AF_INET {
        return Some(Addr::v4(id[at..at + 4].try_into().ok()?));
    }
    Some(Addr(id[at..at + 16].try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_common::decide::l4::UDP;
    use std::net::{TcpListener, UdpSocket};

    fn to(port: u16, proto: u8) -> Dest {
        Dest { addr: Addr::v4([127, 0, 0, 1]), port, proto, pad: 0 }
    }

    /// Needs no privilege: everybody may list.
    #[test]
    fn a_socket_is_found_by_its_peer_while_it_is_open() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let at = listening().expect("lists");
        assert!(at.contains(&to(port, TCP)), "{at:?}");
        let count = |dest: Dest| connected(dest.proto).expect("lists").iter().filter(|socket| socket.peer == dest).count();
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connects");
        assert_eq!(count(to(port, TCP)), 1);
        drop(stream);
        assert_eq!(count(to(port, TCP)), 0);
        let (server, client) = (UdpSocket::bind("127.0.0.1:0").expect("bound"), UdpSocket::bind("[::]:0").expect("bound"));
        let port = server.local_addr().expect("bound").port();
        client.connect(("::ffff:127.0.0.1", port)).expect("connects");
        assert_eq!(count(to(port, UDP)), 1, "v4-mapped is IPv4");
    }
}
