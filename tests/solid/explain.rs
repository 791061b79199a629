//! `mesh-agent explain` and `mesh-agent dump`, run on a node as an operator runs them.

use crate::{kernel, node};
use anyhow::{Context, Result, ensure};
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use serde_json::Value;

pub(crate) const CASES: &[Case] = &[
    ("explain::mesh-agent explain says what would happen, by which rule, and who acts", explained),
    ("explain::mesh-agent dump shows what the kernel holds, in tables and JSON", dumped),
];

/// The agent on the node of this pod, as Marathon calls it, which is what `xtask exec` takes.
fn agent_beside(world: &World, pod: &str) -> Result<String> {
    let node = world.instances_of(pod)?[0]["node"].clone();
    let agents = world.instances_of("/mesh-agent")?;
    let agent = agents.iter().find(|agent| agent["node"] == node).context("no agent on its node")?;
    Ok(agent["id"].as_str().context("no id")?.to_owned())
}

fn explained(world: &mut World) -> Result<()> {
    kernel::started(world)?;
    let agent = agent_beside(world, "/productpage")?;
    for (to, words) in [
        ("redis:6379", &["goes to a backend", "mode kernel", "the kernel: rewritten at connect()", "\nbackend      "][..]),
        (
            "reviews:9080",
            &["is handed to the proxy", "reviews.marathon.l4lb.thisdcos.directory, port 9080, mode proxy", "mesh-proxy"],
        ),
        ("203.0.113.10:80", &["is refused (egress_denied)", "REGISTRY_ONLY", "nobody: the kernel refuses at connect()"]),
        ("127.0.0.1:9080", &["passes"]),
        ("8.8.8.8:53", &["is answered by the mesh's DNS"]),
    ] {
        let said = world.exec(&agent, &["mesh-agent", "explain", "productpage", to])?;
        ensure!(words.iter().all(|word| said.contains(word)), "{to}: {words:?} are wanted in\n{said}");
    }
    // What it says is what happens.
    let refused = world.echo("productpage", &["dial", "203.0.113.10:80"])?;
    ensure!(refused["ok"] == false, "{refused}");
    let rule = world.kubectl(&["apply", "-f", "bookinfo/serviceEntry.yaml"]).and_then(|_| {
        // The host's addresses are allowed once a pod has asked for them.
        mesh_tests::eventually("the rule decides", std::time::Duration::from_secs(10), || {
            let _ = world.try_exec("productpage", &["getent", "ahostsv4", "httpbin.org"])?;
            let said = world.exec(&agent, &["mesh-agent", "explain", "--json", "productpage", "httpbin.org:80"])?;
            let said: Value = serde_json::from_str(&said)?;
            let decided_by = said["decided_by"].as_str().unwrap_or_default();
            ensure!(said["outcome"] == "passes" && decided_by.starts_with("ServiceEntry "), "{said}");
            Ok(())
        })
    });
    world.kubectl(&["delete", "-f", "bookinfo/serviceEntry.yaml"])?;
    rule?;
    let unknown = world.try_exec(&agent, &["mesh-agent", "explain", "nobody", "redis:6379"])?;
    let words = String::from_utf8_lossy(&unknown.stderr).into_owned();
    ensure!(!unknown.status.success() && words.contains("no pod \"nobody\"") && words.contains("productpage"), "{words}");
    Ok(())
}

fn dumped(world: &mut World) -> Result<()> {
    kernel::started(world)?;
    let agent = agent_beside(world, "/productpage")?;
    let own = world.instances_of("/productpage")?[0]["address"].as_str().context("no address")?.to_owned();
    let redis = format!("tcp://{}:6379", node::vip(world, "productpage", "redis")?);
    let said = world.exec(&agent, &["mesh-agent", "dump"])?;
    let row = |words: &[&str]| said.lines().any(|line| words.iter().all(|word| line.contains(word)));
    for words in [
        &["CONFIG ("][..],
        &["PODS ("],
        &["SERVICES ("],
        &["COUNTERS ("],
        &["REGISTRY_ONLY"],
        &[&own],
        &[&redis, "kernel", ":6379 "],
    ] {
        ensure!(row(words), "a row with {words:?} is wanted in\n{said}");
    }
    let dump: Value = serde_json::from_str(&world.exec(&agent, &["mesh-agent", "dump", "--json"])?)?;
    let of = |part: &str, holds: &dyn Fn(&Value) -> bool| dump[part].as_array().is_some_and(|all| all.iter().any(holds));
    let backends = |service: &Value| service["backends"].as_array().map_or(0, Vec::len);
    ensure!(of("services", &|one| one["vip"] == redis.as_str() && one["mode"] == "kernel" && backends(one) == 2), "{dump}");
    ensure!(of("services", &|one| one["mode"] == "proxy" && backends(one) > 0), "{dump}");
    ensure!(of("pods", &|one| one["addresses"][0] == own.as_str() && one["netns_cookie"].is_u64()), "{dump}");
    ensure!(of("workloads", &|one| *one == own.as_str()), "{dump}");
    ensure!(of("counters", &|one| one["why"] == "backend" && one["count"].as_u64() > Some(0)), "{dump}");
    Ok(())
}
