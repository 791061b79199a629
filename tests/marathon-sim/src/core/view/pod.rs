//! Pod statuses, with Marathon's oddities: the endpoint order is not the definition's, `containerId` is the task id, and an old
//! instance refers to the version it was launched with. Pure.

use serde_json::{Value, json};

use crate::core::Core;
use crate::core::instance::{Instance, REGION, State, Task};
use crate::core::spec::{Container, Network, Spec, stamp};

pub(crate) fn status(core: &Core, spec: &Spec) -> Value {
    let instances: Vec<&Instance> = core.instances_of(&spec.id).filter(|i| !i.is_scheduled()).collect();
    let views: Vec<Value> = instances.iter().map(|i| instance(i)).collect();
    let stable = views.iter().filter(|v| v["status"] == "STABLE").count();
    let deleted = core.specs.get(&spec.id).is_none_or(|e| e.deleted);
    let status = match (deleted, stable >= spec.instances) {
        (true, _) => "TERMINAL",
        (_, true) => "STABLE",
        _ => "DEGRADED",
    };
    let changed = instances.iter().map(|i| stamp(i.changed)).chain([spec.version.clone()]).max();
    json!({
        "id": spec.id,
        "spec": spec.raw,
        "status": status,
        "statusSince": changed,
        "instances": views,
        "terminationHistory": [],
        "lastUpdated": changed,
        "lastChanged": changed,
    })
}

pub(crate) fn instance(instance: &Instance) -> Value {
    let states = || instance.tasks.iter().map(|t| t.state);
    let healthy = instance.tasks.iter().all(|t| t.health.is_empty() || t.alive() == Some(true));
    let status = if states().all(|s| s == State::Running) {
        if healthy { "STABLE" } else { "DEGRADED" }
    } else if states().all(State::is_terminal) {
        "TERMINAL"
    } else if states().all(|s| s == State::Staging) {
        "PENDING"
    } else if states().all(|s| matches!(s, State::Staging | State::Starting | State::Running)) {
        "STAGING"
    } else {
        "DEGRADED"
    };
    let changed = stamp(instance.changed);
    let containers = instance.tasks.iter().zip(&instance.spec.containers);
    json!({
        "id": instance.id,
        "status": status,
        "statusSince": changed,
        "conditions": [],
        "agentHostname": instance.hostname,
        "agentId": instance.agent_id,
        "agentRegion": REGION,
        "agentZone": instance.zone(),
        "resources": {"cpus": 0.1, "mem": 32, "disk": 10, "gpus": 0},
        "networks": networks(instance),
        "containers": containers.map(|(task, spec)| container(instance, task, spec)).collect::<Vec<_>>(),
        "specReference": format!("/v2/pods{}::versions/{}", instance.spec.id, instance.spec.version),
        "localVolumes": super::app::local_volumes(instance),
        "lastUpdated": changed,
        "lastChanged": changed,
    })
}

/// Mesos reports addresses with TASK_RUNNING; the host network has no name, and the agent's address.
fn networks(instance: &Instance) -> Value {
    let known = instance.tasks.iter().any(|t| matches!(t.state, State::Running | State::Killing));
    let addresses = instance.addresses();
    match &instance.spec.network {
        _ if !known => json!([]),
        Network::Host => json!([{"addresses": addresses}]),
        _ => json!([{"name": instance.network_name(), "addresses": addresses}]),
    }
}

fn container(instance: &Instance, task: &Task, spec: &Container) -> Value {
    let since = stamp(task.since);
    let healthy = task.alive() == Some(true);
    let mut conditions = Vec::new();
    if let Some(health) = task.health.first().filter(|_| !task.state.is_terminal()) {
        let reason = if health.alive.is_some() { "health-reported-by-mesos" } else { "health-unreported-by-mesos" };
        let changed = stamp(health.changed.unwrap_or(task.since));
        conditions.push(json!({
            "name": "healthy", "value": healthy.to_string(), "reason": reason, "lastChanged": changed, "lastUpdated": changed,
        }));
    }
    let mut out = json!({
        "name": spec.name,
        "status": task.state.task_status(),
        "statusSince": since,
        "conditions": conditions,
        "containerId": task.id,
        "endpoints": endpoints(instance, task, spec, healthy),
        "resources": spec.resources,
        "lastUpdated": since,
        "lastChanged": since,
    });
    if !task.message.is_empty() {
        out["message"] = json!(task.message);
    }
    if let State::Failed | State::Finished | State::Killed = task.state {
        out["termination"] = json!({"exitCode": null, "message": task.message});
    }
    out
}

/// Those with a host port first, then the others, the health-checked one last: a trap for who joins by index.
fn endpoints(instance: &Instance, task: &Task, spec: &Container, healthy: bool) -> Value {
    if task.state.is_terminal() {
        return json!([]);
    }
    let mut order: Vec<usize> = (0..spec.endpoints.len()).collect();
    order.sort_by_key(|i| {
        let endpoint = &spec.endpoints[*i];
        (spec.health_endpoint.as_ref() == Some(&endpoint.name), endpoint.host_port.is_none())
    });
    let of = |index: usize| {
        let endpoint = &spec.endpoints[index];
        let mut out = json!({"name": endpoint.name});
        if let Some(port) = instance.host_ports.get(&(spec.name.clone(), index)) {
            out["allocatedHostPort"] = json!(port);
        }
        if spec.health_endpoint.as_ref() == Some(&endpoint.name) {
            out["healthy"] = json!(healthy);
        }
        out
    };
    order.into_iter().map(of).collect()
}
