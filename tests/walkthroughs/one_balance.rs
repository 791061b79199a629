//! Walkthrough 1: balancers and circuit breakers, in the new spelling and in the old one.

use crate::kit::{SOON, apply, change, count, delete, load, pods, values, within};
use anyhow::{Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub(crate) const CASES: &[Case] = &[
    ("one::round robin takes exact turns", round_robin),
    ("one::random takes any", random),
    ("one::a header's hash sticks to one backend", header_hash),
    ("one::the circuit breaker ejects what fails and then answers at once", ejection),
    ("one::the circuit breaker in the spelling before Istio 1.0", old_breaker),
];

const WEB: &str = "http://myweb-service/";
const RETRY: &str = "http://retry-service/";

fn instances(world: &World, requests: u32, more: &[&str]) -> Result<Vec<u32>> {
    let counts = load(world, "client", 1, requests, &[&["--count", "instance", WEB], more].concat())?;
    ensure!(count(&counts, "200") == requests, "{counts:?}");
    Ok(values(&counts, "instance").into_values().collect())
}

fn round_robin(world: &mut World) -> Result<()> {
    pods(world, &["1/client", "1/myweb-v1", "1/myweb-v2"])?;
    apply(world, "1/lbRoundRobin")?;
    eventually("exact turns", SOON, || {
        let seen = instances(world, 30, &[])?;
        ensure!(seen == [10, 10, 10], "{seen:?}");
        Ok(())
    })?;
    delete(world, "1/lbRoundRobin")
}

fn random(world: &mut World) -> Result<()> {
    pods(world, &["1/client", "1/myweb-v1", "1/myweb-v2"])?;
    apply(world, "1/lbRandom")?;
    eventually("any of the three", SOON, || {
        let seen = instances(world, 300, &[])?;
        ensure!(seen.len() == 3, "{seen:?}");
        // Turns would be exact, which dice are once in some 360 times.
        ensure!(seen != [100, 100, 100], "turns and not dice");
        seen.iter().try_for_each(|count| within(*count, 300, 1.0 / 3.0))
    })?;
    delete(world, "1/lbRandom")
}

fn header_hash(world: &mut World) -> Result<()> {
    pods(world, &["1/client", "1/myweb-v1", "1/myweb-v2"])?;
    apply(world, "1/lbHeaderHash")?;
    eventually("one user stays with one backend", SOON, || {
        let seen = instances(world, 8, &["-H", "User: tom"])?;
        ensure!(seen == [8], "{seen:?}");
        Ok(())
    })?;
    let mut chosen = BTreeSet::new();
    for user in ["tom", "jane", "kim", "lee", "max", "eva", "ben", "ida", "joe", "amy", "sam", "zoe"] {
        let header = format!("User: {user}");
        let counts = load(world, "client", 1, 8, &["--count", "instance", "-H", &header, WEB])?;
        let seen = values(&counts, "instance");
        ensure!(seen.len() == 1, "{user}: {seen:?}");
        chosen.extend(seen.into_keys());
    }
    // Twelve users on one of three: one chance in 177,147.
    ensure!(chosen.len() > 1, "all on {chosen:?}");
    delete(world, "1/lbHeaderHash")
}

fn ejection(world: &mut World) -> Result<()> {
    pods(world, &["1/client"])?;
    change(world, "1/retry-backend", 3, json!({ "MODE": "busy", "FAIL_RATE": "100" }))?;
    apply(world, "1/circuitBreaker")?;
    let (status, body) = eventually("all three are ejected", SOON, || {
        let (status, body) = world.curl("client", &[RETRY])?;
        ensure!(body == "no healthy upstream", "{status} {body}");
        Ok((status, body))
    })?;
    ensure!(status == 503, "{status} {body}");
    // Nobody is asked now, so the answer is there at once. Ten curls with their processes fit in a second many times over.
    let began = Instant::now();
    let counts = load(world, "client", 1, 200, &[RETRY])?;
    ensure!(count(&counts, "503") == 200, "{counts:?}");
    ensure!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    delete(world, "1/circuitBreaker")?;
    change(world, "1/retry-backend", 3, json!({ "FAIL_RATE": "0" }))
}

fn old_breaker(world: &mut World) -> Result<()> {
    pods(world, &["1/client", "1/myweb-v1", "1/myweb-v2"])?;
    apply(world, "1/policyConnections")?;
    let one = load(world, "client", 1, 100, &[WEB])?;
    ensure!(count(&one, "200") == 100, "{one:?}");
    eventually("a part of many is refused", SOON, || {
        let many = load(world, "client", 8, 400, &[WEB])?;
        let refused = count(&many, "503");
        ensure!(refused > 0 && count(&many, "200") + refused == 400, "{many:?}");
        Ok(())
    })?;
    delete(world, "1/policyConnections")?;
    eventually("nobody is refused without it", SOON, || {
        let many = load(world, "client", 8, 400, &[WEB])?;
        ensure!(count(&many, "200") == 400, "{many:?}");
        Ok(())
    })
}
