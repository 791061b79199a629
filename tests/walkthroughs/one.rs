//! Walkthrough 1: retries, mirroring, canaries, an outside name, the Gateway.

use crate::kit::{SOON, apply, change, count, delete, load, logs, outside, pods, sniffed, values, within};
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use serde_json::json;
use std::process::{Child, Stdio};

pub(crate) const CASES: &[Case] = &[
    ("one::a backend that answers 503 half of the time is whole with retries", busy),
    ("one::a backend that hangs half of the time is whole with retries", hanging),
    ("one::a backend that crashes is whole with retries", crashing),
    ("one::every request is mirrored to the sniffer, and nobody waits for it", mirrored),
    ("one::a canary gets 10 %", canary),
    ("one::a canary is seen by those with the cookie", cookie),
    ("one::an outside name opens by ServiceEntry", service_entry),
    ("one::the Gateway lets the world in under one host", gateway),
];

const RETRY: &str = "http://retry-service/";
const WEB: &str = "http://myweb-service/";

fn busy(world: &mut World) -> Result<()> {
    pods(world, &["1/client", "1/retry-backend"])?;
    let without = eventually("the backend answers", SOON, || {
        let counts = load(world, "client", 4, 80, &[RETRY])?;
        ensure!(count(&counts, "200") + count(&counts, "503") == 80, "{counts:?}");
        Ok(counts)
    })?;
    within(count(&without, "503"), 80, 0.5)?;
    apply(world, "1/retryVirtualService")?;
    eventually("nobody sees the errors", SOON, || {
        let with = load(world, "client", 4, 80, &[RETRY])?;
        ensure!(count(&with, "200") == 80, "{with:?}");
        Ok(())
    })?;
    delete(world, "1/retryVirtualService")
}

fn hanging(world: &mut World) -> Result<()> {
    pods(world, &["1/client"])?;
    change(world, "1/retry-backend", 3, json!({ "MODE": "hang" }))?;
    apply(world, "1/retryVirtualService")?;
    // Five seconds for a request that was not tried again; the sixteenth try would be the last.
    eventually("nobody waits for those that hang", SOON, || {
        for _ in 0..8 {
            let (status, body) = world.curl("client", &["-m", "20", RETRY])?;
            ensure!(status == 200 && body.starts_with("OK ") && !body.starts_with("OK late"), "{status} {body}");
        }
        Ok(())
    })?;
    delete(world, "1/retryVirtualService")
}

fn crashing(world: &mut World) -> Result<()> {
    const INSTANCES: u32 = 8;
    pods(world, &["1/client"])?;
    change(world, "1/retry-backend", INSTANCES, json!({ "MODE": "crash", "FAIL_RATE": "30" }))?;
    apply(world, "1/retryVirtualService")?;
    for _ in 0..8 {
        // All of them back: else the last one standing might crash, and then there is nobody to try.
        change(world, "1/retry-backend", INSTANCES, json!({ "MODE": "crash", "FAIL_RATE": "30" }))?;
        let (status, body) = world.curl("client", &[RETRY])?;
        ensure!(status == 200 && body.starts_with("OK "), "{status} {body}");
    }
    change(world, "1/retry-backend", 3, json!({ "MODE": "busy", "FAIL_RATE": "0" }))?;
    delete(world, "1/retryVirtualService")
}

fn mirrored(world: &mut World) -> Result<()> {
    sniffed(world)?;
    apply(world, "1/copyVirtualService")?;
    // kubectl returns a moment before the rule is in force.
    eventually("requests are copied", SOON, || {
        load(world, "client", 1, 1, &["-H", "x-walk: tried", RETRY])?;
        ensure!(logs(world, "sniffer")?.contains("tried"), "none yet");
        Ok(())
    })?;
    let counts = load(world, "client", 2, 20, &["-H", "x-walk: mirrored", RETRY])?;
    ensure!(count(&counts, "200") == 20, "{counts:?}");
    eventually("the sniffer saw all of them", SOON, || {
        let log = logs(world, "sniffer")?;
        let seen = log.lines().filter(|line| line.starts_with("GET / ") && line.contains("mirrored")).count();
        ensure!(seen == 20, "{seen}");
        Ok(())
    })?;
    // Without a sniffer nothing is missed.
    world.marathon("DELETE", "/v2/pods/sniffer?force=true", "")?;
    let counts = load(world, "client", 2, 20, &[RETRY])?;
    ensure!(count(&counts, "200") == 20, "{counts:?}");
    delete(world, "1/copyVirtualService")
}

fn canary(world: &mut World) -> Result<()> {
    pods(world, &["1/client", "1/myweb-v1", "1/myweb-v2"])?;
    apply(world, "1/canary10percent")?;
    let counts = eventually("both versions answer", SOON, || {
        let counts = load(world, "client", 4, 600, &["--count", "version", WEB])?;
        ensure!(count(&counts, "200") == 600, "{counts:?}");
        Ok(counts)
    })?;
    within(count(&counts, "version: v2"), 600, 0.1)?;
    delete(world, "1/canary10percent")
}

fn cookie(world: &mut World) -> Result<()> {
    pods(world, &["1/client", "1/myweb-v1", "1/myweb-v2"])?;
    apply(world, "1/canaryCookie")?;
    for (cookie, version) in [
        ("usertype=tester", "v2"),
        ("a=b;usertype=tester", "v2"),
        ("usertype=tester; c=d", "v2"),
        // The regex wants no space before it.
        ("a=b; usertype=tester", "v1"),
        ("usertype=user", "v1"),
    ] {
        let header = format!("cookie: {cookie}");
        let counts = load(world, "client", 1, 12, &["--count", "version", "-H", &header, WEB])?;
        ensure!(count(&counts, &format!("version: {version}")) == 12, "{cookie}: {counts:?}");
    }
    delete(world, "1/canaryCookie")
}

/// A server outside, ended with the test.
pub(crate) struct Outside(Child);

impl Outside {
    /// The one that plays httpbin.org.
    pub(crate) fn httpbin(world: &World) -> Result<Self> {
        let program = world.binaries().join("walkthrough").to_string_lossy().into_owned();
        Self::run(world, &[&program, "serve", "httpbin", "--port", "80"])
    }

    /// Any program.
    pub(crate) fn run(world: &World, program: &[&str]) -> Result<Self> {
        let mut server = world.in_namespace("outside", program)?;
        Ok(Self(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn service_entry(world: &mut World) -> Result<()> {
    const URL: &str = "http://httpbin.org/headers";
    pods(world, &["1/client"])?;
    let _server = Outside::httpbin(world)?;
    let closed = |world: &World| -> Result<()> {
        let output = world.try_exec("client", &["curl", "-s", "-m", "5", URL])?;
        ensure!(!output.status.success(), "an outside host was reached without a rule");
        Ok(())
    };
    closed(world)?;
    apply(world, "1/serviceEntry")?;
    eventually("httpbin.org answers", SOON, || {
        let (status, body) = world.curl("client", &[URL])?;
        ensure!(status == 200 && body.contains("httpbin.org"), "{status} {body}");
        Ok(())
    })?;
    delete(world, "1/serviceEntry")?;
    eventually("it is closed again", SOON, || closed(world))
}

fn gateway(world: &mut World) -> Result<()> {
    pods(world, &["1/myweb-v1", "1/myweb-v2"])?;
    apply(world, "1/gateway")?;
    for node in [1, 2] {
        let body = eventually("the gateway answers", SOON, || {
            let (status, body) = outside(world, node, "myweb-service.domain.com", "/")?;
            ensure!(status == 200, "{status} {body}");
            Ok(body)
        })?;
        ensure!(body.contains("version: v"), "{body}");
        let (status, _) = outside(world, node, "somebody-else.domain.com", "/")?;
        ensure!(status == 404, "another host: {status}");
    }
    let table = world.kubectl(&["get", "gateways"])?;
    ensure!(table.contains("istio-gateway"), "{table}");
    delete(world, "1/gateway")?;
    eventually("the gateway is closed", SOON, || {
        let answer = outside(world, 1, "myweb-service.domain.com", "/");
        ensure!(!matches!(answer, Ok((200, _))), "{answer:?}");
        Ok(())
    })?;
    values(&load(world, "client", 1, 2, &["--count", "version", WEB])?, "version").first_key_value().context("no answer")?;
    Ok(())
}
