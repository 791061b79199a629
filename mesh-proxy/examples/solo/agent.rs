//! The agent's half of the broker's conversation, with sockets of this machine. Hands over what is asked for and knows no pods.

use anyhow::ensure;
use mesh_common::abi::GATEWAY_SLOT;
use mesh_common::broker::{Role, ToAgent, ToProxy};
use mesh_proxy::broker::Packets;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

pub(crate) fn listen(path: &Path) -> anyhow::Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 1)?;
    Ok(socket)
}

pub(crate) async fn run(socket: OwnedFd) -> anyhow::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let accepted = tokio::task::spawn_blocking(move || rustix::net::accept_with(&socket, flags)).await?;
    let wire = Packets::new(accepted?)?;
    let (hello, _) = wire.receive::<ToAgent>().await?;
    ensure!(matches!(hello, ToAgent::Hello { role: Role::Proxy, .. }), "no proxy's hello: {hello:?}");
    wire.send(&ToProxy::Ready, &[]).await?;
    // As the real one: an address that is asked for again has the same socket.
    let mut ports: BTreeMap<SocketAddr, TcpListener> = BTreeMap::new();
    loop {
        match wire.receive::<ToAgent>().await? {
            (ToAgent::Listen { addresses }, _) => {
                for address in &addresses {
                    if let Entry::Vacant(free) = ports.entry(*address) {
                        free.insert(TcpListener::bind(address)?);
                    }
                }
                let fds: Vec<_> = addresses.iter().filter_map(|address| ports.get(address)).map(AsFd::as_fd).collect();
                let answer = ToProxy::Listening { slot: GATEWAY_SLOT, addresses, refused: Vec::new() };
                wire.send(&answer, &fds).await?;
            }
            (ToAgent::Refill { slot, family, count }, _) => {
                let kind = socket2::Type::STREAM.nonblocking();
                let new = |_| socket2::Socket::new(socket2::Domain::IPV4, kind, None);
                let sockets: Vec<_> = (0..count).map(new).collect::<Result<_, _>>()?;
                let fds: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
                wire.send(&ToProxy::Sockets { slot, family, count }, &fds).await?;
            }
            (other, _) => anyhow::bail!("not a proxy's message: {other:?}"),
        }
    }
}
