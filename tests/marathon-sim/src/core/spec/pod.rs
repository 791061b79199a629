//! Pod definitions. Pods run in the Mesos containerizer only: never privileged, no added capability. Pure.

use serde_json::{Value, json};

use super::app::{BACKOFF_MS, GRACE_MS};
use super::check::{self, Port, Probe};
use super::{Command, Constraint, Container, Endpoint, Invalid, Kind, Mount, Privileges, Source, Spec, Upgrade};
use super::{capacities, default, list, map, millis, network, object, port, text, texts};
use crate::core::{ids, place};

pub(crate) fn parse(mut raw: Value) -> Result<Spec, Vec<Invalid>> {
    let mut errors = Vec::new();
    let id = text(&raw, "id").unwrap_or_default();
    if !ids::is_valid(&id) {
        errors.push(Invalid::new("/id", format!("'{id}' is not a valid path: segments must fully match {}", ids::PATTERN)));
    }
    let id = ids::canonical(&id);
    raw["id"] = json!(id);
    if list(&raw, "containers").is_empty() {
        errors.push(Invalid::new("/containers", "must not be empty"));
    }
    let network = network(&raw);
    default(&mut raw, "networks", json!([{"mode": "host"}]));
    let scaling = object(&mut raw, "scaling", &mut errors);
    default(scaling, "kind", json!("fixed"));
    default(scaling, "instances", json!(1));
    let scheduling = object(&mut raw, "scheduling", &mut errors);
    let upgrade = object(scheduling, "upgrade", &mut errors);
    capacities(upgrade, &mut errors);
    if raw["scaling"]["instances"].as_u64().is_none() {
        errors.push(Invalid::new("/scaling/instances", "must be a number of at least 0"));
    }
    default(&mut raw, "labels", json!({}));
    default(&mut raw, "environment", json!({}));
    default(&mut raw, "volumes", json!([]));
    default(&mut raw, "executorResources", json!({"cpus": 0.1, "mem": 32, "disk": 10}));
    default(&mut raw, "role", json!("*"));
    let constraints = constraints(&raw);
    errors.extend(place::unknown_operator(&constraints).map(|e| Invalid::new("/scheduling/placement/constraints", e)));
    let mut containers: Vec<Container> = Vec::new();
    for (index, item) in list(&raw, "containers").iter().enumerate() {
        let path = format!("/containers({index})");
        match container(&raw, item) {
            Ok(container) if containers.iter().any(|c| c.name == container.name) => {
                errors.push(Invalid::new(format!("{path}/name"), "container names must be unique"));
            }
            Ok(container) => containers.push(container),
            Err(error) => errors.push(Invalid::new(format!("{path}{}", error.path), error.error)),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Spec {
        kind: Kind::Pod,
        instances: usize::try_from(raw["scaling"]["instances"].as_u64().unwrap_or(1)).unwrap_or(1),
        resident: containers.iter().flat_map(|c| &c.mounts).any(|m| m.source == Source::Persistent),
        labels: map(&raw, "labels"),
        backoff_ms: millis(&raw["scheduling"]["backoff"], "backoff", BACKOFF_MS),
        upgrade: Upgrade::parse(&raw["scheduling"]["upgrade"]),
        oldest_first: raw.pointer("/scheduling/killSelection").and_then(Value::as_str) == Some("OLDEST_FIRST"),
        version: String::new(),
        config_version: String::new(),
        id,
        containers,
        network,
        constraints,
        raw,
    })
}

fn constraints(raw: &Value) -> Vec<Constraint> {
    let of = |c: &Value| {
        let operator = text(c, "operator").unwrap_or_default().to_uppercase();
        Constraint { field: text(c, "fieldName").unwrap_or_default(), operator, value: text(c, "value") }
    };
    raw.pointer("/scheduling/placement").map(|p| list(p, "constraints").iter().map(of).collect()).unwrap_or_default()
}

fn container(pod: &Value, raw: &Value) -> Result<Container, Invalid> {
    let name = text(raw, "name").unwrap_or_default();
    if name.is_empty() || name.contains(['.', '/', '_']) || name.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(Invalid::new("/name", format!("'{name}' is not a container name")));
    }
    let image = raw.get("image").and_then(|i| text(i, "id"));
    let command = match raw.pointer("/exec/command") {
        Some(command) if command.get("shell").is_some() => Command::Shell(text(command, "shell").unwrap_or_default()),
        Some(command) if command.get("argv").is_some() => Command::Argv(texts(command, "argv")),
        _ if image.is_none() => return Err(Invalid::new("/exec", "a container without an image must have a command")),
        _ => Command::Image,
    };
    let mut env = map(pod, "environment");
    env.extend(map(raw, "environment"));
    let mut resources = raw.get("resources").cloned().unwrap_or_else(|| json!({}));
    for (key, value) in [("cpus", json!(0.1)), ("mem", json!(32)), ("disk", json!(0)), ("gpus", json!(0))] {
        default(&mut resources, key, value);
    }
    let endpoints: Vec<Endpoint> = list(raw, "endpoints").iter().map(endpoint).collect();
    let check = check::pod(raw, &endpoints)?;
    let health_endpoint = check.as_ref().and_then(|c| match c.probe {
        Probe::Http { port: Port::Endpoint(index), .. } | Probe::Tcp { port: Port::Endpoint(index) } => Some(index),
        _ => None,
    });
    let user = text(raw, "user").or_else(|| text(pod, "user"));
    Ok(Container {
        image,
        command,
        env,
        mounts: list(raw, "volumeMounts").iter().filter_map(|m| mount(pod, m)).collect(),
        privileges: Privileges { user, ..Privileges::default() },
        grace_ms: raw.get("lifecycle").map_or(GRACE_MS, |l| millis(l, "killGracePeriodSeconds", GRACE_MS)),
        checks: check.into_iter().collect(),
        health_endpoint: health_endpoint.map(|index| endpoints[index].name.clone()),
        endpoints,
        resources,
        name,
    })
}

fn endpoint(raw: &Value) -> Endpoint {
    let protocols = texts(raw, "protocol");
    Endpoint {
        name: text(raw, "name").unwrap_or_default(),
        container_port: port(raw, "containerPort"),
        host_port: port(raw, "hostPort"),
        protocols: if protocols.is_empty() { vec!["tcp".into()] } else { protocols },
        labels: map(raw, "labels"),
    }
}

/// `volumeMounts[].name` names one of the pod's `volumes`.
fn mount(pod: &Value, raw: &Value) -> Option<Mount> {
    let name = text(raw, "name")?;
    let volume = list(pod, "volumes").iter().find(|v| text(v, "name").as_deref() == Some(&name))?;
    let source = match text(volume, "host") {
        Some(host) => Source::Host(host),
        None if volume.get("persistent").is_some() => Source::Persistent,
        None => Source::Ephemeral(name),
    };
    let read_only = raw.get("readOnly").and_then(Value::as_bool).unwrap_or(false);
    Some(Mount { container_path: text(raw, "mountPath")?, source, read_only })
}
