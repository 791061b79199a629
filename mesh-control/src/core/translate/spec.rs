//! Apps and pods, old and new, in one form: which ports they declare, and of which services these are.

use super::{BALANCE, DISTRIBUTION, MODE, NAMESPACE, OUTBOUND};
use crate::core::registry::{Near, Protocol};
use crate::core::wish;
use crate::istio::mesh_config::OutboundMode;
use crate::marathon::types::{App, Labels, Network, Pod, PodEndpoint, PortMapping};
use mesh_common::{inbound, vip};
use mesh_xds::agent::{Balance, Mode, OutboundPolicy, Transport};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// One version of an app or pod.
pub(super) struct Spec {
    pub(super) id: String,
    pub(super) namespace: String,
    pub(super) labels: Arc<Labels>,
    pub(super) enrol: bool,
    pub(super) outbound: Option<OutboundPolicy>,
    pub(super) network: Net,
    pub(super) ports: Vec<Declared>,
    /// Ports whose connections from outside the proxy takes.
    pub(super) inbound: BTreeSet<u16>,
    pub(super) problems: Vec<String>,
}

/// Where an instance's addresses are valid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Net {
    /// It uses its node's namespace and address.
    Host,
    /// Its address is valid on its own node only; every node uses the same range.
    Bridge,
    /// Its address is valid everywhere.
    Overlay,
}

/// A port that a spec declares.
pub(super) struct Declared {
    /// The container that has it; empty for an app.
    pub(super) container: String,
    pub(super) name: String,
    /// `None` on the host network.
    pub(super) container_port: Option<u16>,
    /// It gets a port of its node.
    pub(super) has_host_port: bool,
    pub(super) transports: BTreeSet<Transport>,
    /// What the TCP side of it speaks, where that is said.
    protocol: Option<Protocol>,
    pub(super) mode: Option<Mode>,
    pub(super) balance: Option<Balance>,
    /// `None` if it does not say; `Some(None)` if it says that none is preferred.
    pub(super) near: Option<Option<Near>>,
    pub(super) services: BTreeSet<(Owner, u16)>,
}

impl Declared {
    pub(super) fn protocol_over(&self, transport: Transport) -> Option<Protocol> {
        if transport == Transport::Udp { Some(Protocol::Udp) } else { self.protocol }
    }
}

/// Whose port it is: a named VIP (normalised, without framework and domain), a literal one, or a host.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Owner {
    Name(String),
    Address(IpAddr),
    /// Of a ServiceEntry.
    Host(String),
}

pub(super) fn of_app(app: &App, bridge_name: &str) -> Spec {
    let docker = &app.container.docker;
    let network = match (app.networks.is_empty(), docker.network.as_str()) {
        (true, "BRIDGE") => Net::Bridge,
        (true, "USER") => Net::Overlay,
        _ => net(&app.networks, bridge_name),
    };
    let mappings = match network {
        Net::Host => &app.port_definitions,
        _ if app.container.port_mappings.is_empty() => &docker.port_mappings,
        _ => &app.container.port_mappings,
    };
    let mut spec = start(&app.id, &app.labels, network);
    for mapping in mappings {
        let (protocols, ports) =
            (mapping.protocol.split(',').map(str::trim).collect::<Vec<_>>(), mapping_ports(mapping, network));
        declare(&mut spec, Raw { container: "", name: &mapping.name, protocols: &protocols, labels: &mapping.labels, ports });
    }
    capture(spec)
}

pub(super) fn of_pod(pod: &Pod, bridge_name: &str) -> Spec {
    let mut spec = start(&pod.id, &pod.labels, net(&pod.networks, bridge_name));
    for container in &pod.containers {
        for endpoint in &container.endpoints {
            let protocols: Vec<_> = endpoint.protocol.iter().map(String::as_str).collect();
            let ports = endpoint_ports(endpoint, spec.network);
            let raw =
                Raw { container: &container.name, name: &endpoint.name, protocols: &protocols, labels: &endpoint.labels, ports };
            declare(&mut spec, raw);
        }
    }
    capture(spec)
}

/// What its labels ask to be captured.
fn capture(mut spec: Spec) -> Spec {
    let declared = spec.ports.iter().filter(|port| port.transports.contains(&Transport::Tcp));
    let declared = declared.filter_map(|port| port.container_port).collect();
    match inbound::ports(&spec.labels, &declared) {
        Ok(ports) if spec.network == Net::Host && !ports.is_empty() => {
            let why = "on the node's own network connections from outside are not captured";
            spec.problems.push(format!("{}: label {} ignored: {why}", spec.id, inbound::INCLUDE));
        }
        Ok(ports) => spec.inbound = ports,
        Err(error) => spec.problems.push(format!("{}: label {error}; nothing is captured", spec.id)),
    }
    spec
}

/// The first network decides; none is the host's (Marathon's default).
fn net(networks: &[Network], bridge_name: &str) -> Net {
    match networks.first() {
        Some(network) if network.mode == "container/bridge" => Net::Bridge,
        Some(network) if network.mode == "container" && is_bridge(&network.name, bridge_name) => Net::Bridge,
        Some(network) if network.mode == "container" => Net::Overlay,
        _ => Net::Host,
    }
}

/// `mesos-bridge` is the name that Marathon and DC/OS default to.
fn is_bridge(name: &str, bridge_name: &str) -> bool {
    name == "mesos-bridge" || (!bridge_name.is_empty() && name == bridge_name)
}

fn start(id: &str, labels: &Labels, network: Net) -> Spec {
    let namespace = labels.get(NAMESPACE).filter(|name| !name.is_empty()).map_or("default", String::as_str).to_ascii_lowercase();
    // What its namespace says is filled in later (`core/wish.rs`).
    let enrol = wish::own(labels.get(wish::INJECT).map(String::as_str)) == Some(true);
    let mut problems = Vec::new();
    let outbound = labels.get(OUTBOUND).and_then(|value| {
        let known = OutboundMode::parse(value);
        if known.is_none() {
            problems.push(format!("{id}: label {OUTBOUND}={value:?} is none of REGISTRY_ONLY, ALLOW_ANY, AUDIT; ignored"));
        }
        known.map(OutboundPolicy::from)
    });
    let labels = Arc::new(labels.clone());
    Spec { id: id.to_owned(), namespace, labels, enrol, outbound, network, ports: Vec::new(), inbound: BTreeSet::new(), problems }
}

/// Container port and "has a host port". Container port 0 means "the same as the host port", which only the instance knows.
fn mapping_ports(mapping: &PortMapping, network: Net) -> (Option<u16>, bool) {
    match network {
        Net::Host => (None, true),
        Net::Bridge => (mapping.container_port.filter(|port| *port > 0), true),
        Net::Overlay => (mapping.container_port.filter(|port| *port > 0), mapping.host_port.is_some()),
    }
}

fn endpoint_ports(endpoint: &PodEndpoint, network: Net) -> (Option<u16>, bool) {
    match network {
        Net::Host => (None, true),
        _ => (endpoint.container_port.filter(|port| *port > 0), endpoint.host_port.is_some()),
    }
}

/// A port as Marathon words it.
struct Raw<'a> {
    container: &'a str,
    name: &'a str,
    protocols: &'a [&'a str],
    labels: &'a Labels,
    ports: (Option<u16>, bool),
}

fn declare(spec: &mut Spec, raw: Raw<'_>) {
    let (protocol, transports) = protocol(raw.name, raw.protocols);
    let mode_label = raw.labels.get(MODE).or_else(|| spec.labels.get(MODE));
    let mode = mode_label.and_then(|value| {
        let mode = parse_mode(value);
        if mode.is_none() {
            spec.problems.push(format!("{}: label {MODE}={value:?} is none of direct, kernel, proxy; ignored", spec.id));
        }
        mode
    });
    let balance_label = raw.labels.get(BALANCE).or_else(|| spec.labels.get(BALANCE));
    let balance = balance_label.and_then(|value| {
        let balance = parse_balance(value);
        if balance.is_none() {
            spec.problems
                .push(format!("{}: label {BALANCE}={value:?} is none of least-connections, random, source; ignored", spec.id));
        }
        balance
    });
    let near = raw.labels.get(DISTRIBUTION).or_else(|| spec.labels.get(DISTRIBUTION)).and_then(|value| {
        let near = Near::parse(value);
        if near.is_err() {
            let known = "PreferSameNode, PreferSameZone, PreferClose, Any";
            spec.problems.push(format!("{}: label {DISTRIBUTION}={value:?} is none of {known}; ignored", spec.id));
        }
        near.ok()
    });
    let mut services = BTreeSet::new();
    for (key, value) in raw.labels.iter().filter(|(key, _)| vip::is_vip_label(key)) {
        match vip::parse(value) {
            Ok(vip::Vip { host: vip::VipHost::Address(address), port }) => drop(services.insert((Owner::Address(address), port))),
            Ok(vip::Vip { host: vip::VipHost::Name(name), port }) => drop(services.insert((Owner::Name(normal(&name)), port))),
            Err(error) => spec.problems.push(format!("{}: label {key}={value:?} ignored: {error}", spec.id)),
        }
    }
    // Istio for Mesos knew two more conventions, both by a label of the pod and the container's port.
    if let Some(port) = raw.ports.0 {
        let lists = [spec.labels.get("ISTIO_SERVICE_NAME"), spec.labels.get("istio")];
        let names = lists.into_iter().flatten().flat_map(|list| list.split(',')).map(|name| normal(name.trim()));
        services.extend(names.filter(|name| !name.is_empty()).map(|name| (Owner::Name(name), port)));
    }
    spec.ports.push(Declared {
        container: raw.container.to_owned(),
        name: raw.name.to_owned(),
        container_port: raw.ports.0,
        has_host_port: raw.ports.1,
        transports,
        protocol,
        mode,
        balance,
        near,
        services,
    });
}

fn normal(name: &str) -> String {
    vip::short_name(name, "")
}

/// Istio's convention first (`http`, `http-9080`), then the declared protocols, which are free text in pods (`["http"]`).
fn protocol(name: &str, declared: &[&str]) -> (Option<Protocol>, BTreeSet<Transport>) {
    let known = |text: &str| Protocol::parse(text).filter(|p| !matches!(p, Protocol::Tcp | Protocol::Udp));
    let prefix =
        if name.to_ascii_lowercase().starts_with("grpc-web") { "grpc-web" } else { name.split('-').next().unwrap_or(name) };
    // Among Marathon's protocols `tcp` is the transport; in a name it says that there is no more to know.
    let opaque = prefix.eq_ignore_ascii_case("tcp").then_some(Protocol::Tcp);
    let protocol = known(prefix).or(opaque).or_else(|| declared.iter().find_map(|text| known(text)));
    let is_udp = |text: &&str| text.eq_ignore_ascii_case("udp");
    let declared: Vec<_> = declared.iter().copied().filter(|text| !text.is_empty()).collect();
    let mut transports = BTreeSet::new();
    if declared.iter().any(is_udp) || (declared.is_empty() && is_udp(&prefix)) {
        transports.insert(Transport::Udp);
    }
    if declared.iter().any(|text| !is_udp(text)) || transports.is_empty() {
        transports.insert(Transport::Tcp);
    }
    (protocol, transports)
}

fn parse_mode(value: &str) -> Option<Mode> {
    [Mode::Direct, Mode::Kernel, Mode::Proxy].into_iter().find(|mode| mode_name(*mode) == value)
}

fn parse_balance(value: &str) -> Option<Balance> {
    [Balance::LeastConnections, Balance::Random, Balance::Source].into_iter().find(|balance| balance_name(*balance) == value)
}

pub(super) const fn balance_name(balance: Balance) -> &'static str {
    match balance {
        Balance::LeastConnections => "least-connections",
        Balance::Random => "random",
        Balance::Source => "source",
    }
}

pub(super) const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Direct => "direct",
        Mode::Kernel => "kernel",
        Mode::Proxy => "proxy",
    }
}
