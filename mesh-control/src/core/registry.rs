//! What runs, independent of who told us: services with their endpoints, and workloads.

use super::flip::PortKey;
use crate::istio::service_entry::Seen;
use mesh_xds::agent::{Balance, Mode, OutboundPolicy, Transport};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Everything that runs, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Registry {
    /// By full name.
    pub(crate) services: BTreeMap<String, Service>,
    /// Hosts outside the mesh that ServiceEntries name, exact or `*.suffix`: without addresses and endpoints, since only DNS knows them.
    pub(crate) outside: BTreeMap<String, Service>,
    /// By instance id.
    pub(crate) workloads: BTreeMap<String, Workload>,
    /// Where nodes are by the Mesos master's word, whether or not something runs there.
    pub(crate) places: BTreeMap<IpAddr, Arc<Locality>>,
    /// What was left out or settled between contradicting labels, one sentence each.
    pub(crate) problems: BTreeSet<String>,
}

impl Registry {
    /// The addresses of all nodes on which something runs.
    pub(crate) fn nodes(&self) -> BTreeSet<IpAddr> {
        self.workloads.values().filter_map(|w| w.node.parse().ok()).collect()
    }

    /// Where a node is, by what runs there, else by the Mesos master's word.
    pub(crate) fn place(&self, node: IpAddr) -> Option<&Arc<Locality>> {
        let name = node.to_string();
        let here = self.workloads.values().find(|workload| workload.node == name && !workload.place.is_unknown());
        here.map(|workload| &workload.place).or_else(|| self.places.get(&node))
    }

    /// All places where nodes are.
    pub(crate) fn all_places(&self) -> BTreeSet<&Arc<Locality>> {
        let running = self.workloads.values().map(|workload| &workload.place).filter(|place| !place.is_unknown());
        running.chain(self.places.values()).collect()
    }

    /// Fills in where nodes are, for what Marathon does not know the place of: it tells fault domains only, and those since 1.8.
    pub(crate) fn locate(&mut self, places: &BTreeMap<IpAddr, Arc<Locality>>) {
        self.places.clone_from(places);
        for workload in self.workloads.values_mut().filter(|workload| workload.place.is_unknown()) {
            let place = workload.node.parse().ok().and_then(|node: IpAddr| places.get(&node));
            workload.place = place.unwrap_or(&workload.place).clone();
        }
        let ports = self.services.values_mut().flat_map(|service| service.ports.values_mut());
        for port in ports {
            for endpoint in port.endpoints.iter_mut().filter(|endpoint| endpoint.place.is_unknown()) {
                let place = endpoint.node.and_then(|node| places.get(&node));
                endpoint.place = place.unwrap_or(&endpoint.place).clone();
            }
            // The place is part of the order, behind address and workload, which are unique: it stays sorted.
        }
    }

    /// Everything that has routes: services, and hosts outside.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &Service> {
        self.services.values().chain(self.outside.values())
    }

    /// The same, to be changed.
    pub(crate) fn host_mut(&mut self, name: &str) -> Option<&mut Service> {
        self.services.get_mut(name).or_else(|| self.outside.get_mut(name))
    }

    /// The service of this full name, or the host outside, by its own name before a wildcard's.
    pub(crate) fn host(&self, name: &str) -> Option<&Service> {
        self.services.get(name).or_else(|| self.outside_host(name))
    }

    /// The host outside that a name is, by its own name before the longest wildcard.
    pub(crate) fn outside_host(&self, name: &str) -> Option<&Service> {
        let wildcards = || self.outside.iter().filter_map(|(host, service)| Some((host.strip_prefix('*')?, service)));
        let around = || wildcards().filter(|(suffix, _)| name.len() > suffix.len() && name.ends_with(suffix));
        self.outside.get(name).or_else(|| around().max_by_key(|(suffix, _)| suffix.len()).map(|(_, service)| service))
    }

    /// Every TCP port of every service, and of hosts outside.
    pub(crate) fn tcp_ports(&self) -> impl Iterator<Item = (PortKey, &Port)> {
        self.hosts().flat_map(|service| {
            let tcp = service.ports.iter().filter(|((_, transport), _)| *transport == Transport::Tcp);
            tcp.map(|((number, _), port)| (PortKey { service: service.name.clone(), port: *number }, port))
        })
    }
}

/// A name with VIPs and ports.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Service {
    /// `reviews.marathon.l4lb.thisdcos.directory`.
    pub(crate) name: String,
    /// All names, [`Self::name`] among them, lower case.
    pub(crate) names: BTreeSet<String>,
    /// VIPs; filled by [`super::allot`] for named VIPs.
    pub(crate) addresses: Vec<IpAddr>,
    /// By port and transport.
    pub(crate) ports: BTreeMap<(u16, Transport), Port>,
    /// A ServiceEntry declares it, not Marathon.
    pub(crate) of_entry: bool,
    /// Istio's namespace: its instances'; if they are of several, the first in the alphabet.
    pub(crate) namespace: String,
}

impl Service {
    /// The port of TCP with this number.
    pub(crate) fn tcp_port(&self, number: u16) -> Option<&Port> {
        self.ports.get(&(number, Transport::Tcp))
    }
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Port {
    pub(crate) protocol: Protocol,
    pub(crate) mode: Mode,
    /// How the kernel picks one of the endpoints, where it does.
    pub(crate) balance: Balance,
    /// Sorted by address, then workload.
    pub(crate) endpoints: Vec<Endpoint>,
    /// Are near endpoints preferred?
    pub(crate) near: Option<Near>,
    /// Whose workloads may dial it, by `exportTo` of its ServiceEntries.
    pub(crate) seen: Seen,
}

/// Istio's `networking.istio.io/traffic-distribution`: which endpoints take connections as long as one of them can.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Near {
    /// Those of the client's zone, then its region's, then all others (`PreferSameZone`, `PreferClose`).
    Zone,
    /// Before these, those of its node (`PreferSameNode`).
    Node,
}

impl Near {
    /// Reads Istio's spelling; `Any` is none.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, ()> {
        match text {
            "Any" | "" => Ok(None),
            "PreferClose" | "PreferSameZone" => Ok(Some(Self::Zone)),
            "PreferSameNode" => Ok(Some(Self::Node)),
            _ => Err(()),
        }
    }

    /// How far an endpoint is from a client: 0 is nearest. Who is nowhere known prefers nobody but its own node.
    pub(crate) fn distance(self, (node, place): (Option<IpAddr>, &Locality), endpoint: &Endpoint) -> u32 {
        if self == Self::Node && node.is_some() && node == endpoint.node {
            return 0;
        }
        if place.is_unknown() || *place == *endpoint.place {
            1
        } else if place.region == endpoint.place.region {
            2
        } else {
            3
        }
    }
}

/// One instance that serves a port.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Endpoint {
    /// How its own node dials it.
    pub(crate) at_home: SocketAddr,
    /// How all other nodes do; `None` if they cannot (bridge network without host port).
    pub(crate) elsewhere: Option<SocketAddr>,
    /// Its host port at its agent, if it has one, whether or not anybody dials that.
    pub(crate) published: Option<SocketAddr>,
    /// The address of its node.
    pub(crate) node: Option<IpAddr>,
    /// Instance id.
    pub(crate) workload: String,
    /// Where that is.
    pub(crate) place: Arc<Locality>,
    /// Labels of the very version that the instance runs.
    pub(crate) labels: Arc<BTreeMap<String, String>>,
    pub(crate) health: Health,
}

impl Endpoint {
    /// Where a node (`None`: one that runs none of the endpoints) dials it.
    pub(crate) fn seen_from(&self, node: Option<IpAddr>) -> Option<SocketAddr> {
        if node.is_some() && node == self.node { Some(self.at_home) } else { self.elsewhere }
    }

    /// Must its own node dial another address than the rest?
    pub(crate) fn depends_on_node(&self) -> bool {
        self.elsewhere != Some(self.at_home)
    }
}

/// Where a node is: the fault domain of its Mesos agent, without the provider that Mesos' modules put in front (`aws/us-west-2` is
/// `us-west-2`), since Istio's rules separate region and zone by a slash. Empty where agents have none.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Locality {
    pub(crate) region: String,
    pub(crate) zone: String,
}

impl Locality {
    pub(crate) fn new(region: &str, zone: &str) -> Self {
        let last = |name: &str| name.rsplit('/').next().unwrap_or(name).to_owned();
        Self { region: last(region), zone: last(zone) }
    }

    /// Reads Istio's spelling, `region/zone/subzone`. Mesos has no subzones, so one is like the other.
    pub(crate) fn parse(text: &str) -> Self {
        let mut parts = text.split('/').map(str::to_owned);
        Self { region: parts.next().unwrap_or_default(), zone: parts.next().unwrap_or_default() }
    }

    /// Nobody said where.
    pub(crate) fn is_unknown(&self) -> bool {
        self.region.is_empty()
    }
}

/// What Marathon says of an instance's health.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Health {
    /// It has no check, or the check succeeds.
    Healthy,
    /// It has a check that has not reported: just started, or Marathon forgot (it does so on a change of its leader).
    Unknown,
    /// The check fails.
    Unhealthy,
    /// A deployment has started it, and its readiness checks have not succeeded yet.
    Unready,
    /// Mesos has lost its agent. It may run on and be reachable, or not.
    Unreachable,
    /// It is being killed.
    Draining,
}

impl Port {
    /// All that could serve is unhealthy.
    pub(crate) fn panics(&self) -> bool {
        let any = |health: Health| self.endpoints.iter().any(|endpoint| endpoint.health == health);
        any(Health::Unhealthy) && !any(Health::Healthy) && !any(Health::Unknown)
    }

    /// The weight of an endpoint: 0 takes no new connection.
    ///
    /// Unknown health counts as unhealthy as long as another endpoint is known to be healthy; if none is, it counts as healthy:
    /// a service must never be emptied because Marathon forgot everything that it knew (marathon#3419, #4094). If all are unhealthy, the
    /// check is as likely to be wrong as they are, and all are tried; the same for agents that are lost when nothing else is left. What is
    /// not ready yet takes connections when the ones before are on their way out: Marathon ends those when it knows of the readiness.
    pub(crate) fn weight(&self, endpoint: &Endpoint) -> u32 {
        let any = |health: Health| self.endpoints.iter().any(|e| e.health == health);
        let serving = || any(Health::Healthy) || any(Health::Unknown) || any(Health::Unhealthy);
        match endpoint.health {
            Health::Healthy => 1,
            Health::Unknown => u32::from(!any(Health::Healthy)),
            Health::Unhealthy => u32::from(self.panics()),
            Health::Unready => u32::from(!serving() && any(Health::Draining)),
            Health::Unreachable => u32::from(!serving() && !any(Health::Unready)),
            Health::Draining => 0,
        }
    }
}

/// Istio's protocols, as far as the mesh tells them apart.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Protocol {
    Http,
    Http2,
    Grpc,
    Https,
    Tls,
    Mongo,
    Redis,
    Mysql,
    Tcp,
    Udp,
    /// Nobody said what a TCP port carries: where the proxy has it, the first bytes of each connection say.
    Undeclared,
}

impl Protocol {
    /// Reads Istio's spelling, in any case; `grpc-web` is HTTP to a proxy.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "http" | "grpc-web" => Self::Http,
            "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "mongo" => Self::Mongo,
            "redis" => Self::Redis,
            "mysql" => Self::Mysql,
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            _ => return None,
        })
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Http2 => "HTTP2",
            Self::Grpc => "GRPC",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Mongo => "MONGO",
            Self::Redis => "REDIS",
            Self::Mysql => "MYSQL",
            Self::Tcp | Self::Undeclared => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// Can requests be told apart, so that users expect routing and balancing per request?
    pub(crate) const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// The mode of a port without rule and label.
    pub(crate) const fn default_mode(self) -> Mode {
        if self.is_http() { Mode::Proxy } else { Mode::Kernel }
    }
}

/// An instance of an app or pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Workload {
    /// `reviews-v2.instance-<uuid>`.
    pub(crate) id: String,
    /// `/reviews-v2`.
    pub(crate) app: String,
    pub(crate) namespace: String,
    /// The address of its node; its host name if that does not resolve.
    pub(crate) node: String,
    /// Where that is.
    pub(crate) place: Arc<Locality>,
    /// Empty on the host network.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) labels: Arc<BTreeMap<String, String>>,
    pub(crate) enrol: bool,
    pub(crate) host_network: bool,
    /// Its ports whose connections from outside its node's proxy takes.
    pub(crate) inbound: BTreeSet<u16>,
    /// What it may outside; `None`: what the mesh says.
    pub(crate) outbound: Option<OutboundPolicy>,
}
