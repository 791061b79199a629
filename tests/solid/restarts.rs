//! Restarts of the mesh's own parts under load: planned ones lose nothing, and a killed agent is not noticed.

use crate::load::Load;
use anyhow::{Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::{World, pid_of};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ("restarts::a planned upgrade of mesh-proxy loses no request", |world| planned(world, "mesh-proxy")),
    ("restarts::a planned upgrade of mesh-agent loses no request", |world| planned(world, "mesh-agent")),
    ("restarts::kill -9 of mesh-agent is not noticed, in connections old or new", agent_killed),
    (
        "restarts::kill -9 of mesh-proxy fails what is in flight at once, refuses no connection, and leaves kernel mode alone",
        proxy_killed,
    ),
];

const REVIEWS: [&str; 3] = ["details", "9080", "/details/0"];
const RATE: u32 = 2000;

fn pids(world: &World, app: &str) -> Result<BTreeSet<i32>> {
    world.instances_of(app)?.iter().map(pid_of).collect()
}

fn ready(world: &World, process: &str) -> Result<()> {
    for node in ["node1", "node2"] {
        world.admin(node, process, "/ready")?;
    }
    Ok(())
}

fn planned(world: &mut World, app: &str) -> Result<()> {
    let process = app.trim_start_matches("mesh-");
    let before = pids(world, &format!("/{app}"))?;
    let load = Load::start(world, "productpage", REVIEWS, RATE, &[])?;
    world.marathon("POST", &format!("/v2/apps/{app}/restart?force=true"), "{}")?;
    eventually("both nodes run a new one", Duration::from_secs(60), || {
        let now = pids(world, &format!("/{app}"))?;
        ensure!(now.len() == 2 && now.is_disjoint(&before), "{before:?} to {now:?}");
        ready(world, process)
    })?;
    load.until_requests(8000);
    load.finish_without_failure(5000).map(drop)
}

fn agent_killed(world: &mut World) -> Result<()> {
    let load = Load::start(world, "productpage", REVIEWS, RATE, &[])?;
    let fresh = Load::start(world, "reviews-v1", REVIEWS, 20, &["--connections", "2", "--fresh"])?;
    let before = pids(world, "/mesh-agent")?;
    for pid in &before {
        kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
    }
    eventually("Marathon starts the agents again", Duration::from_secs(30), || {
        let now = pids(world, "/mesh-agent")?;
        ensure!(now.len() == 2 && now.is_disjoint(&before), "{now:?}");
        ready(world, "agent")
    })?;
    load.until_requests(8000);
    fresh.finish_without_failure(50)?;
    load.finish_without_failure(5000).map(drop)
}

fn proxy_killed(world: &mut World) -> Result<()> {
    let load = Load::start(world, "productpage", REVIEWS, 500, &["--connections", "8"])?;
    let before = pids(world, "/mesh-proxy")?;
    for pid in &before {
        kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
    }
    eventually("Marathon starts the proxies again", Duration::from_secs(30), || {
        let now = pids(world, "/mesh-proxy")?;
        ensure!(now.len() == 2 && now.is_disjoint(&before), "{now:?}");
        ready(world, "proxy")
    })?;
    load.until_requests(3000);
    let outcome = load.finish()?;
    println!("{}", outcome.said);
    // Each of the eight connections may lose the request that was in flight; a refused connection would show as an error of its own.
    ensure!(outcome.bad <= 8, "{}", outcome.said);
    ensure!(outcome.said["texts"].as_object().is_none_or(|t| t.keys().all(|k| !k.contains("refused"))), "{}", outcome.said);
    Ok(())
}
