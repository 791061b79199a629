//! Hands each node its snapshot and remembers what it answered.

mod holding;
#[cfg(test)]
mod tests;

use crate::auth::{NODES, Tokens};
use crate::core::compile::{Compiled, Refs};
use crate::core::enrolment;
use crate::core::flip::{self, Carried, Part, PortKey, Told};
use crate::core::programmed;
use crate::metrics::Metrics;
use holding::Holding;
use mesh_xds::agent::{EGRESS, SERVICE};
use mesh_xds::names::{CLUSTER, LISTENER, ROUTE};
use mesh_xds::node::{Node, Role};
use mesh_xds::report::Report;
use mesh_xds::serve::{Answer, Source};
use mesh_xds::server::Snapshot;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use tokio::sync::watch;

/// The xDS source: the last compilation, and the clients that hold parts of it.
pub(crate) struct Publisher {
    tokens: Tokens,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Ports that proxies have to go on serving although they are no longer theirs.
    linger: watch::Sender<Arc<BTreeSet<PortKey>>>,
    /// Somebody came, went, or answered.
    standing: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    compiled: Arc<Compiled>,
    clients: BTreeMap<Node, Client>,
    nodes: BTreeMap<IpAddr, flip::Node>,
    offers: u64,
}

struct Client {
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// A client that reconnects may open its new stream before the old one is seen to be dead.
    streams: usize,
    types: BTreeMap<String, Answered>,
    /// What it was given, oldest first; the last is in force.
    offers: VecDeque<(u64, Weak<Snapshot>)>,
    carried: Arc<Carried>,
    holding: Holding,
    /// An agent's own words.
    report: Option<Arc<Report>>,
}

impl Client {
    /// What it refused and has not taken since: the type and its words.
    fn refusal(&self) -> Option<String> {
        let (kind, words) = self.types.iter().find_map(|(kind, of)| Some((kind, of.last_nack.as_ref()?)))?;
        Some(format!("{}: {words}", kind.rsplit('.').next().unwrap_or(kind)))
    }

    /// Which offer an answer speaks of, at the earliest.
    ///
    /// `Answer::in_sync` compares with the snapshot that the client's task saw, which a newer one may have replaced before we are called.
    /// The task keeps hold of it as long as it calls us, so the oldest that is still alive is the one, or one before it with the same
    /// resources of the answered type. A test drives the real server through this race.
    fn answers(&mut self) -> u64 {
        while self.offers.len() > 1 && self.offers.front().is_some_and(|(_, snapshot)| snapshot.strong_count() == 0) {
            self.offers.pop_front();
        }
        self.offers.front().map_or(0, |(id, _)| *id)
    }
}

/// What a client said of a type.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answered {
    /// It holds all that its snapshot has.
    pub(crate) in_sync: bool,
    pub(crate) acks: u64,
    pub(crate) nacks: u64,
    /// Why it refused something last; cleared when it accepts again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_nack: Option<String>,
}

/// A connected client, for `/status`.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct ClientStatus {
    pub(crate) id: String,
    pub(crate) role: &'static str,
    pub(crate) address: String,
    pub(crate) types: BTreeMap<String, Answered>,
}

impl Publisher {
    pub(crate) fn new(tokens: Tokens, metrics: Arc<Metrics>) -> Self {
        Self { tokens, metrics, state: Mutex::default(), linger: watch::Sender::default(), standing: watch::Sender::default() }
    }

    /// Wakes when [`Self::standing`] may have changed.
    pub(crate) fn standings(&self) -> watch::Receiver<()> {
        self.standing.subscribe()
    }

    /// What each node holds, in the order of their addresses. A client that has just come and has not answered yet is left out: what it
    /// held when it went it holds still, for all that we know.
    pub(crate) fn standing(&self) -> Vec<programmed::Node> {
        let state = self.state.lock();
        let mut nodes = BTreeMap::<IpAddr, programmed::Node>::new();
        for (node, client) in &state.clients {
            let refusal = client.refusal();
            let Some(holds) = client.holding.version().or_else(|| refusal.as_ref().map(|_| 0)) else { continue };
            let of_node = programmed::Node { address: node.address, holds, refusal: None };
            let place = nodes.entry(node.address).or_insert(of_node);
            place.holds = place.holds.min(holds);
            place.refusal = place.refusal.take().or(refusal);
        }
        nodes.into_values().collect()
    }

    /// The nodes whose proxies serve Gateways.
    pub(crate) fn gateways(&self) -> BTreeSet<IpAddr> {
        let state = self.state.lock();
        let at_edge = |node: &&Node| matches!(node.role, Role::Node | Role::Gateway) && !node.labels.is_empty();
        let gateways = state.clients.keys().filter(at_edge);
        gateways.map(|node| node.address).collect()
    }

    /// What rules refer to and is not there, in the configuration of this version.
    pub(crate) fn refs(&self) -> (u64, Arc<Refs>) {
        let state = self.state.lock();
        (state.compiled.version, state.compiled.refs.clone())
    }

    /// What clients hold and say of their nodes, and the version that they should hold.
    pub(crate) fn enrolment(&self) -> (Vec<enrolment::Client>, u64) {
        let state = self.state.lock();
        let client = |(node, client): (&Node, &Client)| enrolment::Client {
            role: node.role,
            address: node.address,
            name: node.name.clone(),
            holds: client.holding.version(),
            refusal: client.refusal(),
            report: client.report.clone(),
        };
        (state.clients.iter().map(client).collect(), state.compiled.version)
    }

    /// Ports that the next compilation must let proxies go on serving.
    pub(crate) fn linger(&self) -> watch::Receiver<Arc<BTreeSet<PortKey>>> {
        self.linger.subscribe()
    }

    /// Puts a compilation into force: each client whose snapshot differs is woken. False if meanwhile a kernel was told to hand over a
    /// port that the compilation does not serve: compile again, with [`Self::linger`] as it is now.
    #[must_use]
    pub(crate) fn publish(&self, compiled: &Arc<Compiled>) -> bool {
        let mut state = self.state.lock();
        let linger = flip::lingering(state.nodes.values(), &compiled.modes);
        if !linger.iter().all(|port| compiled.carried.contains_key(port)) {
            self.linger.send_replace(Arc::new(linger));
            return false;
        }
        state.compiled = compiled.clone();
        let connected: BTreeSet<IpAddr> = state.clients.keys().map(|node| node.address).collect();
        let running = compiled.nodes();
        state.nodes.retain(|address, _| connected.contains(address) || running.contains(address));
        // Proxies before agents, by the order of roles: where a rule changes nothing that a proxy holds, no answer of it will come.
        for node in state.clients.keys().rev().cloned().collect::<Vec<_>>() {
            state.offer(&node);
        }
        self.settle(&state);
        self.standing.send_replace(());
        true
    }

    /// A client holds all that its task's snapshot has of this type.
    fn is_held(&self, state: &mut State, node: &Node, type_url: &str) {
        let Some(client) = state.clients.get_mut(node) else { return };
        let offer = client.answers();
        let part = Part::ALL.into_iter().find(|part| type_of(*part) == type_url);
        let place = state.nodes.entry(node.address).or_default();
        let told = Told::ALL.into_iter().find(|part| told_by(*part) == type_url);
        match (node.role, part, told) {
            (Role::Agent, _, Some(part)) => {
                place.agent_acked(part, offer);
                self.settle(state);
            }
            (Role::Node, Some(part), _) => {
                place.proxy_holds(part, offer);
                state.offer_agents(node.address);
            }
            _ => {}
        }
    }

    /// Says which ports linger, if that changed.
    fn settle(&self, state: &State) {
        let linger = flip::lingering(state.nodes.values(), &state.compiled.modes);
        self.linger.send_if_modified(|current| {
            let changed = **current != linger;
            if changed {
                *current = Arc::new(linger);
            }
            changed
        });
    }

    /// All connected clients.
    pub(crate) fn clients(&self) -> Vec<ClientStatus> {
        let state = self.state.lock();
        let status = |(node, client): (&Node, &Client)| ClientStatus {
            id: node.to_string(),
            role: node.role.as_str(),
            address: node.address.to_string(),
            types: client.types.clone(),
        };
        state.clients.iter().map(status).collect()
    }
}

impl State {
    /// Gives a client what it should hold now, if that is something new.
    fn offer(&mut self, node: &Node) {
        let place = self.nodes.entry(node.address).or_default();
        let modes = place.modes(&self.compiled.modes);
        let next = self.compiled.snapshot_in(node, &modes);
        let Some(client) = self.clients.get_mut(node) else { return };
        let current = client.snapshots.borrow().clone();
        let next = keep_equal(&current, next).map(Arc::new);
        client.holding.give(next.as_ref().unwrap_or(&current), self.compiled.version);
        let carried = node.role == Role::Node && !Arc::ptr_eq(&client.carried, &self.compiled.carried);
        if next.is_none() && !carried {
            return;
        }
        self.offers += 1;
        let snapshot = next.as_ref().unwrap_or(&current);
        let is_same = |type_url: &str| match (current.types.get(type_url), snapshot.types.get(type_url)) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            _ => false,
        };
        match node.role {
            Role::Agent => place.tell_agent(self.offers, &modes, Told::ALL.map(|part| is_same(told_by(part)))),
            Role::Node => {
                client.carried = self.compiled.carried.clone();
                place.offer_proxy(self.offers, &client.carried, Part::ALL.map(|part| is_same(type_of(part))));
            }
            Role::Dns | Role::Gateway | Role::Sidecar => {}
        }
        if next.is_none() {
            client.offers.pop_back();
        }
        client.offers.push_back((self.offers, Arc::downgrade(snapshot)));
        if let Some(next) = next {
            client.snapshots.send_replace(next);
        }
    }

    /// What the node's proxy did may let the node's agent go on.
    fn offer_agents(&mut self, address: IpAddr) {
        let agents = self.clients.keys().filter(|node| node.role == Role::Agent && node.address == address);
        for node in agents.cloned().collect::<Vec<_>>() {
            self.offer(&node);
        }
    }
}

const fn type_of(part: Part) -> &'static str {
    match part {
        Part::Clusters => CLUSTER,
        Part::Listeners => LISTENER,
        Part::Routes => ROUTE,
    }
}

const fn told_by(part: Told) -> &'static str {
    match part {
        Told::Services => SERVICE,
        Told::Egress => EGRESS,
    }
}

/// The next snapshot with the maps of the current one where they are equal; `None` if all are.
fn keep_equal(current: &Snapshot, mut next: Snapshot) -> Option<Snapshot> {
    let mut changed = current.types.len() != next.types.len();
    for (name, resources) in &mut next.types {
        match current.types.get(name) {
            Some(old) if Arc::ptr_eq(old, resources) || old == resources => *resources = old.clone(),
            _ => changed = true,
        }
    }
    changed.then_some(next)
}

impl Source for Publisher {
    fn authorize(&self, node: &Node, token: Option<&str>) -> Result<(), String> {
        let token = token.ok_or("no bearer token: the header is `authorization: Bearer TOKEN`")?;
        let user = self.tokens.user(token).ok_or("the token is unknown")?;
        if user.is_in(NODES) {
            return Ok(());
        }
        tracing::warn!(%node, user = user.name, "refused as an xDS client");
        Err(format!("user {} is not in group {NODES}", user.name))
    }

    fn watch(&self, node: &Node) -> watch::Receiver<Arc<Snapshot>> {
        let mut state = self.state.lock();
        if node.role == Role::Node {
            state.nodes.entry(node.address).or_default().proxy_connected();
        }
        if !state.clients.contains_key(node) {
            let client = Client {
                snapshots: watch::Sender::default(),
                streams: 0,
                types: BTreeMap::new(),
                offers: VecDeque::new(),
                carried: Arc::default(),
                holding: Holding::default(),
                report: None,
            };
            state.clients.insert(node.clone(), client);
            state.offer(node);
        }
        let Some(client) = state.clients.get_mut(node) else { unreachable!("it was put there under this lock") };
        client.streams += 1;
        let receiver = client.snapshots.subscribe();
        self.metrics.clients.set(i64::try_from(state.clients.len()).unwrap_or(i64::MAX));
        receiver
    }

    fn answered(&self, node: &Node, answer: Answer<'_>) {
        let mut state = self.state.lock();
        let Some(client) = state.clients.get_mut(node) else { return };
        let answered = client.types.entry(answer.type_url.to_owned()).or_default();
        answered.in_sync = answer.in_sync;
        if let Some(error) = answer.error {
            answered.nacks += 1;
            // A client's words go to people only; they are kept short, since they come from outside.
            answered.last_nack = Some(error.chars().take(2000).collect());
            self.metrics.nacks.inc();
        } else {
            answered.acks += 1;
            answered.last_nack = None;
        }
        if answer.in_sync {
            self.is_held(&mut state, node, answer.type_url);
        }
        if answer.error.is_some() {
            self.standing.send_replace(());
        }
    }

    fn settled(&self, node: &Node, snapshot: &Arc<Snapshot>) {
        if let Some(client) = self.state.lock().clients.get_mut(node) {
            client.holding.settle(snapshot);
        }
        self.standing.send_replace(());
    }

    fn holds(&self, node: &Node, type_url: &'static str) {
        self.is_held(&mut self.state.lock(), node, type_url);
    }

    fn reported(&self, node: &Node, report: Report) {
        if let Some(client) = self.state.lock().clients.get_mut(node) {
            client.report = Some(Arc::new(report));
        }
    }

    fn disconnected(&self, node: &Node) {
        let mut state = self.state.lock();
        if let Some(client) = state.clients.get_mut(node) {
            client.streams = client.streams.saturating_sub(1);
            if client.streams == 0 {
                state.clients.remove(node);
                let is_proxy = |other: &Node| other.role == Role::Node && other.address == node.address;
                if node.role == Role::Node && !state.clients.keys().any(is_proxy) {
                    state.nodes.entry(node.address).or_default().proxy_gone();
                    state.offer_agents(node.address);
                }
            }
        }
        self.metrics.clients.set(i64::try_from(state.clients.len()).unwrap_or(i64::MAX));
        self.standing.send_replace(());
    }
}
