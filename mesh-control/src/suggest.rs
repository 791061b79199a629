//! `mesh-control suggest`: the ServiceEntries that audited traffic needs, as YAML for `kubectl apply -f -`. What was audited tell the agents
//! (`GET /audit` of their admin sockets, or what `mesh-agent audit --json` has written to files); the control plane itself is not asked.

use crate::config::SuggestArgs;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An agent answers from memory; one that does not is stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// What one workload has reached outside that `REGISTRY_ONLY` would have refused; as mesh-agent words it.
#[derive(Clone, Debug, Deserialize)]
struct Audited {
    namespace: String,
    app: String,
    address: IpAddr,
    port: u16,
    transport: String,
    /// By which pods' names DNS gave the address, the last one first.
    #[serde(default)]
    names: Vec<String>,
    count: u64,
}

/// Prints the entries.
pub(crate) fn run(args: &SuggestArgs) -> Result<()> {
    let mut all = Vec::new();
    for file in &args.files {
        let text = if file.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin()).context("standard input")?
        } else {
            std::fs::read_to_string(file).with_context(|| file.display().to_string())?
        };
        all.extend(read(&text).with_context(|| format!("{}: not what mesh-agent audit --json prints", file.display()))?);
    }
    if args.files.is_empty() {
        let text = ask(&args.agent_socket).with_context(|| format!("--agent-socket {}", args.agent_socket.display()))?;
        all.extend(read(&text).context("the agent's answer")?);
    }
    std::io::stdout().write_all(yaml(&all)?.as_bytes()).context("standard output")
}

fn read(text: &str) -> Result<Vec<Audited>> {
    Ok(serde_json::from_str(text)?)
}

fn ask(socket: &Path) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /audit HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    anyhow::ensure!(head.split(' ').nth(1) == Some("200"), "{}", head.lines().next().unwrap_or_default());
    Ok(body.to_owned())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    api_version: &'static str,
    kind: &'static str,
    metadata: Metadata,
    spec: Spec,
}

#[derive(Serialize)]
struct Metadata {
    name: String,
    namespace: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    hosts: [String; 1],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
    ports: Vec<Port>,
    location: &'static str,
    resolution: &'static str,
    export_to: [&'static str; 1],
}

#[derive(Serialize)]
struct Port {
    number: u16,
    name: String,
    protocol: &'static str,
}

/// What one entry is made of.
#[derive(Default)]
struct Need {
    ports: BTreeSet<(u16, bool)>,
    /// Where there is no name.
    address: Option<IpAddr>,
    /// For people: who, how often, and what other names the address has.
    by: BTreeSet<String>,
    count: u64,
    other: BTreeSet<String>,
}

/// One entry for each namespace and host, exported to its own namespace only: nobody gets more than what somebody there has used.
fn yaml(audited: &[Audited]) -> Result<String> {
    let mut needs: BTreeMap<(String, String), Need> = BTreeMap::new();
    for one in audited {
        let host = one.names.first().cloned();
        let address = host.is_none().then_some(one.address);
        let host = host.unwrap_or_else(|| format!("{}.unnamed.outside", dashed(one.address)));
        let need = needs.entry((one.namespace.clone(), host)).or_default();
        need.ports.insert((one.port, one.transport == "udp"));
        need.address = address;
        need.by.insert(one.app.clone());
        need.count += one.count;
        need.other.extend(one.names.iter().skip(1).cloned());
    }
    if needs.is_empty() {
        return Ok("# Nothing was audited that REGISTRY_ONLY would have refused.\n".to_owned());
    }
    let mut text = String::new();
    for ((namespace, host), need) in needs {
        let apps: Vec<String> = need.by.into_iter().collect();
        text.push_str(&format!("---\n# {} times by {}", need.count, apps.join(", ")));
        let other: Vec<String> = need.other.into_iter().filter(|name| *name != host).collect();
        if !other.is_empty() {
            text.push_str(&format!("; the address has other names: {}", other.join(", ")));
        }
        text.push('\n');
        let spec = Spec {
            hosts: [host.clone()],
            addresses: need.address.iter().map(ToString::to_string).collect(),
            ports: need.ports.into_iter().map(port).collect(),
            location: "MESH_EXTERNAL",
            resolution: if need.address.is_some() { "NONE" } else { "DNS" },
            export_to: ["."],
        };
        let metadata = Metadata { name: format!("audited-{host}"), namespace };
        let entry = Entry { api_version: "networking.istio.io/v1", kind: "ServiceEntry", metadata, spec };
        text.push_str(&serde_yaml_ng::to_string(&entry)?);
    }
    Ok(text)
}

/// A protocol is only suggested where a port is known by it: of HTTP and TLS the mesh looks at the host.
fn port((number, udp): (u16, bool)) -> Port {
    let (protocol, word) = match (number, udp) {
        (_, true) => ("UDP", "udp"),
        (80, false) => ("HTTP", "http"),
        (443, false) => ("TLS", "tls"),
        (_, false) => ("TCP", "tcp"),
    };
    Port { number, name: format!("{word}-{number}"), protocol }
}

/// An address as a part of a name.
fn dashed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.octets().map(|byte| byte.to_string()).join("-"),
        IpAddr::V6(v6) => v6.segments().map(|word| format!("{word:x}")).join("-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::istio::{Kind, admit};

    fn audited(namespace: &str, address: &str, (port, transport): (u16, &str), names: &[&str]) -> Audited {
        Audited {
            namespace: namespace.to_owned(),
            app: "/a".to_owned(),
            address: address.parse().expect("literal"),
            port,
            transport: transport.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            count: 2,
        }
    }

    #[test]
    fn one_entry_for_each_host_and_namespace_that_admission_takes() {
        let text = yaml(&[
            audited("shop", "203.0.113.10", (80, "tcp"), &["httpbin.org", "other.test"]),
            audited("shop", "203.0.113.11", (443, "tcp"), &["httpbin.org"]),
            audited("shop", "2001:db8::1", (443, "tcp"), &["httpbin.org"]),
            audited("default", "203.0.113.10", (80, "tcp"), &["httpbin.org"]),
            audited("default", "2001:db8::", (123, "udp"), &[]),
            audited("default", "203.0.113.9", (5432, "tcp"), &[]),
        ])
        .expect("text");
        let mut found = Vec::new();
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let value = serde_json::Value::deserialize(document).expect("YAML");
            let spec = &value["spec"];
            let ports = spec["ports"].as_array().expect("ports").iter().map(|p| p["name"].as_str().expect("text").to_owned());
            let hosts = format!(
                "{}/{}",
                value["metadata"]["namespace"].as_str().expect("text"),
                spec["hosts"][0].as_str().expect("text")
            );
            found.push((hosts, ports.collect::<Vec<_>>().join(" "), spec["addresses"][0].as_str().unwrap_or("-").to_owned()));
            let problems = admit(Kind::ServiceEntry, &value).err();
            assert_eq!(problems.map(|p| p.to_string()), None, "{value}");
        }
        let row = |host: &str, ports: &str, address: &str| (host.to_owned(), ports.to_owned(), address.to_owned());
        assert_eq!(
            found,
            [
                row("default/2001-db8-0-0-0-0-0-0.unnamed.outside", "udp-123", "2001:db8::"),
                row("default/203-0-113-9.unnamed.outside", "tcp-5432", "203.0.113.9"),
                row("default/httpbin.org", "http-80", "-"),
                row("shop/httpbin.org", "http-80 tls-443", "-"),
            ]
        );
        assert!(text.contains("# 6 times by /a; the address has other names: other.test\n"), "{text}");
        assert!(yaml(&[]).expect("text").starts_with('#'));
    }

    #[test]
    fn what_an_agent_says_is_read() {
        let text = r#"[{"namespace":"d","app":"/a","pod":"a.1","address":"203.0.113.9","port":80,"transport":"tcp","names":[],"count":1}]"#;
        assert_eq!(read(text).expect("an agent's").len(), 1);
        assert!(read("{}").is_err());
    }
}
