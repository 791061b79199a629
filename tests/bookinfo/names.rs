//! Names and addresses as DC/OS gives them.

use super::Case;
use anyhow::{Result, ensure};
use mesh_tests::world::World;

pub(crate) const CASES: &[Case] = &[
    ("names::resolve to the VIP that DC/OS would give", vips),
    ("names::the short name and the full name reach the same service", short_and_full),
    ("names::unknown names of the mesh's zone do not exist, foreign names go to the node's resolver", others),
    ("names::every form of DC/OS's names is answered, by the mesh or by the node's resolver", forms),
    ("names::the application sees the address that it asked for", peer_address),
];

fn vips(world: &mut World) -> Result<()> {
    for (name, address) in [
        ("reviews", "11.15.94.83"),
        ("reviews.marathon.l4lb.thisdcos.directory", "11.15.94.83"),
        ("REVIEWS.marathon.l4lb.thisdcos.directory", "11.15.94.83"),
        ("details.marathon.l4lb.thisdcos.directory", "11.135.95.226"),
        ("ratings", "11.165.188.164"),
        ("productpage", "11.95.184.14"),
    ] {
        let said = world.exec("reviews-v1", &["getent", "ahostsv4", name])?;
        ensure!(said.starts_with(address), "{name}: {said}");
    }
    Ok(())
}

fn short_and_full(world: &mut World) -> Result<()> {
    for host in ["details", "details.marathon.l4lb.thisdcos.directory", "11.135.95.226"] {
        let (status, body) = world.curl("ratings", &[&format!("http://{host}:9080/details/0")])?;
        ensure!(status == 200 && body.contains("details-") || body.contains("details."), "{host}: {status} {body}");
    }
    Ok(())
}

fn others(world: &mut World) -> Result<()> {
    let unknown = world.try_exec("details", &["getent", "ahostsv4", "nobody.marathon.l4lb.thisdcos.directory"])?;
    ensure!(!unknown.status.success(), "{unknown:?}");
    let leader = world.exec("details", &["getent", "ahostsv4", "leader.mesos"])?;
    ensure!(leader.starts_with("198.18.0."), "{leader}");
    Ok(())
}

/// VIPs are the mesh's by all their names; where tasks and masters are says the node's resolver, in all its zones. Two are the pod's
/// and its node's address.
fn forms(world: &mut World) -> Result<()> {
    let instance = world.instances_of("/details")?.swap_remove(0);
    let (pod, node) = (instance["address"].as_str().unwrap_or_default(), instance["agent"].as_str().unwrap_or_default());
    ensure!(pod.starts_with("9.") && node.starts_with("198.18.0."), "{instance}");
    let vip = "11.135.95.226";
    for (name, address) in [
        ("details", vip),
        ("details.default", vip),
        ("details.default.svc", vip),
        ("details.default.svc.cluster.local", vip),
        ("details.marathon.l4lb.thisdcos.directory", vip),
        ("details.marathon.l4lb.thisdcos.global", vip),
        ("details.marathon.dclb.thisdcos.directory", vip),
        ("details.marathon.dclb.thisdcos.global", vip),
        ("details.marathon.containerip.dcos.thisdcos.directory", pod),
        ("details.marathon.agentip.dcos.thisdcos.directory", node),
        ("details.marathon.autoip.dcos.thisdcos.directory", node),
        ("details.marathon.mesos", pod),
        ("details.marathon.slave.mesos", node),
        ("leader.mesos", "198.18.0.1"),
        ("master.mesos", "198.18.0.1"),
        ("leader.dcos.thisdcos.directory", "198.18.0.1"),
        ("master.dcos.thisdcos.directory", "198.18.0.1"),
        ("ready.spartan", "127.0.0.1"),
    ] {
        let said = world.try_exec("reviews-v1", &["getent", "ahostsv4", name])?;
        let first = String::from_utf8_lossy(&said.stdout).split_whitespace().next().unwrap_or_default().to_owned();
        ensure!(first == address, "{name}: {address} is wanted, {said:?}");
    }
    for zone in ["l4lb.thisdcos.directory", "l4lb.thisdcos.global", "dclb.thisdcos.directory", "dclb.thisdcos.global"] {
        let unknown = world.try_exec("details", &["getent", "ahostsv4", &format!("nobody.marathon.{zone}")])?;
        ensure!(!unknown.status.success(), "{zone}: {unknown:?}");
    }
    Ok(())
}

fn peer_address(world: &mut World) -> Result<()> {
    let seen = world.echo("details", &["dial", "11.15.94.83:9080"])?;
    ensure!(seen["peer"] == "11.15.94.83:9080", "{seen}");
    let own = world.instances_of("/details")?[0]["address"].as_str().unwrap_or_default().to_owned();
    ensure!(!own.is_empty() && seen["local"].as_str().is_some_and(|l| l.starts_with(&own)), "{seen}, pod has {own}");
    Ok(())
}
