//! Kernel mode and places: a service that prefers its clients' zone is balanced there, by nobody but connect().

use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) const CASES: &[Case] =
    &[("near::a service with PreferSameZone is balanced in the client's zone, with Any over all", zones)];

const CONNECTIONS: usize = 24;

/// One instance on each node, which is a zone.
fn spec(world: &World, distribution: &str) -> Value {
    json!({
        "id": "/near", "labels": {"networking.istio.io/traffic-distribution": distribution},
        "networks": [{"name": "dcos", "mode": "container"}], "scaling": {"kind": "fixed", "instances": 2},
        "scheduling": {"placement": {"constraints": [{"fieldName": "hostname", "operator": "UNIQUE"}]},
            "upgrade": {"minimumHealthCapacity": 0, "maximumOverCapacity": 0}},
        "containers": [{"name": "main", "resources": {"cpus": 0.1, "mem": 32}, "image": {"kind": "DOCKER", "id": "istio/examples-bookinfo-details-v1:1.8.0"},
            "endpoints": [{"name": "tcp-7000", "containerPort": 7000, "protocol": ["tcp"], "labels": {"VIP_0": "/near:7000"}}],
            "exec": {"command": {"argv": [world.echo_program(), "serve", "--port", "7000"]}}}],
    })
}

/// How many of so many new connections the instance in the client's zone has taken, and the other one.
fn taken(world: &World, client: &str) -> Result<(usize, usize)> {
    let home = world.instances_of(client)?[0]["node"].clone();
    let instances = world.instances_of("/near")?;
    ensure!(instances.len() == 2, "{} instances", instances.len());
    let mut counts = (0, 0);
    // A program each: curl keeps a connection for its next request.
    let script = format!("for n in $(seq {CONNECTIONS}); do curl -s -S -m 20 http://near:7000/ || exit 1; done");
    let said = world.exec(client, &["sh", "-c", &script])?;
    for instance in &instances {
        let id = instance["id"].as_str().context("no id")?;
        let count = said.matches(&format!("\"podname\":\"{id}")).count();
        if instance["node"] == home { counts.0 += count } else { counts.1 += count }
    }
    ensure!(counts.0 + counts.1 == CONNECTIONS, "{counts:?} of {said}");
    Ok(counts)
}

fn zones(world: &mut World) -> Result<()> {
    world.marathon("POST", "/v2/pods", &spec(world, "PreferSameZone").to_string())?;
    let clients = ["/productpage", "/details", "/ratings", "/reviews-v1", "/reviews-v2", "/reviews-v3"];
    let node = |pod: &str| Ok::<_, anyhow::Error>(world.instances_of(pod)?[0]["node"].clone());
    let first = node(clients[0])?;
    let other = clients.into_iter().find(|pod| node(pod).is_ok_and(|node| node != first)).context("all on one node")?;
    for client in [clients[0], other] {
        eventually("all connections stay in the client's zone", Duration::from_secs(60), || {
            let seen = taken(world, client)?;
            ensure!(seen == (CONNECTIONS, 0), "{client}: {seen:?}");
            Ok(())
        })?;
    }
    let mode = crate::node::mode(world, "node1", &format!("tcp://{}:7000", crate::node::vip(world, clients[0], "near")?))?;
    ensure!(mode == "kernel", "{mode}");
    world.marathon("PUT", "/v2/pods/near", &spec(world, "Any").to_string())?;
    eventually("connections go everywhere", Duration::from_secs(60), || {
        let seen = taken(world, clients[0])?;
        ensure!(seen.0 > 0 && seen.1 > 0, "{seen:?}");
        Ok(())
    })?;
    world.marathon("DELETE", "/v2/pods/near", "").map(drop)
}
