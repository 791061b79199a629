//! What a node's kernel holds, as its agent tells on `GET /dump`.

use anyhow::{Context, Result};
use mesh_tests::world::World;
use serde_json::Value;

/// The mode of a port (`tcp://VIP:PORT`) on a node.
pub(crate) fn mode(world: &World, node: &str, port: &str) -> Result<String> {
    field(world, node, port, "mode")
}

/// `mode` or `balance` of a port.
pub(crate) fn field(world: &World, node: &str, port: &str, field: &str) -> Result<String> {
    let dump: Value = serde_json::from_str(&world.admin(node, "agent", "/dump")?)?;
    let services = dump["services"].as_array().context("no services")?;
    let found = services.iter().find(|service| service["vip"] == port).with_context(|| format!("no {port} on {node}"))?;
    Ok(found[field].as_str().with_context(|| format!("no {field}"))?.to_owned())
}

/// The IPv4 VIP of a name, as a pod finds it.
pub(crate) fn vip(world: &World, pod: &str, name: &str) -> Result<String> {
    let said = world.exec(pod, &["getent", "ahostsv4", name])?;
    Ok(said.split_whitespace().next().with_context(|| format!("{name} has no VIP"))?.to_owned())
}
