//! The one place where the pure core, the nodes and the clients of the API meet: events and commands in, effects and events out.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use tokio::sync::broadcast;
use tokio::sync::mpsc::UnboundedSender;

use crate::core::command::{Accepted, Command, Refused};
use crate::core::view::altered;
use crate::core::{Core, Effect, Event, events, names};
use crate::faults::{self, Faults};

/// Marathon's `--event_stream_max_outstanding_messages`: a client that lags further is cut off.
pub(crate) const OUTSTANDING: usize = 1024;

pub(crate) struct World {
    core: Mutex<Core>,
    effects: UnboundedSender<Effect>,
    pub(crate) bus: broadcast::Sender<Arc<Value>>,
    /// Names of the outside world.
    pub(crate) outside: BTreeMap<String, Vec<IpAddr>>,
    /// Between two signs of life on a stream.
    pub(crate) heartbeat: Duration,
    faults: Mutex<Faults>,
    /// For `"events": "reorder"`: the one that waits for the next.
    held: Mutex<Option<Arc<Value>>>,
    asked: Mutex<VecDeque<Value>>,
}

/// Marathon's own.
const HEARTBEAT: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 10_000 });
/// Requests that are remembered; no test asks for as many.
const ASKED_MAX: usize = 1000;

impl World {
    pub(crate) fn new(core: Core, effects: UnboundedSender<Effect>, outside: BTreeMap<String, Vec<IpAddr>>) -> Self {
        let (bus, _) = broadcast::channel(OUTSTANDING);
        let (core, heartbeat) = (Mutex::new(core), HEARTBEAT);
        Self { core, effects, bus, outside, heartbeat, faults: Mutex::default(), held: Mutex::default(), asked: Mutex::default() }
    }

    pub(crate) fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock()
    }

    pub(crate) fn handle(&self, event: Event) {
        let mut core = self.core.lock();
        let effects = core.handle(event, Timestamp::now());
        self.dispatch(effects);
    }

    /// `uri` and `client` are for the events that tell others of the request.
    pub(crate) fn apply(&self, command: Command, force: bool, uri: &str, client: IpAddr) -> Result<Accepted, Refused> {
        let announce = announcement(&command, uri, &client.to_string());
        let mut core = self.core.lock();
        let (accepted, effects) = core.apply(command, force, Timestamp::now())?;
        if let Some(announce) = announce {
            self.publish(announce);
        }
        self.dispatch(effects);
        Ok(accepted)
    }

    /// Under the core's lock, so that clients and nodes see changes in the order in which they happened.
    fn dispatch(&self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish(event) => self.publish(event),
                effect => drop(self.effects.send(effect)),
            }
        }
    }

    fn publish(&self, event: Value) {
        let faults = self.faults();
        let event = Arc::new(altered::event(event, &faults));
        let later = |event: Arc<Value>| {
            let (bus, delay) = (self.bus.clone(), Duration::from_millis(faults.delay_ms));
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                let _ = bus.send(event);
            });
        };
        match faults.events {
            faults::Events::Pass => drop(self.bus.send(event)),
            faults::Events::Drop => {}
            faults::Events::Delay => later(event),
            faults::Events::Duplicate => {
                let _ = self.bus.send(Arc::clone(&event));
                let _ = self.bus.send(event);
            }
            faults::Events::Reorder => {
                let first = self.held.lock().replace(Arc::clone(&event));
                if let Some(first) = first {
                    *self.held.lock() = None;
                    let _ = self.bus.send(event);
                    let _ = self.bus.send(first);
                }
            }
        }
    }

    pub(crate) fn faults(&self) -> Faults {
        self.faults.lock().clone()
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        let end = faults.close_streams || faults.no_leader;
        *self.faults.lock() = faults;
        if let Some(held) = self.held.lock().take() {
            let _ = self.bus.send(held);
        }
        if end {
            // Nothing is an event without a type: subscribers take it for the end.
            let _ = self.bus.send(Arc::new(Value::Null));
        }
    }

    /// Remembers a request for whoever wants to know what was asked.
    pub(crate) fn note(&self, request: Value) {
        let mut asked = self.asked.lock();
        if asked.len() == ASKED_MAX {
            asked.pop_front();
        }
        asked.push_back(request);
    }

    /// What was asked since this was called last.
    pub(crate) fn take_asked(&self) -> Vec<Value> {
        self.asked.lock().drain(..).collect()
    }

    pub(crate) fn publish_stream(&self, kind: &str, remote: &str) {
        let _ = self.bus.send(Arc::new(events::stream(kind, remote, Timestamp::now())));
    }

    pub(crate) fn resolve(&self, name: &str) -> Option<Vec<IpAddr>> {
        names::lookup(&self.core(), &self.outside, IpAddr::V4(crate::node::topology::MASTER), name)
    }
}

fn announcement(command: &Command, uri: &str, client: &str) -> Option<Value> {
    use crate::core::spec::Kind;
    let now = Timestamp::now();
    Some(match command {
        Command::Create(spec) if spec.kind == Kind::Pod => events::pod("created", uri, client, now),
        Command::Update(spec) if spec.kind == Kind::Pod => events::pod("updated", uri, client, now),
        Command::Delete { kind: Kind::Pod, .. } => events::pod("deleted", uri, client, now),
        Command::Create(spec) | Command::Update(spec) => events::api_post(uri, client, &spec.raw, now),
        Command::Delete { id, .. } | Command::Restart { id } => {
            events::api_post(uri, client, &serde_json::json!({"id": id}), now)
        }
        Command::Kill { .. } => return None,
    })
}
