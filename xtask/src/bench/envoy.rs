//! Envoy beside a client, as a sidecar has it: iptables in the pod's namespace leads connections to it, the original destination decides
//! where they go on to, and there is one route.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cargo::read;
use crate::ui::step;

/// Istio's: what this user sends is not led back to Envoy.
const USER: &str = "1337";
const PORT: u16 = 15001;

pub(super) struct Envoy(Child);

impl Envoy {
    /// `exec` runs a command in the client's pod, whose network namespace is the file `namespace`.
    pub(super) fn start(mut exec: Command, program: &Path, namespace: &str) -> Result<Self> {
        step("starting Envoy in its pod, behind an iptables rule", || {
            let file = program.with_file_name("envoy.json");
            std::fs::write(&file, config().to_string())?;
            let mut iptables = Command::new("nsenter");
            iptables.arg(format!("--net={namespace}")).args(["iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp"]);
            iptables.args(["--dport", "8080", "-m", "owner", "!", "--uid-owner", USER, "-j", "REDIRECT"]);
            read(iptables.args(["--to-ports", &PORT.to_string()]))?;
            exec.args(["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"]).arg(program);
            exec.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]).arg(file);
            let child = exec.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
            Ok(Self(child.context("cannot start Envoy in its pod")?))
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn config() -> Value {
    let typed = |name: &str, kind: &str, mut value: Value| {
        value["@type"] = format!("type.googleapis.com/envoy.extensions.filters.{kind}").into();
        json!({ "name": name, "typed_config": value })
    };
    let route = json!({ "name": "all", "domains": ["*"], "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "original" } }] });
    let http = json!({
        "stat_prefix": "outbound",
        "route_config": { "name": "outbound", "virtual_hosts": [route] },
        "http_filters": [typed("envoy.filters.http.router", "http.router.v3.Router", json!({}))],
    });
    let manager = "network.http_connection_manager.v3.HttpConnectionManager";
    json!({ "static_resources": {
        "listeners": [{
            "name": "outbound",
            "address": { "socket_address": { "address": "0.0.0.0", "port_value": PORT } },
            "listener_filters": [typed("envoy.filters.listener.original_dst", "listener.original_dst.v3.OriginalDst", json!({}))],
            "filter_chains": [{ "filters": [typed("envoy.filters.network.http_connection_manager", manager, http)] }],
        }],
        "clusters": [{ "name": "original", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "5s" }],
    } })
}
