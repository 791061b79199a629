//! What the stand-in understands of an app or pod definition. Parsed once at the API's edge; `raw` is what is shown back. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

pub(crate) mod app;
pub(crate) mod check;
pub(crate) mod pod;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    App,
    Pod,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    Host,
    /// A named container network: an overlay, `dcos` by default.
    Container(String),
    /// `container/bridge` or a network called `mesos-bridge`: the same range on every node.
    Bridge,
}

#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) version: String,
    /// Version of the last change other than scaling; instances older than that are replaced.
    pub(crate) config_version: String,
    pub(crate) raw: Value,
    pub(crate) instances: usize,
    pub(crate) containers: Vec<Container>,
    pub(crate) network: Network,
    pub(crate) constraints: Vec<Constraint>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) backoff_ms: i64,
    pub(crate) upgrade: Upgrade,
    pub(crate) resident: bool,
    pub(crate) oldest_first: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) image: Option<String>,
    pub(crate) command: Command,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) privileges: Privileges,
    pub(crate) grace_ms: i64,
    pub(crate) checks: Vec<check::Check>,
    pub(crate) health_endpoint: Option<String>,
    pub(crate) resources: Value,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Command {
    /// The image's own argv.
    #[default]
    Image,
    /// Appended to the image's argv.
    Args(Vec<String>),
    Shell(String),
    Argv(Vec<String>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Privileges {
    pub(crate) privileged: bool,
    pub(crate) user: Option<String>,
    pub(crate) cap_add: Vec<String>,
    pub(crate) cap_drop: Vec<String>,
    pub(crate) no_new_privs: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) container_port: Option<u16>,
    /// `Some(0)`: any.
    pub(crate) host_port: Option<u16>,
    pub(crate) protocols: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) container_path: String,
    pub(crate) source: Source,
    pub(crate) read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Host(String),
    /// A pod's volume without a host path: shared by its containers, gone with the instance.
    Ephemeral(String),
    /// Stays on its node, and keeps the instance there.
    Persistent,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Constraint {
    pub(crate) field: String,
    pub(crate) operator: String,
    pub(crate) value: Option<String>,
}

/// How many instances must be ready, and how many more may exist, while a new version replaces an old one: parts of the wanted number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Upgrade {
    pub(crate) minimum_health: f64,
    pub(crate) maximum_over: f64,
}

impl Upgrade {
    pub(crate) fn parse(raw: &Value) -> Self {
        let part = |key: &str| raw.get(key).and_then(Value::as_f64).unwrap_or(1.0).clamp(0.0, 1.0);
        Self { minimum_health: part("minimumHealthCapacity"), maximum_over: part("maximumOverCapacity") }
    }
}

/// One complaint of a 422 answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invalid {
    pub(crate) path: String,
    pub(crate) error: String,
}

impl Invalid {
    pub(crate) fn new(path: impl Into<String>, error: impl Into<String>) -> Self {
        Self { path: path.into(), error: error.into() }
    }
}

impl Spec {
    /// Is the difference to `old` nothing but the number of instances?
    pub(crate) fn only_scaled(&self, old: &Self) -> bool {
        strip(&self.raw) == strip(&old.raw)
    }

    pub(crate) fn scale(&mut self, instances: usize) {
        self.instances = instances;
        match self.kind {
            Kind::App => self.raw["instances"] = json!(instances),
            Kind::Pod => self.raw["scaling"]["instances"] = json!(instances),
        }
    }

    pub(crate) fn stamp(&mut self, version: String, config_version: String) {
        self.raw["version"] = json!(version);
        if self.kind == Kind::App {
            self.raw["versionInfo"] = json!({"lastScalingAt": version, "lastConfigChangeAt": config_version});
        }
        self.version = version;
        self.config_version = config_version;
    }
}

fn strip(raw: &Value) -> Value {
    let mut value = raw.clone();
    if let Some(object) = value.as_object_mut() {
        for key in ["version", "versionInfo", "instances"] {
            object.remove(key);
        }
        if let Some(scaling) = object.get_mut("scaling").and_then(Value::as_object_mut) {
            scaling.remove("instances");
        }
    }
    value
}

/// Marathon's time form: ISO 8601, milliseconds, Z.
pub(crate) fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

pub(crate) fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned)
}

pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(crate) fn texts(value: &Value, key: &str) -> Vec<String> {
    list(value, key).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Labels or an environment: non-strings (secrets) are left out.
pub(crate) fn map(value: &Value, key: &str) -> BTreeMap<String, String> {
    let object = value.get(key).and_then(Value::as_object);
    object.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

pub(crate) fn port(value: &Value, key: &str) -> Option<u16> {
    value.get(key).and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok())
}

/// Sets `key` when it is absent or null.
pub(crate) fn default(raw: &mut Value, key: &str, value: Value) {
    if raw.get(key).is_none_or(Value::is_null) {
        raw[key] = value;
    }
}

/// An object inside `raw`, made when it is absent.
pub(crate) fn object<'a>(raw: &'a mut Value, key: &str, errors: &mut Vec<Invalid>) -> &'a mut Value {
    default(raw, key, json!({}));
    if !raw[key].is_object() {
        errors.push(Invalid::new(format!("/{key}"), "error.expected.jsobject"));
        raw[key] = json!({});
    }
    &mut raw[key]
}

/// Marathon's defaults of an upgrade strategy.
pub(crate) fn capacities(raw: &mut Value, errors: &mut Vec<Invalid>) {
    for key in ["minimumHealthCapacity", "maximumOverCapacity"] {
        default(raw, key, json!(1));
        if raw[key].as_f64().is_none_or(|part| !(0.0..=1.0).contains(&part)) {
            errors.push(Invalid::new(format!("/{key}"), "must be a number from 0 to 1"));
        }
    }
}

/// Where an endpoint with this host port is served in its container: 0 means by the same number.
pub(crate) fn container_port(endpoint: &Endpoint, host_port: u16) -> Option<u16> {
    endpoint.container_port.map(|port| if port == 0 { host_port } else { port })
}

/// Seconds, of which fractions are allowed.
#[expect(clippy::cast_possible_truncation, reason = "a cast from float saturates")]
pub(crate) fn millis(raw: &Value, key: &str, otherwise: i64) -> i64 {
    raw.get(key).and_then(Value::as_f64).map_or(otherwise, |seconds| (seconds * 1000.0) as i64)
}

/// `networks` of an app or a pod; absent means host.
pub(crate) fn network(raw: &Value) -> Network {
    let Some(first) = list(raw, "networks").first() else { return Network::Host };
    let name = text(first, "name");
    match (text(first, "mode").as_deref(), name.as_deref()) {
        (Some("container/bridge"), _) | (Some("container"), Some("mesos-bridge")) => Network::Bridge,
        (Some("host"), _) => Network::Host,
        _ => Network::Container(name.unwrap_or_else(|| "dcos".into())),
    }
}
