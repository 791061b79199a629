//! Marathon and the Mesos agents as a state machine: `handle(event, now)` and `apply(command, now)` return effects. No I/O, no clock, no
//! randomness of its own; `run` feeds it and `node` carries its effects out.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

pub(crate) mod command;
pub(crate) mod deploy;
pub(crate) mod env;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod ids;
pub(crate) mod instance;
pub(crate) mod names;
pub(crate) mod place;
pub(crate) mod reconcile;
pub(crate) mod spec;
pub(crate) mod tasks;
pub(crate) mod upgrade;
pub(crate) mod view;
pub(crate) mod vips;

#[cfg(test)]
mod tests;

use instance::{Instance, Task};
use spec::{Container, Kind, Spec};

/// What happened on a node, or time passed.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Tick,
    /// The process exists, its program does not run yet.
    Spawned {
        task: String,
        pid: i32,
    },
    /// The program was executed.
    Running {
        task: String,
    },
    Exited {
        task: String,
        outcome: Outcome,
    },
    /// What a health check found.
    Probed {
        task: String,
        check: usize,
        result: Result<(), String>,
    },
    /// Namespace, cgroup and files of an instance are gone.
    Gone {
        instance: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Code(i32),
    Signal(i32),
    NotLaunched(String),
}

/// What is to be done, in this order.
#[derive(Debug)]
pub(crate) enum Effect {
    Launch(Box<Launch>),
    Terminate { task: String },
    Kill { task: String },
    Cleanup { instance: String },
    Probe(Box<health::Attempt>),
    Publish(Value),
}

#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) instance: Instance,
    pub(crate) tasks: Vec<(Task, Container, BTreeMap<String, String>)>,
}

/// An agent: its address is its host name, as on DC/OS.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) hostname: String,
    pub(crate) agent_id: String,
    pub(crate) next_ip: u8,
    pub(crate) next_port: u16,
}

/// All stored versions of one app or pod, oldest first.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) versions: Vec<Arc<Spec>>,
    pub(crate) deleted: bool,
}

impl Entry {
    pub(crate) fn current(&self) -> &Arc<Spec> {
        self.versions.last().expect("an entry is made with its first version")
    }
}

pub(crate) struct Core {
    pub(crate) framework_id: String,
    pub(crate) nodes: Vec<Node>,
    pub(crate) specs: BTreeMap<String, Entry>,
    pub(crate) instances: BTreeMap<String, Instance>,
    pub(crate) deployments: Vec<deploy::Deployment>,
    new_uuid: Box<dyn FnMut() -> String + Send>,
}

impl Core {
    /// Nodes are `node1` at 198.18.0.11 and so on.
    pub(crate) fn new(nodes: usize, mut new_uuid: Box<dyn FnMut() -> String + Send>) -> Self {
        let framework = new_uuid();
        let node = |n: usize| Node {
            hostname: format!("198.18.0.{}", 10 + n),
            agent_id: format!("{framework}-S{}", n - 1),
            next_ip: 2,
            next_port: 31000,
        };
        Self {
            nodes: (1..=nodes).map(node).collect(),
            framework_id: format!("{framework}-0001"),
            specs: BTreeMap::new(),
            instances: BTreeMap::new(),
            deployments: Vec::new(),
            new_uuid,
        }
    }

    pub(crate) fn handle(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            Event::Tick => {
                self.kill_overdue(now, &mut effects);
                self.probe_due(now, &mut effects);
            }
            Event::Probed { task, check, result } => self.probed(&task, check, result, now, &mut effects),
            Event::Spawned { task, pid } => self.spawned(&task, pid, now, &mut effects),
            Event::Running { task } => self.running(&task, now, &mut effects),
            Event::Exited { task, outcome } => self.exited(&task, &outcome, now, &mut effects),
            Event::Gone { instance } => self.gone(&instance, now, &mut effects),
        }
        self.reconcile(now, &mut effects);
        effects
    }

    pub(crate) fn uuid(&mut self) -> String {
        (self.new_uuid)()
    }

    /// The current definition, unless it is being deleted.
    pub(crate) fn spec(&self, id: &str, kind: Kind) -> Option<&Arc<Spec>> {
        let entry = self.specs.get(id)?;
        (entry.current().kind == kind && !entry.deleted).then(|| entry.current())
    }

    pub(crate) fn instances_of(&self, id: &str) -> impl Iterator<Item = &Instance> {
        self.instances.values().filter(move |i| i.spec.id == id)
    }

    pub(crate) fn entries(&self, kind: Kind) -> impl Iterator<Item = &Arc<Spec>> {
        self.specs.values().filter(move |e| !e.deleted && e.current().kind == kind).map(Entry::current)
    }
}
