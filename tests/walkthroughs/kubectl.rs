//! What kubectl shows of the mesh beside rules: who runs and where, the gateway's addresses, and rules that refer to nothing.

use crate::kit::{SOON, apply, delete, pods};
use anyhow::{Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::World;

pub(crate) const CASES: &[Case] = &[
    ("kubectl::pods, services and the gateway's addresses are read from what runs", shown),
    ("kubectl::a rule that refers to nothing says so until it is there", resolved),
];

fn shown(world: &mut World) -> Result<()> {
    pods(world, &["1/client", "1/myweb-v1"])?;
    let table = eventually("pods", SOON, || {
        let table = world.kubectl(&["get", "pods", "-o", "wide", "--show-labels"])?;
        ensure!(table.lines().any(|line| line.starts_with("myweb-v1.") && line.contains("version=v1")), "{table}");
        Ok(table)
    })?;
    let heads: Vec<_> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    ensure!(heads == ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "LABELS"], "{table}");
    let service =
        world.kubectl(&["get", "service", "myweb-service", "-o", "jsonpath={.spec.clusterIP} {.spec.ports[0].port}"])?;
    let (address, port) = service.split_once(' ').unwrap_or_default();
    ensure!(address.starts_with("11.") && port == "80", "{service}");
    let endpoints = world.kubectl(&["get", "endpoints", "myweb-service", "-o", "jsonpath={.subsets[0].addresses[*].ip}"])?;
    ensure!(endpoints.starts_with("9."), "{endpoints}");
    // As the walkthrough of the ingress task asks for it.
    let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
    let ingress = world.kubectl(&["get", "service", "istio-ingressgateway", "-n", "istio-system", "-o", path])?;
    let nodes = world.kubectl(&["get", "nodes", "-o", "name"])?;
    ensure!(nodes.lines().count() == 2 && nodes.contains(&format!("node/{ingress}")), "{ingress} of {nodes}");
    Ok(())
}

fn resolved(world: &mut World) -> Result<()> {
    pods(world, &["1/myweb-v1", "1/myweb-v2"])?;
    // Its subsets are in a DestinationRule of the same file.
    apply(world, "1/canary10percent")?;
    let rules = world.kubectl(&["get", "vs,dr", "-o", "name"])?;
    let named = |kind: &str| rules.lines().find(|name| name.starts_with(kind)).unwrap_or_default().to_owned();
    let (rule, subsets) = (named("virtualservice"), named("destinationrule"));
    let says = |status: &str| {
        let wait = format!("--for=condition=ResolvedRefs={status}");
        world.kubectl(&["wait", &wait, &rule, "--timeout=20s"]).map(drop)
    };
    says("True")?;
    let saved = world.kubectl(&["get", &subsets, "-o", "json"])?;
    world.kubectl(&["delete", &subsets])?;
    says("False")?;
    let path = "jsonpath={.status.conditions[?(@.type==\"ResolvedRefs\")].message}";
    let message = world.kubectl(&["get", &rule, "-o", path])?;
    ensure!(message.contains("destination.subset: no DestinationRule for myweb-service."), "{message}");
    let mut again: serde_json::Value = serde_json::from_str(&saved)?;
    again["metadata"] = serde_json::json!({"name": again["metadata"]["name"], "namespace": "default"});
    again["status"].take();
    let applied = world.try_kubectl(&["apply", "-f", "-"], &again.to_string())?;
    ensure!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    says("True")?;
    delete(world, "1/canary10percent")
}
