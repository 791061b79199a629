//! A port moves between kernel and proxy a thousand times under load, by a rule that comes and goes: no request is lost, and no connection
//! that began while the rule was in force is let past it.

mod api;
mod record;

use crate::node;
use anyhow::{Context, Result, ensure};
use api::Api;
use mesh_tests::eventually;
use mesh_tests::load::Load;
use mesh_tests::suite::Case;
use mesh_tests::world::{World, pid_of};
use record::{Recorder, now};
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[("flips::1,000 flips of a port under load lose no request and let none past a rule", flips)];

const FLIPS: u32 = 1000;
/// HTTP ports that a label has given to the kernel: one that other services of the proxy have too, so that its virtual host alone comes
/// and goes, and one whose listener does.
const PORTS: [u16; 2] = [9080, 8088];
/// For one flip; most take some 20 ms.
const LIMIT: Duration = Duration::from_secs(15);

fn flips(world: &mut World) -> Result<()> {
    start(world)?;
    let clients = clients(world)?;
    let vip = node::vip(world, &clients[0].1, "flips")?;
    let ports = PORTS.map(|port| format!("tcp://{vip}:{port}"));
    let in_mode = |world: &World, mode: &str| {
        eventually(mode, LIMIT, || {
            for ((node, _), port) in clients.iter().flat_map(|client| ports.iter().map(move |port| (client, port))) {
                let now = node::mode(world, node, port)?;
                ensure!(now == mode, "{port} is {now} on {node}");
            }
            Ok(())
        })
    };
    in_mode(world, "kernel")?;
    // Each node learns of the backends by itself, and a load counts its first request too.
    eventually("both instances answer on both nodes", Duration::from_secs(60), || {
        let instances = world.instances_of("/flips")?;
        let addresses = instances.iter().map(|instance| instance["address"].as_str().context("no address"));
        let hosts = std::iter::once(Ok("flips")).chain(addresses).collect::<Result<Vec<_>>>()?;
        for ((_, pod), host) in clients.iter().flat_map(|client| hosts.iter().map(move |host| (client, host))) {
            for port in PORTS {
                let (status, _) = world.curl(pod, &[&format!("http://{host}:{port}/open")])?;
                ensure!(status == 200, "{pod} to {host}, port {port}: {status}");
            }
        }
        Ok(())
    })?;
    let mut loads = Vec::new();
    for (_, pod) in &clients {
        let target = ["flips", "9080", "/open"];
        loads.push(Load::start(world, pod, target, 100, &["--connections", "5", "--each", "40", "--seconds", "800"])?);
        let target = ["flips", "8088", "/open"];
        loads.push(Load::start(world, pod, target, 50, &["--connections", "5", "--fresh", "--seconds", "800"])?);
    }
    let recorders = clients.iter().zip(PORTS).map(|((_, pod), port)| Recorder::start(world, pod, port, "/closed"));
    let recorders: Vec<Recorder> = recorders.collect::<Result<_>>()?;
    let mut api = Api::open(world)?;
    for flip in 0..FLIPS {
        let (mode, code) = if flip % 2 == 0 { ("proxy", 403) } else { ("kernel", 200) };
        if flip % 2 == 0 {
            api.create(&rule())?
        } else {
            api.delete("flips")?
        }
        in_mode(world, mode)?;
        let in_force = now();
        // At least one connection of each node that begins and ends before the next flip does.
        for recorder in &recorders {
            recorder.until_began(in_force, LIMIT)?;
        }
        let over = now();
        for recorder in &recorders {
            recorder.all_between(in_force, over, code).with_context(|| format!("flip {flip} to {mode}"))?;
        }
    }
    for recorder in recorders {
        recorder.finish(u64::from(FLIPS))?;
    }
    let outcome = loads.into_iter().try_for_each(|load| load.finish_without_failure(500).map(drop));
    outcome.or_else(|error| Err(error.context(refusals(world)?)))
}

/// What the kernel has refused by now, for whoever looks for the reason of a failure.
fn refusals(world: &World) -> Result<String> {
    let mut lines = Vec::new();
    for node in ["node1", "node2"] {
        let metrics = world.admin(node, "agent", "/metrics")?;
        let counted = metrics.lines().filter(|l| l.starts_with("mesh_agent_refusals_total") && !l.ends_with(" 0"));
        lines.extend(counted.map(|line| format!("{node}: {line}")));
    }
    Ok(lines.join("; "))
}

/// Denies a part, and leaves its mark on the rest.
fn rule() -> Value {
    let to = json!([{"destination": {"host": "flips"}}]);
    json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "VirtualService", "metadata": {"name": "flips"},
        "spec": {"hosts": ["flips"], "http": [
            {"match": [{"uri": {"prefix": "/closed"}}], "route": to, "fault": {"abort": {"httpStatus": 403, "percentage": {"value": 100}}}},
            {"route": to, "headers": {"response": {"set": {"x-ruled": "yes"}}}},
        ]},
    })
}

/// Two instances that answer on both ports.
fn start(world: &World) -> Result<()> {
    let container = |port: u16| {
        json!({
            "name": format!("echo-{port}"),
            "resources": {"cpus": 0.1, "mem": 32},
            "exec": {"command": {"shell": format!("exec {} serve --port {port}", world.echo_program())}},
            "endpoints": [{
                "name": format!("http-{port}"), "containerPort": port, "hostPort": 0, "protocol": ["tcp"],
                "labels": {"VIP_0": format!("/flips:{port}")},
            }],
        })
    };
    let pod = json!({
        "id": "/flips",
        "labels": {"version": "v1", "sidecar.istio.io/inject": "true", "mesh.io/mode": "kernel"},
        "containers": PORTS.map(container),
        "networks": [{"name": "dcos", "mode": "container"}],
        "scaling": {"kind": "fixed", "instances": 2},
        "scheduling": {"placement": {"constraints": []}},
    });
    world.marathon("POST", "/v2/pods", &pod.to_string())?;
    eventually("both instances answer on both ports", Duration::from_secs(30), || {
        let instances = world.instances_of("/flips")?;
        ensure!(instances.len() == 2 && instances.iter().all(|i| pid_of(i).is_ok()), "{instances:?}");
        for port in PORTS {
            let (status, _) = world.curl("productpage", &[&format!("http://flips:{port}/open")])?;
            ensure!(status == 200, "{status}");
        }
        Ok(())
    })
}

/// A pod of the shop on each node: (node, pod).
fn clients(world: &World) -> Result<Vec<(String, String)>> {
    let mut clients: Vec<(String, String)> = Vec::new();
    for instance in world.instances()? {
        let (Some(app), Some(node)) = (instance["app"].as_str(), instance["node"].as_str()) else { continue };
        let of_shop = ["/productpage", "/details", "/ratings", "/reviews-v1", "/reviews-v3"].contains(&app);
        if of_shop && clients.iter().all(|(known, _)| known != node) {
            clients.push((node.to_owned(), app.trim_start_matches('/').to_owned()));
        }
    }
    ensure!(clients.len() == 2, "a pod on each of two nodes is wanted: {clients:?}");
    Ok(clients)
}
