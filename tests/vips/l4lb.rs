//! Beside DC/OS' own load balancer, whose table each node serves: `mesh-agent compare-l4lb` on a running node.

use crate::fleet;
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::{World, pid_of};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::process::Output;
use std::time::Duration;

pub(crate) const CASES: &[Case] =
    &[("l4lb::compare-l4lb finds dcos-net's table the same on every network, and names what differs", compare)];

const SOON: Duration = Duration::from_secs(40);
const LATE: &str = "late.marathon.l4lb.thisdcos.directory";

/// The mesh's app that runs on this node.
pub(crate) fn on_node(world: &World, app: &str, node: &str) -> Result<String> {
    let all = world.instances_of(app)?;
    let found = all.iter().find(|instance| instance["node"] == node).with_context(|| format!("no {app} on {node}"))?;
    Ok(found["id"].as_str().context("no id")?.to_owned())
}

fn run(world: &World, node: &str) -> Result<Output> {
    world.try_exec(&on_node(world, "/mesh-agent", node)?, &["mesh-agent", "compare-l4lb"])
}

/// All of the platform's VIPs are there, and the same: of servers on every network, as app and as pod, and of the shop.
fn same(world: &World) -> Result<()> {
    for node in ["node1", "node2"] {
        eventually(&format!("the tables agree on {node}"), SOON, || {
            let output = run(world, node)?;
            let text = String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.success() && text.contains(", 0 differ, 0 only the mesh's"), "{output:?}");
            // Eight servers, each with two names' and two addresses' ports of two transports; those of the shop beside them.
            let same = text.lines().last().and_then(|line| line.split(' ').next()?.parse::<u32>().ok()).context("no count")?;
            ensure!(same > 64, "{text}");
            Ok(())
        })?;
    }
    Ok(())
}

fn compare(world: &mut World) -> Result<()> {
    fleet::started(world)?;
    same(world)?;
    // Stopped, the control plane tells nobody of what starts now.
    let control = Pid::from_raw(pid_of(&world.instances_of("/mesh-control")?[0])?);
    kill(control, Signal::SIGSTOP)?;
    let differ = late(world);
    kill(control, Signal::SIGCONT)?;
    differ?;
    same(world)?;
    world.marathon("DELETE", "/v2/apps/late", "").map(drop)
}

fn late(world: &World) -> Result<()> {
    let app = json!({
        "id": "/late", "cmd": format!("exec {} tell --port 8080", world.echo_program()), "cpus": 0.1, "mem": 32, "networks": [{"mode": "container/bridge"}],
        "container": {"type": "MESOS", "portMappings": [{"name": "tcp-late", "containerPort": 8080, "hostPort": 0, "labels": {"VIP_0": "/late:80"}}]},
    });
    world.marathon("POST", "/v2/apps", &app.to_string())?;
    fleet::running(world, "/late", 1)?;
    for node in ["node1", "node2"] {
        let output = run(world, node)?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(!output.status.success(), "{node}: {text}");
        ensure!(
            text.contains(&format!("tcp://{LATE}:80  only dcos-net has it")) && text.contains(", 1 differ"),
            "{node}: {text}"
        );
    }
    Ok(())
}
