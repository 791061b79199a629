//! The socket broker: gives pods' listeners and unconnected sockets to the unprivileged proxy, by `mesh_common::broker`'s messages.
//!
//! One task per connection. What a client does wrong ends its own connection, with a log line that names the field.

mod conversation;
mod gateway;
mod packet;

use crate::egress::Book;
use crate::kernel::Kernel;
use crate::metrics::{BrokerEnd, Metrics};
use crate::ready::{self, Ready};
use crate::served::Roster;
pub(crate) use gateway::Gateway;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tracing::{info, warn};

/// Connections at a time. A node has one proxy and one DNS process, during an upgrade two of each.
const CONNECTIONS: usize = 16;
/// Clients that wait to be accepted.
const BACKLOG: i32 = 16;

/// What a conversation needs.
pub(crate) struct Broker {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) book: Arc<Book>,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) proxy_uid: u32,
}

impl Broker {
    /// Opens the socket, for `proxy_uid` only.
    pub(crate) fn listen(path: &Path, proxy_uid: u32) -> io::Result<Ready<Socket>> {
        clear(path)?;
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET.nonblocking(), None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        std::os::unix::fs::chown(path, Some(proxy_uid), None)?;
        socket.listen(BACKLOG)?;
        ready::watch(socket)
    }

    /// Serves for ever.
    pub(crate) async fn serve(self: Arc<Self>, socket: Ready<Socket>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = match socket.readable().await {
                Ok(mut ready) => ready.try_io(|socket| socket.get_ref().accept()),
                Err(error) => Ok(Err(error)),
            };
            let client = match accepted {
                Ok(Ok((client, _))) => client,
                Ok(Err(error)) => {
                    warn!(%error, "broker: accept failed");
                    // Out of descriptors, for instance: the loop must not spin.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
                Err(_would_block) => continue,
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                self.metrics.broker_end(BrokerEnd::TooManyConnections);
                warn!(limit = CONNECTIONS, "broker: connection refused, there are too many");
                continue;
            };
            match self.admit(client) {
                Ok(client) => {
                    let broker = Arc::clone(&self);
                    tokio::spawn(async move {
                        broker.converse(client).await;
                        drop(place);
                    });
                }
                Err(error) => warn!(%error, "broker: connection refused"),
            }
        }
    }

    fn admit(&self, client: Socket) -> io::Result<Ready<Socket>> {
        let peer = getsockopt(&client, PeerCredentials)?;
        if peer.uid() != self.proxy_uid {
            self.metrics.broker_end(BrokerEnd::WrongUser);
            let text = format!("process {} runs as uid {}, not {} (--proxy-uid)", peer.pid(), peer.uid(), self.proxy_uid);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        client.set_nonblocking(true)?;
        info!(pid = peer.pid(), "broker: client connected");
        ready::watch(client)
    }

    async fn converse(&self, client: Ready<Socket>) {
        let end = conversation::run(self, &client).await;
        self.metrics.broker_end(end.kind());
        match end.kind() {
            BrokerEnd::Closed => info!("broker: client has gone"),
            _ => warn!(reason = %end, "broker: connection closed"),
        }
    }
}

/// Removes the socket file of a former agent; refuses if one is still running.
pub(crate) fn clear(path: &Path) -> io::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.exists()) {
        fs::create_dir_all(dir)?;
        // Whatever the umask: the proxy's user must get through to its socket.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    if path.exists() {
        for kind in [Type::SEQPACKET, Type::STREAM] {
            if Socket::new(Domain::UNIX, kind, None)?.connect(&SockAddr::unix(path)?).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("another process serves {}", path.display())));
            }
        }
        fs::remove_file(path)?;
    }
    Ok(())
}
