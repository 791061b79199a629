//! From a pod's listening socket to the right way of serving each connection.

use crate::config::Serve;
use crate::http::{self, Connection};
use crate::limits::ACCEPT_PAUSE;
use crate::pod::{Guest, Pod};
use crate::tcp;
use mesh_common::reason::Reason;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

/// Accepts, once the configuration is complete, until the task is aborted. Connections live on after it.
pub async fn accept(pod: Rc<Pod>, socket: OwnedFd) {
    let listener = std::net::TcpListener::from(socket);
    let listening = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    let (listener, own) = match listening.and_then(|listener| Ok((listener.local_addr()?, listener))) {
        Ok((own, listener)) => (listener, own),
        Err(error) => {
            tracing::error!(slot = pod.slot, %error, "a brokered listener is unusable");
            return;
        }
    };
    let metrics = &pod.shared.metrics;
    pod.shared.may_accept().await;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                metrics.connections.inc();
                match Guest::enter(&pod) {
                    Some(guest) => drop(tokio::task::spawn_local(serve(guest, stream, peer, own))),
                    None => metrics.refuse("connection_limit"),
                }
            }
            Err(error) => {
                // Out of descriptors, or shut down by another holder: the agent revives it.
                tracing::warn!(slot = pod.slot, %error, "accept failed");
                metrics.refuse("accept_failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(guest: Guest, stream: TcpStream, peer: SocketAddr, own: SocketAddr) {
    let shared = guest.pod().shared.clone();
    // The socket that the agent listens on is transparent: the local address is where the client wanted to go.
    let Ok(destination) = stream.local_addr() else { return };
    if destination == own {
        return shared.metrics.refuse(Reason::MeshListener.label());
    }
    // Latency counts more than packets here; a failure to say so is none.
    let _ = stream.set_nodelay(true);
    let config = shared.config.load_full();
    match config.listener(destination).map(|listener| &listener.serve) {
        None => {
            tracing::debug!(%destination, "no listener");
            shared.metrics.refuse("no_listener");
        }
        Some(Serve::Tcp(tcp)) => tcp::serve(guest, stream, &config, tcp).await,
        Some(Serve::Http(http)) => {
            let options = Arc::clone(&http.options);
            // Each request loads the snapshot of its own time.
            drop(config);
            http::serve(Connection { guest, destination, peer, tls: false, options }, stream).await;
        }
    }
}
