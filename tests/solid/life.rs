//! The life of services: traffic follows what Marathon does, and no request fails meanwhile.

use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::load::Load;
use mesh_tests::suite::Case;
use mesh_tests::world::{World, pid_of};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub(crate) const CASES: &[Case] = &[
    ("life::scaling reviews-v2 to 3 and back, no failed request, traffic follows within 1 s", scaling),
    ("life::killing an instance, no failed request", killing),
    ("life::a rolling upgrade, no failed request", upgrade),
    ("life::an instance that turns unhealthy gets no request within 1 s, and no request fails", unhealthy),
];

const REVIEWS: [&str; 3] = ["reviews", "9080", "/reviews/0"];
const FOLLOWS: Duration = Duration::from_secs(1);

fn spec(pod: &str) -> Result<Value> {
    let path = mesh_tests::world::root().join(format!("bookinfo/{pod}.json"));
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

fn running(world: &World, pod: &str) -> Result<BTreeSet<String>> {
    let instances = world.instances_of(pod)?;
    let running = instances.iter().filter(|i| i["running"] == true && pid_of(i).is_ok());
    Ok(running.filter_map(|i| Some(i["id"].as_str()?.to_owned())).collect())
}

/// The instances that answer now, by name, over enough requests to meet each. Asked from a pod without load: its turns are its own.
fn answering(world: &World) -> Result<BTreeSet<String>> {
    let seen = world.echo("details", &[&["count"], &REVIEWS[..], &["20", "podname"]].concat())?;
    Ok(seen.as_object().context("no map")?.keys().cloned().collect())
}

fn scale(world: &World, instances: u32) -> Result<()> {
    let mut spec = spec("reviews-v2")?;
    spec["scaling"]["instances"] = instances.into();
    world.marathon("PUT", "/v2/pods/reviews-v2?force=true", &spec.to_string())?;
    Ok(())
}

fn scaling(world: &mut World) -> Result<()> {
    let load = Load::start(world, "productpage", REVIEWS, 500, &[])?;
    scale(world, 3)?;
    eventually("three instances run", Duration::from_secs(20), || {
        let now = running(world, "/reviews-v2")?;
        ensure!(now.len() == 3, "{now:?}");
        Ok(())
    })?;
    let since = Instant::now();
    eventually("traffic reaches all five", Duration::from_secs(20), || {
        let now = answering(world)?;
        ensure!(now.len() == 5, "{now:?}");
        Ok(())
    })?;
    ensure!(since.elapsed() < FOLLOWS, "{:?} after the third instance ran", since.elapsed());
    scale(world, 1)?;
    eventually("one instance is left", Duration::from_secs(20), || {
        let now = world.instances_of("/reviews-v2")?.len();
        ensure!(now == 1, "{now}");
        Ok(())
    })?;
    let now = answering(world)?;
    ensure!(now.len() == 3, "{now:?}");
    load.until_requests(6000);
    load.finish_without_failure(5000).map(drop)
}

fn killing(world: &mut World) -> Result<()> {
    let load = Load::start(world, "productpage", REVIEWS, 500, &[])?;
    let victim = running(world, "/reviews-v2")?.first().context("no instance")?.clone();
    let before = pid_of(&world.instances_of("/reviews-v2")?[0])?;
    world.marathon("DELETE", &format!("/v2/pods/reviews-v2::instances/{victim}"), "")?;
    eventually("another task runs and answers", Duration::from_secs(20), || {
        let now = world.instances_of("/reviews-v2")?;
        ensure!(now.iter().any(|i| pid_of(i).is_ok_and(|pid| pid != before)), "{now:?}");
        ensure!(answering(world)?.len() == 3, "not yet");
        Ok(())
    })?;
    load.until_requests(6000);
    load.finish_without_failure(5000).map(drop)
}

/// What makes the instance sick, inside its own sandbox.
const SICK: &str = "/mnt/mesos/sandbox/sick";

fn v2_answers(world: &World) -> Result<bool> {
    Ok(answering(world)?.iter().any(|pod| pod.starts_with("reviews-v2")))
}

fn unhealthy(world: &mut World) -> Result<()> {
    let mut spec = spec("reviews-v2")?;
    spec["labels"]["release"] = "checked".into();
    spec["containers"][0]["healthCheck"] = serde_json::json!({
        "exec": {"command": {"shell": format!("test ! -e {SICK}")}},
        "delaySeconds": 0, "gracePeriodSeconds": 5, "intervalSeconds": 0.2, "timeoutSeconds": 2, "maxConsecutiveFailures": 1000,
    });
    let before = running(world, "/reviews-v2")?;
    world.marathon("PUT", "/v2/pods/reviews-v2?force=true", &spec.to_string())?;
    eventually("the checked version alone runs and answers", Duration::from_secs(30), || {
        let now = running(world, "/reviews-v2")?;
        ensure!(now.len() == 1 && now.is_disjoint(&before) && v2_answers(world)?, "{before:?} to {now:?}");
        Ok(())
    })?;
    let load = Load::start(world, "productpage", REVIEWS, 500, &[])?;
    world.exec("reviews-v2", &["touch", SICK])?;
    eventually("Marathon says unhealthy", Duration::from_secs(10), || {
        let now = world.instances_of("/reviews-v2")?;
        ensure!(now[0]["healthy"] == false, "{}", now[0]);
        Ok(())
    })?;
    let since = Instant::now();
    eventually("it gets no request", Duration::from_secs(20), || {
        ensure!(!v2_answers(world)?, "it still answers");
        Ok(())
    })?;
    ensure!(since.elapsed() < FOLLOWS, "{:?} after Marathon said so", since.elapsed());
    world.exec("reviews-v2", &["rm", SICK])?;
    eventually("it gets requests again", Duration::from_secs(10), || {
        ensure!(v2_answers(world)?, "it does not answer");
        Ok(())
    })?;
    load.until_requests(6000);
    load.finish_without_failure(5000).map(drop)
}

fn upgrade(world: &mut World) -> Result<()> {
    let load = Load::start(world, "productpage", REVIEWS, 500, &[])?;
    let before = running(world, "/reviews-v2")?;
    let mut spec = spec("reviews-v2")?;
    spec["labels"]["release"] = "next".into();
    world.marathon("PUT", "/v2/pods/reviews-v2?force=true", &spec.to_string())?;
    eventually("the new version alone runs", Duration::from_secs(30), || {
        let now = running(world, "/reviews-v2")?;
        ensure!(!now.is_empty() && now.is_disjoint(&before), "{before:?} to {now:?}");
        ensure!(answering(world)?.len() == 3, "not yet");
        Ok(())
    })?;
    load.until_requests(6000);
    load.finish_without_failure(5000).map(drop)
}
