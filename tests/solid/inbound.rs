//! Ports that a pod's labels have captured: its node's proxy takes what comes from outside, and the app knows nothing of it.

use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[("inbound::a captured port is the proxy's, and the app sees its clients", taken)];

const APP: &str = "/taken";
/// Captured, and the app listens there.
const PORT: u16 = 8080;
/// Captured, and nobody listens there.
const SILENT: u16 = 8081;

fn post(world: &World) -> Result<()> {
    let pod = json!({
        "id": APP,
        "labels": {
            "sidecar.istio.io/inject": "true",
            "traffic.sidecar.istio.io/includeInboundPorts": format!("{PORT},{SILENT}"),
        },
        "containers": [{
            "name": "echo",
            "resources": {"cpus": 0.1, "mem": 32},
            "image": {"kind": "DOCKER", "id": "istio/examples-bookinfo-details-v1:1.8.0"},
            "exec": {"command": {"argv": [world.echo_program(), "serve", "--port", PORT.to_string()]}},
            "endpoints": [{"name": "http", "containerPort": PORT, "hostPort": 0, "protocol": ["tcp"], "labels": {"VIP_0": "/taken:8080"}}],
            "healthCheck": {"http": {"endpoint": "http", "path": "/"}, "gracePeriodSeconds": 5, "intervalSeconds": 1, "maxConsecutiveFailures": 3},
        }],
        "networks": [{"name": "dcos", "mode": "container"}],
        "scaling": {"kind": "fixed", "instances": 1},
    });
    world.marathon("POST", "/v2/pods", &pod.to_string()).map(drop)
}

/// Connections that the proxy of the app's own node has taken for it.
fn counted(world: &World, node: &str) -> Result<f64> {
    let metrics = world.admin(node, "proxy", "/metrics")?;
    let is_ours = |line: &&str| {
        line.starts_with("istio_tcp_connections_opened_total")
            && line.contains("reporter=\"destination\"")
            && line.contains("destination_workload=\"taken\"")
            && line.contains("source_workload=\"unknown\"")
    };
    Ok(metrics.lines().filter(is_ours).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

fn taken(world: &mut World) -> Result<()> {
    post(world)?;
    let instance = eventually("the app runs and is healthy", Duration::from_secs(30), || {
        let instance = world.instances_of(APP)?.into_iter().next().context("no instance")?;
        let (code, body) = world.curl("productpage", &["http://taken:8080/"])?;
        ensure!(code == 200, "{code} {body}");
        Ok(instance)
    })?;
    let own = instance["address"].as_str().context("no address")?.to_owned();
    let node = instance["node"].as_str().context("no node")?.to_owned();
    let other = if node == "node1" { "node2" } else { "node1" };

    // A process of another node that is in no mesh.
    let program = world.echo_program();
    let before = counted(world, &node)?;
    let url = format!("http://{own}:{PORT}/");
    // It may be asked before it is in the mesh: until it is counted.
    eventually("the server's own proxy counts it", Duration::from_secs(20), || {
        let output =
            world.in_namespace(other, &["curl", "-s", "-S", "-m", "10", "-w", "\n%{local_ip}:%{local_port}", &url])?.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{output:?}");
        let (body, client) = text.rsplit_once('\n').context("no addresses")?;
        let seen: Value = serde_json::from_str(body).with_context(|| body.to_owned())?;
        ensure!(seen["accept"] == client && seen["getpeername"] == client, "{client} asked, the app saw {seen}");
        let now = counted(world, &node)?;
        ensure!(now >= before + 1.0, "{before} to {now}");
        Ok(())
    })?;

    // A pod of the mesh, through its own proxy.
    let asker = world.instances_of("/productpage")?[0]["address"].as_str().context("no address")?.to_owned();
    let (code, body) = world.curl("productpage", &["http://taken:8080/"])?;
    let seen: Value = serde_json::from_str(&body).with_context(|| format!("{code} {body}"))?;
    ensure!(seen["accept"].as_str().is_some_and(|address| address.starts_with(&format!("{asker}:"))), "{asker} asked: {seen}");

    // Where nobody listens the client is refused, not accepted and cut off; from the agent's next look after a listen() of the app on.
    eventually("nobody is accepted where nobody listens", Duration::from_secs(10), || {
        let output = world.in_namespace(other, &[&program, "dial", &format!("{own}:{SILENT}")])?.output()?;
        let said: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
        ensure!(said["ok"] == false && said.to_string().contains("Connection refused"), "{said}");
        Ok(())
    })?;

    // Marathon's health checks pass all the while.
    let same = world.instances_of(APP)?.into_iter().next().context("no instance")?;
    ensure!(same["pids"] == instance["pids"] && same["address"] == instance["address"], "restarted: {instance} to {same}");
    world.marathon("DELETE", &format!("/v2/pods{APP}?force=true"), "")?;
    Ok(())
}
