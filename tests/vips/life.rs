//! The life of a service that the kernel balances: no proxy is there to ask again, so whoever is chosen must answer.

use crate::fleet::{self, Client};
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::load::Load;
use mesh_tests::suite::Case;
use mesh_tests::world::{World, pid_of};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub(crate) const CASES: &[Case] = &[
    ("life::in kernel mode no request is lost when backends come, drain, turn unhealthy and are replaced", changing),
    ("life::a backend that is killed fails only what it had, and is not chosen once Marathon has said so", killed),
];

const ID: &str = "/steady";
/// By its full name: unenrolled clients ask the platform's DNS, which knows no other.
const NAME: &str = "steady.marathon.l4lb.thisdcos.directory";
const TARGET: [&str; 3] = [NAME, "80", "/"];
/// What makes an instance unhealthy, in its own sandbox.
const SICK: &str = "/mnt/mesos/sandbox/sick";
/// How long an instance goes on after SIGTERM. Clients have heard of it within a fraction of a second; the rest is for a busy machine.
const LINGER: &str = "4000";
const SOON: Duration = Duration::from_secs(40);

fn spec(world: &World, instances: usize, release: &str) -> Value {
    json!({
        "id": ID, "labels": {"release": release}, "networks": [{"mode": "container", "name": "dcos"}],
        "scaling": {"kind": "fixed", "instances": instances},
        "containers": [{
            "name": "main", "resources": {"cpus": 0.1, "mem": 32}, "lifecycle": {"killGracePeriodSeconds": 15},
            "exec": {"command": {"shell": format!("exec {} serve --port 8080 --linger-ms {LINGER}", world.echo_program())}},
            "endpoints": [{"name": "tcp-steady", "containerPort": 8080, "protocol": ["tcp"], "labels": {"VIP_0": format!("{ID}:80")}}],
            "healthCheck": {"exec": {"command": {"shell": format!("test ! -e {SICK}")}}, "delaySeconds": 0, "gracePeriodSeconds": 5,
                            "intervalSeconds": 0.3, "timeoutSeconds": 5, "maxConsecutiveFailures": 10000},
        }],
    })
}

fn put(world: &World, instances: usize, release: &str) -> Result<()> {
    let (method, path) =
        if world.instances_of(ID).is_ok() { ("PUT", "/v2/pods/steady?force=true") } else { ("POST", "/v2/pods") };
    world.marathon(method, path, &spec(world, instances, release).to_string()).map(drop)
}

/// Who answers now, by task, over enough new connections to meet each.
fn answering(world: &World) -> Result<BTreeSet<String>> {
    let script = format!("for i in $(seq 60); do curl -s -S -m 10 http://{NAME}/; echo; done");
    let said = world.exec(&Client::ALL[0].id(), &["sh", "-c", &script])?;
    let names = said.lines().filter(|line| !line.is_empty()).map(|line| {
        let answer: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        Ok(answer["podname"].as_str().context("no name")?.to_owned())
    });
    names.collect()
}

/// So many, and no others, answer.
fn settled(world: &World, wanted: usize) -> Result<BTreeSet<String>> {
    fleet::running(world, ID, wanted)?;
    eventually(&format!("{wanted} answer"), SOON, || {
        let now = answering(world)?;
        ensure!(now.len() == wanted, "{now:?}");
        Ok(now)
    })
}

/// Clients in and out of the mesh, on connections that they keep and on new ones.
fn loads(world: &World) -> Result<Vec<(&'static str, Load)>> {
    let [inside, .., outside] = Client::ALL.map(Client::id);
    let start = |client: &str, more: &[&str]| {
        Load::start(world, client, TARGET, 60, &[&["--connections", "6", "--seconds", "240"], more].concat())
    };
    Ok(vec![
        ("enrolled, new connections", start(&inside, &["--fresh"])?),
        ("enrolled, kept connections", start(&inside, &[])?),
        ("not enrolled, new connections", start(&outside, &["--fresh"])?),
        ("not enrolled, kept connections", start(&outside, &[])?),
    ])
}

fn changing(world: &mut World) -> Result<()> {
    fleet::started(world)?;
    put(world, 2, "one")?;
    settled(world, 2)?;
    let loads = loads(world)?;
    put(world, 4, "one")?;
    settled(world, 4)?;
    put(world, 2, "one")?;
    let left = settled(world, 2)?;
    unhealthy(world, &left)?;
    // By SIGTERM, and another in its place.
    let victim = world.instances_of(ID)?[0]["id"].as_str().context("no id")?.to_owned();
    world.marathon("DELETE", &format!("/v2/pods/steady::instances/{victim}"), "")?;
    replaced(world, &left)?;
    // A new version: every instance.
    let before = settled(world, 2)?;
    put(world, 2, "two")?;
    eventually("the new version alone answers", SOON, || {
        let now = answering(world)?;
        ensure!(now.len() == 2 && now.is_disjoint(&before), "{before:?} to {now:?}");
        Ok(())
    })?;
    for (what, load) in loads {
        load.finish_without_failure(300).with_context(|| what.to_owned())?;
    }
    Ok(())
}

/// One of them is no longer the same.
fn replaced(world: &World, before: &BTreeSet<String>) -> Result<()> {
    eventually("another instance answers", SOON, || {
        let now = answering(world)?;
        ensure!(now.len() == 2 && now != *before, "{now:?}");
        Ok(())
    })
}

/// Weight 0: nobody new comes to it, and who is there stays.
fn unhealthy(world: &World, answering_before: &BTreeSet<String>) -> Result<()> {
    let instances = world.instances_of(ID)?;
    let sick = instances[0]["id"].as_str().context("no id")?;
    let held = Load::start(world, &Client::ALL[0].id(), TARGET, 20, &["--connections", "12", "--seconds", "120"])?;
    world.exec(sick, &["touch", SICK])?;
    eventually("Marathon says that it is unhealthy", SOON, || {
        let now = world.instances_of(ID)?;
        ensure!(now.iter().any(|i| i["healthy"] == false), "{now:?}");
        Ok(())
    })?;
    let since = Instant::now();
    let follows = eventually("one alone gets new connections", SOON, || {
        let asked = since.elapsed();
        let now = answering(world)?;
        ensure!(now.len() == 1 && now.is_subset(answering_before), "{now:?}");
        Ok(asked)
    })?;
    println!("new connections went elsewhere at most {follows:?} after Marathon had called the instance unhealthy");
    // Of twelve kept connections some are with it, and none is cut.
    held.until_requests(40);
    let outcome = held.finish_without_failure(24)?;
    ensure!(outcome.said["opened"] == 12, "{}", outcome.said);
    world.exec(sick, &["rm", SICK])?;
    settled(world, 2).map(drop)
}

/// SIGKILL is where L4 has nothing to give: what an instance has taken is lost with it, and who dials before Marathon knows is refused.
fn killed(world: &mut World) -> Result<()> {
    fleet::started(world)?;
    put(world, 2, "two")?;
    let before = settled(world, 2)?;
    let load = Load::start(world, &Client::ALL[0].id(), TARGET, 200, &["--connections", "8", "--fresh", "--seconds", "120"])?;
    kill(Pid::from_raw(pid_of(&world.instances_of(ID)?[0])?), Signal::SIGKILL)?;
    replaced(world, &before)?;
    let outcome = load.finish()?;
    println!("{}", outcome.said);
    let texts = outcome.said["texts"].as_object().context("no texts")?;
    // Its process is gone, then its connections, then its address.
    let known = ["refused", "reset", "before an answer", "whole buffer", "roken pipe", "No route"];
    let other = texts.keys().find(|text| !known.iter().any(|word| text.contains(word)));
    ensure!(other.is_none(), "a failure that no killed server explains: {}", outcome.said);
    let fresh = Load::start(world, &Client::ALL[0].id(), TARGET, 200, &["--connections", "8", "--fresh", "--seconds", "120"])?;
    fresh.until_requests(400);
    fresh.finish_without_failure(200).map(drop)
}
