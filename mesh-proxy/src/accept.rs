//! From a listening socket to the right way of serving each connection: its listener, its first bytes, its filter chain, its TLS.

use crate::config::{Inbound, Serve, Tls};
use crate::http::{self, Connection};
use crate::inspect;
use crate::limits::{ACCEPT_PAUSE, HANDSHAKE};
use crate::pod::{Guest, Pod};
use crate::shared::Shared;
use crate::stream::Stream;
use crate::tcp;
use mesh_common::reason::Reason;
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Whose connections a socket takes.
#[derive(Clone, Copy, Debug)]
pub enum Door {
    /// A pod's, captured. The socket's own address is nobody's destination.
    Captured,
    /// Anybody's, at an address of the node's gateway.
    Gateway(SocketAddr),
}

/// Accepts, once the configuration is complete, until the task is aborted. Connections live on after it.
pub async fn accept(pod: Rc<Pod>, socket: OwnedFd, door: Door) {
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
                    Some(guest) => drop(tokio::task::spawn_local(serve(guest, stream, peer, own, door))),
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

async fn serve(guest: Guest, stream: TcpStream, source: SocketAddr, own: SocketAddr, door: Door) {
    let shared = guest.pod().shared.clone();
    // The socket that the agent listens on in a pod is transparent: the local address is where the client wanted to go.
    let Ok(destination) = stream.local_addr() else { return };
    let gateway = match door {
        Door::Captured if destination == own => return shared.metrics.refuse(Reason::MeshListener.label()),
        Door::Captured => None,
        Door::Gateway(address) => Some(address),
    };
    // Latency counts more than packets here; a failure to say so is none.
    let _ = stream.set_nodelay(true);
    let mut inbound = Inbound { gateway, destination, source, hello: Default::default() };
    if let Err(reason) = find(guest, stream, &mut inbound, &shared).await {
        tracing::debug!(%source, %destination, reason, "refused");
        shared.metrics.refuse(reason);
    }
}

/// Serves to the end, or says why not.
async fn find(guest: Guest, stream: TcpStream, inbound: &mut Inbound, shared: &Arc<Shared>) -> Result<(), &'static str> {
    let inspect = inbound.listener(&shared.config.load()).ok_or("no_listener")?.inspect;
    let (hello, late) = tokio::select! {
        inspected = inspect::inspect(&stream, inspect) => inspected.map_err(|refused| {
            count_late(shared, matches!(refused, inspect::Refused::Timeout));
            refused.label()
        })?,
        () = shared.drain.closing() => return Ok(()),
    };
    count_late(shared, late);
    inbound.hello = hello;
    let config = shared.config.load_full();
    let listener = inbound.listener(&config).ok_or("no_listener")?;
    let chain = inbound.chain(listener, &guest.pod().workload()).ok_or("no_filter_chain")?;
    let (stream, secure) = match &chain.tls {
        Tls::None => (Stream::Plain(stream), false),
        Tls::NoSecret => return Err("no_secret"),
        Tls::Server(tls) => (handshake(stream, tls).await?, true),
    };
    match &chain.serve {
        Serve::Tcp(tcp) => {
            let tcp = Arc::clone(tcp);
            tcp::serve(guest, stream, config, &tcp, inbound).await;
        }
        Serve::Http(http) => {
            let options = Arc::clone(&http.options);
            // Each request loads the snapshot of its own time.
            drop(config);
            let (inbound, peer) = (inbound.clone(), inbound.source);
            http::serve(Connection { guest, destination: inbound.destination, peer, tls: secure, inbound, options }, stream)
                .await;
        }
    }
    Ok(())
}

fn count_late(shared: &Shared, late: bool) {
    if late {
        shared.metrics.detection_timeouts.inc();
    }
}

async fn handshake(stream: TcpStream, tls: &Arc<ServerConfig>) -> Result<Stream, &'static str> {
    match tokio::time::timeout(HANDSHAKE, TlsAcceptor::from(Arc::clone(tls)).accept(stream)).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            Err("tls_handshake")
        }
        Err(_elapsed) => Err("tls_handshake_timeout"),
    }
}
