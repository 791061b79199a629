//! A pod as its thread sees it: stock of sockets, connections to endpoints, cursors. All of it belongs to one thread; nothing is locked.

mod stock;
pub mod upstream;

use crate::broker::Client;
use crate::config::Cluster;
use crate::core::balance::Cursor;
use crate::core::table::Table;
use crate::shared::{PodStatus, Shared};
use crate::spread::Share;
use crate::telemetry::pod::Known;
use crate::upstream_tls::NO_SECRET;
use mesh_common::broker::{Family, Workload};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use stock::Stock;
pub use stock::StockEmpty;
use tokio::net::TcpStream;
use upstream::{Seen, Upstream};

/// A pod.
pub struct Pod {
    /// Its number at the broker.
    pub slot: u32,
    /// For `/status`.
    pub status: Arc<PodStatus>,
    /// The rest of the process.
    pub shared: Arc<Shared>,
    workload: RefCell<Rc<Workload>>,
    /// Counters of its requests.
    pub known: Known,
    stock: Stock,
    upstreams: RefCell<Table<Arc<str>, Rc<Upstream>>>,
    rng: RefCell<SmallRng>,
    /// How many threads own it.
    threads: u32,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No brokered socket came in time.
    #[error("no brokered socket")]
    Stock(#[from] StockEmpty),
    /// It took longer than the cluster's limit.
    #[error("connection timeout")]
    Timeout,
    /// Refused or unreachable.
    #[error("remote connection failure")]
    Failed(#[source] std::io::Error),
    /// Connected, but not in TLS.
    #[error("remote connection failure, transport failure reason: TLS error: {0}")]
    Tls(#[source] std::io::Error),
    /// Not dialled: a Secret of the cluster's TLS is missing. In Envoy's words.
    #[error("remote connection failure, transport failure reason: TLS error: {NO_SECRET}")]
    NoSecret,
}

impl ConnectError {
    /// The same for the next who waited for the same connection.
    #[must_use]
    pub fn again(&self) -> Self {
        let same = |error: &std::io::Error| std::io::Error::new(error.kind(), error.to_string());
        match self {
            Self::Stock(_) => Self::Stock(StockEmpty),
            Self::Timeout => Self::Timeout,
            Self::Failed(error) => Self::Failed(same(error)),
            Self::Tls(error) => Self::Tls(same(error)),
            Self::NoSecret => Self::NoSecret,
        }
    }
}

impl Pod {
    /// A pod without listeners.
    #[must_use]
    pub fn new(slot: u32, workload: Workload, share: &Share, broker: Client, shared: Arc<Shared>) -> Self {
        let status = shared.enter(slot, &workload, share.threads > 1);
        let stock = Stock::new((slot, share.threads), broker, Arc::clone(&shared), Arc::clone(&status));
        for family in &share.families {
            stock.wanted(*family);
        }
        Self {
            slot,
            status,
            shared,
            workload: RefCell::new(Rc::new(workload)),
            known: Known::default(),
            stock,
            upstreams: RefCell::default(),
            rng: RefCell::new(SmallRng::from_os_rng()),
            threads: share.threads,
        }
    }

    /// Who it is.
    #[must_use]
    pub fn workload(&self) -> Rc<Workload> {
        Rc::clone(&self.workload.borrow())
    }

    /// It is described anew. Counters carry its labels and are found anew too.
    pub fn describe(&self, workload: Workload) {
        *self.workload.borrow_mut() = Rc::new(workload);
        self.known.forget();
    }

    /// Lends the pod's dice. The closure must not await, which its type says.
    pub fn with_rng<T>(&self, throw: impl FnOnce(&mut dyn RngCore) -> T) -> T {
        throw(&mut *self.rng.borrow_mut())
    }

    /// What this pod knows of a cluster.
    #[must_use]
    pub fn upstream(&self, cluster: &Arc<str>) -> Rc<Upstream> {
        if let Some(known) = self.upstreams.borrow().get(cluster) {
            return Rc::clone(known);
        }
        let new = Rc::new(Upstream::new(self.with_rng(Cursor::new), self.threads));
        self.upstreams.borrow_mut().insert(Arc::clone(cluster), Rc::clone(&new));
        new
    }

    /// Connects from inside the pod, on a socket of the stock.
    ///
    /// # Errors
    /// Says which of the three ways it failed.
    pub async fn connect(&self, to: SocketAddr, limit: Duration) -> Result<TcpStream, ConnectError> {
        self.connect_as(None, to, limit).await
    }

    /// The same for a client whom the application beside us is to see.
    ///
    /// # Errors
    /// As above.
    pub async fn connect_as(
        &self,
        client: Option<SocketAddr>,
        to: SocketAddr,
        limit: Duration,
    ) -> Result<TcpStream, ConnectError> {
        let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
        let socket = self.stock.take(family).await?;
        if let Some(client) = client {
            // The kernel notes the address and binds to none (the agent's programs): the port is chosen when it connects.
            let free = setsockopt(&socket, IpBindAddressNoPort, &true).map_err(std::io::Error::from);
            free.and_then(|()| socket.bind(client)).map_err(ConnectError::Failed)?;
        }
        // Latency counts more than packets here; a failure to say so is none.
        let _ = socket.set_nodelay(true);
        let connected = tokio::time::timeout(limit, socket.connect(to)).await;
        let metrics = &self.shared.metrics;
        metrics.upstream_connections.inc();
        let error = match connected {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => ConnectError::Failed(error),
            Err(_elapsed) => ConnectError::Timeout,
        };
        metrics.upstream_failures.inc();
        Err(error)
    }

    /// Sockets have arrived.
    pub fn stocked(&self, family: Family, sockets: Vec<OwnedFd>) {
        self.stock.arrived(family, sockets);
    }

    /// The agent is (back) there: what was asked for before is lost.
    pub fn broker_ready(&self) {
        self.stock.ask_again();
    }

    /// Nobody may enter any more and the stock is given back. Open connections go on over the connections that they have; what needs a new
    /// one is refused.
    pub fn leave(&self) {
        self.stock.close();
        let mut pods = self.shared.pods.lock();
        if pods.get(&self.slot).is_some_and(|status| Arc::ptr_eq(status, &self.status)) {
            pods.remove(&self.slot);
        }
    }

    /// Closes connections that idled too long or lead to what is no longer in the configuration.
    pub fn sweep(&self, clusters: &Table<Arc<str>, Arc<Cluster>>) {
        self.upstreams.borrow_mut().retain(|name, upstream| {
            let cluster = clusters.get(name);
            upstream.sweep(cluster.map(Arc::as_ref));
            cluster.is_some() || Rc::strong_count(upstream) > 1
        });
    }

    /// Adds what this pod sees of clusters.
    pub fn look(&self, seen: &mut BTreeMap<Arc<str>, Seen>) {
        for (name, upstream) in self.upstreams.borrow().iter() {
            upstream.look(seen.entry(Arc::clone(name)).or_default());
        }
    }

    /// Sets the stock to what was taken lately.
    pub fn restock(&self, since: Duration) {
        self.stock.look(since);
    }
}

/// One more client connection of a pod, on whichever of its threads, until dropped.
pub struct Ticket {
    status: Arc<PodStatus>,
    shared: Arc<Shared>,
}

impl Ticket {
    /// `None` if the pod has too many.
    #[must_use]
    pub fn take(pod: &Pod) -> Option<Self> {
        if pod.status.connections.fetch_add(1, Ordering::Relaxed) >= crate::limits::CONNECTIONS {
            pod.status.connections.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        pod.shared.metrics.open.inc();
        Some(Self { status: Arc::clone(&pod.status), shared: Arc::clone(&pod.shared) })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.status.connections.fetch_sub(1, Ordering::Relaxed);
        self.shared.metrics.open.dec();
    }
}

/// A client connection on the thread that serves it.
pub struct Guest {
    pod: Rc<Pod>,
    _ticket: Ticket,
}

impl Guest {
    /// With a ticket of the pod's, maybe of another thread.
    #[must_use]
    pub fn new(pod: &Rc<Pod>, ticket: Ticket) -> Self {
        Self { pod: Rc::clone(pod), _ticket: ticket }
    }

    /// `None` if the pod has too many.
    #[must_use]
    pub fn enter(pod: &Rc<Pod>) -> Option<Self> {
        Ticket::take(pod).map(|ticket| Self::new(pod, ticket))
    }

    /// The pod.
    #[must_use]
    pub fn pod(&self) -> &Rc<Pod> {
        &self.pod
    }
}
