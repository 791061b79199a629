//! The stage of `bench path`: clients on node 1, servers on both nodes, each in the mesh and out of it.
//!
//! What is compared with the mesh is outside of it altogether: those pods are not enrolled, client and server, so that none of our programs
//! does more for them than look once at their connect.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::envoy::Envoy;
use super::{cpu, wrk};
use crate::bookinfo::bare::Bare;
use crate::cargo::read;
use crate::install;
use crate::ui::{self, Poll, step};

const DIR: &str = "/run/mesh-bench";
const DOMAIN: &str = "marathon.l4lb.thisdcos.directory";
const BODY: usize = 1024;

/// How a request travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    Direct,
    Kernel,
    Proxy,
    Envoy,
}

impl Variant {
    pub(super) const ALL: [Self; 4] = [Self::Direct, Self::Kernel, Self::Proxy, Self::Envoy];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "no mesh",
            Self::Kernel => "kernel mode",
            Self::Proxy => "our proxy, one route",
            Self::Envoy => "Envoy 1.40, iptables",
        }
    }

    const fn client(self) -> &'static str {
        match self {
            Self::Direct => "client-plain",
            Self::Kernel | Self::Proxy => "client-mesh",
            Self::Envoy => "client-envoy",
        }
    }
}

/// Where the server is, as the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Near,
    Far,
}

impl Place {
    pub(super) const ALL: [Self; 2] = [Self::Near, Self::Far];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Near => "same node",
            Self::Far => "other node",
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
        }
    }

    const fn node(self) -> &'static str {
        match self {
            Self::Near => "198.18.0.11",
            Self::Far => "198.18.0.12",
        }
    }
}

pub(super) struct Stage {
    mesh: Bare,
    envoy: Envoy,
}

/// CPU seconds of the proxy on the path (ours or Envoy) and of the server.
pub(super) struct Cpu {
    pub(super) proxy: f64,
    pub(super) server: f64,
}

impl Stage {
    pub(super) fn start() -> Result<Self> {
        let mesh = Bare::start(Path::new(DIR))?;
        let envoy_program = install::envoy()?;
        step("placing nginx and Envoy, posting clients and servers", || {
            std::fs::copy(install::nginx()?, mesh.placed("nginx"))?;
            std::fs::copy(envoy_program, mesh.placed("envoy"))?;
            std::fs::write(mesh.placed("nginx.conf"), nginx())?;
            for variant in [Variant::Direct, Variant::Proxy, Variant::Envoy] {
                let inject = variant == Variant::Proxy;
                mesh.post_pod(&pod(variant.client(), Place::Near, inject, "exec sleep infinity", &json!([])))?;
            }
            let serve = format!("exec {} -p /run -c {}", mesh.placed("nginx").display(), mesh.placed("nginx.conf").display());
            for place in Place::ALL {
                let word = place.word();
                mesh.post_pod(&pod(&format!("plain-{word}"), place, false, &serve, &json!([])))?;
                let kernel = endpoint(8081, &format!("/bench-{word}-kernel:8080"), json!({ "mesh.io/mode": "kernel" }));
                let ports = json!([endpoint(8080, &format!("/bench-{word}:8080"), json!({})), kernel]);
                mesh.post_pod(&pod(&format!("mesh-{word}"), place, true, &serve, &ports))?;
            }
            Ok(())
        })?;
        one_route(&mesh)?;
        let namespace = ui::wait("waiting for the pods", Duration::from_secs(60), || {
            let running =
                mesh.instances()?.iter().filter(|instance| instance["running"] == true && instance["kind"] == "pod").count();
            let client = find(&mesh, "/client-envoy", None).ok().and_then(|found| found["netns"].as_str().map(str::to_owned));
            Ok(client.filter(|_| running == 7).map_or_else(|| Poll::Pending(format!("{running} of 7 run")), Poll::Ready))
        })?;
        let envoy = Envoy::start(mesh.exec(Variant::Envoy.client()), &mesh.placed("envoy"), &namespace)?;
        let stage = Self { mesh, envoy };
        stage.wait()?;
        Ok(stage)
    }

    pub(super) fn end(self) -> Result<()> {
        drop(self.envoy);
        self.mesh.end()
    }

    pub(super) fn wrk(&self, variant: Variant, place: Place, connections: u32, seconds: u32) -> Result<wrk::Measured> {
        let mut exec = self.mesh.exec(variant.client());
        exec.arg("wrk");
        wrk::run(exec, &self.url(variant, place)?, connections, seconds, &[])
    }

    /// Used so far.
    pub(super) fn cpu(&self, variant: Variant, place: Place) -> Result<Cpu> {
        let proxy = match variant {
            Variant::Direct => 0.0,
            Variant::Kernel | Variant::Proxy => cpu::of(self.proxy()?)?,
            Variant::Envoy => cpu::of(self.envoy.pid())?,
        };
        Ok(Cpu { proxy, server: cpu::of(pid(&find(&self.mesh, &server(variant, place), None)?)?)? })
    }

    /// The process of mesh-proxy that serves the clients.
    pub(super) fn proxy(&self) -> Result<u32> {
        pid(&find(&self.mesh, "/mesh-proxy", Some("node1"))?)
    }

    /// By name in the mesh, by the backend's address out of it.
    fn url(&self, variant: Variant, place: Place) -> Result<String> {
        let word = place.word();
        Ok(match variant {
            Variant::Kernel => format!("http://bench-{word}-kernel.{DOMAIN}:8080/"),
            Variant::Proxy => format!("http://bench-{word}.{DOMAIN}:8080/"),
            Variant::Direct | Variant::Envoy => {
                let server = find(&self.mesh, &server(variant, place), None)?;
                format!("http://{}:8080/", server["address"].as_str().context("a server without an address")?)
            }
        })
    }

    /// Every path answers, and is the path that it is called.
    fn wait(&self) -> Result<()> {
        for (variant, place) in Variant::ALL.into_iter().flat_map(|variant| Place::ALL.map(|place| (variant, place))) {
            let what = format!("waiting for: {}, {}", variant.name(), place.name());
            ui::wait(&what, Duration::from_secs(60), || {
                let mut curl = self.mesh.exec(variant.client());
                curl.args(["curl", "-s", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}"]).arg(self.url(variant, place)?);
                let answered = match curl.output() {
                    Ok(output) if output.stdout == b"200" => self.is_right(variant, place).map_err(|error| format!("{error:#}")),
                    Ok(output) => Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()),
                    Err(error) => Err(error.to_string()),
                };
                Ok(match answered {
                    Ok(()) => Poll::Ready(()),
                    Err(missing) => Poll::Pending(missing),
                })
            })?;
        }
        Ok(())
    }

    /// A proxy that is on the path works for each request; one that is not does nothing.
    fn is_right(&self, variant: Variant, place: Place) -> Result<()> {
        let before = self.cpu(variant, place)?.proxy;
        let measured = self.wrk(variant, place, 8, 1)?;
        let each = (self.cpu(variant, place)?.proxy - before) / measured.requests * 1e6;
        let (low, high) = if matches!(variant, Variant::Proxy | Variant::Envoy) { (2.0, f64::MAX) } else { (0.0, 2.0) };
        ensure!((low..high).contains(&each), "{each:.1} µs of a proxy per request: this is not {}", variant.name());
        Ok(())
    }
}

fn server(variant: Variant, place: Place) -> String {
    let kind = if matches!(variant, Variant::Kernel | Variant::Proxy) { "mesh" } else { "plain" };
    format!("/{kind}-{}", place.word())
}

fn find(mesh: &Bare, app: &str, node: Option<&str>) -> Result<Value> {
    let fits = |instance: &Value| instance["app"] == app && node.is_none_or(|node| instance["node"] == node);
    mesh.instances()?.into_iter().find(fits).with_context(|| format!("no instance of {app}"))
}

fn pid(instance: &Value) -> Result<u32> {
    let pid = instance["containers"][0]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    pid.with_context(|| format!("{} does not run", instance["app"]))
}

fn pod(name: &str, place: Place, inject: bool, command: &str, endpoints: &Value) -> Value {
    json!({
        "id": format!("/{name}"),
        "labels": if inject { json!({ "sidecar.istio.io/inject": "true" }) } else { json!({}) },
        "containers": [{
            "name": "main",
            "resources": { "cpus": 0.1, "mem": 64 },
            "exec": { "command": { "shell": command } },
            "endpoints": endpoints,
        }],
        "networks": [{ "name": "dcos", "mode": "container" }],
        "scaling": { "kind": "fixed", "instances": 1 },
        "scheduling": { "placement": { "constraints": [{ "fieldName": "hostname", "operator": "IS", "value": place.node() }] } },
    })
}

fn endpoint(port: u16, vip: &str, mut labels: Value) -> Value {
    labels["VIP_0"] = vip.into();
    json!({ "name": format!("http-{port}"), "containerPort": port, "hostPort": 0, "protocol": ["tcp"], "labels": labels })
}

/// One process, a body from memory, connections that stay.
fn nginx() -> String {
    format!(
        "daemon off; master_process off; user root; pid /run/nginx.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_body_temp_path /run/body; proxy_temp_path /run/proxy; fastcgi_temp_path /run/fastcgi;
  uwsgi_temp_path /run/uwsgi; scgi_temp_path /run/scgi;
  server {{ listen 8080; listen 8081; location / {{ default_type text/plain; return 200 \"{}\"; }} }}
}}\n",
        "x".repeat(BODY)
    )
}

/// The rule that Envoy has too: everything to this host.
fn one_route(mesh: &Bare) -> Result<()> {
    let rule = |place: Place| {
        let host = format!("bench-{}.{DOMAIN}", place.word());
        json!({
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "VirtualService",
            "metadata": { "name": format!("bench-{}", place.word()) },
            "spec": { "hosts": [host], "http": [{ "route": [{ "destination": { "host": host } }] }] },
        })
    };
    let file = mesh.state.join("bench.json");
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": Place::ALL.map(rule) });
    std::fs::write(&file, serde_json::to_vec(&list)?)?;
    let mut kubectl = Command::new(install::kubectl()?);
    kubectl.env("KUBECONFIG", &mesh.kubeconfig).env("HOME", &mesh.state.dir);
    read(kubectl.arg("apply").arg("-f").arg(file)).map(drop)
}
