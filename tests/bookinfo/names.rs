//! Names and addresses as DC/OS gives them.

use super::Case;
use anyhow::{Result, ensure};
use mesh_tests::world::World;

pub(crate) const CASES: &[Case] = &[
    ("names::resolve to the VIP that DC/OS would give", vips),
    ("names::the short name and the full name reach the same service", short_and_full),
    ("names::unknown names of the mesh's zone do not exist, foreign names go to the node's resolver", others),
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

fn peer_address(world: &mut World) -> Result<()> {
    let seen = world.echo("details", &["dial", "11.15.94.83:9080"])?;
    ensure!(seen["peer"] == "11.15.94.83:9080", "{seen}");
    let own = world.instances_of("/details")?[0]["address"].as_str().unwrap_or_default().to_owned();
    ensure!(!own.is_empty() && seen["local"].as_str().is_some_and(|l| l.starts_with(&own)), "{seen}, pod has {own}");
    Ok(())
}
