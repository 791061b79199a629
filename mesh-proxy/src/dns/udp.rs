//! DNS over UDP: one wildcard socket per pod. The kernel rewrote the pod's datagrams to an address in 127.128.0.0/9 that stands for the
//! server it asked; an answer leaves from that very address, or the kernel could not translate it back.

use super::core::query::Transport;
use super::metrics::Dropped;
use super::server::{Looked, Pod, Server};
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, cmsg_space, recvmsg, sendmsg, setsockopt, sockopt::Ipv4PacketInfo,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// No question needs more; a longer datagram is cut and then refused as malformed.
const BUFFER: usize = 4096;
/// Datagrams of one pod after which the others have a turn.
const BURST: u32 = 32;
/// Pause after a failed receive.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);

/// A pod's socket.
#[derive(Debug)]
pub(super) struct DnsSocket(UdpSocket);

/// Where a datagram came from and what it asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    length: usize,
    client: SockaddrIn,
    /// The address that was asked, as the kernel half spells it.
    asked: Ipv4Addr,
}

impl DnsSocket {
    /// Takes over a pod's socket.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let socket = std::net::UdpSocket::from(fd);
        socket.set_nonblocking(true)?;
        setsockopt(&socket, Ipv4PacketInfo, &true)?;
        Ok(Self(UdpSocket::from_std(socket)?))
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.0.async_io(Interest::READABLE, || receive_now(&self.0, buffer)).await
    }

    /// Answers from the address that was asked. A client that does not take its answers loses them.
    fn reply(&self, answer: &[u8], to: &Received) -> io::Result<()> {
        let info = in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: in_addr { s_addr: u32::from(to.asked).to_be() },
            ipi_addr: in_addr { s_addr: 0 },
        };
        let (parts, control) = ([IoSlice::new(answer)], [ControlMessage::Ipv4PacketInfo(&info)]);
        // Not by way of the runtime: nobody waits for a full socket.
        sendmsg(self.0.as_raw_fd(), &parts, &control, MsgFlags::MSG_DONTWAIT, Some(&to.client))?;
        Ok(())
    }
}

fn receive_now(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = [0; cmsg_space::<in_pktinfo>()];
    let mut parts = [IoSliceMut::new(buffer)];
    let received = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let info = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(info),
        _ => None,
    });
    let (Some(info), Some(client)) = (info, received.address) else { return Err(Errno::EPROTO.into()) };
    Ok(Received { length: received.bytes, client, asked: Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)) })
}

/// Is it one of the addresses that the kernel half rewrites to?
const fn is_captured(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 127 && second >= 128
}

/// Serves a pod's socket for ever.
pub(super) async fn serve(server: Arc<Server>, pod: Arc<Pod>, socket: Arc<DnsSocket>) {
    let mut buffer = vec![0; BUFFER];
    let mut burst = 0;
    loop {
        match socket.receive(&mut buffer).await {
            Ok(received) => handle(&server, &pod, &socket, &buffer[..received.length], received),
            Err(error) => {
                tracing::warn!(pod = pod.id, %error, "cannot receive DNS datagrams");
                tokio::time::sleep(RECEIVE_PAUSE).await;
            }
        }
        burst += 1;
        if burst % BURST == 0 {
            tokio::task::yield_now().await;
        }
    }
}

fn handle(server: &Arc<Server>, pod: &Arc<Pod>, socket: &Arc<DnsSocket>, message: &[u8], received: Received) {
    if !is_captured(received.asked) {
        return server.metrics.dropped(Transport::Udp, Dropped::MeshListener);
    }
    match server.look(message, Transport::Udp) {
        Looked::Ignore => {}
        Looked::Reply(answer) => reply(server, socket, &answer, &received),
        Looked::Later(work) => match server.admit(pod) {
            Err(why) => {
                if let Some(answer) = server.fail(&work, why, Transport::Udp) {
                    reply(server, socket, &answer, &received);
                }
            }
            Ok(permit) => {
                let (server, socket) = (Arc::clone(server), Arc::clone(socket));
                tokio::spawn(async move {
                    if let Some(answer) = server.finish(work, Transport::Udp, permit).await {
                        reply(&server, &socket, &answer, &received);
                    }
                });
            }
        },
    }
}

fn reply(server: &Server, socket: &DnsSocket, answer: &[u8], received: &Received) {
    if let Err(error) = socket.reply(answer, received) {
        tracing::debug!(client = %received.client, %error, "cannot send a DNS answer");
        server.metrics.dropped(Transport::Udp, Dropped::SendFailed);
    }
}

#[cfg(test)]
mod tests;
