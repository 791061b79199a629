//! Requests that are in flight for as long as nobody ends them: a server of their own, and a client in a pod.

use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::world::{World, pid_of};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PORT: u16 = 9080;
/// The client's own patience, far above every bound that a test asserts: who meets it was left to hang.
const PATIENCE: &str = "60";

/// By the clock that the client in the pod reads too.
pub(crate) fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos())
}

/// The server's address; posted if it is not there yet.
fn server(world: &World) -> Result<String> {
    if world.instances_of("/held").is_err() {
        let pod = json!({
            "id": "/held",
            "labels": {"version": "v1", "sidecar.istio.io/inject": "true"},
            "containers": [{
                "name": "echo",
                "resources": {"cpus": 0.1, "mem": 32},
                "exec": {"command": {"shell": format!("exec {} serve --port {PORT}", world.echo_program())}},
                "endpoints": [{
                    "name": "http", "containerPort": PORT, "hostPort": 0, "protocol": ["tcp"],
                    "labels": {"VIP_0": format!("/held:{PORT}")},
                }],
            }],
            "networks": [{"name": "dcos", "mode": "container"}],
            "scaling": {"kind": "fixed", "instances": 1},
            "scheduling": {"placement": {"constraints": []}},
        });
        world.marathon("POST", "/v2/pods", &pod.to_string())?;
    }
    eventually("the server of held requests answers", Duration::from_secs(60), || {
        let instances = world.instances_of("/held")?;
        pid_of(&instances[0])?;
        let (status, body) = world.curl("productpage", &[&format!("http://held:{PORT}/")])?;
        ensure!(status == 200, "{status} {body}");
        Ok(instances[0]["address"].as_str().context("no address")?.to_owned())
    })
}

/// Requests of one pod, all of them at the server.
pub(crate) struct Held {
    child: Child,
    stdout: BufReader<ChildStdout>,
    server: String,
    requests: u32,
}

impl Held {
    /// Returns when the server has every one of them.
    pub(crate) fn start(world: &World, pod: &str, requests: u32) -> Result<Self> {
        let server = server(world)?;
        let (program, port, count) = (world.echo_program(), PORT.to_string(), requests.to_string());
        let target = ["held", &port, "/hold", "--connections", &count, "--seconds", PATIENCE];
        let mut child = world.exec_command(pod, &[&[program.as_str(), "hold"], &target[..]].concat())?.spawn()?;
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut held = Self { child, stdout, server, requests };
        let mut line = String::new();
        held.stdout.read_line(&mut line)?;
        ensure!(line.trim() == "sent", "{pod} sent no requests: {line:?}");
        held.until_server_has(world, requests)?;
        Ok(held)
    }

    fn until_server_has(&self, world: &World, requests: u32) -> Result<()> {
        eventually(&format!("the server has {requests} requests"), Duration::from_secs(30), || {
            let (status, body) = world.curl("details", &[&format!("http://{}:{PORT}/", self.server)])?;
            let now = serde_json::from_str::<Value>(&body).with_context(|| format!("{status} {body}"))?["held"].clone();
            ensure!(now == requests, "{now}");
            Ok(())
        })
    }

    /// All have failed, none later than this after `since`; the server holds none any more.
    pub(crate) fn failed_within(mut self, world: &World, since: u128, limit: Duration) -> Result<()> {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text)?;
        let ends: Vec<Value> = serde_json::from_str(text.trim()).with_context(|| format!("the client said {text:?}"))?;
        ensure!(ends.len() == self.requests as usize, "{ends:?}");
        for end in &ends {
            let at: u128 = end["ended_ns"].as_str().and_then(|ns| ns.parse().ok()).context("no time")?;
            ensure!(end["got"] == "closed" || end["got"] == "ConnectionReset", "a request in flight got {end}");
            let took = at.checked_sub(since).with_context(|| format!("ended before: {end}"))?;
            ensure!(took < limit.as_nanos(), "a request hung for {} ms: {end}", took / 1_000_000);
        }
        self.until_server_has(world, 0)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}
