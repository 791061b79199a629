//! The JSON of /v2/events. Pure.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::instance::{Instance, State, Task};
use super::spec::stamp;

fn event(kind: &str, now: Timestamp, mut fields: Value) -> Value {
    fields["eventType"] = json!(kind);
    fields["timestamp"] = json!(stamp(now));
    fields
}

/// Mesos knows the addresses from TASK_RUNNING on; STAGING and STARTING of pods have none.
pub(crate) fn status_update(instance: &Instance, task: &Task, now: Timestamp) -> Value {
    let fields = json!({
        "slaveId": instance.agent_id,
        "taskId": task.id,
        "taskStatus": task.state.task_status(),
        "message": task.message,
        "appId": instance.spec.id,
        "host": instance.hostname,
        "ipAddresses": if matches!(task.state, State::Running | State::Killing) { addresses(instance) } else { json!([]) },
        "ports": instance.ports_of(&task.container),
        "version": instance.spec.version,
    });
    event("status_update_event", now, fields)
}

pub(crate) fn addresses(instance: &Instance) -> Value {
    let of = |ip: &std::net::IpAddr| json!({"ipAddress": ip, "protocol": if ip.is_ipv4() { "IPv4" } else { "IPv6" }});
    instance.addresses().iter().map(of).collect()
}

pub(crate) fn instance_changed(instance: &Instance, now: Timestamp) -> Value {
    let placed = !instance.is_scheduled();
    let fields = json!({
        "instanceId": instance.id,
        "condition": instance.condition,
        "runSpecId": instance.spec.id,
        "agentId": if placed { json!(instance.agent_id) } else { Value::Null },
        "host": if placed { json!(instance.hostname) } else { Value::Null },
        "runSpecVersion": instance.spec.version,
    });
    event("instance_changed_event", now, fields)
}

/// `null`: nothing is known, or no longer.
pub(crate) fn instance_health_changed(instance: &Instance, now: Timestamp) -> Value {
    let fields = json!({
        "instanceId": instance.id, "runSpecId": instance.spec.id, "healthy": instance.healthy, "runSpecVersion": instance.spec.version,
    });
    event("instance_health_changed_event", now, fields)
}

/// Of one task; apps only, since Marathon leaves those of pods to Mesos.
pub(crate) fn health_status_changed(instance: &Instance, alive: bool, now: Timestamp) -> Value {
    let spec = &instance.spec;
    let fields = json!({"appId": spec.id, "instanceId": instance.id, "version": spec.version, "alive": alive});
    event("health_status_changed_event", now, fields)
}

/// `taskId` holds the instance's id, as in Marathon.
pub(crate) fn failed_health_check(instance: &Instance, check: &Value, now: Timestamp) -> Value {
    event("failed_health_check_event", now, json!({"appId": instance.spec.id, "taskId": instance.id, "healthCheck": check}))
}

pub(crate) fn unhealthy_instance_kill(instance: &Instance, task: &Task, reason: &str, now: Timestamp) -> Value {
    let fields = json!({
        "appId": instance.spec.id, "taskId": task.id, "instanceId": instance.id, "version": instance.spec.version,
        "reason": reason, "host": instance.hostname, "slaveId": instance.agent_id,
    });
    event("unhealthy_instance_kill_event", now, fields)
}

pub(crate) fn api_post(uri: &str, client_ip: &str, definition: &Value, now: Timestamp) -> Value {
    event("api_post_event", now, json!({"clientIp": client_ip, "uri": uri, "appDefinition": definition}))
}

/// `verb`: created, updated or deleted. The URI is the request's: creation has no pod id in it.
pub(crate) fn pod(verb: &str, uri: &str, client_ip: &str, now: Timestamp) -> Value {
    event(&format!("pod_{verb}_event"), now, json!({"clientIp": client_ip, "uri": uri}))
}

pub(crate) fn app_terminated(app: &str, now: Timestamp) -> Value {
    event("app_terminated_event", now, json!({"appId": app}))
}

pub(crate) fn group_change_success(version: &str, now: Timestamp) -> Value {
    event("group_change_success", now, json!({"groupId": "/", "version": version}))
}

/// `deployment_info`, `deployment_step_success`: always the light form, without `plan.original` and `plan.target`.
pub(crate) fn deployment_step(kind: &str, plan: &Value, current: &Value, now: Timestamp) -> Value {
    event(kind, now, json!({"plan": plan, "currentStep": current}))
}

pub(crate) fn deployment_end(kind: &str, id: &str, plan: &Value, now: Timestamp) -> Value {
    let mut fields = json!({"id": id, "plan": plan});
    if kind == "deployment_failed" {
        fields["reason"] = json!("The deployment was superseded by another one");
    }
    event(kind, now, fields)
}

/// `event_stream_attached` or `event_stream_detached`.
pub(crate) fn stream(kind: &str, remote: &str, now: Timestamp) -> Value {
    event(kind, now, json!({"remoteAddress": remote}))
}

/// The framing of Jetty's EventSource servlet.
pub(crate) fn frame(event: &Value) -> String {
    let kind = event["eventType"].as_str().unwrap_or_default();
    format!("event: {kind}\r\ndata: {event}\r\n\r\n")
}
