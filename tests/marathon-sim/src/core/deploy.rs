//! Deployments: one per change, in force until the instances are as wanted. Pure.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::instance::Instance;
use super::spec::Kind;
use super::{Core, Effect, Entry, events};

#[derive(Debug, Clone)]
pub(crate) struct Deployment {
    pub(crate) id: String,
    pub(crate) version: String,
    pub(crate) target: String,
    pub(crate) kind: Kind,
    /// Action of each step: Start, Scale, Restart or Stop, with `Application` or `Pod` added in JSON.
    pub(crate) steps: Vec<&'static str>,
    pub(crate) current: usize,
}

impl Deployment {
    fn action(&self, step: usize) -> Value {
        let verb = self.steps[step.min(self.steps.len() - 1)];
        match self.kind {
            Kind::App => json!({"action": format!("{verb}Application"), "app": self.target}),
            Kind::Pod => json!({"action": format!("{verb}Pod"), "pod": self.target}),
        }
    }

    fn plan(&self) -> Value {
        let steps: Vec<Value> = (0..self.steps.len()).map(|n| json!({"actions": [self.action(n)]})).collect();
        json!({"id": self.id, "version": self.version, "steps": steps})
    }

    pub(crate) fn view(&self) -> Value {
        let mut current = self.action(self.current);
        current["readinessCheckResults"] = json!([]);
        let of = |kind| if self.kind == kind { json!([self.target]) } else { json!([]) };
        json!({
            "id": self.id,
            "version": self.version,
            "affectedApps": of(Kind::App),
            "affectedPods": of(Kind::Pod),
            "steps": self.plan()["steps"],
            "currentActions": [current],
            "currentStep": self.current + 1,
            "totalSteps": self.steps.len(),
        })
    }

    fn info(&self, kind: &str, now: Timestamp) -> Effect {
        Effect::Publish(events::deployment_step(kind, &self.plan(), &json!({"actions": [self.action(self.current)]}), now))
    }
}

impl Core {
    pub(crate) fn deploy(
        &mut self,
        target: &str,
        kind: Kind,
        steps: &[&'static str],
        version: &str,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) -> String {
        let id = self.uuid();
        let superseded = |d: &Deployment| d.target == target;
        for old in self.deployments.extract_if(.., |d| superseded(d)) {
            effects.push(Effect::Publish(events::deployment_end("deployment_failed", &old.id, &old.plan(), now)));
        }
        let (version, target) = (version.to_owned(), target.to_owned());
        let deployment = Deployment { id: id.clone(), version, target, kind, steps: steps.to_vec(), current: 0 };
        effects.push(Effect::Publish(events::group_change_success(&deployment.version, now)));
        effects.push(deployment.info("deployment_info", now));
        self.deployments.push(deployment);
        id
    }

    /// Called at the end of each reconciliation.
    pub(crate) fn finish_deployments(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        let mut open = Vec::new();
        for mut deployment in std::mem::take(&mut self.deployments) {
            // `Start` only creates the app with no instance: it is done as soon as it is stored.
            if deployment.steps[deployment.current] == "Start" && deployment.current + 1 < deployment.steps.len() {
                effects.push(deployment.info("deployment_step_success", now));
                deployment.current += 1;
                effects.push(deployment.info("deployment_info", now));
            }
            if !self.settled(&deployment.target) {
                open.push(deployment);
                continue;
            }
            effects.push(deployment.info("deployment_step_success", now));
            effects.push(Effect::Publish(events::deployment_end("deployment_success", &deployment.id, &deployment.plan(), now)));
            if deployment.kind == Kind::App && deployment.steps == ["Stop"] {
                effects.push(Effect::Publish(events::app_terminated(&deployment.target, now)));
            }
        }
        self.deployments = open;
    }

    fn settled(&self, id: &str) -> bool {
        let all = self.instances_of(id).count();
        match self.specs.get(id).filter(|e| !e.deleted).map(Entry::current) {
            Some(spec) => {
                let done = |i: &&Instance| i.is_ready() && i.spec.config_version == spec.config_version;
                all == spec.instances && self.instances_of(id).filter(done).count() == all
            }
            None => all == 0,
        }
    }

    pub(crate) fn deployments_of(&self, id: &str) -> Vec<Value> {
        self.deployments.iter().filter(|d| d.target == id).map(|d| json!({"id": d.id})).collect()
    }
}
