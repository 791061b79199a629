//! The networks: `fabric` routes between nodes, `master` and `outside`; each node has an uplink into it and bridges for its containers.
//! No namespace here has a link to the machine's own: there is nothing to route through.
//!
//! ```text
//! master 198.18.0.1 ──┐                       ┌── outside 203.0.113.10 and the outside names' addresses
//! node1 198.18.0.11 ──┼─ fabric 198.18.0.254 ──┘
//! node2 198.18.0.12 ──┘         203.0.113.254
//!   └ m-dcos 9.0.N.1/24 (fd01:d:0:N::1/64), ucr-br0 172.31.254.1/24 ── veth ── eth0 of each instance
//! ```

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;

use super::cni::Wiring;
use super::netns::NetNs;

pub(crate) const MASTER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// mesos-bridge, and the overlay.
pub(crate) const BRIDGE: &str = "ucr-br0";
pub(crate) const OVERLAY: &str = "m-dcos";
pub(crate) const RESOLVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) fabric: NetNs,
    pub(crate) master: NetNs,
    pub(crate) outside: NetNs,
    pub(crate) nodes: Vec<NetNs>,
}

impl Topology {
    /// `outside` are the addresses, besides 203.0.113.10, that the outside world answers at.
    pub(crate) fn build(nodes: usize, outside: &[IpAddr]) -> Result<Self> {
        let topology = Self {
            fabric: NetNs::create()?,
            master: NetNs::create()?,
            outside: NetNs::create()?,
            nodes: (0..nodes).map(|_| NetNs::create()).collect::<Result<_>>()?,
        };
        topology.fabric.run(forwarding)?;
        let (nodes, out) = (bridge("br-nodes", [198, 18, 0, 254]), bridge("br-out", [203, 0, 113, 254]));
        topology
            .fabric
            .ip(&format!("{nodes}addr add fd01:f::fe/64 dev br-nodes nodad\n{out}addr add fd01:e::fe/64 dev br-out nodad\n"))?;
        topology.uplink(&topology.master, "master", "br-nodes")?;
        topology.master.ip("addr add 198.18.0.1/24 dev eth0\naddr add fd01:f::1/64 dev eth0 nodad\n\
             route add default via 198.18.0.254\nroute add default via fd01:f::fe\n")?;
        topology.uplink(&topology.outside, "outside", "br-out")?;
        topology.outside.ip(&outside_batch(outside))?;
        for (index, node) in topology.nodes.iter().enumerate() {
            topology.node(index + 1, node)?;
        }
        Ok(topology)
    }

    fn uplink(&self, to: &NetNs, name: &str, bridge: &str) -> Result<()> {
        self.fabric.ip(&format!(
            "link add up-{name} type veth peer name eth0 netns {}\nlink set up-{name} master {bridge} up\n",
            to.path()
        ))?;
        to.ip("link set eth0 up\n")
    }

    fn node(&self, number: usize, netns: &NetNs) -> Result<()> {
        netns.run(forwarding)?;
        self.uplink(netns, &format!("node{number}"), "br-nodes")?;
        let mut batch = format!(
            "addr add 198.18.0.{host}/24 dev eth0\naddr add fd01:f::{host}/64 dev eth0 nodad\n\
             addr add {RESOLVER}/32 dev lo\n\
             {overlay}addr add fd01:d:0:{number:x}::1/64 dev m-dcos nodad\n\
             {own}route add default via 198.18.0.254\nroute add default via fd01:f::fe\n",
            host = 10 + number,
            overlay = bridge(OVERLAY, [9, 0, u8::try_from(number)?, 1]),
            own = bridge(BRIDGE, [172, 31, 254, 1]),
        );
        for other in (1..=self.nodes.len()).filter(|n| *n != number) {
            let _ = writeln!(batch, "route add 9.0.{other}.0/24 via 198.18.0.{}", 10 + other);
            let _ = writeln!(batch, "route add fd01:d:0:{other:x}::/64 via fd01:f::{}", 10 + other);
        }
        netns.ip(&batch)?;
        self.fabric.ip(&format!(
            "route add 9.0.{number}.0/24 via 198.18.0.{host}\nroute add fd01:d:0:{number:x}::/64 via fd01:f::{host}\n",
            host = 10 + number
        ))
    }

    pub(crate) fn names(&self) -> Vec<(String, String)> {
        let fixed = [("fabric", &self.fabric), ("master", &self.master), ("outside", &self.outside)];
        let fixed = fixed.into_iter().map(|(name, netns)| (name.to_owned(), netns.path()));
        fixed.chain(self.nodes.iter().enumerate().map(|(n, netns)| (format!("node{}", n + 1), netns.path()))).collect()
    }
}

/// Makes a bridge that is the gateway of its network. It has a hardware address of its own, as Docker's have: without, it has the lowest
/// of its ports', and when an instance came or went, what the others' ARP tables say of their gateway would lead nowhere for up to a minute.
fn bridge(name: &str, [a, b, c, d]: [u8; 4]) -> String {
    format!(
        "link add {name} address 02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x} type bridge\nlink set {name} up\n\
         addr add {a}.{b}.{c}.{d}/24 dev {name}\n"
    )
}

fn outside_batch(addresses: &[IpAddr]) -> String {
    let mut batch = "addr add 203.0.113.10/24 dev eth0\naddr add fd01:e::10/64 dev eth0 nodad\n\
                     route add default via 203.0.113.254\nroute add default via fd01:e::fe\n"
        .to_owned();
    for address in addresses {
        let (length, flags) = if address.is_ipv4() { (24, "") } else { (64, " nodad") };
        let _ = writeln!(batch, "addr replace {address}/{length} dev eth0{flags}");
    }
    batch
}

fn forwarding() -> Result<()> {
    sysctl("ipv4/ip_forward")?;
    sysctl("ipv6/conf/all/forwarding")?;
    Ok(())
}

/// /proc/sys/net shows the namespace of the reading thread.
fn sysctl(name: &str) -> std::io::Result<()> {
    std::fs::write(format!("/proc/sys/net/{name}"), "1")
}

/// Gives a container's namespace its `eth0`, with a default route to the node's bridge.
pub(crate) fn connect(node: &NetNs, container: &NetNs, wiring: &Wiring) -> Result<()> {
    let Wiring { veth, bridge, v4, v6, .. } = wiring;
    // Host ports lead back through the port that a packet came from: to the very container, where bridges ask netfilter themselves.
    let hairpin = if bridge == BRIDGE { format!("link set {veth} type bridge_slave hairpin on\n") } else { String::new() };
    node.ip(&format!(
        "link add {veth} type veth peer name eth0 netns {}\nlink set {veth} master {bridge} up\n{hairpin}",
        container.path()
    ))?;
    let [a, b, c, _] = v4.octets();
    let mut batch = format!("link set eth0 up\naddr add {v4}/24 dev eth0\nroute add default via {a}.{b}.{c}.1\n");
    if let Some(v6) = v6 {
        let [p0, p1, p2, p3, ..] = v6.segments();
        let _ = writeln!(batch, "addr add {v6}/64 dev eth0 nodad");
        let _ = writeln!(batch, "route add default via {p0:x}:{p1:x}:{p2:x}:{p3:x}::1");
    }
    container.ip(&batch)
}
