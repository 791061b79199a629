//! The control plane's resources, read into types that cannot be wrong. What does not parse is refused with resource and field named.

use super::bypass::Bypass;
use super::egress::{Rule, rule};
use mesh_common::abi::{Dest, choice, egress, mode};
use mesh_common::decide::l4::{TCP, UDP};
use mesh_common::inbound::MOST;
use mesh_xds::agent as wire;
use mesh_xds::client::Delivery;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Everything that the agent has been told, valid parts only.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Settings of the mesh, once they are known.
    pub mesh: Option<Mesh>,
    /// By id.
    pub workloads: BTreeMap<String, Workload>,
    /// By name.
    pub services: BTreeMap<String, Service>,
    /// By name.
    pub egress: BTreeMap<String, Rule>,
    /// Containers that start and that the control plane has not heard of yet, by id: Mesos' id, and who it is by its agent's word.
    pub announced: BTreeMap<String, (String, Workload)>,
    /// Who is taken out of the mesh for the time being: not the control plane's word, the operator's.
    pub bypass: Bypass,
    /// Types of which a first delivery has come.
    pub(super) seen: BTreeSet<&'static str>,
}

/// Settings of the mesh.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mesh {
    /// One of [`egress`].
    pub egress: u8,
    /// The IPv4 VIP range.
    pub vip4: Option<(Ipv4Addr, u8)>,
    /// The IPv6 VIP range.
    pub vip6: Option<(Ipv6Addr, u8)>,
    /// All VIP ranges.
    pub vip_ranges: Vec<(IpAddr, u8)>,
    /// What no workload may dial.
    pub protected: BTreeSet<Dest>,
}

/// An instance of an app or pod.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Workload {
    /// Marathon's instance id.
    pub id: String,
    /// Marathon's path.
    pub app: String,
    /// Istio's namespace.
    pub namespace: String,
    /// Address or host name of its Mesos agent.
    pub node: String,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Marathon's labels.
    pub labels: BTreeMap<String, String>,
    /// The wish to be in the mesh.
    pub enrol: bool,
    /// It has no namespace of its own.
    pub host_network: bool,
    /// Its ports whose connections from outside the proxy takes.
    pub inbound: BTreeSet<u16>,
    /// [`mesh_common::abi::Pod::outbound`].
    pub outbound: u32,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// All its names.
    pub names: Vec<String>,
    /// Its VIPs.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// One port of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServicePort {
    /// What clients dial.
    pub port: u16,
    /// `IPPROTO_TCP` or `IPPROTO_UDP`.
    pub proto: u8,
    /// One of [`mode`].
    pub mode: u8,
    /// One of [`choice`].
    pub choice: u8,
    /// Who serves it.
    pub backends: Vec<Backend>,
    /// Namespaces whose workloads may dial it; empty: all.
    pub namespaces: Vec<String>,
}

/// One backend.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Address to dial.
    pub address: IpAddr,
    /// Port to dial.
    pub port: u16,
    /// 0: takes no new connection.
    pub weight: u32,
    /// 0 is nearest; farther ones are for when no nearer one takes connections.
    pub priority: u32,
    /// Its agent's address and host port, which lead to it too.
    pub published: Option<SocketAddr>,
}

/// A resource that was refused: the text of the NACK.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{kind} {name:?}: {field}: {problem}")]
pub struct Invalid {
    kind: &'static str,
    name: String,
    field: String,
    problem: String,
}

impl Workload {
    /// Should it be in the mesh on this node?
    #[must_use]
    pub fn is_wanted(&self, ours: &[String]) -> bool {
        self.enrol && ours.contains(&self.node)
    }
}

impl Service {
    /// By what its backends are dialled, and by what host ports they are reached too.
    pub fn published(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        let backends = self.ports.iter().flat_map(|port| &port.backends);
        backends.filter_map(|backend| Some((SocketAddr::new(backend.address, backend.port), backend.published?)))
    }
}

impl World {
    /// The workloads that should be in the mesh on this node.
    pub fn wanted<'a>(&'a self, ours: &'a [String]) -> impl Iterator<Item = &'a Workload> {
        let announced = self.announced.values().map(|(_, workload)| workload).filter(|w| !self.workloads.contains_key(&w.id));
        self.workloads.values().chain(announced).filter(|w| w.is_wanted(ours) && !self.bypass.covers(w))
    }

    /// Where the backends of ports are that the node's proxy carries: by TCP.
    #[must_use]
    pub fn proxied(&self) -> BTreeSet<(IpAddr, u16)> {
        let ports = self.services.values().flat_map(|service| &service.ports);
        let proxied = ports.filter(|port| port.mode == mode::PROXY && port.proto == TCP);
        proxied.flat_map(|port| &port.backends).map(|backend| (backend.address, backend.port)).collect()
    }

    /// Those that should, but for the bypass.
    pub fn bypassed<'a>(&'a self, ours: &'a [String]) -> impl Iterator<Item = &'a Workload> {
        self.workloads.values().filter(|w| w.is_wanted(ours) && self.bypass.covers(w))
    }

    /// Takes a delivery: what is valid is in force, what is not leaves the former version as it was and is returned.
    pub fn apply(&mut self, delivery: &Delivery) -> Vec<Invalid> {
        match delivery.type_url.as_str() {
            wire::MESH => self.take_mesh(delivery),
            wire::WORKLOAD => {
                self.seen.insert(wire::WORKLOAD);
                take(&mut self.workloads, delivery, "Workload", workload)
            }
            wire::SERVICE => {
                self.seen.insert(wire::SERVICE);
                take(&mut self.services, delivery, "Service", service)
            }
            wire::EGRESS => {
                self.seen.insert(wire::EGRESS);
                take(&mut self.egress, delivery, "Egress", rule)
            }
            other => vec![invalid("resource type", other, "type_url", "the agent has not asked for it")],
        }
    }

    /// Is there a first delivery of every type?
    #[must_use]
    pub fn complete(&self) -> bool {
        self.mesh.is_some() && [wire::WORKLOAD, wire::SERVICE, wire::EGRESS].iter().all(|url| self.seen.contains(url))
    }

    /// Pairs of services that claim the same VIP and port, first the one that has it.
    #[must_use]
    pub fn conflicts(&self) -> Vec<(Dest, String, String)> {
        let mut owners: BTreeMap<Dest, &String> = BTreeMap::new();
        let mut found = Vec::new();
        for (name, service) in &self.services {
            for (dest, _) in super::desired::ports_of(service) {
                match owners.get(&dest) {
                    Some(owner) if *owner != name => found.push((dest, (*owner).clone(), name.clone())),
                    _ => drop(owners.insert(dest, name)),
                }
            }
        }
        found
    }

    fn take_mesh(&mut self, delivery: &Delivery) -> Vec<Invalid> {
        let mut meshes = BTreeMap::new();
        if let Some(mesh) = self.mesh.take() {
            meshes.insert(wire::MESH_NAME.to_owned(), mesh);
        }
        let refused = take(&mut meshes, delivery, "Mesh", mesh);
        self.mesh = meshes.remove(wire::MESH_NAME);
        refused
    }
}

fn take<M: Message + Default, T>(
    into: &mut BTreeMap<String, T>,
    delivery: &Delivery,
    kind: &'static str,
    read: fn(M) -> Result<T, (String, String)>,
) -> Vec<Invalid> {
    for name in &delivery.removed {
        into.remove(name);
    }
    let mut refused = Vec::new();
    for resource in &delivery.resources {
        let decoded = M::decode(resource.body.clone()).map_err(|error| ("body".to_owned(), error.to_string()));
        match decoded.and_then(read) {
            Ok(value) => drop(into.insert(resource.name.clone(), value)),
            Err((field, problem)) => refused.push(invalid(kind, &resource.name, &field, &problem)),
        }
    }
    refused
}

fn invalid(kind: &'static str, name: &str, field: &str, problem: &str) -> Invalid {
    Invalid { kind, name: name.to_owned(), field: field.to_owned(), problem: problem.to_owned() }
}

pub(super) type Field<T> = Result<T, (String, String)>;

fn mesh(wire: wire::Mesh) -> Field<Mesh> {
    let egress = outbound(wire.outbound_policy)?;
    let (mut vip4, mut vip6, mut vip_ranges) = (None, None, Vec::new());
    for (i, text) in wire.vip_ranges.iter().enumerate() {
        let field = format!("vip_ranges[{i}]");
        let range = range(text);
        vip_ranges.extend(range);
        match range {
            // The kernel's config has one range of each family.
            Some((IpAddr::V4(base), bits)) if vip4.is_none() => vip4 = Some((base, bits)),
            Some((IpAddr::V6(base), bits)) if vip6.is_none() => vip6 = Some((base, bits)),
            Some((IpAddr::V4(_), _)) => return Err((field, "one IPv4 VIP range is supported, this is the second".to_owned())),
            Some((IpAddr::V6(_), _)) => return Err((field, "one IPv6 VIP range is supported, this is the second".to_owned())),
            None => return Err((field, format!("{text:?} is no CIDR range"))),
        }
    }
    let protected = wire.protected.iter().enumerate().map(|(i, endpoint)| {
        let at = |name: &str| format!("protected[{i}].{name}");
        let address = address(&at("address"), &endpoint.address)?;
        let addr = super::desired::addr(address);
        Ok(Dest { addr, port: port(&at("port"), endpoint.port)?, proto: proto(&at("transport"), endpoint.transport)?, pad: 0 })
    });
    Ok(Mesh { egress, vip4, vip6, vip_ranges, protected: protected.collect::<Field<_>>()? })
}

fn outbound(policy: i32) -> Field<u8> {
    match wire::OutboundPolicy::try_from(policy) {
        Ok(wire::OutboundPolicy::RegistryOnly) => Ok(egress::DENY),
        Ok(wire::OutboundPolicy::AllowAny) => Ok(egress::ALLOW),
        Ok(wire::OutboundPolicy::Audit) => Ok(egress::AUDIT),
        Err(error) => Err(("outbound_policy".to_owned(), error.to_string())),
    }
}

fn workload(wire: wire::Workload) -> Field<Workload> {
    let wire::Workload { id, app, namespace, node, addresses, labels, enrol, host_network, inbound_ports, outbound_policy } =
        wire;
    let addresses = addresses.iter().enumerate().map(|(i, text)| address(&format!("addresses[{i}]"), text));
    let addresses = addresses.collect::<Field<_>>()?;
    let inbound = inbound_ports.iter().enumerate().map(|(i, number)| port(&format!("inbound_ports[{i}]"), *number));
    let inbound: BTreeSet<u16> = inbound.collect::<Field<_>>()?;
    if inbound.len() > MOST {
        return Err(("inbound_ports".to_owned(), format!("{} ports are more than {MOST}", inbound.len())));
    }
    let outbound = outbound_policy.map_or(Ok(egress::OF_MESH), |policy| outbound(policy).map(egress::own))?;
    let labels = labels.into_iter().collect();
    Ok(Workload { id, app, namespace, node, addresses, labels, enrol, host_network, inbound, outbound })
}

fn service(wire: wire::Service) -> Field<Service> {
    let addresses = wire.addresses.iter().enumerate().map(|(i, text)| address(&format!("addresses[{i}]"), text));
    let ports = wire.ports.iter().enumerate().map(|(i, port)| service_port(&format!("ports[{i}]"), port));
    Ok(Service { names: wire.names, addresses: addresses.collect::<Field<_>>()?, ports: ports.collect::<Field<_>>()? })
}

fn service_port(at: &str, wire: &wire::ServicePort) -> Field<ServicePort> {
    let mode = match wire::Mode::try_from(wire.mode) {
        Ok(wire::Mode::Direct) => mode::DIRECT,
        Ok(wire::Mode::Kernel) => mode::KERNEL,
        Ok(wire::Mode::Proxy) => mode::PROXY,
        Err(error) => return Err((format!("{at}.mode"), error.to_string())),
    };
    let choice = match wire::Balance::try_from(wire.balance) {
        Ok(wire::Balance::LeastConnections) => choice::LEAST,
        Ok(wire::Balance::Random) => choice::RANDOM,
        Ok(wire::Balance::Source) => choice::SOURCE,
        Err(error) => return Err((format!("{at}.balance"), error.to_string())),
    };
    let backends = wire.backends.iter().enumerate().map(|(i, backend)| {
        let at = |name: &str| format!("{at}.backends[{i}].{name}");
        let address = address(&at("address"), &backend.address)?;
        let published = Some(backend.published.as_str())
            .filter(|text| !text.is_empty())
            .map(|text| text.parse().map_err(|_no_place| (at("published"), format!("{text:?} is no address and port"))));
        Ok(Backend {
            address,
            port: port(&at("port"), backend.port)?,
            weight: backend.weight,
            priority: backend.priority,
            published: published.transpose()?,
        })
    });
    Ok(ServicePort {
        port: port(&format!("{at}.port"), wire.port)?,
        proto: proto(&format!("{at}.transport"), wire.transport)?,
        mode,
        choice,
        backends: backends.collect::<Field<_>>()?,
        namespaces: wire.namespaces.clone(),
    })
}

/// `::ffff:a.b.c.d` is the IPv4 address, so that one destination has one key.
pub(super) fn address(field: &str, text: &str) -> Field<IpAddr> {
    let parsed: Result<IpAddr, _> = text.parse();
    parsed.map(|ip| ip.to_canonical()).map_err(|_no_address| (field.to_owned(), format!("{text:?} is no IP address")))
}

pub(super) fn port(field: &str, number: u32) -> Field<u16> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err((field.to_owned(), format!("{number} is no port (1 to 65535)"))),
    }
}

pub(super) fn proto(field: &str, transport: i32) -> Field<u8> {
    match wire::Transport::try_from(transport) {
        Ok(wire::Transport::Tcp) => Ok(TCP),
        Ok(wire::Transport::Udp) => Ok(UDP),
        Err(error) => Err((field.to_owned(), error.to_string())),
    }
}

fn range(text: &str) -> Option<(IpAddr, u8)> {
    let (base, bits) = text.split_once('/')?;
    let base: IpAddr = base.parse().ok()?;
    let bits: u8 = bits.parse().ok()?;
    let most = if base.is_ipv4() { 32 } else { 128 };
    (1..=most).contains(&bits).then_some((base, bits))
}

#[cfg(test)]
mod tests;
