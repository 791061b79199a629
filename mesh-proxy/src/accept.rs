//! From a listening socket to the right way of serving each connection: its listener, its first bytes, its filter chain, its TLS.

use crate::config::{Inbound, Serve, Tls};
use crate::http::{self, Connection};
use crate::inspect;
use crate::limits::{ACCEPT_PAUSE, HANDSHAKE};
use crate::pod::{Guest, Pod, Ticket};
use crate::shared::Shared;
use crate::stream::Stream;
use crate::tcp;
use crate::worker::Command;
use mesh_common::abi::host;
use mesh_common::ports;
use mesh_common::reason::Reason;
use rustls::ServerConfig;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_rustls::TlsAcceptor;

/// Whose connections a socket takes.
#[derive(Clone, Copy, Debug)]
pub enum Door {
    /// A pod's, captured. The socket's own address is nobody's destination.
    Captured,
    /// What comes to a pod from outside, at its own address and a port that the mesh takes. The socket's own address is nobody's destination.
    Inbound,
    /// Anybody's, at an address of the node's gateway.
    Gateway(SocketAddr),
}

/// An accepted connection on its way to the thread that serves it.
pub struct Arrival {
    stream: std::net::TcpStream,
    source: SocketAddr,
    own: SocketAddr,
    door: Door,
    ticket: Ticket,
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("source", &self.source).field("door", &self.door).finish_non_exhaustive()
    }
}

impl Arrival {
    /// Serves it on this thread, which owns the pod or a part of it.
    pub fn serve(self, pod: &Rc<Pod>) {
        let Self { stream, source, own, door, ticket } = self;
        match TcpStream::from_std(stream) {
            Ok(stream) => drop(tokio::task::spawn_local(serve(Guest::new(pod, ticket), stream, source, own, door))),
            Err(error) => {
                tracing::warn!(slot = pod.slot, %error, "an accepted connection is unusable");
                pod.shared.metrics.refuse("accept_failed");
            }
        }
    }
}

/// Accepts, once the configuration is complete, until the task is aborted. Connections live on after it. With `others` each gets the next.
pub async fn accept(pod: Rc<Pod>, socket: OwnedFd, door: Door, others: Rc<[mpsc::Sender<Command>]>) {
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
    let mut turn = 0;
    loop {
        match listener.accept().await {
            Ok((stream, source)) => {
                metrics.connections.inc();
                match Ticket::take(&pod) {
                    Some(ticket) if others.is_empty() => {
                        drop(tokio::task::spawn_local(serve(Guest::new(&pod, ticket), stream, source, own, door)));
                    }
                    Some(ticket) => {
                        turn = (turn + 1) % (others.len() + 1);
                        match stream.into_std() {
                            Ok(stream) => hand(Arrival { stream, source, own, door, ticket }, &pod, others.get(turn)),
                            Err(error) => tracing::warn!(slot = pod.slot, %error, "an accepted connection is lost"),
                        }
                    }
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

/// Gives a connection to another thread; serves it here if it is our turn, or if that thread has too much to do.
fn hand(arrival: Arrival, pod: &Rc<Pod>, other: Option<&mpsc::Sender<Command>>) {
    let Some(other) = other else { return arrival.serve(pod) };
    if let Err(TrySendError::Full(back) | TrySendError::Closed(back)) = other.try_send(Command::Arrival(pod.slot, arrival))
        && let Command::Arrival(_, arrival) = back
    {
        arrival.serve(pod);
    }
}

/// Is it an address to which the kernel rewrites what it hands over, and so nobody's destination?
fn is_hand_over(destination: SocketAddr) -> bool {
    let v4 = match destination.ip().to_canonical() {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => return false,
    };
    destination.port() == ports::OUTBOUND && host::owner(v4).is_some()
}

async fn serve(guest: Guest, stream: TcpStream, source: SocketAddr, own: SocketAddr, door: Door) {
    let shared = guest.pod().shared.clone();
    // The socket that the agent listens on in a pod is transparent: the local address is where the client wanted to go.
    let Ok(destination) = stream.local_addr() else { return };
    let gateway = match door {
        // On the node's own network the kernel shows that too, if it was the kernel who brought the connection.
        Door::Captured | Door::Inbound if destination == own || is_hand_over(destination) => {
            return shared.metrics.refuse(Reason::MeshListener.label());
        }
        Door::Captured | Door::Inbound => None,
        Door::Gateway(address) => Some(address),
    };
    // Latency counts more than packets here; a failure to say so is none.
    let _ = stream.set_nodelay(true);
    let to_pod = matches!(door, Door::Inbound);
    let mut inbound = Inbound { gateway, to_pod, destination, source, hello: Default::default() };
    if let Err(reason) = find(guest, stream, &mut inbound, &shared).await {
        tracing::debug!(%source, %destination, reason, "refused");
        shared.metrics.refuse(reason);
    }
}

/// Serves to the end, or says why not.
async fn find(guest: Guest, stream: TcpStream, inbound: &mut Inbound, shared: &Arc<Shared>) -> Result<(), &'static str> {
    let inspect = inbound.listener(&shared.config.load()).ok_or("no_listener")?.inspect;
    let (hello, late) = tokio::select! {
        // What has come is served, even at the last moment.
        biased;
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
        Tls::Server(tls) => (Box::pin(handshake(stream, tls)).await?, true),
    };
    // In boxes: a connection that rests holds no room for what it is not.
    match &chain.serve {
        Serve::Tcp(tcp) => {
            let tcp = Arc::clone(tcp);
            Box::pin(tcp::serve(guest, stream, config, &tcp, inbound)).await;
        }
        Serve::Http(http) => {
            let options = Arc::clone(&http.options);
            // Each request loads the snapshot of its own time.
            drop(config);
            let (inbound, peer) = (inbound.clone(), inbound.source);
            let connection = Connection { guest, destination: inbound.destination, peer, tls: secure, inbound, options };
            Box::pin(http::serve(connection, stream)).await;
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
