//! mesos-bridge in the kernel, as Mesos' CNI plugins make it with iptables: host ports lead to containers by destination NAT (the port
//! mapper), and what leaves the bridge has its node's address (`ipMasq`), since every node uses the same range. The rules are the
//! platform's: no part of the mesh writes or needs any.
//!
//! Only nodes on which a bridged instance has run have them: what tracks connections costs every packet of the node.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;

use super::netns::NetNs;
use crate::core::instance::Instance;
use crate::core::spec::{Network, container_port};

/// The only table that the stand-in makes.
const TABLE: &str = "ip mesos_bridge";

/// Chains and maps; the same text again changes nothing. A map's key is the node's address and port, its value the container's. The second
/// line of `leave` is for a container that dials itself or its neighbour by the host port: without it the answer would not pass the node.
const RULES: &str = r"
add table ip mesos_bridge
add map ip mesos_bridge tcp_ports { type ipv4_addr . inet_service : ipv4_addr . inet_service; }
add map ip mesos_bridge udp_ports { type ipv4_addr . inet_service : ipv4_addr . inet_service; }
add chain ip mesos_bridge arrive { type nat hook prerouting priority dstnat; }
add chain ip mesos_bridge begin { type nat hook output priority -100; }
add chain ip mesos_bridge leave { type nat hook postrouting priority srcnat; }
flush chain ip mesos_bridge arrive
flush chain ip mesos_bridge begin
flush chain ip mesos_bridge leave
add rule ip mesos_bridge arrive dnat ip addr . port to ip daddr . tcp dport map @tcp_ports
add rule ip mesos_bridge arrive dnat ip addr . port to ip daddr . udp dport map @udp_ports
add rule ip mesos_bridge begin dnat ip addr . port to ip daddr . tcp dport map @tcp_ports
add rule ip mesos_bridge begin dnat ip addr . port to ip daddr . udp dport map @udp_ports
add rule ip mesos_bridge leave ip saddr 172.31.254.0/24 ip daddr != 172.31.254.0/24 masquerade
add rule ip mesos_bridge leave ip saddr 172.31.254.0/24 ip daddr 172.31.254.0/24 ct status dnat masquerade
";

/// Host ports of one bridged instance; they lead nowhere when dropped.
#[derive(Debug)]
pub(crate) struct HostPorts {
    node: NetNs,
    maps: BTreeMap<&'static str, BTreeMap<SocketAddrV4, SocketAddrV4>>,
}

impl HostPorts {
    /// `None` for other networks.
    pub(crate) fn open(node: &NetNs, instance: &Instance) -> Result<Option<Self>> {
        let Some(v4) = instance.v4.filter(|_| instance.spec.network == Network::Bridge) else { return Ok(None) };
        let host_ports = Self { node: node.clone(), maps: maps(instance, v4)? };
        node.nft(&format!("{RULES}{}", host_ports.elements("add")))?;
        Ok(Some(host_ports))
    }

    fn elements(&self, verb: &str) -> String {
        let mut text = String::new();
        for (protocol, map) in &self.maps {
            for (from, to) in map {
                let value = if verb == "add" { format!(" : {} . {}", to.ip(), to.port()) } else { String::new() };
                let _ = writeln!(text, "{verb} element {TABLE} {protocol}_ports {{ {} . {}{value} }}", from.ip(), from.port());
            }
        }
        text
    }
}

impl Drop for HostPorts {
    fn drop(&mut self) {
        if let Err(error) = self.node.nft(&self.elements("delete")) {
            tracing::warn!("host ports stay open: {error:#}");
        }
    }
}

/// By protocol: what leads where.
fn maps(instance: &Instance, v4: Ipv4Addr) -> Result<BTreeMap<&'static str, BTreeMap<SocketAddrV4, SocketAddrV4>>> {
    let node = instance.hostname.parse()?;
    let mut maps: BTreeMap<&str, BTreeMap<_, _>> = BTreeMap::new();
    for ((name, index), host_port) in &instance.host_ports {
        let container = instance.spec.containers.iter().find(|c| c.name == *name);
        let Some(endpoint) = container.and_then(|c| c.endpoints.get(*index)) else { continue };
        let Some(port) = container_port(endpoint, *host_port) else { continue };
        for protocol in &endpoint.protocols {
            // Pods may say what the port speaks (`http`), which is TCP.
            let protocol = if protocol.eq_ignore_ascii_case("udp") { "udp" } else { "tcp" };
            maps.entry(protocol).or_default().insert(SocketAddrV4::new(node, *host_port), SocketAddrV4::new(v4, port));
        }
    }
    Ok(maps)
}
