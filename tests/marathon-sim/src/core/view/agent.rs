//! A Mesos agent's own state (v1 and v0 shapes): which containers run on a node, with their addresses. Pure.

use serde_json::{Value, json};

use crate::core::instance::{Instance, State, Task};
use crate::core::{Core, ids};

/// The instances that are on `node`.
fn here(core: &Core, node: usize) -> impl Iterator<Item = &Instance> {
    core.instances.values().filter(move |i| !i.is_scheduled() && i.node == node)
}

fn container_id(instance: &Instance, task: &Task) -> Value {
    match &instance.executor_uuid {
        Some(parent) => json!({"value": task.uuid, "parent": {"value": parent}}),
        None => json!({"value": task.uuid}),
    }
}

/// Right in TASK_RUNNING only, as with Mesos: before, none are known.
fn network_infos(instance: &Instance, task: &Task) -> Value {
    let Some(name) = instance.network_name().filter(|_| matches!(task.state, State::Running | State::Killing)) else {
        return json!([]);
    };
    let of = |ip: &std::net::IpAddr| json!({"protocol": if ip.is_ipv4() { "IPv4" } else { "IPv6" }, "ip_address": ip});
    let addresses: Vec<Value> = instance.addresses().iter().map(of).collect();
    json!([{"name": name, "ip_addresses": addresses, "labels": {}}])
}

fn executor_id(instance: &Instance, task: &Task) -> String {
    if instance.is_app() { task.id.clone() } else { ids::executor(&instance.id) }
}

fn container_status(instance: &Instance, task: &Task) -> Value {
    json!({"container_id": container_id(instance, task), "network_infos": network_infos(instance, task), "executor_pid": task.pid})
}

/// `healthy` is there when a health check has reported.
fn status(instance: &Instance, task: &Task) -> Value {
    let container = container_status(instance, task);
    let mut out = json!({"task_id": {"value": task.id}, "state": task.state.task_status(), "container_status": container});
    if let Some(alive) = task.alive() {
        out["healthy"] = json!(alive);
    }
    out
}

/// The answer to `GET_STATE`: `launched_tasks` is what clients read.
pub(crate) fn state(core: &Core, node: usize) -> Value {
    let task = |instance: &Instance, task: &Task| {
        let labels: Vec<Value> = instance.spec.labels.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        json!({
            "name": task.container,
            "task_id": {"value": task.id},
            "framework_id": {"value": core.framework_id},
            "agent_id": {"value": instance.agent_id},
            "executor_id": {"value": executor_id(instance, task)},
            "state": task.state.task_status(),
            "labels": {"labels": labels},
            "discovery": {"visibility": "FRAMEWORK", "name": ids::discovery_name(&instance.spec.id), "ports": {"ports": ports(instance, task)}},
            "statuses": [status(instance, task)],
        })
    };
    let tasks = || here(core, node).flat_map(|i| i.tasks.iter().map(move |t| (i, t)));
    let launched: Vec<Value> = tasks().filter(|(_, t)| !t.state.is_terminal()).map(|(i, t)| task(i, t)).collect();
    let ended: Vec<Value> = tasks().filter(|(_, t)| t.state.is_terminal()).map(|(i, t)| task(i, t)).collect();
    json!({"type": "GET_STATE", "get_state": {
        "get_tasks": {"launched_tasks": launched, "completed_tasks": ended}, "get_executors": {}, "get_frameworks": {},
    }})
}

/// Marathon's discovery info: one entry per protocol, the scope by host port.
fn ports(instance: &Instance, task: &Task) -> Vec<Value> {
    let mut out = Vec::new();
    let container = instance.spec.containers.iter().find(|c| c.name == task.container);
    for (index, endpoint) in container.into_iter().flat_map(|c| &c.endpoints).enumerate() {
        let host = instance.host_ports.get(&(task.container.clone(), index)).copied();
        let Some(number) = host.or(endpoint.container_port) else { continue };
        let mut labels: Vec<Value> = endpoint.labels.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        match (instance.network_name(), host) {
            (None, _) => {}
            (Some(_), Some(_)) => labels.push(json!({"key": "network-scope", "value": "host"})),
            (Some(name), None) => {
                labels.push(json!({"key": "network-scope", "value": "container"}));
                labels.push(json!({"key": "network-name", "value": name}));
            }
        }
        for protocol in &endpoint.protocols {
            out.push(json!({"number": number, "name": endpoint.name, "protocol": protocol, "labels": {"labels": labels}}));
        }
    }
    out
}

/// `GET_CONTAINERS`, or v0's /containers: `nested` adds the containers of pods to their executors.
pub(crate) fn containers(core: &Core, node: usize, nested: bool) -> Vec<Value> {
    let mut out = Vec::new();
    for instance in here(core, node) {
        if let (Some(uuid), Some(task)) = (&instance.executor_uuid, instance.tasks.first()) {
            let status = json!({"container_id": {"value": uuid}, "network_infos": network_infos(instance, task)});
            out.push(item(core, json!({"value": uuid}), executor_id(instance, task), status));
        }
        for task in instance.tasks.iter().filter(|t| !t.state.is_terminal()) {
            let (id, status) = (container_id(instance, task), container_status(instance, task));
            match instance.executor_uuid {
                None => out.push(item(core, id, executor_id(instance, task), status)),
                Some(_) if nested => out.push(json!({"container_id": id, "container_status": status})),
                Some(_) => {}
            }
        }
    }
    out
}

fn item(core: &Core, id: Value, executor: String, status: Value) -> Value {
    let framework = json!({"value": core.framework_id});
    json!({"container_id": id, "executor_id": {"value": executor}, "framework_id": framework, "container_status": status})
}
