//! The pods' sockets: which there are, and the tasks that serve them.

use super::server::{Pod, Server};
use super::{tcp, udp};
use crate::broker::{Event, Events};
use mesh_common::broker::{Listener, Workload};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

/// All pods of the node, and what is known of the agent.
#[derive(Debug, Default)]
pub(super) struct Pods {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pods: BTreeMap<u32, Served>,
    /// The agent has told all pods once.
    told: bool,
    /// Why the agent is away, if it is.
    away: Option<String>,
}

#[derive(Debug)]
struct Served {
    pod: Arc<Pod>,
    /// Dropping them closes the sockets; connections and questions under way finish.
    listening: Vec<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes the agent's events for ever.
pub(super) async fn follow(server: Arc<Server>, pods: Arc<Pods>, mut events: Events) {
    loop {
        pods.handle(&server, events.next().await);
    }
}

/// Once a stop begins: closes the sockets (the agent and the next process hold them) and returns when no question is under way.
pub(super) async fn drained(server: &Server, pods: &Pods) {
    /// How often it is looked whether something is left.
    const LOOK: Duration = Duration::from_millis(10);
    server.drain.begun().await;
    pods.state.lock().pods.values_mut().for_each(|served| served.listening.clear());
    let empty = async {
        // First of all the tasks that serve sockets must have seen that they end, and connections that they are to.
        tokio::time::sleep(LOOK).await;
        while server.metrics.waiting.get() > 0 || server.metrics.connections.get() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = empty => {}
        () = server.drain.over() => {}
    }
}

impl Pods {
    /// Takes one event of the agent.
    pub(super) fn handle(&self, server: &Arc<Server>, event: Event) {
        let mut state = self.state.lock();
        match event {
            Event::PodAdded { slot, workload, listeners } => {
                // The old sockets may be the same as the new: nothing that waits in them is lost.
                let former = state.pods.remove(&slot).map(|served| served.pod);
                // In a stop the next process serves; these descriptors are closed.
                let listeners = if server.drain.is_begun() { Vec::new() } else { listeners };
                let served = serve(server, former, workload, listeners);
                state.pods.insert(slot, served);
            }
            Event::PodGone { slot } => {
                if let Some(served) = state.pods.remove(&slot) {
                    tracing::info!(slot, pod = served.pod.id, "pod has left");
                }
            }
            Event::Ready => {
                (state.told, state.away) = (true, None);
                server.learner.connected();
            }
            Event::Lost { reason } => {
                state.away = Some(reason);
                server.agent_lost();
            }
            Event::Learned { id } => server.learner.acknowledged(id),
            // Never asked for: answers go out on the pods' own sockets.
            Event::Sockets { .. } | Event::Gateway { .. } => {}
        }
    }

    /// Has the agent told all pods once? Else why not.
    pub(super) fn ready(&self) -> Result<(), String> {
        let state = self.state.lock();
        if state.told {
            return Ok(());
        }
        Err(state
            .away
            .as_ref()
            .map_or_else(|| "the agent has not told its pods yet".to_owned(), |why| format!("no agent: {why}")))
    }

    /// Slot, id and number of sockets of each pod; and why the agent is away.
    pub(super) fn status(&self) -> (Vec<(u32, String, usize)>, Option<String>) {
        let state = self.state.lock();
        let pods = state.pods.iter().map(|(slot, served)| (*slot, served.pod.id.clone(), served.listening.len()));
        (pods.collect(), state.away.clone())
    }
}

fn serve(server: &Arc<Server>, former: Option<Arc<Pod>>, workload: Workload, listeners: Vec<(Listener, OwnedFd)>) -> Served {
    // The same pod described anew keeps its limits, or it could double them.
    let pod = former.filter(|pod| pod.id == workload.id).unwrap_or_else(|| Arc::new(Pod::new(workload.id)));
    let mut listening = Vec::new();
    for (kind, fd) in listeners {
        match listen(server, &pod, kind, fd) {
            Ok(task) => listening.push(AbortOnDrop(task)),
            Err(error) => tracing::error!(pod = pod.id, ?kind, %error, "cannot serve a DNS socket"),
        }
    }
    tracing::info!(pod = pod.id, sockets = listening.len(), "serving pod");
    Served { pod, listening }
}

fn listen(server: &Arc<Server>, pod: &Arc<Pod>, kind: Listener, fd: OwnedFd) -> io::Result<AbortHandle> {
    let (server, pod) = (Arc::clone(server), Arc::clone(pod));
    let task = match kind {
        Listener::DnsUdp => {
            let socket = Arc::new(udp::DnsSocket::new(fd)?);
            tokio::spawn(async move {
                server.until_told().await;
                udp::serve(server, pod, socket).await;
            })
        }
        Listener::DnsTcpV4 => {
            let (listener, own) = tcp::listener(fd)?;
            tokio::spawn(async move {
                server.until_told().await;
                tcp::serve(server, pod, listener, own).await;
            })
        }
        Listener::OutboundV4 | Listener::OutboundV6 | Listener::InboundV4 | Listener::InboundV6 => {
            return Err(io::Error::other("the proxy serves this one"));
        }
    };
    Ok(task.abort_handle())
}
