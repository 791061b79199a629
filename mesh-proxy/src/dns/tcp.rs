//! DNS over TCP: two bytes of length before each message. One listener per pod; a connection is served question by question, so the
//! order of the answers is that of the questions.

use super::core::query::Transport;
use super::metrics::Dropped;
use super::server::{Pod, Server};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longest wait for a whole message, and for the client to take an answer.
pub(super) const IDLE: Duration = Duration::from_secs(10);
/// No question needs more, with all its options.
const QUESTION_MAX: usize = 4096;
/// Pause after a failed accept: no descriptors left, or the listener is being revived.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// In a planned stop, how long a connection is still read from.
const STOPPING: Duration = Duration::from_millis(500);

/// Reads one message. `None`: the peer closed between two messages.
pub(super) async fn read_message<R: AsyncRead + Unpin>(reader: &mut R, most: usize) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    if reader.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut length[1..]).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > most {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut message = vec![0; length];
    reader.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Writes one message, length and all in one segment.
pub(super) async fn write_message<W: AsyncWrite + Unpin>(writer: &mut W, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_too_long| io::Error::from(io::ErrorKind::FileTooLarge))?;
    writer.write_all(&[&length.to_be_bytes(), message].concat()).await?;
    writer.flush().await
}

/// Takes over a pod's listener.
pub(super) fn listener(fd: OwnedFd) -> io::Result<(TcpListener, SocketAddr)> {
    let listener = std::net::TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    let own = listener.local_addr()?;
    Ok((TcpListener::from_std(listener)?, own))
}

/// Serves a pod's listener for ever.
pub(super) async fn serve(server: Arc<Server>, pod: Arc<Pod>, listener: TcpListener, own: SocketAddr) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _peer)) => stream,
            Err(error) => {
                tracing::warn!(pod = pod.id, %error, "cannot accept a DNS connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Captured connections carry the address of the server that was asked.
        if stream.local_addr().map_or(true, |local| local == own) {
            server.metrics.dropped(Transport::Tcp, Dropped::MeshListener);
            continue;
        }
        let Ok(of_node) = Arc::clone(&server.connections).try_acquire_owned() else {
            server.metrics.dropped(Transport::Tcp, Dropped::NodeConnections);
            continue;
        };
        let Ok(of_pod) = Arc::clone(&pod.connections).try_acquire_owned() else {
            server.metrics.dropped(Transport::Tcp, Dropped::PodConnections);
            continue;
        };
        let (server, pod) = (Arc::clone(&server), Arc::clone(&pod));
        tokio::spawn(async move {
            server.metrics.connections.inc();
            connection(&server, &pod, stream).await;
            server.metrics.connections.dec();
            drop((of_node, of_pod));
        });
    }
}

/// Returns a little after a planned stop has begun.
async fn stopping(server: &Server) {
    server.drain.begun().await;
    tokio::time::sleep(STOPPING).await;
}

async fn connection(server: &Arc<Server>, pod: &Pod, mut stream: TcpStream) {
    loop {
        let read = tokio::select! {
            read = timeout(server.tcp_idle, read_message(&mut stream, QUESTION_MAX)) => read,
            // What was sent before we say that we stop is still answered.
            () = stopping(server) => return,
        };
        let message = match read {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return,
            Ok(Err(error)) if error.kind() == io::ErrorKind::FileTooLarge => {
                return server.metrics.dropped(Transport::Tcp, Dropped::TooLong);
            }
            // The client is gone in the middle of a message.
            Ok(Err(_)) => return,
            Err(_elapsed) => return server.metrics.dropped(Transport::Tcp, Dropped::Idle),
        };
        let Some(answer) = server.answer(&message, Transport::Tcp, pod).await else { return };
        match timeout(server.tcp_idle, write_message(&mut stream, &answer)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return server.metrics.dropped(Transport::Tcp, Dropped::SendFailed),
            Err(_elapsed) => return server.metrics.dropped(Transport::Tcp, Dropped::Idle),
        }
    }
}

#[cfg(test)]
mod tests;
