//! The end: Ctrl-C leaves nothing behind. Must run last, since it ends the mesh.

use anyhow::{Context, Result, ensure};
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use serde_json::Value;
use std::path::Path;

pub(crate) const CASES: &[Case] = &[("end::Ctrl-C leaves no process, namespace, mount, cgroup, pin or file", nothing_left)];

fn nothing_left(world: &mut World) -> Result<()> {
    let info: Value = serde_json::from_slice(&std::fs::read(world.state.join("sim.json"))?)?;
    let mut places = vec![world.state.clone(), world.binaries().to_owned()];
    for node in info["nodes"].as_array().context("no nodes")? {
        for field in ["cgroup", "bpffs"] {
            let place = Path::new(node[field].as_str().with_context(|| format!("no {field} in {node}"))?);
            ensure!(place.exists(), "{} is not there even while the mesh is up", place.display());
            places.push(place.to_owned());
        }
    }
    let pids = processes(world)?;
    ensure!(pids.len() > 10, "only {} processes while the mesh is up", pids.len());
    world.stop()?;
    for place in &places {
        ensure!(!place.exists(), "{} is left", place.display());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(!mounts.contains(&world.state.display().to_string()), "a mount is left");
    for (pid, started) in pids {
        ensure!(start_time(pid).is_none_or(|now| now != started), "process {pid} is left");
    }
    Ok(())
}

/// Every process of every instance, and when it started (a pid alone may be another process by then).
fn processes(world: &World) -> Result<Vec<(i64, String)>> {
    let instances = world.instances()?;
    let containers = instances.iter().flat_map(|i| i["containers"].as_array().cloned().unwrap_or_default());
    let pids = containers.flat_map(|c| c["pids"].as_array().cloned().unwrap_or_default());
    Ok(pids.filter_map(|pid| Some((pid.as_i64()?, start_time(pid.as_i64()?)?))).collect())
}

fn start_time(pid: i64) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the start time is the 20th field after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}
