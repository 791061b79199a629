//! The sockets of a namespace as the kernel lists them (`sock_diag`), and ending one. Every function here must run inside the namespace.

use super::netlink::Request;
use mesh_common::abi::{Addr, Dest};
use nix::sys::socket::SockProtocol;
use std::io;

/// Of `linux/sock_diag.h`, which libc does not name.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `struct inet_diag_sockid`: ports, addresses, interface, cookie.
const ID: usize = 48;
/// `TCP_ESTABLISHED`, `TCP_SYN_SENT`, `TCP_CLOSE_WAIT`, as bits: the application holds it. A connected UDP socket is "established".
const HELD: u32 = 1 << 1 | 1 << 2 | 1 << 8;

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
        let request = request(SOCK_DIAG_BY_FAMILY, libc::NLM_F_DUMP, family, proto, &[0; ID]);
        request.ask_of(SockProtocol::NetlinkSockDiag, |_, body| found.extend(read(body, proto)))?;
    }
    Ok(found)
}

/// Ends it: its owner's next call fails with ECONNABORTED.
///
/// # Errors
/// If it is gone, or this kernel cannot (`CONFIG_INET_DIAG_DESTROY`).
pub fn destroy(socket: &Connected) -> io::Result<()> {
    let request = request(SOCK_DESTROY, 0, socket.family, socket.peer.proto, &socket.id);
    request.ask_of(SockProtocol::NetlinkSockDiag, |_, _| {})
}

/// `struct inet_diag_req_v2`.
fn request(kind: u16, flags: i32, family: u8, proto: u8, id: &[u8; ID]) -> Request {
    let mut body = vec![family, proto, 0, 0];
    body.extend_from_slice(&HELD.to_ne_bytes());
    body.extend_from_slice(id);
    Request::new(kind, flags, &body)
}

/// `struct inet_diag_msg`, of which the first four bytes and the id count.
fn read(body: &[u8], proto: u8) -> Option<Connected> {
    let id: [u8; ID] = body.get(4..4 + ID)?.try_into().ok()?;
    let bytes = |at: usize, length: usize| &id[at..at + length];
    let family = *body.first()?;
    let addr = if i32::from(family) == libc::AF_INET {
        Addr::v4(bytes(20, 4).try_into().ok()?)
    } else {
        Addr(bytes(20, 16).try_into().ok()?)
    };
    let peer = Dest { addr, port: u16::from_be_bytes([id[2], id[3]]), proto, pad: 0 };
    let cookie = u64::from_ne_bytes(bytes(40, 8).try_into().ok()?);
    (peer.port != 0).then_some(Connected { family, id, peer, cookie })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_common::decide::l4::{TCP, UDP};
    use std::net::{TcpListener, UdpSocket};

    fn to(port: u16, proto: u8) -> Dest {
        Dest { addr: Addr::v4([127, 0, 0, 1]), port, proto, pad: 0 }
    }

    /// Needs no privilege: everybody may list.
    #[test]
    fn a_socket_is_found_by_its_peer_while_it_is_open() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = listener.local_addr().expect("bound").port();
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
