//! What is said on one connection, from Hello to the end.

use super::{Broker, packet};
use crate::core::egress::NAME_MAX;
use crate::core::limit::Bucket;
use crate::metrics::BrokerEnd;
use crate::netns::sockets;
use crate::ready::Ready;
use crate::served::{Change, Served};
use mesh_common::abi::GATEWAY_SLOT;
use mesh_common::broker::{
    BATCH, Family, GATEWAY_LISTENERS, InvalidMessage, Listener, MESSAGE_BYTES, Role, ToAgent, ToProxy, VERSION, Workload, decode,
    encode,
};
use parking_lot::Mutex;
use socket2::Socket;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::timeout;

/// A client that does not read for so long is ended: it gets the whole list when it comes back.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a conversation ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the client closed")]
    Closed,
    #[error("hello.version is {0}, this agent speaks {VERSION}")]
    Version(u32),
    #[error("{0}")]
    Message(#[from] InvalidMessage),
    #[error("{0}")]
    Protocol(String),
    #[error("the client does not read")]
    Slow,
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl End {
    pub(super) fn kind(&self) -> BrokerEnd {
        match self {
            Self::Closed => BrokerEnd::Closed,
            Self::Version(_) | Self::Message(_) | Self::Protocol(_) => BrokerEnd::Malformed,
            Self::Slow => BrokerEnd::Slow,
            Self::Io(_) => BrokerEnd::Failed,
        }
    }
}

pub(super) async fn run(broker: &Broker, client: &Ready<Socket>) -> End {
    match talk(broker, client).await {
        Err(end) => end,
        Ok(()) => End::Closed,
    }
}

async fn talk(broker: &Broker, client: &Ready<Socket>) -> Result<(), End> {
    let mut buffer = Box::new([0; MESSAGE_BYTES + 1]);
    let role = match timeout(PATIENCE, next(client, &mut buffer)).await.map_err(|_elapsed| End::Slow)?? {
        ToAgent::Hello { version: VERSION, role } => role,
        ToAgent::Hello { version, .. } => return Err(End::Version(version)),
        ToAgent::Refill { .. } => return Err(End::Protocol("refill before hello".to_owned())),
        ToAgent::Learned { .. } => return Err(End::Protocol("learned before hello".to_owned())),
        ToAgent::Listen { .. } => return Err(End::Protocol("listen before hello".to_owned())),
    };
    loop {
        tokio::select! {
            () = broker.roster.until_listed() => break,
            message = next(client, &mut buffer) => answer(broker, client, role, message?).await?,
        }
    }
    let (slots, mut changes) = broker.roster.subscribe();
    for slot in slots {
        announce(broker, client, role, slot).await?;
    }
    send(client, &ToProxy::Ready, &[]).await?;
    loop {
        tokio::select! {
            message = next(client, &mut buffer) => answer(broker, client, role, message?).await?,
            change = next_change(&mut changes) => match change? {
                Change::Pod(slot) => announce(broker, client, role, slot).await?,
                Change::Gone(slot) => send(client, &ToProxy::PodGone { slot }, &[]).await?,
            },
        }
    }
}

async fn answer(broker: &Broker, client: &Ready<Socket>, role: Role, message: ToAgent) -> Result<(), End> {
    match message {
        ToAgent::Hello { .. } => Err(End::Protocol("a second hello".to_owned())),
        ToAgent::Refill { slot, family, count } => refill(broker, client, role, slot, family, count).await,
        ToAgent::Learned { id, name, addresses, ttl_seconds } => {
            learned(broker, client, role, id, &name, &addresses, ttl_seconds).await
        }
        ToAgent::Listen { addresses } => listen(broker, client, role, &addresses).await,
    }
}

async fn next(client: &Ready<Socket>, buffer: &mut [u8; MESSAGE_BYTES + 1]) -> Result<ToAgent, End> {
    match packet::receive(client, buffer).await {
        Ok([]) => Err(End::Closed),
        Ok(bytes) => Ok(decode(bytes)?),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(End::Closed),
        Err(error) => Err(error.into()),
    }
}

async fn next_change(changes: &mut Receiver<Change>) -> Result<Change, End> {
    changes.recv().await.map_err(|error| match error {
        RecvError::Lagged(_) => End::Slow,
        RecvError::Closed => End::Protocol("the agent stops".to_owned()),
    })
}

/// Tells of a pod as it is now. If it has left meanwhile, `PodGone` follows.
async fn announce(broker: &Broker, client: &Ready<Socket>, role: Role, slot: u32) -> Result<(), End> {
    let Some(pod) = broker.roster.get(slot) else { return Ok(()) };
    let (listeners, fds): (Vec<Listener>, Vec<BorrowedFd<'_>>) = listeners(role, &pod).into_iter().unzip();
    let workload = Workload::from(&pod.workload);
    send(client, &ToProxy::Pod { slot, workload, listeners }, &fds).await
}

fn listeners(role: Role, pod: &Served) -> Vec<(Listener, BorrowedFd<'_>)> {
    let sockets = &pod.sockets;
    match role {
        Role::Proxy => {
            let v6 = sockets.outbound_v6.as_ref().map(|fd| (Listener::OutboundV6, fd.as_fd()));
            let inbound = [(Listener::InboundV4, &sockets.inbound.v4), (Listener::InboundV6, &sockets.inbound.v6)];
            let inbound = inbound.into_iter().filter_map(|(which, socket)| Some((which, socket.as_ref()?.as_fd())));
            [(Listener::OutboundV4, sockets.outbound_v4.as_fd())].into_iter().chain(v6).chain(inbound).collect()
        }
        Role::Dns => vec![(Listener::DnsUdp, sockets.dns_udp.as_fd()), (Listener::DnsTcpV4, sockets.dns_tcp.as_fd())],
    }
}

async fn refill(broker: &Broker, client: &Ready<Socket>, role: Role, slot: u32, family: Family, count: usize) -> Result<(), End> {
    if role != Role::Proxy {
        return Err(End::Protocol("refill from role dns, which dials nobody inside pods".to_owned()));
    }
    if count == 0 || count > BATCH {
        return Err(End::Protocol(format!("refill.count is {count}, which is not 1 to {BATCH}")));
    }
    let made = match broker.roster.get(slot) {
        Some(pod) => {
            make(broker, slot, &pod.bucket, count, |granted| pod.namespace.visit(|| sockets::unconnected(family, granted))?)?
        }
        None if slot == GATEWAY_SLOT => {
            make(broker, slot, &broker.gateway.bucket, count, |granted| sockets::unconnected(family, granted))?
        }
        // A pod that has just left: the client will hear of it.
        None => Vec::new(),
    };
    let fds: Vec<BorrowedFd<'_>> = made.iter().map(AsFd::as_fd).collect();
    send(client, &ToProxy::Sockets { slot, family, count: fds.len() }, &fds).await
}

/// Opens the gateway's ports, and closes those that are no longer wanted.
async fn listen(broker: &Broker, client: &Ready<Socket>, role: Role, addresses: &[SocketAddr]) -> Result<(), End> {
    if role != Role::Proxy {
        return Err(End::Protocol("listen from role dns, which is no gateway".to_owned()));
    }
    let distinct: BTreeSet<&SocketAddr> = addresses.iter().collect();
    if addresses.len() > GATEWAY_LISTENERS || distinct.len() < addresses.len() {
        return Err(End::Protocol(format!("listen.addresses are not at most {GATEWAY_LISTENERS} different ones")));
    }
    let (listening, refused) = broker.gateway.listen(addresses);
    let fds: Vec<BorrowedFd<'_>> = listening.iter().map(|(_, socket)| socket.as_fd()).collect();
    let addresses = listening.iter().map(|(address, _)| *address).collect();
    send(client, &ToProxy::Listening { slot: GATEWAY_SLOT, addresses, refused }, &fds).await
}

/// Answers once the kernel's allowlist holds what may be allowed.
async fn learned(
    broker: &Broker,
    client: &Ready<Socket>,
    role: Role,
    id: u64,
    name: &str,
    addresses: &[IpAddr],
    ttl: u32,
) -> Result<(), End> {
    if role != Role::Dns {
        return Err(End::Protocol("learned from role proxy, which asks no resolver".to_owned()));
    }
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(End::Protocol(format!("learned.name has {} bytes, which is not 1 to {NAME_MAX}", name.len())));
    }
    tokio::task::block_in_place(|| broker.book.learn(name, addresses, ttl));
    send(client, &ToProxy::Learned { id }, &[]).await
}

/// Sockets as `open` makes them, as many as the bucket grants, tagged as the slot's before anybody else has them.
fn make(
    broker: &Broker,
    slot: u32,
    bucket: &Mutex<Bucket>,
    count: usize,
    open: impl FnOnce(usize) -> io::Result<Vec<OwnedFd>>,
) -> io::Result<Vec<OwnedFd>> {
    let granted = bucket.lock().take(count as u32, since_start()) as usize;
    if granted < count {
        broker.metrics.sockets_refused((count - granted) as u64);
    }
    let made = tokio::task::block_in_place(|| open(granted))?;
    let mut maps = broker.kernel.maps();
    for socket in &made {
        maps.tag(socket, slot).map_err(io::Error::other)?;
    }
    drop(maps);
    broker.metrics.sockets_brokered(made.len() as u64);
    Ok(made)
}

/// Time since the process began, for the limits.
fn since_start() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

async fn send(client: &Ready<Socket>, message: &ToProxy, fds: &[BorrowedFd<'_>]) -> Result<(), End> {
    let bytes = encode(message)?;
    match timeout(PATIENCE, packet::send(client, &bytes, fds)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(End::Closed),
        Ok(result) => Ok(result?),
        Err(_elapsed) => Err(End::Slow),
    }
}
