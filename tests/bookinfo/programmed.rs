//! `status.conditions`: what kubectl can wait for is what the nodes hold.

use super::Case;
use anyhow::{Result, ensure};
use mesh_tests::eventually;
use mesh_tests::world::{World, pid_of};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[("programmed::kubectl waits until every node holds a rule, and no shorter", programmed)];

const SOON: Duration = Duration::from_secs(60);
const ALL: &str = "Programmed True Programmed 2 of 2 nodes";
const WAIT: [&str; 4] = ["wait", "--for=condition=Programmed", "--timeout=60s", "virtualservice/answered"];

/// A rule by which the details answer with a status of their own.
fn apply(world: &World, status: u16) -> Result<()> {
    let rule = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "answered", "namespace": "default"},
        "spec": {"hosts": ["details"], "http": [{"directResponse": {"status": status}}]},
    });
    let output = world.try_kubectl(&["apply", "-f", "-"], &rule.to_string())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Status, reason and message of the condition, and of which generation it is.
fn condition(world: &World) -> Result<(String, i64)> {
    let object: Value = serde_json::from_str(&world.kubectl(&["get", "virtualservice", "answered", "-o", "json"])?)?;
    let condition = &object["status"]["conditions"][0];
    let words: Vec<&str> = ["type", "status", "reason", "message"].iter().filter_map(|name| condition[name].as_str()).collect();
    Ok((words.join(" "), condition["observedGeneration"].as_i64().unwrap_or_default()))
}

fn programmed(world: &mut World) -> Result<()> {
    // A case before this one may have restarted mesh-control, and its nodes may be on their way back.
    apply(world, 418)?;
    becomes(world, ALL, 1)?;
    apply(world, 419)?;
    // kubectl 1.20 does not look at generations: a condition of the generation before is none.
    eventually("the rule's own generation is observed", SOON, || {
        let (_, observed) = condition(world)?;
        ensure!(observed == 2, "{observed}");
        Ok(())
    })?;
    world.kubectl(&WAIT)?;
    ensure!(condition(world)? == (ALL.to_owned(), 2), "{:?}", condition(world)?);
    for pod in super::rules::clients(world)? {
        let (seen, body) = world.curl(&pod, &["http://details:9080/details/0"])?;
        ensure!(seen == 419, "kubectl has waited, and {pod} sees {seen} {body}");
    }
    let proxy = Pid::from_raw(pid_of(&world.instances_of("/mesh-proxy")?[0])?);
    kill(proxy, Signal::SIGSTOP)?;
    // One node's proxy takes nothing.
    let stopped = apply(world, 420).and_then(|()| becomes(world, "Programmed False Pending 1 of 2 nodes", 3));
    kill(proxy, Signal::SIGCONT)?;
    stopped?;
    becomes(world, ALL, 3)?;
    world.forget_rules()
}

fn becomes(world: &World, wanted: &str, generation: i64) -> Result<()> {
    eventually(wanted, SOON, || {
        let seen = condition(world)?;
        ensure!(seen == (wanted.to_owned(), generation), "{seen:?}");
        Ok(())
    })
}
