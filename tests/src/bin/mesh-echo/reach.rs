//! A client of many destinations: dials each of them again and again and says by whom it was answered (`tell`).

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Result};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

/// A refusal comes at once; only a packet that is lost takes this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Prints JSON: for each destination (`tcp://NAME:PORT`, `udp://11.1.2.3:80`, `mapped-tcp://...`: IPv4 by an IPv6 socket, as Java does) how
/// often each node answered, and the errors.
pub(crate) fn run(to: &[String], times: u32) -> anyhow::Result<()> {
    let mut all = serde_json::Map::new();
    for to in to {
        all.insert(to.clone(), one(to, times));
    }
    super::say(&Value::Object(all))
}

fn one(to: &str, times: u32) -> Value {
    let (way, host) = to.split_once("://").unwrap_or(("", to));
    let (is_mapped, transport) = way.strip_prefix("mapped-").map_or((false, way), |transport| (true, transport));
    let (mut nodes, mut errors) = (BTreeMap::<String, u32>::new(), BTreeMap::<String, u32>::new());
    let address = host.to_socket_addrs().and_then(|mut all| {
        let first = all.next().ok_or_else(|| std::io::Error::other("the name has no address"))?;
        Ok(if is_mapped { mapped(first) } else { first })
    });
    for turn in 0..times {
        let answer = match (&address, transport) {
            (Err(error), _) => Err(std::io::Error::other(error.to_string())),
            (Ok(address), "udp") => datagram(*address, turn % 2 == 0),
            (Ok(address), _) => connection(*address),
        };
        match answer {
            Ok(node) => *nodes.entry(node).or_default() += 1,
            Err(error) => *errors.entry(error.to_string()).or_default() += 1,
        }
        // What fails at the first attempts fails at all of them, and may take its time.
        if turn == 2 && nodes.is_empty() {
            break;
        }
    }
    json!({"nodes": nodes, "errors": errors, "address": address.map_or_else(|e| e.to_string(), |a| a.to_string())})
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The socket must show the destination that was asked for, whoever answers.
fn as_asked(seen: SocketAddr, asked: SocketAddr) -> Result<()> {
    let plain = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    if plain(seen) == plain(asked) { Ok(()) } else { Err(std::io::Error::other(format!("{seen} is shown"))) }
}

fn connection(to: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    as_asked(stream.peer_addr()?, to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    node(text.as_bytes())
}

fn datagram(to: SocketAddr, is_connected: bool) -> Result<String> {
    let any: IpAddr = if to.is_ipv4() { IpAddr::from([0, 0, 0, 0]) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    if is_connected {
        socket.connect(to)?;
        as_asked(socket.peer_addr()?, to)?;
        socket.send(b"?")?;
    } else {
        socket.send_to(b"?", to)?;
    }
    let mut buffer = [0; 512];
    let (length, from) = socket.recv_from(&mut buffer)?;
    as_asked(from, to)?;
    node(&buffer[..length])
}

fn node(answer: &[u8]) -> Result<String> {
    let said: Value = serde_json::from_slice(answer)?;
    said["node"].as_str().map(str::to_owned).ok_or_else(|| std::io::Error::other(format!("{said} names no node")))
}
