//! Packets with descriptors over a `SOCK_SEQPACKET` unix socket. Both ends: the tests' fake agent uses it too.

use mesh_common::broker::{BATCH, InvalidMessage, MESSAGE_BYTES, decode, encode};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Why the conversation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// No agent, or it does not let us in.
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    /// The socket failed.
    #[error("broker socket: {0}")]
    Io(#[from] io::Error),
    /// The agent closed the connection: it restarts, or it does not accept our uid or version.
    #[error("closed by the agent")]
    Closed,
    /// A packet longer than the protocol allows.
    #[error("a packet is longer than {MESSAGE_BYTES} bytes")]
    Truncated,
    /// The kernel could not give us all descriptors; those are lost.
    #[error(
        "descriptors were lost (MSG_CTRUNC): the limit of open files (RLIMIT_NOFILE) is reached, or more than {BATCH} were sent"
    )]
    DescriptorsLost,
    /// The message and what was attached to it disagree.
    #[error("a message announces {expected} descriptors and carries {got}")]
    Descriptors {
        /// Announced.
        expected: usize,
        /// Attached.
        got: usize,
    },
    /// An answer to what only the other role asks for.
    #[error("the message {0:?} is not for this role")]
    Role(&'static str),
    /// Not in the protocol.
    #[error(transparent)]
    Message(#[from] InvalidMessage),
}

/// One end of the connection. Tokio's `UnixStream` only waits here; what is sent and received are packets.
#[derive(Debug)]
pub struct Packets(UnixStream);

impl Packets {
    /// Connects to a listening socket. Needs a Tokio runtime, as [`Packets::new`] does.
    ///
    /// # Errors
    /// Of `connect`.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Self::new(socket)
    }

    /// Takes a connected, non-blocking socket.
    ///
    /// # Errors
    /// If it cannot be registered with the runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self(UnixStream::from_std(StdUnixStream::from(socket))?))
    }

    /// Sends one message with descriptors.
    ///
    /// # Errors
    /// If the message is too long or the socket fails.
    pub async fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        let bytes = encode(message)?;
        self.0.async_io(Interest::WRITABLE, || send_now(self.0.as_fd(), &bytes, fds)).await?;
        Ok(())
    }

    /// Receives one message with its descriptors, which are close-on-exec. Cancel safe.
    ///
    /// # Errors
    /// If the peer is gone, the socket fails, or the packet is not in the protocol.
    pub async fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), WireError> {
        let mut buffer = vec![0_u8; MESSAGE_BYTES];
        let received = self.0.async_io(Interest::READABLE, || receive_now(self.0.as_fd(), &mut buffer)).await;
        let (length, flags, fds) = received?;
        if flags.contains(ReturnFlags::CTRUNC) {
            return Err(WireError::DescriptorsLost);
        }
        if flags.contains(ReturnFlags::TRUNC) {
            return Err(WireError::Truncated);
        }
        if length == 0 {
            return Err(WireError::Closed);
        }
        Ok((decode::<Owned<T>>(&buffer[..length])?.0, fds))
    }
}

/// Lets `decode`, which may borrow from the packet, return something that does not.
#[derive(serde::Deserialize)]
#[serde(transparent, bound = "T: DeserializeOwned")]
struct Owned<T>(T);

fn send_now(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = fds.len() <= BATCH && (fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    if !fits {
        return Err(io::Error::other("more descriptors than a batch"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_now(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, ReturnFlags, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((received.bytes, received.flags, fds))
}
