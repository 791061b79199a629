//! Apps, with what `embed` asks for, and their tasks. Pure.

use serde_json::{Value, json};

use crate::core::Core;
use crate::core::events;
use crate::core::health::Health;
use crate::core::instance::{Instance, REGION, State};
use crate::core::spec::{Kind, Source, Spec, stamp};

/// The parts that `embed=apps.…` adds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Embed {
    pub(crate) tasks: bool,
    pub(crate) counts: bool,
    pub(crate) deployments: bool,
    pub(crate) readiness: bool,
}

impl Embed {
    /// Marathon always adds counts and deployments to a single app; lists get them by request.
    pub(crate) const SINGLE: Self = Self { tasks: true, counts: true, deployments: true, readiness: true };

    /// Values of the repeated parameter. `apps.tasks` implies counts and deployments, as in Marathon.
    pub(crate) fn parse<'a>(values: impl Iterator<Item = &'a str>) -> Self {
        let mut embed = Self::default();
        for value in values {
            match value.trim_start_matches("apps.").trim_start_matches("app.") {
                "tasks" => (embed.tasks, embed.counts, embed.deployments) = (true, true, true),
                "failures" | "counts" => embed.counts = true,
                "deployments" => embed.deployments = true,
                "readiness" => embed.readiness = true,
                _ => {}
            }
        }
        embed
    }
}

pub(crate) fn app(core: &Core, spec: &Spec, embed: Embed) -> Value {
    let mut out = spec.raw.clone();
    let instances = || core.instances_of(&spec.id).filter(|i| i.is_app() && !i.is_scheduled());
    if embed.counts {
        let count = |state: State| instances().flat_map(|i| &i.tasks).filter(|t| t.state == state).count();
        let running = count(State::Running) + count(State::Killing);
        out["tasksStaged"] = json!(count(State::Staging) + count(State::Starting));
        out["tasksRunning"] = json!(running);
        let alive = |wanted| {
            instances().flat_map(|i| &i.tasks).filter(|t| t.alive() == Some(wanted) && t.state == State::Running).count()
        };
        out["tasksHealthy"] = json!(alive(true));
        out["tasksUnhealthy"] = json!(alive(false));
    }
    if embed.deployments {
        out["deployments"] = json!(core.deployments_of(&spec.id));
    }
    if embed.readiness {
        out["readinessCheckResults"] = json!([]);
    }
    if embed.tasks {
        out["tasks"] = json!(tasks_of(core, &spec.id));
    }
    out
}

pub(crate) fn tasks_of(core: &Core, id: &str) -> Vec<Value> {
    core.instances_of(id).filter(|i| i.is_app()).flat_map(tasks).collect()
}

/// GET /v2/tasks: of all apps; pods have no place here.
pub(crate) fn all_tasks(core: &Core, states: &[String]) -> Vec<Value> {
    let wanted = |task: &Value| {
        let staging = matches!(task["state"].as_str(), Some("TASK_STAGING" | "TASK_STARTING"));
        states.is_empty() || states.iter().any(|s| (s == "staging") == staging)
    };
    let specs = core.specs.iter().filter(|(_, e)| e.current().kind == Kind::App);
    specs.flat_map(|(id, _)| tasks_of(core, id)).filter(wanted).collect()
}

fn tasks(instance: &Instance) -> Vec<Value> {
    if instance.is_scheduled() {
        return Vec::new();
    }
    instance.tasks.iter().map(|task| self::task(instance, task)).collect()
}

/// A terminal task has no ports and no times, which is how clients see that it is no endpoint.
fn task(instance: &Instance, task: &crate::core::instance::Task) -> Value {
    let active = !task.state.is_terminal();
    let mut out = json!({
        "id": task.id,
        "appId": instance.spec.id,
        "host": instance.hostname,
        "state": task.state.task_status(),
        "ports": if active { json!(instance.ports_of(&task.container)) } else { json!([]) },
        "ipAddresses": if matches!(task.state, State::Running | State::Killing) { events::addresses(instance) } else { json!([]) },
        "servicePorts": service_ports(instance),
        "slaveId": instance.agent_id,
        "localVolumes": local_volumes(instance),
        "region": REGION,
        "zone": instance.zone(),
        "role": "*",
    });
    if active {
        out["stagedAt"] = json!(stamp(instance.staged));
        out["version"] = json!(instance.spec.version);
        if let Some(started) = instance.started {
            out["startedAt"] = json!(stamp(started));
        }
    }
    let results: Vec<Value> = task.health.iter().filter(|h| h.alive.is_some()).map(|h| health(instance, h)).collect();
    if !results.is_empty() && active {
        out["healthCheckResults"] = json!(results);
    }
    out
}

fn health(instance: &Instance, health: &Health) -> Value {
    json!({
        "alive": health.alive,
        "consecutiveFailures": health.failures,
        "firstSuccess": health.first_success.map(stamp),
        "lastSuccess": health.last_success.map(stamp),
        "lastFailure": health.last_failure.map(stamp),
        "lastFailureCause": health.cause,
        "instanceId": instance.id,
    })
}

fn service_ports(instance: &Instance) -> Value {
    let raw = &instance.spec.raw;
    let mappings = raw.pointer("/container/portMappings").and_then(Value::as_array).into_iter().flatten();
    let definitions = raw.get("portDefinitions").and_then(Value::as_array).into_iter().flatten();
    mappings.filter_map(|m| m.get("servicePort")).chain(definitions.filter_map(|d| d.get("port"))).cloned().collect()
}

pub(crate) fn local_volumes(instance: &Instance) -> Value {
    let mounts = instance.spec.containers.iter().flat_map(|c| &c.mounts).filter(|m| m.source == Source::Persistent);
    let of = |m: &crate::core::spec::Mount| {
        let safe = crate::core::ids::safe(&instance.spec.id);
        json!({
            "runSpecId": instance.spec.id,
            "containerPath": m.container_path,
            "uuid": instance.uuid,
            "persistenceId": format!("{safe}#{}#{}", m.container_path, instance.uuid),
        })
    };
    mounts.map(of).collect()
}
