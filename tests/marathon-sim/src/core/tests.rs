//! The state machine with virtual time: what is launched, killed, restarted, and told.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::command::{Accepted, Command, Refused};
use super::health::Attempt;
use super::spec::{self, Kind, Spec};
use super::{Core, Effect, Event, Launch, Outcome};

mod health;
mod lifecycle;
mod random;
mod shapes;
mod upgrade;

pub(crate) struct Sim {
    pub(crate) core: Core,
    now: Timestamp,
    /// All published events, oldest first.
    pub(crate) events: Vec<Value>,
    /// Other effects, as `launch ID`, `terminate ID`, `kill ID`, `cleanup ID`.
    pub(crate) done: Vec<String>,
    pub(crate) launches: Vec<Launch>,
    /// Health checks under way.
    pub(crate) probes: Vec<Attempt>,
}

impl Sim {
    pub(crate) fn new(nodes: usize) -> Self {
        let mut n = 0;
        let uuid = move || {
            n += 1;
            format!("00000000-0000-0000-0000-{n:012}")
        };
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        Self {
            core: Core::new(nodes, Box::new(uuid)),
            now,
            events: Vec::new(),
            done: Vec::new(),
            launches: Vec::new(),
            probes: Vec::new(),
        }
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish(event) => self.events.push(event),
                Effect::Launch(launch) => {
                    self.done.push(format!("launch {}", launch.instance.id));
                    self.launches.push(*launch);
                }
                Effect::Terminate { task } => self.done.push(format!("terminate {task}")),
                Effect::Kill { task } => self.done.push(format!("kill {task}")),
                Effect::Probe(attempt) => self.probes.push(*attempt),
                Effect::Cleanup { instance } => self.done.push(format!("cleanup {instance}")),
            }
        }
    }

    pub(crate) fn apply(&mut self, command: Command) -> Result<Accepted, Refused> {
        self.apply_with(command, false)
    }

    pub(crate) fn apply_with(&mut self, command: Command, force: bool) -> Result<Accepted, Refused> {
        self.advance(1);
        let (accepted, effects) = self.core.apply(command, force, self.now)?;
        self.take(effects);
        Ok(accepted)
    }

    pub(crate) fn event(&mut self, event: Event) {
        let effects = self.core.handle(event, self.now);
        self.take(effects);
    }

    pub(crate) fn advance(&mut self, ms: i64) {
        self.now += SignedDuration::from_millis(ms);
        self.event(Event::Tick);
    }

    /// Everything that was launched runs.
    pub(crate) fn run(&mut self) {
        while !self.launches.is_empty() {
            self.run_one(0);
        }
    }

    pub(crate) fn run_one(&mut self, index: usize) {
        for (task, _, _) in self.launches.remove(index).tasks {
            self.event(Event::Spawned { task: task.id.clone(), pid: 7 });
            self.event(Event::Running { task: task.id });
        }
    }

    /// All health checks under way answer.
    pub(crate) fn answer(&mut self, result: &Result<(), String>) {
        for Attempt { task, check, .. } in std::mem::take(&mut self.probes) {
            self.event(Event::Probed { task, check, result: result.clone() });
        }
    }

    pub(crate) fn exit(&mut self, task: &str, outcome: Outcome) {
        self.event(Event::Exited { task: task.to_owned(), outcome });
    }

    /// Carries out terminations and clean-ups as an obedient node does.
    pub(crate) fn obey(&mut self) {
        while !self.done.is_empty() {
            self.obey_one(0);
        }
    }

    pub(crate) fn obey_one(&mut self, index: usize) {
        let what = self.done.remove(index);
        match what.split_once(' ').unwrap() {
            ("terminate", task) => self.exit(task, Outcome::Signal(15)),
            ("cleanup", id) => self.event(Event::Gone { instance: id.to_owned() }),
            _ => {}
        }
    }

    pub(crate) fn ready(&self, spec: &str) -> usize {
        self.core.instances_of(spec).filter(|i| i.is_ready()).count()
    }

    pub(crate) fn ids(&self, spec: &str) -> Vec<String> {
        self.core.instances_of(spec).map(|i| i.id.clone()).collect()
    }

    /// `TYPE STATUS` of the events since the last call, for comparison with a list.
    pub(crate) fn story(&mut self) -> String {
        let mut out = String::new();
        for event in std::mem::take(&mut self.events) {
            let kind = event["eventType"].as_str().unwrap().trim_end_matches("_event");
            let detail = ["taskStatus", "condition"].iter().find_map(|k| event[*k].as_str()).unwrap_or_default();
            let _ = writeln!(out, "{kind} {detail}");
        }
        out.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }
}

pub(crate) fn app(raw: Value) -> Spec {
    spec::app::parse(raw).unwrap()
}

pub(crate) fn pod(raw: Value) -> Spec {
    spec::pod::parse(raw).unwrap()
}

pub(crate) fn sleeper(id: &str, instances: usize) -> Value {
    json!({"id": id, "cmd": "sleep 1", "instances": instances, "networks": [{"mode": "container", "name": "dcos"}]})
}

pub(crate) fn reviews() -> Value {
    json!({
        "id": "/reviews-v2", "labels": {"version": "v2"}, "environment": {"SERVICES_DOMAIN": "marathon.l4lb.thisdcos.directory"},
        "containers": [
            {"name": "reviews", "resources": {"cpus": 0.5, "mem": 1024}, "image": {"kind": "DOCKER", "id": "istio/reviews:1.8.0"},
             "endpoints": [
                {"name": "admin", "containerPort": 9901, "protocol": ["tcp"]},
                {"name": "http-9080", "containerPort": 9080, "hostPort": 0, "protocol": ["tcp"], "labels": {"VIP_0": "/reviews:9080"}}]},
            {"name": "proxy", "exec": {"command": {"shell": "true"}}, "lifecycle": {"killGracePeriodSeconds": 1.5}}],
        "networks": [{"name": "dcos", "mode": "container"}], "scaling": {"kind": "fixed", "instances": 1}
    })
}

#[test]
fn one_id_is_one_thing() {
    let mut sim = Sim::new(1);
    sim.apply(Command::Create(app(sleeper("/a", 1)))).unwrap();
    let again = sim.apply(Command::Create(app(sleeper("/a", 1)))).unwrap_err();
    assert_eq!(again, Refused::Exists { kind: Kind::App, id: "/a".into() });
    let unknown = sim.apply(Command::Delete { id: "/a".into(), kind: Kind::Pod }).unwrap_err();
    assert_eq!(unknown, Refused::Unknown { kind: Kind::Pod, id: "/a".into() });
    let locked = sim.apply(Command::Delete { id: "/a".into(), kind: Kind::App }).unwrap_err();
    assert!(matches!(locked, Refused::Locked { .. }), "its first deployment still runs: {locked:?}");
    sim.run();
    sim.apply(Command::Delete { id: "/a".into(), kind: Kind::App }).unwrap();
}
