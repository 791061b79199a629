//! Transitions of tasks: STAGING, STARTING, RUNNING, KILLING and the three ends. One failed container ends its pod. Pure.

use jiff::{SignedDuration, Timestamp};

use super::instance::{Instance, Phase, State};
use super::{Core, Effect, Outcome, events, health};

/// An instance that ran for so long has its back-off forgotten.
const STABLE_AFTER: SignedDuration = SignedDuration::from_secs(10);
/// Far below Marathon's `maxLaunchDelaySeconds` of 300: nobody waits for that in a test.
const MAX_BACKOFF_MS: i64 = 10_000;

impl Core {
    pub(crate) fn owner(&mut self, task: &str) -> Option<(&mut Instance, usize)> {
        let instance = self.instances.values_mut().find(|i| i.tasks.iter().any(|t| t.id == task))?;
        let index = instance.tasks.iter().position(|t| t.id == task)?;
        Some((instance, index))
    }

    pub(crate) fn spawned(&mut self, task: &str, pid: i32, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some((instance, index)) = self.owner(task) else { return };
        instance.tasks[index].pid = Some(pid);
        if instance.tasks[index].state == State::Staging {
            turn(instance, index, State::Starting, "", now, effects);
        }
    }

    pub(crate) fn running(&mut self, task: &str, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some((instance, index)) = self.owner(task) else { return };
        if matches!(instance.tasks[index].state, State::Staging | State::Starting) {
            instance.started.get_or_insert(now);
            turn(instance, index, State::Running, "", now, effects);
        }
    }

    pub(crate) fn exited(&mut self, task: &str, outcome: &Outcome, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some((instance, index)) = self.owner(task) else { return };
        if instance.tasks[index].state.is_terminal() {
            return;
        }
        let killed = instance.tasks[index].state == State::Killing;
        let (state, message) = match outcome {
            Outcome::Code(_) | Outcome::Signal(_) if killed => (State::Killed, "Container was killed".to_owned()),
            Outcome::Code(0) => (State::Finished, "Command exited with status 0".to_owned()),
            Outcome::Code(code) => (State::Failed, format!("Command exited with status {code}")),
            Outcome::Signal(signal) => (State::Failed, format!("Command terminated with signal {signal}")),
            Outcome::NotLaunched(why) => (State::Failed, format!("Failed to launch container: {why}")),
        };
        if !killed {
            failed(instance, format!("{task}: {message}"), now);
        }
        let id = instance.id.clone();
        turn(instance, index, state, &message, now, effects);
        instance.tasks[index].pid = None;
        if instance.tasks.iter().all(|t| t.state.is_terminal()) {
            instance.phase = Phase::Cleaning;
            effects.push(Effect::Cleanup { instance: id });
        } else {
            self.kill(&id, now, effects);
        }
    }

    /// TASK_KILLING and SIGTERM now, SIGKILL when the container's grace period has passed.
    pub(crate) fn kill(&mut self, id: &str, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        for index in 0..instance.tasks.len() {
            if !instance.tasks[index].state.is_terminal() && instance.tasks[index].state != State::Killing {
                let grace = instance.spec.containers[index].grace_ms;
                instance.tasks[index].kill_at = Some(now + SignedDuration::from_millis(grace));
                turn(instance, index, State::Killing, "", now, effects);
                effects.push(Effect::Terminate { task: instance.tasks[index].id.clone() });
            }
        }
    }

    pub(crate) fn kill_overdue(&mut self, now: Timestamp, effects: &mut Vec<Effect>) {
        for task in self.instances.values_mut().flat_map(|i| &mut i.tasks) {
            if task.state == State::Killing && task.kill_at.is_some_and(|at| at <= now) {
                task.kill_at = None;
                effects.push(Effect::Kill { task: task.id.clone() });
            }
        }
    }

    /// The node has cleaned up: forget the instance, or schedule its next incarnation.
    pub(crate) fn gone(&mut self, id: &str, now: Timestamp, effects: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(id) else { return };
        if instance.phase != Phase::Cleaning {
            return;
        }
        let outdated =
            self.specs.get(&instance.spec.id).is_none_or(|e| e.current().config_version != instance.spec.config_version);
        if instance.stopping || outdated {
            self.instances.remove(id);
            return;
        }
        // Counted from the launch before: what ran for longer than its back-off starts again at once.
        let backoff = SignedDuration::from_millis(backoff(instance.spec.backoff_ms, instance.failures));
        let not_before = if std::mem::take(&mut instance.failed) { now.max(instance.staged + backoff) } else { now };
        instance.phase = Phase::Scheduled { not_before };
        instance.ended = std::mem::take(&mut instance.tasks);
        instance.host_ports.clear();
        (instance.v4, instance.v6, instance.executor_uuid) = (None, None, None);
        instance.condition = "Scheduled";
        effects.push(Effect::Publish(events::instance_changed(instance, now)));
        health::tell(instance, now, effects);
    }
}

pub(crate) fn failed(instance: &mut Instance, why: String, now: Timestamp) {
    if instance.started.is_some_and(|at| now.duration_since(at) > STABLE_AFTER) {
        instance.failures = 0;
    }
    instance.failures += 1;
    instance.failed = true;
    instance.last_failure = Some(why);
}

fn backoff(base_ms: i64, failures: u32) -> i64 {
    let factor = 1.15_f64.powi(i32::try_from(failures.clamp(1, 60)).unwrap_or(60) - 1);
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "bounded by MAX_BACKOFF_MS")]
    let ms = (base_ms as f64 * factor) as i64;
    ms.clamp(0, MAX_BACKOFF_MS)
}

fn turn(instance: &mut Instance, index: usize, state: State, message: &str, now: Timestamp, effects: &mut Vec<Effect>) {
    let task = &mut instance.tasks[index];
    (task.state, task.since) = (state, now);
    message.clone_into(&mut task.message);
    if state == State::Running {
        health::begin(instance, index, now);
    }
    instance.changed = now;
    effects.push(Effect::Publish(events::status_update(instance, &instance.tasks[index], now)));
    let condition = instance.current_condition();
    if condition != instance.condition {
        instance.condition = condition;
        effects.push(Effect::Publish(events::instance_changed(instance, now)));
    }
    health::tell(instance, now, effects);
}
