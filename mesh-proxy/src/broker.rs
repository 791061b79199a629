//! The client of the agent's socket broker: pods, their listeners and unconnected sockets, as one stream of events.
//!
//! Owns the connection to the agent and connects again for ever, with back-off. Knows which pods were announced, so that after a
//! reconnection a pod missing from the list is reported gone. Never holds a descriptor: whoever reads the events owns them.

mod session;
mod wire;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use mesh_common::broker::{Family, Listener, Refused, Role, ToAgent, VERSION, Workload};
use session::Session;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
pub use wire::{Packets, WireError};

/// The first pause before connecting again; doubled up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest pause. Short, since the socket is local and a pod enrolled meanwhile has no proxy.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Events and requests that may wait. A full queue stops reading from the agent.
const QUEUE: usize = 256;

/// What the agent told us.
#[derive(Debug)]
pub enum Event {
    /// A pod is enrolled, or described anew. Replaces what was known of the slot; another `workload.id` means another pod.
    PodAdded {
        /// The pod's number.
        slot: u32,
        /// Who it is.
        workload: Workload,
        /// Its listening sockets.
        listeners: Vec<(Listener, OwnedFd)>,
    },
    /// A pod has left.
    PodGone {
        /// The pod's number.
        slot: u32,
    },
    /// All enrolled pods were announced. Comes again after each reconnection; what was asked for before was lost.
    Ready,
    /// An answer to [`Client::refill`].
    Sockets {
        /// The pod's number.
        slot: u32,
        /// Of all of them.
        family: Family,
        /// Unconnected, non-blocking; may be fewer than asked.
        sockets: Vec<OwnedFd>,
    },
    /// An answer to [`Client::listen`]. Replaces what the gateway had; another `slot` does not come.
    Gateway {
        /// The gateway's number.
        slot: u32,
        /// Its listening sockets, and where.
        listeners: Vec<(SocketAddr, OwnedFd)>,
        /// Where it does not listen.
        refused: Vec<Refused>,
    },
    /// An answer to [`Client::learned`]: the addresses are in force.
    Learned {
        /// Of the request.
        id: u64,
    },
    /// The agent is gone for now. Everything received stays valid.
    Lost {
        /// For the log and `/status`.
        reason: String,
    },
}

/// Asks the agent for sockets. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    requests: mpsc::Sender<ToAgent>,
}

impl Client {
    /// Asks for sockets in a pod. `false` if the request could not be queued: ask again later. While the agent is away
    /// requests are dropped; [`Event::Ready`] is the sign to ask again.
    #[must_use]
    pub fn refill(&self, slot: u32, family: Family, count: usize) -> bool {
        self.requests.try_send(ToAgent::Refill { slot, family, count }).is_ok()
    }

    /// Asks for the listening sockets of the node's gateway: exactly these. The rules of [`Client::refill`].
    #[must_use]
    pub fn listen(&self, addresses: Vec<SocketAddr>) -> bool {
        self.requests.try_send(ToAgent::Listen { addresses }).is_ok()
    }

    /// Says which addresses a name has that no egress rule may name, without waiting: for the agent's logs. Its answer is nobody's.
    pub fn heard(&self, name: String, addresses: Vec<IpAddr>) {
        // Full or gone: then it is not told.
        let _ = self.requests.try_send(ToAgent::Learned { id: 0, name, addresses, ttl_seconds: 0 });
    }

    /// Says which addresses a name has; [`Event::Learned`] comes once they are in force. Waits while the queue is full; while the agent is
    /// away it is dropped.
    pub async fn learned(&self, id: u64, name: String, addresses: Vec<IpAddr>, ttl_seconds: u32) {
        // The driver ends with whoever reads the events; then nobody waits for the answer either.
        let _ = self.requests.send(ToAgent::Learned { id, name, addresses, ttl_seconds }).await;
    }
}

/// The agent's messages, in order.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<Event>);

impl Events {
    /// The next event. Cancel safe; never ends.
    pub async fn next(&mut self) -> Event {
        match self.0.recv().await {
            Some(event) => event,
            // The driver ends only with its owner, which is us.
            None => std::future::pending().await,
        }
    }
}

/// Starts the client on the current runtime.
#[must_use]
pub fn start(socket: PathBuf, role: Role) -> (Client, Events) {
    let (requests, commands) = mpsc::channel(QUEUE);
    let (events, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move { drive(&socket, role, commands, events).await });
    (Client { requests }, Events(receiver))
}

/// Connects again and again until the owner is gone.
async fn drive(socket: &Path, role: Role, mut commands: mpsc::Receiver<ToAgent>, events: mpsc::Sender<Event>) {
    let mut session = Session::new(role);
    let mut pause = BACKOFF_MIN;
    loop {
        let reason = match Packets::connect(socket) {
            Ok(packets) => converse(&packets, role, &mut session, &mut commands, &events, &mut pause).await,
            Err(error) => Ended::Wire(WireError::Connect(error)),
        };
        let reason = match reason {
            Ended::Owner => return,
            Ended::Wire(error) => error.to_string(),
        };
        session.disconnected();
        tracing::warn!(socket = %socket.display(), reason, "agent's broker is away; keeping what was received");
        if events.send(Event::Lost { reason }).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF_MAX);
        // Requests made while the agent was away are void: the owner asks again at `Ready`.
        while commands.try_recv().is_ok() {}
    }
}

/// Why a conversation ended.
enum Ended {
    /// Nobody listens to the events or asks for sockets any more.
    Owner,
    /// The agent went away or broke the protocol.
    Wire(WireError),
}

/// One connection, from `Hello` to its end.
async fn converse(
    packets: &Packets,
    role: Role,
    session: &mut Session,
    commands: &mut mpsc::Receiver<ToAgent>,
    events: &mpsc::Sender<Event>,
    pause: &mut Duration,
) -> Ended {
    if let Err(error) = packets.send(&ToAgent::Hello { version: VERSION, role }, &[]).await {
        return Ended::Wire(error);
    }
    loop {
        let received = tokio::select! {
            received = packets.receive() => received,
            command = commands.recv() => match command {
                None => return Ended::Owner,
                Some(command) => {
                    if let Err(error) = packets.send(&command, &[]).await {
                        return Ended::Wire(error);
                    }
                    continue;
                }
            },
        };
        let happened = match received.and_then(|(message, fds)| session.on(message, fds)) {
            Ok(happened) => happened,
            Err(error) => return Ended::Wire(error),
        };
        for event in happened {
            if matches!(event, Event::Ready) {
                *pause = BACKOFF_MIN;
            }
            if events.send(event).await.is_err() {
                return Ended::Owner;
            }
        }
    }
}
