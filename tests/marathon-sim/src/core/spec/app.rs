//! App definitions: Marathon's defaults, then the parts that the stand-in acts on. Pure.

use serde_json::{Value, json};

use super::check;
use super::{Command, Constraint, Container, Endpoint, Invalid, Kind, Mount, Network, Privileges, Source, Spec, Upgrade};
use super::{capacities, default, list, map, millis, network, object, port, text, texts};
use crate::core::{ids, place};

/// Default of Marathon's `KillPolicy`: 3 seconds between SIGTERM and SIGKILL.
pub(crate) const GRACE_MS: i64 = 3000;
pub(crate) const BACKOFF_MS: i64 = 1000;

pub(crate) fn parse(mut raw: Value) -> Result<Spec, Vec<Invalid>> {
    let mut errors = Vec::new();
    let id = text(&raw, "id").unwrap_or_default();
    if !ids::is_valid(&id) {
        errors.push(Invalid::new("/id", format!("'{id}' is not a valid path: segments must fully match {}", ids::PATTERN)));
    }
    let id = ids::canonical(&id);
    raw["id"] = json!(id);
    let docker = raw.pointer("/container/docker").cloned().unwrap_or(Value::Null);
    let image = text(&docker, "image").or_else(|| text(&raw["container"], "image"));
    let (cmd, args) = (text(&raw, "cmd"), raw.get("args").and_then(Value::as_array).map(|_| texts(&raw, "args")));
    if cmd.is_none() && args.is_none() && image.is_none() {
        errors.push(Invalid::new("/", "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'."));
    }
    if cmd.is_some() && args.is_some() {
        errors.push(Invalid::new("/", "AppDefinition must not contain both 'cmd' and 'args'"));
    }
    if raw.get("instances").is_some_and(|n| !n.is_null() && n.as_u64().is_none()) {
        errors.push(Invalid::new("/instances", "must be a number of at least 0"));
    }
    let constraints = constraints(&raw, &mut errors);
    let upgrade = object(&mut raw, "upgradeStrategy", &mut errors);
    capacities(upgrade, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    defaults(&mut raw);
    let network = legacy_network(&docker).unwrap_or_else(|| network(&raw));
    default(&mut raw, "networks", json!([{"mode": "host"}]));
    if network == Network::Host && raw["container"].get("portMappings").is_none() {
        default(&mut raw, "portDefinitions", json!([{"port": 0, "protocol": "tcp", "name": "default"}]));
    }
    let command = match (cmd, args) {
        (Some(shell), _) => Command::Shell(shell),
        (None, Some(args)) if image.is_none() => Command::Argv(args),
        (None, Some(args)) => Command::Args(args),
        (None, None) => Command::Image,
    };
    let mut container = container(&raw, &docker, &network);
    (container.image, container.command) = (image, command);
    container.checks = check::app(&raw, &container, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(Spec {
        kind: Kind::App,
        instances: usize::try_from(raw["instances"].as_u64().unwrap_or(1)).unwrap_or(1),
        resident: container.mounts.iter().any(|m| m.source == Source::Persistent),
        labels: map(&raw, "labels"),
        backoff_ms: millis(&raw, "backoffSeconds", BACKOFF_MS),
        upgrade: Upgrade::parse(&raw["upgradeStrategy"]),
        oldest_first: text(&raw, "killSelection").as_deref() == Some("OLDEST_FIRST"),
        version: String::new(),
        config_version: String::new(),
        containers: vec![container],
        id,
        network,
        constraints,
        raw,
    })
}

/// All but what is to be executed, and the checks.
fn container(raw: &Value, docker: &Value, network: &Network) -> Container {
    Container {
        name: "_app".into(),
        env: map(raw, "env"),
        endpoints: if *network == Network::Host { host_ports(raw) } else { mappings(raw, docker, network) },
        privileges: privileges(docker, text(raw, "user")),
        grace_ms: millis(raw, "taskKillGracePeriodSeconds", GRACE_MS),
        resources: json!({"cpus": raw["cpus"], "mem": raw["mem"], "disk": raw["disk"], "gpus": raw["gpus"]}),
        mounts: list(&raw["container"], "volumes").iter().filter_map(volume).collect(),
        ..Container::default()
    }
}

fn defaults(raw: &mut Value) {
    let pairs = [
        ("instances", json!(1)),
        ("cpus", json!(1)),
        ("mem", json!(128)),
        ("disk", json!(0)),
        ("gpus", json!(0)),
        ("executor", json!("")),
        ("constraints", json!([])),
        ("env", json!({})),
        ("labels", json!({})),
        ("backoffSeconds", json!(1)),
        ("backoffFactor", json!(1.15)),
        ("maxLaunchDelaySeconds", json!(300)),
        ("killSelection", json!("YOUNGEST_FIRST")),
        ("unreachableStrategy", json!({"inactiveAfterSeconds": 0, "expungeAfterSeconds": 0})),
        ("requirePorts", json!(false)),
        ("role", json!("*")),
    ];
    for (key, value) in pairs {
        default(raw, key, value);
    }
}

fn constraints(raw: &Value, errors: &mut Vec<Invalid>) -> Vec<Constraint> {
    let mut out = Vec::new();
    for (index, item) in list(raw, "constraints").iter().enumerate() {
        let parts: Vec<String> = item.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        match parts.as_slice() {
            [field, operator, rest @ ..] if rest.len() < 2 => {
                out.push(Constraint { field: field.clone(), operator: operator.to_uppercase(), value: rest.first().cloned() });
            }
            _ => errors.push(Invalid::new(format!("/constraints({index})"), "Each constraint must have only 2 or 3 fields")),
        }
    }
    errors.extend(place::unknown_operator(&out).map(|e| Invalid::new("/constraints", e)));
    out
}

/// Definitions up to Marathon 1.4: `container.docker.network`.
fn legacy_network(docker: &Value) -> Option<Network> {
    match text(docker, "network")?.as_str() {
        "BRIDGE" => Some(Network::Bridge),
        "HOST" => Some(Network::Host),
        _ => Some(Network::Container("dcos".into())),
    }
}

/// Without `requirePorts`, Marathon takes `port` for a service port and offers any host port.
fn host_ports(raw: &Value) -> Vec<Endpoint> {
    let fixed = raw["requirePorts"].as_bool().unwrap_or(false);
    let of = |d: &Value| Endpoint {
        name: text(d, "name").unwrap_or_default(),
        container_port: None,
        host_port: Some(if fixed { port(d, "port").unwrap_or(0) } else { 0 }),
        protocols: protocols(d),
        labels: map(d, "labels"),
    };
    list(raw, "portDefinitions").iter().map(of).collect()
}

fn mappings(raw: &Value, docker: &Value, network: &Network) -> Vec<Endpoint> {
    let modern = list(&raw["container"], "portMappings");
    let from = if modern.is_empty() { list(docker, "portMappings") } else { modern };
    let of = |m: &Value| Endpoint {
        name: text(m, "name").unwrap_or_default(),
        container_port: port(m, "containerPort"),
        host_port: port(m, "hostPort").or_else(|| (*network == Network::Bridge).then_some(0)),
        protocols: protocols(m),
        labels: map(m, "labels"),
    };
    from.iter().map(of).collect()
}

fn protocols(value: &Value) -> Vec<String> {
    text(value, "protocol").unwrap_or_else(|| "tcp".into()).split(',').map(str::to_owned).collect()
}

fn volume(volume: &Value) -> Option<Mount> {
    let source = match text(volume, "hostPath") {
        Some(host) => Source::Host(host),
        None if volume.get("persistent").is_some() => Source::Persistent,
        None => return None,
    };
    let read_only = text(volume, "mode").as_deref() == Some("RO");
    Some(Mount { container_path: text(volume, "containerPath")?, source, read_only })
}

fn privileges(docker: &Value, user: Option<String>) -> Privileges {
    let mut out = Privileges { privileged: docker["privileged"].as_bool().unwrap_or(false), user, ..Privileges::default() };
    for parameter in list(docker, "parameters") {
        let value = text(parameter, "value").unwrap_or_default();
        match text(parameter, "key").unwrap_or_default().as_str() {
            "user" => out.user = Some(value),
            "cap-add" => out.cap_add.push(value),
            "cap-drop" => out.cap_drop.push(value),
            "privileged" => out.privileged = value != "false",
            "security-opt" if value.starts_with("no-new-privileges") && !value.ends_with("false") => out.no_new_privs = true,
            _ => {}
        }
    }
    out
}
