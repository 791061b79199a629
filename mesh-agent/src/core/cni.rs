//! What a CNI plugin is told and answers (specification 0.3 to 1.0), and what it asks of the node's agent. No I/O.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::path::PathBuf;

/// The versions of the specification that have `prevResult` and the same form of results.
pub const VERSIONS: [&str; 4] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0"];
/// Of the specification: the container runtime should try again.
const TRY_AGAIN: u32 = 11;
/// Of the specification: the environment is not as it should be.
const INVALID_ENVIRONMENT: u32 = 4;
/// Of the specification: the network configuration cannot be read.
const DECODING: u32 = 6;
/// Of the specification: a field of it is not valid.
const INVALID_CONFIG: u32 = 7;

/// What the runtime wants.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    /// A container's namespace is there, and nothing runs in it yet.
    Add,
    /// It ends.
    Del,
    /// Is all as ADD has left it?
    Check,
}

/// A question to the agent: one line of JSON.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// What.
    pub verb: Verb,
    /// Mesos' id of the container.
    pub container: String,
    /// Path of its network namespace; may be gone at DEL.
    pub netns: PathBuf,
    /// The addresses that it was given.
    pub addresses: Vec<IpAddr>,
}

/// The agent's answer: one line of JSON.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The container is in the mesh (or, at DEL, is out of it).
    Done,
    /// It does not ask to be.
    NotWanted,
    /// It should be and is not, for this reason.
    Failed(String),
}

/// A failure as the specification has it printed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    code: u32,
    text: String,
}

impl Failure {
    /// The agent cannot do it now: the container must not start without.
    #[must_use]
    pub fn again(text: String) -> Self {
        Self { code: TRY_AGAIN, text }
    }

    /// What the plugin prints before it ends with 1.
    #[must_use]
    pub fn print(&self) -> String {
        json!({"cniVersion": VERSIONS[VERSIONS.len() - 1], "code": self.code, "msg": "mesh-agent", "details": self.text})
            .to_string()
    }
}

/// A call of the plugin.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Which versions it speaks.
    Version,
    /// Everything else.
    Network(Box<Network>),
}

/// What is to be done with a container's network.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// What.
    pub verb: Verb,
    /// Mesos' id.
    pub container: String,
    /// May be empty at DEL.
    pub netns: PathBuf,
    /// Unix socket of the agent.
    pub agent: PathBuf,
    /// The plugin before this one has made the network: its result. Mesos knows no chains; there `delegate` does.
    pub previous: Option<Value>,
    /// The configuration of the plugin that makes the network, to be called by this one.
    pub delegate: Option<Value>,
}

/// Reads environment and standard input.
///
/// # Errors
/// Names the variable or field that is not as the specification has it.
pub fn call(env: impl Fn(&str) -> Option<String>, stdin: &[u8], default_agent: &str) -> Result<Call, Failure> {
    let environment = |text: String| Failure { code: INVALID_ENVIRONMENT, text };
    let config = |text: &str| Failure { code: INVALID_CONFIG, text: text.to_owned() };
    let need = |name: &str| env(name).filter(|v| !v.is_empty()).ok_or_else(|| environment(format!("{name} is not set")));
    let verb = match need("CNI_COMMAND")?.as_str() {
        "VERSION" => return Ok(Call::Version),
        "ADD" => Verb::Add,
        "DEL" => Verb::Del,
        "CHECK" => Verb::Check,
        other => return Err(environment(format!("CNI_COMMAND is {other:?}, not ADD, DEL, CHECK or VERSION"))),
    };
    let container = need("CNI_CONTAINERID")?;
    let netns = if verb == Verb::Del { env("CNI_NETNS").unwrap_or_default() } else { need("CNI_NETNS")? };
    let read: Map<String, Value> = serde_json::from_slice(stdin)
        .map_err(|error| Failure { code: DECODING, text: format!("the network configuration: {error}") })?;
    let version = read.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if !VERSIONS.contains(&version) {
        return Err(Failure { code: 1, text: format!("cniVersion {version:?} is none of {}", VERSIONS.join(", ")) });
    }
    let agent = match read.get("agentSocket") {
        None => default_agent,
        Some(Value::String(path)) if path.starts_with('/') => path,
        Some(_) => return Err(config("agentSocket is no absolute path")),
    };
    let delegate = match read.get("delegate") {
        None => None,
        Some(Value::Object(delegate)) => Some(inherit(delegate.clone(), &read)?),
        Some(_) => return Err(config("delegate is no network configuration")),
    };
    let previous = read.get("prevResult").filter(|value| value.is_object()).cloned();
    match (verb, &delegate, &previous) {
        (_, Some(_), Some(_)) => return Err(config("delegate and prevResult: the network is made once")),
        (Verb::Add | Verb::Check, None, None) => {
            return Err(config(
                "neither prevResult nor delegate: this plugin makes no network, put it behind one that does or name it",
            ));
        }
        _ => {}
    }
    let (netns, agent) = (netns.into(), agent.into());
    Ok(Call::Network(Box::new(Network { verb, container, netns, agent, previous, delegate })))
}

/// A delegate has the name, the version and the arguments of the network that it makes.
fn inherit(mut delegate: Map<String, Value>, from: &Map<String, Value>) -> Result<Value, Failure> {
    let kind = delegate.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind.is_empty() || kind.contains('/') {
        return Err(Failure { code: INVALID_CONFIG, text: format!("delegate.type is {kind:?}, which is no plugin's name") });
    }
    for field in ["cniVersion", "name", "args"] {
        if let Some(value) = from.get(field) {
            delegate.entry(field).or_insert_with(|| value.clone());
        }
    }
    Ok(Value::Object(delegate))
}

/// The answer to VERSION.
#[must_use]
pub fn versions() -> String {
    json!({"cniVersion": VERSIONS[VERSIONS.len() - 1], "supportedVersions": VERSIONS}).to_string()
}

/// The addresses in a result.
#[must_use]
pub fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    // Mesos' own examples still have the form of 0.2.
    let old = ["ip4", "ip6"].iter().filter_map(|family| result[family]["ip"].as_str());
    let all = ips.iter().filter_map(|ip| ip["address"].as_str()).chain(old);
    all.filter_map(|text| text.split('/').next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(command: &str, stdin: &Value) -> Result<Call, Failure> {
        let env = |name: &str| match name {
            "CNI_COMMAND" => Some(command.to_owned()),
            "CNI_CONTAINERID" => Some("c1".to_owned()),
            "CNI_NETNS" if command != "DEL" => Some("/proc/7/ns/net".to_owned()),
            _ => None,
        };
        call(env, stdin.to_string().as_bytes(), "/run/agent.sock")
    }

    fn network(call: Call) -> Network {
        if let Call::Network(network) = call { *network } else { panic!("{call:?}") }
    }

    #[test]
    fn a_chain_and_a_delegate_are_read() {
        let result =
            json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": "9.0.1.2/24"}, {"address": "fd01::2/64"}]});
        let chained = network(ask("ADD", &json!({"cniVersion": "0.4.0", "name": "dcos", "prevResult": result})).expect("valid"));
        assert_eq!((chained.verb, chained.container.as_str()), (Verb::Add, "c1"));
        assert_eq!(chained.agent, PathBuf::from("/run/agent.sock"));
        let ips: Vec<String> = addresses(&chained.previous.expect("there")).iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["9.0.1.2", "fd01::2"]);
        let conf = json!({"cniVersion": "0.3.0", "name": "dcos", "args": {"x": 1}, "agentSocket": "/a", "delegate": {"type": "bridge", "bridge": "b0"}});
        let delegated = network(ask("ADD", &conf).expect("valid"));
        assert_eq!(delegated.agent, PathBuf::from("/a"));
        let expected = json!({"type": "bridge", "bridge": "b0", "cniVersion": "0.3.0", "name": "dcos", "args": {"x": 1}});
        assert_eq!(delegated.delegate, Some(expected));
        assert_eq!(addresses(&json!({"ip4": {"ip": "9.0.1.3/24"}})), ["9.0.1.3".parse::<IpAddr>().expect("an address")]);
    }

    #[test]
    fn del_needs_no_namespace_and_version_nothing() {
        let conf = json!({"cniVersion": "1.0.0", "name": "dcos"});
        assert_eq!(network(ask("DEL", &conf).expect("valid")).netns, PathBuf::new());
        assert_eq!(ask("VERSION", &Value::Null), Ok(Call::Version));
        assert!(versions().contains("\"1.0.0\""));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let base = || json!({"cniVersion": "0.4.0", "prevResult": {}});
        let with = |field: &str, value: Value| {
            let mut conf = base();
            conf[field] = value;
            conf
        };
        for (command, conf, code, text) in [
            ("GC", base(), 4, "CNI_COMMAND"),
            ("ADD", json!([]), 6, "configuration"),
            ("ADD", json!({"cniVersion": "0.2.0", "prevResult": {}}), 1, "0.2.0"),
            ("ADD", json!({"cniVersion": "0.4.0"}), 7, "prevResult"),
            ("ADD", with("agentSocket", json!("run/x")), 7, "agentSocket"),
            ("ADD", with("delegate", json!({"type": "bridge"})), 7, "made once"),
            ("ADD", json!({"cniVersion": "0.4.0", "delegate": {"type": "../x"}}), 7, "delegate.type"),
        ] {
            let failure = ask(command, &conf).expect_err(text);
            assert_eq!(failure.code, code, "{conf}");
            assert!(failure.text.contains(text) && failure.print().contains(text), "{}", failure.text);
        }
    }
}
