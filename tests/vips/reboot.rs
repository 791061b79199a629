//! From a container's first instruction on: by the CNI plugin nothing talks around the mesh, also where containers are back before the mesh is, as
//! after a node's reboot. Without the plugin there is a window, which is printed.

use crate::away::{is_policed, set_mesh, uninstalled};
use crate::fleet;
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::{World, pid_of};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

pub(crate) const CASES: &[Case] = &[
    ("cni::a container whose first instruction is connect() is governed, at each of 20 starts", first_instruction),
    ("cni::after a reboot no container starts before the mesh, and no packet of theirs gets around it", rebooted),
    ("cni::without the plugin the window after a reboot ends with the agent's first look", window),
];

const NODES: [&str; 2] = ["node1", "node2"];
const SOON: Duration = Duration::from_secs(60);
const OUTSIDE: &str = "203.0.113.10:81";
const STARTS: usize = 20;

/// Where DC/OS has Mesos' CNI configurations and plugins.
fn config(world: &World, node: &str) -> PathBuf {
    world.state.join(node).join("root/opt/mesosphere/etc/dcos/network/cni/dcos.conf")
}

/// Puts `mesh-agent cni` in front of the plugin that makes the overlay, as docs/design/0032-cni.md says.
fn install(world: &World) -> Result<()> {
    for node in NODES {
        let (root, config) = (world.state.join(node).join("root"), config(world, node));
        let plugins = root.join("opt/mesosphere/active/cni");
        std::fs::create_dir_all(&plugins)?;
        std::fs::create_dir_all(config.parent().context("a directory")?)?;
        for (name, program, argument) in [("mesh-agent-cni", "mesh-agent", "cni"), ("bridge", "marathon-sim", "__cni")] {
            let file = plugins.join(name);
            std::fs::write(&file, format!("#!/bin/sh\nexec {}/{program} {argument}\n", world.binaries().display()))?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
        }
        let socket = root.join("run/mesh/cni.sock");
        let text = json!({
            "cniVersion": "0.3.1", "name": "dcos", "type": "mesh-agent-cni", "agentSocket": socket, "delegate": {"type": "bridge"},
        });
        std::fs::write(config, text.to_string())?;
    }
    Ok(())
}

fn remove(world: &World) -> Result<()> {
    NODES.iter().try_for_each(|node| Ok(std::fs::remove_file(config(world, node))?))
}

/// Dials out before anything else, says how that went, and goes on.
fn post(world: &World, id: &str, instances: usize) -> Result<()> {
    let app = json!({
        "id": id, "cmd": format!("{} dial {OUTSIDE}; exec sleep 3600", world.echo_program()), "cpus": 0.01, "mem": 16, "instances": instances,
        "labels": {"sidecar.istio.io/inject": "true"}, "networks": [{"mode": "container", "name": "dcos"}], "backoffSeconds": 1,
        "backoffFactor": 1.0,
    });
    world.marathon("POST", "/v2/apps", &app.to_string()).map(drop)
}

/// What the first instruction of each instance met.
fn first_errnos(world: &World, id: &str) -> Result<Vec<i64>> {
    let instances = world.instances_of(id)?;
    let of = |instance: &Value| {
        let path = instance["containers"][0]["stdout"].as_str().context("no stdout")?;
        let said: Value = serde_json::from_str(std::fs::read_to_string(path)?.lines().next().unwrap_or_default())?;
        said["errno"].as_i64().with_context(|| said.to_string())
    };
    instances.iter().map(of).collect()
}

fn refused(world: &World, id: &str, instances: usize) -> Result<()> {
    eventually(&format!("all of {id} have dialled"), SOON, || {
        let found = first_errnos(world, id)?;
        ensure!(found.len() == instances, "{found:?}");
        Ok(())
    })?;
    let found = first_errnos(world, id)?;
    ensure!(found.iter().all(|errno| *errno == 113), "somebody got around the mesh: {found:?}");
    Ok(())
}

fn first_instruction(world: &mut World) -> Result<()> {
    fleet::started(world)?;
    install(world)?;
    let started = Instant::now();
    post(world, "/first", STARTS)?;
    let outcome = fleet::running(world, "/first", STARTS).and_then(|()| refused(world, "/first", STARTS));
    println!("{STARTS} containers started by way of the plugin in {:?}", started.elapsed());
    world.marathon("DELETE", "/v2/apps/first?force=true", "")?;
    remove(world)?;
    outcome
}

/// Everything that dials out is seen there.
struct Sniffer {
    child: Child,
}

impl Sniffer {
    fn start(world: &World) -> Result<Self> {
        let command = ["tcpdump", "-n", "-l", "-i", "any", "--immediate-mode", "tcp dst port 81"];
        let mut child = world.in_namespace("outside", &command)?.spawn()?;
        let mut said = BufReader::new(child.stderr.take().context("no stderr")?);
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            ensure!(said.read_line(&mut line)? > 0, "tcpdump ended");
        }
        // It has more to say at its end, and must not meet a closed pipe.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Ok(Self { child })
    }

    fn finish(self) -> Result<String> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT)?;
        Ok(String::from_utf8_lossy(&self.child.wait_with_output()?.stdout).into_owned())
    }
}

/// As a reboot leaves a node: no process and no pin of the mesh, and every container must start anew.
fn reboot(world: &World, id: &str) -> Result<()> {
    set_mesh(world, false)?;
    NODES.iter().try_for_each(|node| uninstalled(world, node))?;
    for instance in world.instances_of(id)? {
        kill(Pid::from_raw(pid_of(&instance)?), Signal::SIGKILL)?;
    }
    Ok(())
}

fn rebooted(world: &mut World) -> Result<()> {
    fleet::started(world)?;
    install(world)?;
    post(world, "/guarded", 2)?;
    fleet::running(world, "/guarded", 2)?;
    refused(world, "/guarded", 2)?;
    let sniffer = Sniffer::start(world)?;
    reboot(world, "/guarded")?;
    eventually("containers wait for the mesh", SOON, || {
        let all = world.instances_of("/guarded")?;
        let waits = |i: &Value| i["lastFailure"].as_str().is_some_and(|why| why.contains("mesh-agent cannot be asked"));
        ensure!(all.len() == 2 && all.iter().all(waits), "{all:?}");
        Ok(())
    })?;
    set_mesh(world, true)?;
    let outcome = fleet::running(world, "/guarded", 2).and_then(|()| refused(world, "/guarded", 2));
    let packets = sniffer.finish()?;
    world.marathon("DELETE", "/v2/apps/guarded?force=true", "")?;
    remove(world)?;
    outcome?;
    ensure!(packets.trim().is_empty(), "packets of governed containers outside:\n{packets}");
    Ok(())
}

fn window(world: &mut World) -> Result<()> {
    fleet::started(world)?;
    post(world, "/early", 1)?;
    fleet::running(world, "/early", 1)?;
    reboot(world, "/early")?;
    eventually("the container runs before the mesh", SOON, || {
        ensure!(!is_policed(world, "/early")?, "judged by nobody");
        Ok(())
    })?;
    let back = Instant::now();
    set_mesh(world, true)?;
    eventually("it is in the mesh", SOON, || {
        ensure!(is_policed(world, "/early")?, "not yet");
        Ok(())
    })?;
    println!("without the plugin: open from the container's start until {:?} after the mesh was asked for again", back.elapsed());
    world.marathon("DELETE", "/v2/apps/early?force=true", "").map(drop)
}
