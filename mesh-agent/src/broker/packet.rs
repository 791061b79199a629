//! One message per packet, descriptors attached.

use crate::ready::Ready;
use mesh_common::broker::MESSAGE_BYTES;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use socket2::Socket;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Sends one packet, waiting for room.
pub(super) async fn send(client: &Ready<Socket>, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    loop {
        let mut ready = client.writable().await?;
        let sent = ready.try_io(|socket| {
            let rights = [ControlMessage::ScmRights(&raw)];
            let control: &[_] = if raw.is_empty() { &[] } else { &rights };
            let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
            Ok(sendmsg::<()>(socket.get_ref().as_raw_fd(), &[IoSlice::new(packet)], control, flags, None)?)
        });
        match sent {
            Ok(result) => return result.map(drop),
            Err(_would_block) => {}
        }
    }
}

/// Receives one packet into `buffer`; empty if the client has closed. One byte more than a message may have shows one that is too long.
/// Descriptors that a client attaches are closed by the kernel, since no room is offered for them. Cancel safe.
pub(super) async fn receive<'a>(client: &Ready<Socket>, buffer: &'a mut [u8; MESSAGE_BYTES + 1]) -> io::Result<&'a [u8]> {
    loop {
        let mut ready = client.readable().await?;
        match ready.try_io(|socket| Ok(recv(socket.get_ref().as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)) {
            Ok(length) => return Ok(&buffer[..length?]),
            Err(_would_block) => {}
        }
    }
}
