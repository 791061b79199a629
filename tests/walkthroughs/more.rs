//! Rules that the five tours do not need: routes for TCP and for TLS by server name, delegates, places, no balancer at all.

use crate::kit::{SOON, apply, count, delete, load, pods, values, within};
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use serde_json::Value;

pub(crate) const CASES: &[Case] = &[
    ("more::a tcp route sends whole connections, by weight", tcp_route),
    ("more::a tls route goes by server name, in the mesh and through a Gateway", tls_route),
    ("more::a delegate decides about its own paths", delegated),
    ("more::PASSTHROUGH goes where the connection wanted to go", passed_through),
    ("more::distribute keeps three quarters in the client's zone", distributed),
    ("more::failover leaves the zone only when nobody there answers", failed_over),
];

const WEB: &str = "http://myweb-service/";

fn tcp_route(world: &mut World) -> Result<()> {
    const URL: &str = "http://tcp-web:9000/";
    const CONNECTIONS: u32 = 150;
    pods(world, &["1/client", "more/tcp-web-v1", "more/tcp-web-v2"])?;
    let versions = |world: &World| -> Result<(u32, u32)> {
        let counts = load(world, "client", CONNECTIONS, CONNECTIONS, &["--count", "version", URL])?;
        ensure!(count(&counts, "200") == CONNECTIONS, "{counts:?}");
        Ok((count(&counts, "version: v1"), count(&counts, "version: v2")))
    };
    let both = |world: &World| {
        let (v1, v2) = versions(world)?;
        ensure!(v1 > 0 && v2 > 0, "{v1} and {v2}");
        Ok(())
    };
    eventually("both answer without a rule", SOON, || both(world))?;
    apply(world, "more/tcp-route-all-v1")?;
    eventually("all connections go to v1", SOON, || {
        let seen = versions(world)?;
        ensure!(seen == (CONNECTIONS, 0), "{seen:?}");
        Ok(())
    })?;
    apply(world, "more/tcp-route")?;
    eventually("a fifth goes to v2", SOON, || within(versions(world)?.1, CONNECTIONS, 0.2))?;
    delete(world, "more/tcp-route")?;
    eventually("both answer again", SOON, || both(world))
}

/// Which version answers in TLS: `curl -k`, since the certificates are the applications' own.
fn version(world: &World, outside: bool, arguments: &[&str]) -> Result<String> {
    let curl = [&["curl", "-s", "-S", "-k", "-m", "10"], arguments].concat();
    let output = if outside { world.in_namespace("outside", &curl)?.output()? } else { world.try_exec("client", &curl)? };
    ensure!(output.status.success(), "curl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn tls_route(world: &mut World) -> Result<()> {
    const NAMED: [&str; 1] = ["https://secure:8443/version"];
    const OTHER: [&str; 3] = ["--connect-to", "other.example.com:8443:secure:8443", "https://other.example.com:8443/version"];
    pods(world, &["1/client", "more/secure-v1", "more/secure-v2"])?;
    let both = |world: &World, arguments: &[&str]| {
        eventually(&format!("{arguments:?}: both answer"), SOON, || {
            let seen = (0..16).map(|_| version(world, false, arguments)).collect::<Result<Vec<_>>>()?;
            ensure!(["v1", "v2"].iter().all(|wanted| seen.iter().any(|seen| seen == wanted)), "{seen:?}");
            Ok(())
        })
    };
    both(world, &NAMED)?;
    apply(world, "more/tls-route")?;
    eventually("the server name decides", SOON, || {
        let seen = (0..8).map(|_| version(world, false, &NAMED)).collect::<Result<Vec<_>>>()?;
        ensure!(seen.iter().all(|seen| seen == "v2"), "{seen:?}");
        Ok(())
    })?;
    // A name that no rule has goes to the service itself.
    both(world, &OTHER)?;
    for (name, wanted) in [("one", "v1"), ("two", "v2"), ("one", "v1"), ("three", "v2")] {
        let host = format!("{name}.secure.example.com");
        for node in [1, 2] {
            let (resolve, url) = (format!("{host}:15443:198.18.0.1{node}"), format!("https://{host}:15443/version"));
            eventually(&format!("{host} at node {node}"), SOON, || {
                let seen = version(world, true, &["--resolve", &resolve, &url])?;
                ensure!(seen == wanted, "{seen}");
                Ok(())
            })?;
        }
    }
    let stranger = version(world, true, &["--resolve", "example.org:15443:198.18.0.11", "https://example.org:15443/version"]);
    ensure!(stranger.is_err(), "a server name of nobody: {stranger:?}");
    delete(world, "more/tls-route")?;
    both(world, &NAMED)
}

fn delegated(world: &mut World) -> Result<()> {
    pods(world, &["1/client", "1/myweb-v1", "1/myweb-v2"])?;
    apply(world, "more/delegate")?;
    for (path, version) in [("new/page", "v2"), ("new", "v2"), ("", "v1"), ("old", "v1")] {
        eventually(&format!("{version} of /{path}"), SOON, || {
            let counts = load(world, "client", 1, 12, &["--count", "version", &format!("{WEB}{path}")])?;
            ensure!(count(&counts, &format!("version: {version}")) == 12, "{counts:?}");
            Ok(())
        })?;
    }
    // The delegate's own order, and its own fault.
    let (status, body) = world.curl("client", &[&format!("{WEB}new/closed")])?;
    ensure!(status == 451 && body == "fault filter abort", "{status} {body}");
    delete(world, "more/delegate")?;
    eventually("nobody decides", SOON, || {
        let counts = load(world, "client", 1, 30, &["--count", "version", &format!("{WEB}new/closed")])?;
        ensure!(count(&counts, "200") == 30 && values(&counts, "version").len() == 2, "{counts:?}");
        Ok(())
    })
}

fn passed_through(world: &mut World) -> Result<()> {
    pods(world, &["1/client", "1/myweb-v1", "1/myweb-v2"])?;
    let instances = |world: &World| -> Result<usize> {
        let counts = load(world, "client", 1, 30, &["--count", "instance", WEB])?;
        ensure!(count(&counts, "200") == 30, "{counts:?}");
        Ok(values(&counts, "instance").len())
    };
    let balanced = |world: &World| {
        eventually("each request of a connection goes to another", SOON, || {
            let seen = instances(world)?;
            ensure!(seen > 1, "{seen}");
            Ok(())
        })
    };
    balanced(world)?;
    apply(world, "more/passthrough")?;
    // The service's address is where they want to go, and the kernel chooses for the proxy's connection there: one of them, for all requests.
    eventually("all requests of a connection go to the same", SOON, || {
        let seen = instances(world)?;
        ensure!(seen == 1, "{seen}");
        Ok(())
    })?;
    delete(world, "more/passthrough")?;
    balanced(world)
}

/// The instance of `zoned` in the client's zone (its node), and the other one.
fn near_and_far(world: &World) -> Result<(String, String)> {
    pods(world, &["1/client", "more/zoned"])?;
    let home = world.instances_of("/client")?[0]["node"].clone();
    let (near, far): (Vec<Value>, Vec<Value>) = world.instances_of("/zoned")?.into_iter().partition(|one| one["node"] == home);
    let id = |of: &[Value]| {
        Ok::<_, anyhow::Error>(of.first().and_then(|one| one["id"].as_str()).context("one a zone is wanted")?.to_owned())
    };
    let found = (id(&near)?, id(&far)?);
    eventually("both answer", SOON, || {
        let seen = answered_by(world, 20, (&found.0, &found.1))?;
        ensure!(seen.0 > 0 && seen.1 > 0, "{seen:?}");
        Ok(())
    })?;
    Ok(found)
}

/// How many of so many requests each of two instances has answered.
fn answered_by(world: &World, requests: u32, (one, other): (&str, &str)) -> Result<(u32, u32)> {
    let seen = world.echo("client", &["count", "zoned", "80", "/get", &requests.to_string(), "instance"])?;
    let of = |id: &str| -> u32 {
        let all = seen.as_object().into_iter().flatten().filter(|(task, _)| task.starts_with(id));
        all.filter_map(|(_, count)| u32::try_from(count.as_u64()?).ok()).sum()
    };
    ensure!(of(one) + of(other) == requests, "{seen}, of {one} and {other}");
    Ok((of(one), of(other)))
}

fn distributed(world: &mut World) -> Result<()> {
    const REQUESTS: u32 = 200;
    let (near, far) = near_and_far(world)?;
    let share = |world: &World, share: f64| {
        eventually("the share of the client's zone", SOON, || {
            let seen = answered_by(world, REQUESTS, (&near, &far))?;
            within(seen.0, REQUESTS, share)
        })
    };
    share(world, 0.5)?;
    apply(world, "more/locality-distribute")?;
    share(world, 0.75)?;
    delete(world, "more/locality-distribute")?;
    share(world, 0.5)
}

fn failed_over(world: &mut World) -> Result<()> {
    let (near, far) = near_and_far(world)?;
    let seen = |world: &World, wanted: (u32, u32), why: &str| {
        eventually(why, SOON, || {
            let seen = answered_by(world, 40, (&near, &far))?;
            ensure!(seen == wanted, "{seen:?}");
            Ok(())
        })
    };
    apply(world, "more/locality-failover")?;
    seen(world, (40, 0), "all to the client's zone")?;
    let (status, _) = world.curl("client", &["http://zoned/status/503"])?;
    ensure!(status == 503, "{status}");
    seen(world, (0, 40), "the one in the client's zone is ejected")?;
    delete(world, "more/locality-failover")?;
    seen(world, (20, 20), "in turns without the rule")
}
