//! Kernel mode: a TCP service that is not HTTP is balanced in connect(), and no proxy is on its path.

use crate::node;
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::{World, pid_of};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ("kernel::redis is balanced in connect(), with no proxy on the path", redis),
    ("kernel::a label moves a port to the proxy and back", labelled),
    ("kernel::a DestinationRule says how the kernel chooses", chosen),
];

fn spec() -> Result<Value> {
    Ok(serde_json::from_str(&std::fs::read_to_string(mesh_tests::world::root().join("bookinfo/redis.json"))?)?)
}

/// Two redis run and answer; posted if they are not there yet.
pub(crate) fn started(world: &World) -> Result<()> {
    if world.instances_of("/redis").is_err() {
        world.marathon("POST", "/v2/pods", &spec()?.to_string())?;
    }
    answering(world, &BTreeSet::new())
}

/// Two redis run, none of these processes among them, and answer.
fn answering(world: &World, before: &BTreeSet<i32>) -> Result<()> {
    eventually("two redis run", Duration::from_secs(30), || {
        let pids = pids(world)?;
        ensure!(pids.len() == 2 && pids.is_disjoint(before), "{before:?} to {pids:?}");
        let pong = world.exec("productpage", &["redis-cli", "-h", "redis", "ping"])?;
        ensure!(pong.trim() == "PONG", "{pong}");
        Ok(())
    })
}

fn pids(world: &World) -> Result<BTreeSet<i32>> {
    world.instances_of("/redis")?.iter().map(pid_of).collect()
}

fn redis(world: &mut World) -> Result<()> {
    started(world)?;
    let mut runs = BTreeSet::new();
    for _ in 0..40 {
        let info = world.exec("productpage", &["redis-cli", "-h", "redis", "info", "server"])?;
        runs.insert(info.lines().find_map(|l| l.strip_prefix("run_id:")).context("no run_id")?.trim().to_owned());
    }
    ensure!(runs.len() == 2, "only {runs:?} of two instances were chosen in 40 connections");
    seen_from_both_sides(world)?;
    let sockets = sockets(world)?;
    ensure!(!sockets.contains("mesh-proxy"), "{sockets}");
    Ok(())
}

/// In every mode: the server sees the pod itself, the client sees the VIP.
fn seen_from_both_sides(world: &World) -> Result<()> {
    let own = world.instances_of("/productpage")?[0]["address"].as_str().context("no address")?.to_owned();
    let clients = world.exec("productpage", &["redis-cli", "-h", "redis", "client", "list"])?;
    ensure!(clients.contains(&format!(" addr={own}:")), "{clients}, the pod is {own}");
    let vip = node::vip(world, "productpage", "redis")?;
    let seen = world.echo("productpage", &["dial", &format!("{vip}:6379")])?;
    ensure!(seen["peer"] == format!("{vip}:6379"), "{seen}");
    Ok(())
}

/// The pod's sockets towards redis and who has them, while redis-cli holds a connection.
fn sockets(world: &World) -> Result<String> {
    let mut held = world.exec_command("productpage", &["redis-cli", "-h", "redis", "blpop", "nothing", "30"])?.spawn()?;
    let pid = pid_of(&world.instances_of("/productpage")?[0])?.to_string();
    let shown = eventually("the held connection is seen", Duration::from_secs(20), || {
        let output = Command::new("nsenter").args(["-t", &pid, "-n", "ss", "-Htnp", "dst", ":6379"]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(text.contains("redis-cli"), "{text:?}");
        Ok(text)
    });
    let _ = held.kill();
    let _ = held.wait();
    shown
}

fn labelled(world: &mut World) -> Result<()> {
    started(world)?;
    let vip = node::vip(world, "productpage", "redis")?;
    for (mode, release) in [("proxy", "to-proxy"), ("kernel", "to-kernel")] {
        let before = pids(world)?;
        let mut spec = spec()?;
        (spec["labels"]["mesh.io/mode"], spec["labels"]["release"]) = (mode.into(), release.into());
        world.marathon("PUT", "/v2/pods/redis?force=true", &spec.to_string())?;
        for node in ["node1", "node2"] {
            eventually("the node follows", Duration::from_secs(30), || {
                let now = node::mode(world, node, &format!("tcp://{vip}:6379"))?;
                ensure!(now == mode, "{now} on {node}, {mode} is wanted");
                Ok(())
            })?;
        }
        answering(world, &before)?;
        // The last connections may still meet an instance that is about to end.
        eventually("both sides and the sockets follow", Duration::from_secs(10), || {
            seen_from_both_sides(world)?;
            let sockets = sockets(world)?;
            ensure!(sockets.contains("mesh-proxy") == (mode == "proxy"), "{mode}: {sockets}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Both instances of redis, as productpage's connections find them.
fn runs(world: &World, connections: usize) -> Result<BTreeSet<String>> {
    let run = |_| {
        let info = world.exec("productpage", &["redis-cli", "-h", "redis", "info", "server"])?;
        Ok(info.lines().find_map(|line| line.strip_prefix("run_id:")).context("no run_id")?.trim().to_owned())
    };
    (0..connections).map(run).collect()
}

fn chosen(world: &mut World) -> Result<()> {
    started(world)?;
    let vip = format!("tcp://{}:6379", node::vip(world, "productpage", "redis")?);
    let rule = |balancer: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: redis}}\n\
             spec: {{host: redis, trafficPolicy: {{loadBalancer: {balancer}}}}}\n"
        )
    };
    let is = |mode: &str, balance: &str| {
        for node in ["node1", "node2"] {
            eventually("the node follows", Duration::from_secs(20), || {
                let now = (node::field(world, node, &vip, "mode")?, node::field(world, node, &vip, "balance")?);
                ensure!(now == (mode.to_owned(), balance.to_owned()), "{node}: {now:?}, {mode} {balance} is wanted");
                Ok(())
            })?;
        }
        Ok::<_, anyhow::Error>(())
    };
    is("kernel", "least-connections")?;
    for (balancer, mode, balance) in [
        ("{consistentHash: {useSourceIp: true}}", "kernel", "source"),
        ("{simple: RANDOM}", "kernel", "random"),
        ("{simple: ROUND_ROBIN}", "proxy", "least-connections"),
    ] {
        let applied = world.try_kubectl(&["apply", "-f", "-"], &rule(balancer))?;
        ensure!(applied.status.success(), "{applied:?}");
        is(mode, balance)?;
        // One client stays with its backend by its address; by chance, all of 20 connections meet one once in 2^19 times.
        let found = runs(world, 20)?;
        ensure!(found.len() == if balance == "source" { 1 } else { 2 }, "{balancer}: {found:?}");
    }
    world.forget_rules()?;
    is("kernel", "least-connections")
}
