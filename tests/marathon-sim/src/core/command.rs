//! What the API asks for: store a definition, delete, restart, kill. Answers with effects, or with the error that Marathon gives. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::spec::{Kind, Spec, stamp};
use super::{Core, Effect, Entry};

#[derive(Debug)]
pub(crate) enum Command {
    Create(Spec),
    /// PUT: updates, or creates an app that does not exist.
    Update(Spec),
    Delete {
        id: String,
        kind: Kind,
    },
    Restart {
        id: String,
    },
    /// `wipe` forgets the instance; otherwise its next incarnation follows. `scale` lowers the number of instances.
    Kill {
        instances: Vec<String>,
        wipe: bool,
        scale: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) version: String,
    /// `None` when nothing had to change.
    pub(crate) deployment: Option<String>,
    pub(crate) created: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Unknown { kind: Kind, id: String },
    Exists { kind: Kind, id: String },
    Locked { id: String, deployments: Vec<Value> },
}

impl Core {
    pub(crate) fn apply(&mut self, command: Command, force: bool, now: Timestamp) -> Result<(Accepted, Vec<Effect>), Refused> {
        let mut effects = Vec::new();
        let accepted = match command {
            Command::Create(spec) => self.create(spec, force, now, &mut effects)?,
            Command::Update(spec) => self.update(spec, force, now, &mut effects)?,
            Command::Delete { id, kind } => self.delete(&id, kind, force, now, &mut effects)?,
            Command::Restart { id } => self.restart(&id, force, now, &mut effects)?,
            Command::Kill { instances, wipe, scale } => self.kill_some(&instances, wipe, scale, now, &mut effects),
        };
        self.reconcile(now, &mut effects);
        Ok((accepted, effects))
    }

    fn unlocked(&self, id: &str, force: bool) -> Result<(), Refused> {
        let deployments = self.deployments_of(id);
        if force || deployments.is_empty() { Ok(()) } else { Err(Refused::Locked { id: id.to_owned(), deployments }) }
    }

    /// Versions are times and must differ.
    fn next_version(&self, id: &str, now: Timestamp) -> String {
        let mut at = now;
        let last = self.specs.get(id).map(|e| e.current().version.clone());
        while last.as_ref().is_some_and(|last| stamp(at) <= *last) {
            at += SignedDuration::from_millis(1);
        }
        stamp(at)
    }

    fn create(&mut self, mut spec: Spec, force: bool, now: Timestamp, effects: &mut Vec<Effect>) -> Result<Accepted, Refused> {
        let (id, kind) = (spec.id.clone(), spec.kind);
        if self.specs.get(&id).is_some_and(|e| !e.deleted) {
            return Err(Refused::Exists { kind, id });
        }
        self.unlocked(&id, force)?;
        let version = self.next_version(&id, now);
        spec.stamp(version.clone(), version.clone());
        let entry = self.specs.entry(id.clone()).or_insert(Entry { versions: Vec::new(), deleted: false });
        entry.deleted = false;
        entry.versions.push(Arc::new(spec));
        let deployment = Some(self.deploy(&id, kind, &["Start", "Scale"], &version, now, effects));
        Ok(Accepted { version, deployment, created: true })
    }

    fn update(&mut self, mut spec: Spec, force: bool, now: Timestamp, effects: &mut Vec<Effect>) -> Result<Accepted, Refused> {
        let (id, kind) = (spec.id.clone(), spec.kind);
        let Some(old) = self.spec(&id, kind).cloned() else {
            if kind == Kind::Pod || self.specs.contains_key(&id) {
                return Err(Refused::Unknown { kind, id });
            }
            return self.create(spec, force, now, effects);
        };
        let scaled = spec.only_scaled(&old);
        if scaled && spec.instances == old.instances {
            return Ok(Accepted { version: old.version.clone(), deployment: None, created: false });
        }
        self.unlocked(&id, force)?;
        let version = self.next_version(&id, now);
        let config = if scaled { old.config_version.clone() } else { version.clone() };
        spec.stamp(version.clone(), config);
        self.push(&id, spec);
        let deployment = Some(self.deploy(&id, kind, &[if scaled { "Scale" } else { "Restart" }], &version, now, effects));
        Ok(Accepted { version, deployment, created: false })
    }

    fn push(&mut self, id: &str, spec: Spec) {
        if let Some(entry) = self.specs.get_mut(id) {
            entry.versions.push(Arc::new(spec));
        }
    }

    fn delete(
        &mut self,
        id: &str,
        kind: Kind,
        force: bool,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> Result<Accepted, Refused> {
        if self.spec(id, kind).is_none() {
            return Err(Refused::Unknown { kind, id: id.to_owned() });
        }
        self.unlocked(id, force)?;
        let version = self.next_version(id, now);
        if let Some(entry) = self.specs.get_mut(id) {
            entry.deleted = true;
        }
        let deployment = Some(self.deploy(id, kind, &["Stop"], &version, now, effects));
        Ok(Accepted { version, deployment, created: false })
    }

    fn restart(&mut self, id: &str, force: bool, now: Timestamp, effects: &mut Vec<Effect>) -> Result<Accepted, Refused> {
        let kind = Kind::App;
        let Some(old) = self.spec(id, kind) else { return Err(Refused::Unknown { kind, id: id.to_owned() }) };
        let mut spec = Spec::clone(old);
        self.unlocked(id, force)?;
        let version = self.next_version(id, now);
        spec.stamp(version.clone(), version.clone());
        self.push(id, spec);
        let deployment = Some(self.deploy(id, kind, &["Restart"], &version, now, effects));
        Ok(Accepted { version, deployment, created: false })
    }

    fn kill_some(&mut self, ids: &[String], wipe: bool, scale: bool, now: Timestamp, effects: &mut Vec<Effect>) -> Accepted {
        let (mut version, mut deployment) = (stamp(now), None);
        let mut stopped: BTreeMap<String, usize> = BTreeMap::new();
        for id in ids {
            let Some(spec) = self.instances.get(id).map(|i| i.spec.id.clone()) else { continue };
            *stopped.entry(spec).or_default() += 1;
            if wipe || scale {
                self.stop(id, now, effects);
            } else {
                self.kill(id, now, effects);
            }
        }
        for (spec, count) in stopped {
            let current = self.specs.get(&spec).filter(|e| scale && !e.deleted).map(|e| Spec::clone(e.current()));
            let Some(mut lower) = current else { continue };
            version = self.next_version(&spec, now);
            lower.scale(lower.instances.saturating_sub(count));
            lower.stamp(version.clone(), lower.config_version.clone());
            let kind = lower.kind;
            self.push(&spec, lower);
            deployment = Some(self.deploy(&spec, kind, &["Scale"], &version, now, effects));
        }
        Accepted { version, deployment, created: false }
    }
}
