//! Health checks: when each is due, what its results mean, whom they kill. The attempts themselves are made by the node. Pure.

use jiff::{SignedDuration, Timestamp};

use super::instance::{Instance, State};
use super::spec::check::{Port, Probe};
use super::tasks::failed;
use super::{Core, Effect, events};

/// What is known from one check of one task.
#[derive(Debug, Clone, Default)]
pub(crate) struct Health {
    /// `None` until a result counts.
    pub(crate) alive: Option<bool>,
    /// In a row.
    pub(crate) failures: u32,
    pub(crate) first_success: Option<Timestamp>,
    pub(crate) last_success: Option<Timestamp>,
    pub(crate) last_failure: Option<Timestamp>,
    pub(crate) cause: Option<String>,
    /// When `alive` became what it is.
    pub(crate) changed: Option<Timestamp>,
    /// The next attempt; `None` while one is under way, and while the task does not run.
    pub(crate) due: Option<Timestamp>,
}

/// One attempt, for the node to make inside the task's namespaces.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) instance: String,
    pub(crate) task: String,
    /// The Mesos container.
    pub(crate) uuid: String,
    pub(crate) check: usize,
    pub(crate) target: Target,
    pub(crate) timeout_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Http { port: u16, path: String },
    Tcp { port: u16 },
    Exec(Vec<String>),
}

/// The task has begun to run.
pub(crate) fn begin(instance: &mut Instance, index: usize, now: Timestamp) {
    let checks = &instance.spec.containers[index].checks;
    for (health, check) in instance.tasks[index].health.iter_mut().zip(checks) {
        health.due = Some(now + SignedDuration::from_millis(check.delay_ms));
    }
}

/// Tells of the instance's health when it is another than was told last.
pub(crate) fn tell(instance: &mut Instance, now: Timestamp, effects: &mut Vec<Effect>) {
    let healthy = instance.current_health();
    if healthy != instance.healthy {
        instance.healthy = healthy;
        instance.changed = now;
        effects.push(Effect::Publish(events::instance_health_changed(instance, now)));
    }
}

impl Core {
    pub(crate) fn probe_due(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        for instance in self.instances.values_mut() {
            for task in 0..instance.tasks.len() {
                for check in 0..instance.tasks[task].health.len() {
                    let running = instance.tasks[task].state == State::Running;
                    if running && instance.tasks[task].health[check].due.is_some_and(|due| due <= now) {
                        instance.tasks[task].health[check].due = None;
                        effects.push(Effect::Probe(Box::new(attempt(instance, task, check))));
                    }
                }
            }
        }
    }

    pub(crate) fn probed(
        &mut self,
        task: &str,
        check: usize,
        result: Result<(), String>,
        now: Timestamp,
        effects: &mut Vec<Effect>,
    ) {
        let Some((instance, index)) = self.owner(task) else { return };
        if instance.tasks[index].state != State::Running {
            return;
        }
        let running_since = instance.tasks[index].since;
        let spec = instance.spec.clone();
        let (Some(rule), Some(health)) = (spec.containers[index].checks.get(check), instance.tasks[index].health.get_mut(check))
        else {
            return;
        };
        health.due = Some(now + SignedDuration::from_millis(rule.interval_ms));
        let was = health.alive;
        match result {
            Ok(()) => {
                health.first_success.get_or_insert(now);
                (health.last_success, health.failures, health.alive) = (Some(now), 0, Some(true));
            }
            Err(_) if health.first_success.is_none() && now < running_since + SignedDuration::from_millis(rule.grace_ms) => {
                return;
            }
            Err(cause) => {
                health.failures += 1;
                (health.last_failure, health.cause, health.alive) = (Some(now), Some(cause), Some(false));
            }
        }
        let (alive, failures) = (health.alive == Some(true), health.failures);
        let cause = health.cause.clone().unwrap_or_default();
        if health.alive != was {
            health.changed = Some(now);
        }
        if !alive && instance.is_app() {
            effects.push(Effect::Publish(events::failed_health_check(instance, &rule.raw, now)));
        }
        if was != Some(alive) && instance.is_app() {
            effects.push(Effect::Publish(events::health_status_changed(instance, alive, now)));
        }
        tell(instance, now, effects);
        if !alive && rule.kills(failures) {
            let reason = format!("{failures} consecutive failures of its health check: {cause}");
            effects.push(Effect::Publish(events::unhealthy_instance_kill(instance, &instance.tasks[index], &reason, now)));
            failed(instance, format!("{task}: {reason}"), now);
            let id = instance.id.clone();
            self.kill(&id, now, effects);
        }
    }
}

fn attempt(instance: &Instance, index: usize, check: usize) -> Attempt {
    let (task, container) = (&instance.tasks[index], &instance.spec.containers[index]);
    let rule = &container.checks[check];
    // As seen inside: the container's port; on the host network the port that was allocated.
    let number = |port: &Port| match *port {
        Port::Number(number) => number,
        Port::Endpoint(endpoint) => {
            let host = instance.host_ports.get(&(container.name.clone(), endpoint)).copied();
            container.endpoints[endpoint].container_port.filter(|p| *p != 0).or(host).unwrap_or(0)
        }
    };
    let target = match &rule.probe {
        Probe::Http { port, path } => Target::Http { port: number(port), path: path.clone() },
        Probe::Tcp { port } => Target::Tcp { port: number(port) },
        Probe::Exec(argv) => Target::Exec(argv.clone()),
    };
    Attempt {
        instance: instance.id.clone(),
        task: task.id.clone(),
        uuid: task.uuid.clone(),
        check,
        target,
        timeout_ms: rule.timeout_ms,
    }
}
