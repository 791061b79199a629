//! Answers and events as a Marathon of another age has them, or one that has forgotten or lost something: rewritten as JSON, so that what
//! makes them needs to know of one age only. Pure.

use serde_json::{Map, Value, json};

use crate::faults::Faults;

/// Major and minor of `1.4`, `1.4.14` or nothing, which is the newest.
fn age(faults: &Faults) -> (u32, u32) {
    let text = faults.version.as_deref().unwrap_or("1.11");
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(1), parts.next().unwrap_or(0))
}

/// Does this age know the path at all?
pub(crate) fn knows(path: &str, faults: &Faults) -> bool {
    !path.starts_with("/v2/pods") || age(faults) >= (1, 4)
}

pub(crate) fn needed(faults: &Faults) -> bool {
    faults.version.is_some()
        || faults.leader.is_some()
        || faults.forgets_health
        || !faults.unreachable.is_empty()
        || !faults.unready.is_empty()
}

/// The body of an answer.
pub(crate) fn answer(mut body: Value, faults: &Faults) -> Value {
    let age = age(faults);
    if let (Some(version), true) = (&faults.version, body["buildref"].is_string()) {
        body["version"] = json!(version);
    }
    if let (Some(leader), true) = (&faults.leader, body["leader"].is_string()) {
        body["leader"] = json!(leader);
    }
    each_app(&mut body, &mut |app| {
        for task in app.get_mut("tasks").and_then(Value::as_array_mut).into_iter().flatten() {
            self::task(task, faults, age);
        }
        readiness(app, faults);
        if age < (1, 5) {
            legacy_network(app);
        }
    });
    each_instance(&mut body, &mut |instance| self::instance(instance, faults));
    if age < (1, 8) {
        strings(&mut body, &|text| old_task(&text));
    }
    body
}

/// An event.
pub(crate) fn event(mut event: Value, faults: &Faults) -> Value {
    if age(faults) < (1, 8) {
        strings(&mut event, &|text| old_task(&text));
    }
    if faults.padding > 0 {
        event["padding"] = json!("x".repeat(faults.padding));
    }
    event
}

fn each_app(body: &mut Value, change: &mut dyn FnMut(&mut Map<String, Value>)) {
    let (many, one) = (body.get("apps").is_some(), body.get("app").is_some());
    let apps = if many { body["apps"].as_array_mut() } else { None };
    apps.into_iter().flatten().filter_map(Value::as_object_mut).for_each(&mut *change);
    if one && let Some(app) = body["app"].as_object_mut() {
        change(app);
    }
}

fn each_instance(body: &mut Value, change: &mut dyn FnMut(&mut Value)) {
    let statuses = match body {
        Value::Array(statuses) => statuses.iter_mut().collect(),
        one => vec![one],
    };
    for status in statuses {
        status.get_mut("instances").and_then(Value::as_array_mut).into_iter().flatten().for_each(&mut *change);
    }
}

fn task(task: &mut Value, faults: &Faults, age: (u32, u32)) {
    if faults.forgets_health
        && let Some(task) = task.as_object_mut()
    {
        task.remove("healthCheckResults");
    }
    if lost(&task["host"], faults) {
        task["state"] = json!("TASK_UNREACHABLE");
    }
    let Some(task) = task.as_object_mut() else { return };
    if age < (1, 9) {
        task.remove("role");
    }
    if age < (1, 5) {
        task.remove("region");
        task.remove("zone");
    }
}

fn lost(host: &Value, faults: &Faults) -> bool {
    host.as_str().is_some_and(|host| faults.unreachable.iter().any(|lost| lost == host))
}

/// Of the tasks that a deployment under way has launched.
fn readiness(app: &mut Map<String, Value>, faults: &Faults) {
    let id = app.get("id").and_then(Value::as_str).unwrap_or_default();
    if !faults.unready.iter().any(|unready| unready == id) {
        return;
    }
    let version = app.get("version").cloned();
    let tasks = app.get("tasks").and_then(Value::as_array).into_iter().flatten();
    let newest = tasks.filter(|task| task.get("version") == version.as_ref());
    let results: Value = newest.map(|task| json!({"name": "ready", "taskId": task["id"], "ready": false})).collect();
    app.insert("readinessCheckResults".to_owned(), results);
    app.insert("deployments".to_owned(), json!([{"id": "held-back"}]));
}

/// Bridge and container networks as definitions had them up to 1.4.
fn legacy_network(app: &mut Map<String, Value>) {
    let Some(networks) = app.remove("networks") else { return };
    let mappings = app.get_mut("container").and_then(Value::as_object_mut).and_then(|c| c.remove("portMappings"));
    let docker = match networks[0]["mode"].as_str() {
        Some("container/bridge") => json!({"network": "BRIDGE", "portMappings": mappings}),
        Some("container") => {
            app.insert("ipAddress".to_owned(), json!({"networkName": networks[0]["name"], "discovery": {"ports": []}}));
            json!({"network": "USER", "portMappings": mappings})
        }
        _ => json!({"network": "HOST", "portMappings": []}),
    };
    let container = app.entry("container").or_insert_with(|| json!({"type": "DOCKER"}));
    let kept = container["docker"]["image"].clone();
    container["docker"] = docker;
    container["docker"]["image"] = kept;
}

fn instance(instance: &mut Value, faults: &Faults) {
    let lost = lost(&instance["agentHostname"], faults);
    if lost {
        instance["status"] = json!("DEGRADED");
        instance["message"] = json!("pod instance has become unreachable");
    }
    for container in instance["containers"].as_array_mut().into_iter().flatten() {
        if lost {
            container["status"] = json!("TASK_UNREACHABLE");
        }
        if !faults.forgets_health {
            continue;
        }
        for condition in container["conditions"].as_array_mut().into_iter().flatten() {
            (condition["value"], condition["reason"]) = (json!("false"), json!("health-unreported-by-mesos"));
        }
        for endpoint in container["endpoints"].as_array_mut().into_iter().flatten() {
            if endpoint.get("healthy").is_some() {
                endpoint["healthy"] = json!(false);
            }
        }
    }
}

/// Task ids before 1.8: without `instance-` and `_app` for apps, without an incarnation for pods.
fn old_task(text: &str) -> Option<String> {
    if let Some((instance, _)) = text.split_once("._app.") {
        return Some(instance.replacen(".instance-", ".", 1));
    }
    let (run_spec, rest) = text.split_once(".instance-")?;
    let parts: Vec<&str> = rest.split('.').collect();
    let [uuid, container, incarnation] = parts.as_slice() else { return None };
    incarnation.parse::<u32>().ok().map(|_| format!("{run_spec}.instance-{uuid}.{container}"))
}

fn strings(value: &mut Value, change: &dyn Fn(String) -> Option<String>) {
    match value {
        Value::String(text) => {
            if let Some(new) = change(text.clone()) {
                *text = new;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| strings(value, change)),
        Value::Object(fields) => fields.values_mut().for_each(|value| strings(value, change)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(json: Value) -> Faults {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn an_old_marathons_networks_and_ids() {
        let app = json!({"id": "/a", "networks": [{"mode": "container/bridge"}], "container": {"docker": {"image": "i"}, "portMappings": [{"containerPort": 80}]},
            "tasks": [{"id": "a.instance-1._app.1", "host": "h", "state": "TASK_RUNNING", "zone": "z", "role": "*"}]});
        let old = answer(json!({"apps": [app]}), &faults(json!({"version": "1.4.14"})));
        let old = &old["apps"][0];
        assert_eq!(
            old["container"]["docker"],
            json!({"network": "BRIDGE", "portMappings": [{"containerPort": 80}], "image": "i"})
        );
        assert_eq!(old["tasks"], json!([{"id": "a.1", "host": "h", "state": "TASK_RUNNING"}]));
        assert!(old.get("networks").is_none());
        assert!(knows("/v2/pods/::status", &faults(json!({"version": "1.4"}))));
        assert!(!knows("/v2/pods/::status", &faults(json!({"version": "1.3.13"}))));
        let event = event(json!({"taskId": "p.instance-1.c.2", "padding": 1}), &faults(json!({"version": "1.7", "padding": 3})));
        assert_eq!(event, json!({"taskId": "p.instance-1.c", "padding": "xxx"}));
    }

    #[test]
    fn what_is_forgotten_and_who_is_lost() {
        let faults = faults(json!({"forgetsHealth": true, "unreachable": ["h"]}));
        let container = json!({"status": "TASK_RUNNING", "conditions": [{"name": "healthy", "value": "true"}], "endpoints": [{"name": "e", "healthy": true}, {"name": "f"}]});
        let pods = answer(json!([{"id": "/p", "instances": [{"agentHostname": "h", "containers": [container]}]}]), &faults);
        let container = &pods[0]["instances"][0]["containers"][0];
        assert_eq!((&container["status"], &container["endpoints"][0]["healthy"]), (&json!("TASK_UNREACHABLE"), &json!(false)));
        assert!(container["endpoints"][1].get("healthy").is_none());
        let one =
            answer(json!({"app": {"id": "/a", "tasks": [{"host": "g", "healthCheckResults": [{"alive": true}]}]}}), &faults);
        assert_eq!(one["app"]["tasks"], json!([{"host": "g"}]));
    }
}
