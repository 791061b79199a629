//! Kernel mode: a TCP service that is not HTTP is balanced in connect(), and no proxy is on its path.

use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::{World, pid_of};
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[("kernel::redis is balanced in connect(), with no proxy on the path", redis)];

fn redis(world: &mut World) -> Result<()> {
    let spec = std::fs::read_to_string(mesh_tests::world::root().join("bookinfo/redis.json"))?;
    world.marathon("POST", "/v2/pods", &spec)?;
    let instances = eventually("two redis run", Duration::from_secs(30), || {
        let instances = world.instances_of("/redis")?;
        ensure!(instances.len() == 2 && instances.iter().all(|i| pid_of(i).is_ok()), "{instances:?}");
        let pong = world.exec("productpage", &["redis-cli", "-h", "redis", "ping"])?;
        ensure!(pong.trim() == "PONG", "{pong}");
        Ok(instances)
    })?;
    let mut runs = BTreeSet::new();
    for _ in 0..40 {
        let info = world.exec("productpage", &["redis-cli", "-h", "redis", "info", "server"])?;
        runs.insert(info.lines().find_map(|l| l.strip_prefix("run_id:")).context("no run_id")?.trim().to_owned());
    }
    ensure!(runs.len() == 2, "only {runs:?} of two instances were chosen in 40 connections");
    // Both sides' addresses: the server sees the pod itself, the client sees the VIP.
    let own = world.instances_of("/productpage")?[0]["address"].as_str().context("no address")?.to_owned();
    let clients = world.exec("productpage", &["redis-cli", "-h", "redis", "client", "list"])?;
    ensure!(clients.contains(&format!(" addr={own}:")), "{clients}, the pod is {own}");
    let vip = world.exec("productpage", &["getent", "ahostsv4", "redis"])?;
    let vip = vip.split_whitespace().next().context("no VIP")?.to_owned();
    let seen = world.echo("productpage", &["dial", &format!("{vip}:6379")])?;
    ensure!(seen["peer"] == format!("{vip}:6379"), "{seen}");
    no_proxy_socket(world, &instances)
}

/// While a connection is held open, every established socket of the pod towards a redis belongs to redis-cli.
fn no_proxy_socket(world: &World, instances: &[serde_json::Value]) -> Result<()> {
    let mut held = world.exec_command("productpage", &["redis-cli", "-h", "redis", "blpop", "nothing", "30"])?.spawn()?;
    let pid = pid_of(&world.instances_of("/productpage")?[0])?.to_string();
    let shown = eventually("the held connection is seen", Duration::from_secs(5), || {
        let output = Command::new("nsenter").args(["-t", &pid, "-n", "ss", "-Htnp", "dst", ":6379"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(text.contains("redis-cli"), "{text:?}");
        Ok(text)
    });
    let _ = held.kill();
    let _ = held.wait();
    let shown = shown?;
    ensure!(!shown.contains("mesh-proxy"), "{shown}");
    for instance in instances {
        ensure!(instance["address"].is_string(), "{instance}");
    }
    Ok(())
}
