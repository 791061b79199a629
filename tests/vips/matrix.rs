//! The acceptance matrix: each way to dial a VIP, to each kind of server, on the same node and on another, by each kind of client. Prints a table.

use crate::fleet::{self, Client, Network, Server};
use anyhow::{Context, Result, bail, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ("matrix::every client reaches named and address VIPs on every network, node, transport and family", matrix),
    ("matrix::a workload reaches its own VIP, itself and its neighbour", own),
];

/// The client is on node1.
const NODES: [(&str, &str); 2] = [("same node", "198.18.0.11"), ("other node", "198.18.0.12")];
/// Until all nodes know of all instances.
const SOON: Duration = Duration::from_secs(60);

/// A column: how a VIP is dialled.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    V4,
    /// IPv4 by an IPv6 socket, as Java does.
    Mapped,
    V6,
}

impl Way {
    /// Which servers have a VIP of this family. Mesos reports agents, and so containers of the host network, and containers of mesos-bridge by
    /// IPv4 addresses; a VIP leads to backends of its own family only, as with dcos-net.
    fn exists(self, client: Client, server: Server) -> Result<(), &'static str> {
        match (self, server.network) {
            (Self::V6, Network::Host) => Err(NO_V6_HOST),
            (Self::V6, Network::Bridge) => Err(NO_V6_BRIDGE),
            (Self::V6, Network::Overlay) | (Self::V4 | Self::Mapped, Network::Overlay6) => Err(ONE_FAMILY),
            (Self::V6, Network::Overlay6) if !client.has_v6() => Err(NO_V6_CLIENT),
            _ => Ok(()),
        }
    }

    fn url(self, transport: &str, host: &str, port: u16) -> String {
        match self {
            Self::V4 => format!("{transport}://{host}:{port}"),
            Self::Mapped => format!("mapped-{transport}://{host}:{port}"),
            Self::V6 if host.contains(':') => format!("{transport}://[{host}]:{port}"),
            Self::V6 => format!("{transport}://{host}:{port}"),
        }
    }
}

const NO_V6_HOST: &str = "a: Mesos knows its agents by IPv4 addresses";
const NO_V6_BRIDGE: &str = "b: mesos-bridge is a network of IPv4";
const ONE_FAMILY: &str = "c: an overlay has one family: dcos IPv4 (row overlay), dcos6 IPv6 (row overlay6)";
const NO_V6_CLIENT: &str = "d: a client on mesos-bridge has no IPv6 address to dial from";

const WAYS: [(&str, Way); 3] = [("4", Way::V4), ("m", Way::Mapped), ("6", Way::V6)];
const TRANSPORTS: [&str; 2] = ["tcp", "udp"];

/// Every way to dial a server: the column's name and the destination. The first of each pair of VIPs and ports, the second in between, so that
/// all four labels are dialled.
fn columns(client: Client, server: Server) -> Vec<(String, Result<String, &'static str>)> {
    let mut columns = Vec::new();
    for is_named in [true, false] {
        for transport in TRANSPORTS {
            for (letter, way) in WAYS {
                let second = (transport == "udp") != (way == Way::Mapped);
                let (host, port) = match (is_named, second) {
                    (true, false) => (server.name(), 80),
                    (true, true) => (server.name(), 81),
                    (false, false) => (server.address(false), 80),
                    (false, true) => (server.address(true), 5000),
                };
                let kind = if is_named { "name" } else { "addr" };
                let url = way.exists(client, server).map(|()| way.url(transport, &host, port));
                columns.push((format!("{kind} {transport}{letter}"), url));
            }
        }
    }
    columns
}

fn matrix(world: &mut World) -> Result<()> {
    fleet::started(world)?;
    let mut flows = 0;
    for client in Client::ALL {
        let table = eventually("every cell", SOON, || table(world, client))?;
        flows += table.flows;
        println!("{}", table.text);
    }
    println!(
        "{flows} connections and datagrams, each answered. tcp4, udp4: IPv4; m: IPv4 by an IPv6 socket; 6: IPv6. Cannot exist:"
    );
    for why in [NO_V6_HOST, NO_V6_BRIDGE, ONE_FAMILY, NO_V6_CLIENT] {
        println!("  {why}");
    }
    Ok(())
}

struct Table {
    text: String,
    flows: u64,
}

/// Dials everything once more; an error names the cells that are not as they should be.
fn table(world: &World, client: Client) -> Result<Table> {
    let urls: Vec<String> = Server::all().flat_map(|server| columns(client, server)).filter_map(|(_, url)| url.ok()).collect();
    let arguments: Vec<&str> = std::iter::once("reach").chain(urls.iter().map(String::as_str)).collect();
    let said = world.echo(&client.id(), &arguments)?;
    let (mut text, mut flows, mut wrong) = (head(client), 0, Vec::new());
    for server in Server::all() {
        for (place, node) in NODES {
            text.push_str(&format!("{:<9}{:<4}{place:<11}", server.network.name(), server.kind()));
            for (column, url) in columns(client, server) {
                let cell = match url {
                    Err(why) => why[..1].to_owned(),
                    Ok(url) => {
                        let answered = said[&url]["nodes"][node].as_u64().unwrap_or_default();
                        let errors = said[&url]["errors"].as_object().context("no errors")?;
                        if answered == 0 || !errors.is_empty() {
                            wrong.push(format!("{} {column}, {place}: {url} {}", server.id(), said[&url]));
                        }
                        flows += answered;
                        answered.to_string()
                    }
                };
                text.push_str(&format!("{cell:>10}"));
            }
            text.push('\n');
        }
    }
    ensure!(wrong.is_empty(), "{}: {} cells are wrong:\n{}", client.id(), wrong.len(), wrong.join("\n"));
    Ok(Table { text, flows })
}

fn head(client: Client) -> String {
    let kind = if client.is_enrolled { "enrolled" } else { "not enrolled" };
    let columns = columns(client, Server { network: Network::Host, is_pod: false });
    let names: String = columns.iter().map(|(name, _)| format!("{name:>10}")).collect();
    format!("from the {} network, {kind}, on node1; how often each node answered\n{:<24}{names}\n", client.network.name(), "")
}

/// From inside a server: connections to oneself by the VIP are as good as any.
fn own(world: &mut World) -> Result<()> {
    fleet::started(world)?;
    for server in Server::all() {
        let way = if server.network == Network::Overlay6 { Way::V6 } else { Way::V4 };
        let urls = TRANSPORTS.map(|transport| way.url(transport, &server.name(), 80));
        let instances = world.instances_of(&server.id())?;
        for instance in &instances {
            let id = instance["id"].as_str().context("no id")?;
            let said = world.echo(id, &["reach", &urls[0], &urls[1]])?;
            for url in &urls {
                let seen: BTreeMap<String, Value> = serde_json::from_value(said[url]["nodes"].clone())?;
                if seen.len() != 2 || said[url]["errors"].as_object().is_none_or(|errors| !errors.is_empty()) {
                    bail!("{id} to its own {url}: {}", said[url]);
                }
            }
        }
    }
    Ok(())
}
