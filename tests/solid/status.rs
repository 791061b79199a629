//! `mesh-control status`: wanted against enrolled, as operators and their scripts ask for it.

use crate::restarts::set_instances;
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use serde_json::{Value, json};
use std::process::{Command, Output};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ("status::a mesh without fault passes --check; a pod that cannot be enrolled is a difference, with the agent's reason", shut),
    ("status::a node without mesh-agent is listed, whether or not something runs there", without_agent),
];

/// For what a busy machine does at once otherwise.
const SOON: Duration = Duration::from_secs(60);

fn control(world: &World) -> Result<String> {
    Ok(world.instances_of("/mesh-control")?[0]["node"].as_str().context("no node")?.to_owned())
}

fn status(world: &World, arguments: &[&str]) -> Result<Output> {
    let socket = world.state.join(control(world)?).join("root/run/mesh/control-admin.sock");
    let mut command = Command::new(world.binaries().join("mesh-control"));
    Ok(command.arg("status").args(arguments).arg("--admin-socket").arg(socket).output()?)
}

fn enrolment(world: &World) -> Result<Value> {
    let output = status(world, &["-o", "json"])?;
    ensure!(output.status.success(), "{output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What the table says below itself, and the exit code of `--check`.
fn check(world: &World) -> Result<(String, Option<i32>)> {
    let output = status(world, &["--check"])?;
    Ok((String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?, output.status.code()))
}

fn without_fault(world: &World) -> Result<()> {
    eventually("no difference", SOON, || {
        let (said, code) = check(world)?;
        ensure!(code == Some(0), "{code:?}\n{said}");
        Ok(())
    })
}

/// A pod that has taken, before anybody wants it in the mesh, the port on which connections are handed over.
fn shut(world: &mut World) -> Result<()> {
    without_fault(world)?;
    let all = enrolment(world)?;
    let nodes = all["nodes"].as_array().context("no nodes")?;
    ensure!(nodes.len() == 2 && nodes.iter().all(|node| node["mesosAgent"]["active"] == true), "{all}");
    let sum = |field: &str| nodes.iter().filter_map(|node| node[field].as_u64()).sum::<u64>();
    ensure!(sum("wanted") >= 6 && sum("enrolled") == sum("wanted"), "{all}");

    let pod = json!({
        "id": "/shut", "labels": {"istio.io/namespace": "shut"}, "networks": [{"name": "dcos", "mode": "container"}],
        "scaling": {"kind": "fixed", "instances": 1},
        "containers": [{"name": "main", "resources": {"cpus": 0.1, "mem": 32}, "image": {"kind": "DOCKER", "id": "istio/examples-bookinfo-details-v1:1.8.0"},
            "exec": {"command": {"argv": [world.echo_program(), "serve", "--port", "15001"]}}}],
    });
    world.marathon("POST", "/v2/pods", &pod.to_string())?;
    eventually("the port is taken", SOON, || {
        world.echo("/shut", &["dial", "127.0.0.1:15001"]).and_then(|said| {
            ensure!(said["ok"] == true, "{said}");
            Ok(())
        })
    })?;
    world.kubectl(&["create", "namespace", "shut"])?;
    world.kubectl(&["label", "namespace", "shut", "istio-injection=enabled"])?;
    eventually("it is a difference", SOON, || {
        let (said, code) = check(world)?;
        let line = said.lines().find(|line| line.contains("(/shut) is not in the mesh: ")).with_context(|| said.clone())?;
        ensure!(code == Some(1) && line.contains("in use"), "{code:?}\n{said}");
        Ok(())
    })?;
    let node = world.instances_of("/shut")?[0]["node"].as_str().context("no node")?.to_owned();
    let page = world.admin(&node, "agent", "/metrics")?;
    ensure!(page.lines().any(|line| line == "mesh_agent_pods_missing 1"), "{page}");
    let page = world.admin(&control(world)?, "control", "/metrics")?;
    let missing = page.lines().filter(|line| line.starts_with("mesh_control_workloads_missing{") && line.ends_with("} 1"));
    ensure!(missing.count() == 1, "{page}");
    ensure!(status(world, &[])?.status.success(), "only --check fails for a difference");

    world.marathon("DELETE", "/v2/pods/shut", "")?;
    world.kubectl(&["delete", "namespace", "shut"])?;
    without_fault(world)
}

fn without_agent(world: &mut World) -> Result<()> {
    set_instances(world, "mesh-agent", 1)?;
    let listed = eventually("it is listed", SOON, || {
        let (said, code) = check(world)?;
        let lines = said
            .lines()
            .filter(|line| line.ends_with(": no mesh-agent is connected") && !line.contains(" is not in the mesh"))
            .count();
        ensure!(code == Some(1) && lines == 1, "{code:?}\n{said}");
        let page = world.admin(&control(world)?, "control", "/metrics")?;
        ensure!(page.lines().any(|line| line == "mesh_control_nodes_without_agent 1"), "{page}");
        Ok(())
    });
    set_instances(world, "mesh-agent", 2)?;
    listed?;
    without_fault(world)
}
