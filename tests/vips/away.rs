//! The mesh out of the way: of one pod, and of whole nodes, and back.

use crate::fleet::{self, Client, Network, Server};
use crate::l4lb::on_node;
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::{World, pid_of};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ("away::a bypassed pod is judged by nobody, has VIPs, and stays out when its agent restarts", bypass),
    ("away::uninstall leaves no program, table, listener, rule or route, and pods talk as without a mesh", uninstall),
];

/// The mesh's apps, in the order in which they are needed.
const APPS: [&str; 3] = ["mesh-agent", "mesh-proxy", "mesh-dns"];
const NODES: [&str; 2] = ["node1", "node2"];
const SOON: Duration = Duration::from_secs(60);
/// Nobody listens there, so that a packet that gets out is answered by a reset.
const OUTSIDE: &str = "203.0.113.10:81";

/// As errno says whether the kernel half judges it.
pub(crate) fn is_policed(world: &World, pod: &str) -> Result<bool> {
    let said = world.echo(pod, &["dial", OUTSIDE])?;
    match said["errno"].as_i64() {
        Some(113) => Ok(true),
        Some(111) => Ok(false),
        _ => anyhow::bail!("{pod}: {said}"),
    }
}

fn policed(world: &World, pod: &str, wanted: bool) -> Result<()> {
    eventually(&format!("{pod} is judged: {wanted}"), SOON, || {
        ensure!(is_policed(world, pod)? == wanted, "not yet");
        Ok(())
    })
}

/// By address, whose way asks no DNS.
fn vip(world: &World, pod: &str) -> Result<bool> {
    let server = Server { network: Network::Overlay, is_pod: true };
    let url = format!("tcp://{}:80", server.address(false));
    let said = world.echo(pod, &["reach", "--times", "10", &url])?;
    let answered = said[&url]["nodes"].as_object().is_some_and(|nodes| !nodes.is_empty());
    ensure!(!answered || said[&url]["errors"].as_object().is_some_and(serde_json::Map::is_empty), "{said}");
    Ok(answered)
}

fn agent(world: &World, arguments: &[&str]) -> Result<String> {
    world.exec(&on_node(world, "/mesh-agent", "node1")?, &[&["mesh-agent"], arguments].concat())
}

fn bypass(world: &mut World) -> Result<()> {
    fleet::started(world)?;
    let (pod, other) = (Client::ALL[0].id(), Client::ALL[1].id());
    policed(world, &pod, true)?;
    agent(world, &["bypass", &pod])?;
    ensure!(!is_policed(world, &pod)? && is_policed(world, &other)?, "one pod is out when the command returns, and no other");
    ensure!(vip(world, &pod)?, "VIPs are for everybody");
    eventually("it is loud", SOON, || {
        let page = world.admin("node1", "agent", "/metrics")?;
        ensure!(page.contains("mesh_agent_pods_bypassed 1"), "{page}");
        Ok(())
    })?;
    let before = pid_of(&world.instances_of("/mesh-agent")?[0])?;
    world.marathon("POST", "/v2/apps/mesh-agent/restart?force=true", "{}")?;
    eventually("new agents run", SOON, || {
        let all = world.instances_of("/mesh-agent")?;
        ensure!(all.len() == 2 && all.iter().all(|i| pid_of(i).is_ok_and(|pid| pid != before)), "{all:?}");
        NODES.iter().try_for_each(|node| world.admin(node, "agent", "/ready").map(drop))
    })?;
    ensure!(!is_policed(world, &pod)? && is_policed(world, &other)?, "the file outlives the agent");
    agent(world, &["bypass", "--end"])?;
    policed(world, &pod, true)
}

/// The mesh's apps run on both nodes, or nowhere.
pub(crate) fn set_mesh(world: &World, is_there: bool) -> Result<()> {
    let instances = if is_there { 2 } else { 0 };
    for app in APPS {
        world.marathon("PUT", &format!("/v2/apps/{app}?force=true"), &format!("{{\"instances\":{instances}}}"))?;
    }
    eventually("Marathon follows", SOON, || {
        let all = world.instances()?;
        for app in APPS {
            let running = all.iter().filter(|i| i["app"] == format!("/{app}") && pid_of(i).is_ok()).count();
            ensure!(running == instances, "{running} of {instances} {app}");
        }
        Ok(())
    })?;
    if is_there {
        eventually("the mesh is ready", SOON, || {
            let ask = |node: &str| ["agent", "proxy", "dns"].iter().try_for_each(|p| world.admin(node, p, "/ready").map(drop));
            NODES.iter().try_for_each(|node| ask(node))
        })?;
    }
    Ok(())
}

/// A node's part of the BPF file system, and its own files.
fn places(world: &World, node: &str) -> Result<(PathBuf, PathBuf)> {
    let info: Value = serde_json::from_slice(&std::fs::read(world.state.join("sim.json"))?)?;
    let nodes = info["nodes"].as_array().context("no nodes")?;
    let found = nodes.iter().find(|one| one["name"] == node).context("no such node")?;
    let path = |field: &str| found[field].as_str().map(PathBuf::from).with_context(|| field.to_owned());
    Ok((path("bpffs")?, path("root")?))
}

/// `mesh-agent uninstall` on a node where no agent runs any more.
pub(crate) fn uninstalled(world: &World, node: &str) -> Result<()> {
    let (bpffs, root) = places(world, node)?;
    ensure!(bpffs.join("mesh").exists(), "nothing is pinned on {node}");
    let mut command = Command::new(world.binaries().join("mesh-agent"));
    command.arg("uninstall").arg("--bpffs").arg(&bpffs).arg("--admin-socket").arg(root.join("run/mesh/agent-admin.sock"));
    let output = command.arg("--mesos-runtime-dir").arg(root.join("run/mesos")).output()?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(std::fs::read_dir(&bpffs)?.next().is_none(), "{} is not empty", bpffs.display());
    Ok(())
}

fn inside(pid: i32, command: &[&str]) -> Result<String> {
    let output = Command::new("nsenter").args(["-t", &pid.to_string(), "-n"]).args(command).output()?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What enrolment has left in a pod's namespace, one line each: rules, routes, listeners; and filters at its veth.
fn traces(pid: i32) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (command, word) in [
        (["ip", "-4", "rule", "list"].as_slice(), "0x1d5"),
        (&["ip", "-6", "rule", "list"], "0x1d5"),
        (&["ip", "-4", "route", "list", "table", "all"], "table 15001"),
        (&["ip", "-6", "route", "list", "table", "all"], "table 15001"),
        (&["ss", "-Hlntu"], ":15001"),
        (&["ss", "-Hlntu"], ":15053"),
    ] {
        found.extend(inside(pid, command)?.lines().filter(|line| line.contains(word)).map(str::to_owned));
    }
    Ok(found)
}

fn uninstall(world: &mut World) -> Result<()> {
    fleet::started(world)?;
    let pod = Client::ALL[0].id();
    policed(world, &pod, true)?;
    let pid = pid_of(&world.instances_of(&pod)?[0])?;
    ensure!(traces(pid)?.len() >= 6, "there is something to remove: {:?}", traces(pid)?);
    set_mesh(world, false)?;
    // Without the command policy stays in force: nobody is let out by an agent's end.
    ensure!(is_policed(world, &pod)?, "pins hold the policy");
    NODES.iter().try_for_each(|node| uninstalled(world, node))?;
    ensure!(traces(pid)?.is_empty(), "{:?}", traces(pid)?);
    for client in Client::ALL {
        ensure!(!is_policed(world, &client.id())?, "{} is judged", client.id());
        ensure!(!vip(world, &client.id())?, "a VIP answers {} without a mesh and without dcos-l4lb", client.id());
    }
    // The platform's own ways: its DNS, and the overlay.
    let named = "to-overlay-pod.marathon.containerip.dcos.thisdcos.directory:8080";
    let said = world.echo(&pod, &["reach", "--times", "4", &format!("tcp://{named}"), &format!("udp://{named}")])?;
    for transport in ["tcp", "udp"] {
        let answers = &said[format!("{transport}://{named}")];
        ensure!(answers["errors"].as_object().is_some_and(serde_json::Map::is_empty), "{said}");
    }
    set_mesh(world, true)?;
    Client::ALL.iter().filter(|client| client.is_enrolled).try_for_each(|client| policed(world, &client.id(), true))?;
    eventually("VIPs are back", SOON, || {
        ensure!(vip(world, &pod)?, "not yet");
        Ok(())
    })
}
