//! Networks by CNI plugins, as Mesos' isolator network/cni makes them: a node that has a configuration for a network's name calls the plugin that
//! it names, once for each container, before anything runs in it; Mesos knows no chains. Also the plugin that such a configuration ends at here.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::netns::NetNs;
use super::topology;

/// Below a node's root, where DC/OS has them: the agent's `--network_cni_config_dir` and `--network_cni_plugins_dir`.
const CONFIGS: &str = "opt/mesosphere/etc/dcos/network/cni";
const PLUGINS: &str = "opt/mesosphere/active/cni";
/// Where a plugin finds namespaces on its node.
const NAMESPACES: &str = "/var/run/mesos/isolators/network/cni";

/// What a container's interface is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wiring {
    pub(crate) node: String,
    pub(crate) container: String,
    pub(crate) veth: String,
    pub(crate) bridge: String,
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Option<Ipv6Addr>,
}

/// The plugin of one container.
#[derive(Debug, Clone)]
pub(crate) struct Plugin {
    program: PathBuf,
    plugins: PathBuf,
    config: Value,
    container: String,
}

impl Plugin {
    /// `None` where the node has no configuration for the network: then the stand-in makes it itself.
    pub(crate) fn find(node_root: &Path, network: &str, container: &str) -> Result<Option<Self>> {
        for entry in std::fs::read_dir(node_root.join(CONFIGS)).into_iter().flatten().flatten() {
            let config =
                std::fs::read(entry.path()).map_err(anyhow::Error::from).and_then(|t| Ok(serde_json::from_slice::<Value>(&t)?));
            let config = config.with_context(|| entry.path().display().to_string())?;
            if config["name"] == network {
                let plugins = node_root.join(PLUGINS);
                let program = plugins.join(config["type"].as_str().context("a network configuration has a type")?);
                return Ok(Some(Self { program, plugins, config, container: container.to_owned() }));
            }
        }
        Ok(None)
    }

    /// An error is the plugin's own word.
    pub(crate) fn add(&self, network: &str, wiring: &Wiring) -> Result<()> {
        self.call("ADD", network, Some(wiring))
    }

    pub(crate) fn del(&self, network: &str) -> Result<()> {
        self.call("DEL", network, None)
    }

    fn call(&self, verb: &str, network: &str, wiring: Option<&Wiring>) -> Result<()> {
        let mut config = self.config.clone();
        config["args"] = json!({"org.apache.mesos": {"network_info": {"name": network}}, "marathon-sim": wiring});
        let mut command = Command::new(&self.program);
        let environment = HashMap::from([
            ("CNI_COMMAND", verb.to_owned()),
            ("CNI_CONTAINERID", self.container.clone()),
            ("CNI_NETNS", format!("{NAMESPACES}/{}/ns", self.container)),
            ("CNI_IFNAME", "eth0".to_owned()),
            ("CNI_PATH", self.plugins.display().to_string()),
        ]);
        command.envs(environment).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().with_context(|| format!("the CNI plugin {}", self.program.display()))?;
        // One that does not read says why by its exit code.
        let _ = child.stdin.take().context("stdin")?.write_all(config.to_string().as_bytes());
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "Collect failed: Failed to setup network for container {}: the CNI plugin said: {}",
                self.container,
                String::from_utf8_lossy(&output.stdout).trim()
            );
        }
        Ok(())
    }
}

/// `marathon-sim __cni`: the plugin that makes the network in the stand-in's nodes, called by itself or as another plugin's delegate.
pub(crate) fn main() -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let config: Value = serde_json::from_str(&text)?;
    // What DEL would remove ends with the namespace.
    if std::env::var("CNI_COMMAND").as_deref() != Ok("ADD") {
        return Ok(());
    }
    let wiring: Wiring = serde_json::from_value(config["args"]["marathon-sim"].clone()).context("args.marathon-sim")?;
    let (node, container) = (NetNs::open(&wiring.node)?, NetNs::open(&wiring.container)?);
    topology::connect(&node, &container, &wiring)?;
    let [a, b, c, _] = wiring.v4.octets();
    let mut ips = vec![
        json!({"version": "4", "interface": 0, "address": format!("{}/24", wiring.v4), "gateway": format!("{a}.{b}.{c}.1")}),
    ];
    ips.extend(wiring.v6.map(|v6| json!({"version": "6", "interface": 0, "address": format!("{v6}/64")})));
    let interface = json!({"name": "eth0", "sandbox": std::env::var("CNI_NETNS").unwrap_or_default()});
    println!("{}", json!({"cniVersion": config["cniVersion"], "interfaces": [interface], "ips": ips, "dns": {}}));
    Ok(())
}
