//! A thread that owns pods: one single-threaded runtime, on which all of a pod's sockets and state live.

use crate::accept::{self, Arrival, Door};
use crate::broker::Client;
use crate::limits::SWEEP;
use crate::pod::Pod;
use crate::pod::upstream::Seen;
use crate::shared::Shared;
use crate::spread::Share;
use mesh_common::broker::{Family, Listener, Workload};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Commands that may wait. The broker's reader waits when it is full.
const QUEUE: usize = 256;

/// What a thread is told about its pods.
#[derive(Debug)]
pub enum Command {
    /// A pod comes, or is described anew.
    Pod(u32, Workload, Vec<Entrance>, Share),
    /// A connection that another thread has accepted for a pod.
    Arrival(u32, Arrival),
    /// A pod has left.
    Gone(u32),
    /// Sockets for a pod.
    Sockets(u32, Family, Vec<OwnedFd>),
    /// The agent is there: ask again for what was asked before.
    BrokerReady,
    /// The process stops: accept no more. The sender is dropped when that is so.
    Drain(mpsc::Sender<()>),
    /// An operator asks what its pods see of clusters.
    Look(oneshot::Sender<BTreeMap<Arc<str>, Seen>>),
}

/// A listening socket.
#[derive(Debug)]
pub struct Entrance {
    door: Door,
    family: Family,
    socket: OwnedFd,
}

impl Entrance {
    /// Of a pod; `None` if it is not for captured connections.
    #[must_use]
    pub fn captured(listener: Listener, socket: OwnedFd) -> Option<Self> {
        let (door, family) = match listener {
            Listener::OutboundV4 => (Door::Captured, Family::V4),
            Listener::OutboundV6 => (Door::Captured, Family::V6),
            Listener::InboundV4 => (Door::Inbound, Family::V4),
            Listener::InboundV6 => (Door::Inbound, Family::V6),
            Listener::DnsUdp | Listener::DnsTcpV4 => return None,
        };
        Some(Self { door, family, socket })
    }

    /// What comes in there.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Of the gateway.
    #[must_use]
    pub fn gateway(address: SocketAddr, socket: OwnedFd) -> Self {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        Self { door: Door::Gateway(address), family, socket }
    }
}

/// A pod and who accepts for it.
struct Resident {
    pod: Rc<Pod>,
    accepting: Vec<JoinHandle<()>>,
}

/// Starts a thread. It ends when the sender is dropped.
///
/// # Errors
/// If the thread or its runtime cannot be made.
pub fn start(index: usize, broker: Client, shared: Arc<Shared>) -> io::Result<mpsc::Sender<Command>> {
    let (sender, commands) = mpsc::channel(QUEUE);
    let thread = std::thread::Builder::new().name(format!("worker-{index}"));
    thread.spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        match runtime {
            Ok(runtime) => runtime.block_on(work(commands, broker, shared)),
            Err(error) => tracing::error!(%error, "a worker has no runtime"),
        }
    })?;
    Ok(sender)
}

async fn work(mut commands: mpsc::Receiver<Command>, broker: Client, shared: Arc<Shared>) {
    let mut residents: HashMap<u32, Resident> = HashMap::new();
    let mut sweep = tokio::time::interval(SWEEP);
    let mut draining = false;
    let mut changed = shared.changed.subscribe();
    let sweep_all = |residents: &HashMap<u32, Resident>| {
        let config = shared.config.load_full();
        residents.values().for_each(|resident| {
            resident.pod.sweep(&config.clusters);
            resident.pod.known.forget();
        });
    };
    loop {
        let command = tokio::select! {
            command = commands.recv() => command,
            _ = sweep.tick() => {
                sweep_all(&residents);
                residents.values().for_each(|resident| resident.pod.restock(SWEEP));
                continue;
            }
            // The sender lives as long as we do.
            Ok(()) = changed.changed() => {
                sweep_all(&residents);
                continue;
            }
        };
        match command {
            None => return,
            Some(Command::Pod(slot, workload, listeners, share)) => {
                // The same slot with another instance is another pod.
                let same = residents.remove(&slot).and_then(|resident| resident.same(&workload));
                let resident = match same {
                    Some(pod) => {
                        pod.describe(workload);
                        pod
                    }
                    None => Rc::new(Pod::new(slot, workload, &share, broker.clone(), Arc::clone(&shared))),
                };
                // In a stop the next process accepts; these descriptors are closed.
                let listeners = if draining { Vec::new() } else { listeners };
                residents.insert(slot, Resident::enter(resident, listeners, &Rc::from(share.others)));
            }
            Some(Command::Arrival(slot, arrival)) => {
                // Else the pod has left: nobody is there to serve.
                if let Some(resident) = residents.get(&slot) {
                    arrival.serve(&resident.pod);
                }
            }
            Some(Command::Gone(slot)) => {
                if let Some(resident) = residents.remove(&slot) {
                    resident.leave();
                }
            }
            Some(Command::Sockets(slot, family, sockets)) => {
                if let Some(resident) = residents.get(&slot) {
                    resident.pod.stocked(family, sockets);
                }
            }
            Some(Command::Drain(done)) => {
                draining = true;
                for resident in residents.values_mut() {
                    resident.close().await;
                    resident.pod.restock(SWEEP);
                }
                drop(done);
            }
            // Who asked may have lost patience.
            Some(Command::Look(answer)) => drop(answer.send(look(&residents))),
            Some(Command::BrokerReady) => residents.values().for_each(|resident| resident.pod.broker_ready()),
        }
    }
}

fn look(residents: &HashMap<u32, Resident>) -> BTreeMap<Arc<str>, Seen> {
    let mut seen = BTreeMap::new();
    residents.values().for_each(|resident| resident.pod.look(&mut seen));
    seen
}

impl Resident {
    fn enter(pod: Rc<Pod>, entrances: Vec<Entrance>, others: &Rc<[mpsc::Sender<Command>]>) -> Self {
        let enter = |Entrance { door, socket, .. }| {
            tokio::task::spawn_local(accept::accept(Rc::clone(&pod), socket, door, Rc::clone(others)))
        };
        let accepting = entrances.into_iter().map(enter).collect();
        Self { pod, accepting }
    }

    /// Stops accepting on the old descriptors. The pod, if it is the one described; else it leaves.
    fn same(self, workload: &Workload) -> Option<Rc<Pod>> {
        if self.pod.workload().id == workload.id {
            self.accepting.iter().for_each(JoinHandle::abort);
            return Some(self.pod);
        }
        self.leave();
        None
    }

    /// Stops accepting; returns when the descriptors are closed. What waits in the listeners is the next process's.
    async fn close(&mut self) {
        for accepting in self.accepting.drain(..) {
            accepting.abort();
            // Cancelled, as was asked.
            let _ = accepting.await;
        }
    }

    fn leave(self) {
        self.accepting.iter().for_each(JoinHandle::abort);
        self.pod.leave();
    }
}
