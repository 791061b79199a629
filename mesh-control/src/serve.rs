//! Hands each node its snapshot and remembers what it answered.

#[cfg(test)]
mod tests;

use crate::auth::{NODES, Tokens};
use crate::core::compile::Compiled;
use crate::metrics::Metrics;
use mesh_xds::node::Node;
use mesh_xds::serve::{Answer, Source};
use mesh_xds::server::Snapshot;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The xDS source: the last compilation, and the clients that hold parts of it.
pub(crate) struct Publisher {
    tokens: Tokens,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    compiled: Arc<Compiled>,
    clients: BTreeMap<Node, Client>,
}

struct Client {
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// A client that reconnects may open its new stream before the old one is seen to be dead.
    streams: usize,
    types: BTreeMap<String, Answered>,
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
        Self { tokens, metrics, state: Mutex::default() }
    }

    /// Puts a compilation into force: each client whose snapshot differs is woken.
    pub(crate) fn publish(&self, compiled: Arc<Compiled>) {
        let mut state = self.state.lock();
        for (node, client) in &state.clients {
            client.snapshots.send_if_modified(|current| {
                let next = keep_equal(current, compiled.snapshot(node));
                let changed = next.is_some();
                if let Some(next) = next {
                    *current = Arc::new(next);
                }
                changed
            });
        }
        state.compiled = compiled;
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
        let compiled = state.compiled.clone();
        let new =
            || Client { snapshots: watch::Sender::new(Arc::new(compiled.snapshot(node))), streams: 0, types: BTreeMap::new() };
        let client = state.clients.entry(node.clone()).or_insert_with(new);
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
    }

    fn disconnected(&self, node: &Node) {
        let mut state = self.state.lock();
        if let Some(client) = state.clients.get_mut(node) {
            client.streams = client.streams.saturating_sub(1);
            if client.streams == 0 {
                state.clients.remove(node);
            }
        }
        self.metrics.clients.set(i64::try_from(state.clients.len()).unwrap_or(i64::MAX));
    }
}
