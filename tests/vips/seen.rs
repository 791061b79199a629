//! What operators see of connections that the kernel balances.

use crate::fleet::{self, Client, Network, Server};
use anyhow::{Result, ensure};
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use mesh_tests::{eventually, promtool};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[("seen::the agent's page has each edge of kernel mode, and promtool accepts it", edges)];

/// From client to service, as the page names them.
fn edges(world: &mut World) -> Result<()> {
    fleet::started(world)?;
    let server = Server { network: Network::Overlay, is_pod: true };
    let client = Client::ALL[0];
    world.echo(&client.id(), &["reach", "--times", "5", &format!("tcp://{}:80", server.name())])?;
    let page = eventually("the edge is counted", Duration::from_secs(30), || {
        let page = world.admin("node1", "agent", "/metrics")?;
        let of_edge = |line: &&str| {
            line.starts_with("mesh_agent_edge_connections_opened_total{")
                && line.contains(&server.name())
                && line.contains(&client.id())
        };
        let counted =
            page.lines().find(of_edge).and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default();
        ensure!(counted >= 5.0, "{counted} of 5:\n{page}");
        Ok(page)
    })?;
    let problems = promtool::check(&page)?;
    ensure!(problems.trim().is_empty(), "{problems}");
    Ok(())
}
