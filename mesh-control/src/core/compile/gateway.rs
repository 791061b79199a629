//! What proxies at the edge hold: listeners, routes and certificates of the Gateways that select them.
//!
//! Gateways with a port in common share its listener, as in Istio's `mergeGateways`: plain HTTP servers are one set of virtual hosts, servers
//! with TLS are told apart by server name, and opaque TCP has the port for itself. What the first server of a port is (in Istio's order:
//! the oldest Gateway's) the others must be; who comes too late is left out and told.

mod host;
mod http;
mod secret;
mod tls;

pub(super) use tls::inspector;

use super::envoy::{self, listener, versioned};
use super::{Compiler, Labels, Unsupported};
use crate::istio::gateway::{Gateway, Server, ServerProtocol, ServerTlsMode};
use crate::istio::{Config, Resource, VirtualService};
use mesh_xds::names::gateway_listener;
use mesh_xds::server::Versioned;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Everything for proxies with some labels.
#[derive(Debug, Default)]
pub(super) struct Edge {
    pub(super) listeners: BTreeMap<String, Versioned>,
    pub(super) routes: BTreeMap<String, Versioned>,
    pub(super) secrets: BTreeMap<String, Versioned>,
}

/// A server of a Gateway, with what it is needed for.
#[derive(Clone, Copy)]
struct Bound<'a> {
    gateway: &'a Resource<Gateway>,
    /// Its place in the Gateway.
    index: usize,
    server: &'a Server,
    /// How the port is shared.
    sharing: Sharing,
    port: u16,
}

/// How servers share a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sharing {
    /// By the Host header.
    Http,
    /// By server name.
    Tls,
    /// Not at all.
    Tcp,
}

impl Bound<'_> {
    /// `NAMESPACE/NAME` of the Gateway.
    fn full_name(&self) -> String {
        format!("{}/{}", self.gateway.meta.namespace, self.gateway.meta.name)
    }

    fn tell(&self, report: &mut Vec<Unsupported>, field: &str, why: &str) {
        let field = format!("spec.servers[{}]{field}", self.index);
        report.push(Unsupported::new("Gateway", &self.gateway.meta, field, why));
    }
}

/// One compilation for proxies with some labels.
struct Making<'m, 'i, 'a> {
    c: &'m mut Compiler<'i, 'a>,
    config: &'m Config,
    labels: &'m Labels,
    report: &'m mut Vec<Unsupported>,
    edge: Edge,
}

/// Compiles for proxies with these labels.
pub(super) fn edge(c: &mut Compiler<'_, '_>, config: &Config, labels: &Labels, report: &mut Vec<Unsupported>) -> Edge {
    let others = std::mem::take(&mut c.used);
    let scope = std::mem::replace(&mut c.scope, c.index.gateway(labels).to_owned());
    c.gateways = true;
    let mut making = Making { c, config, labels, report, edge: Edge::default() };
    for (address, servers) in making.ports() {
        making.port(address, &servers);
    }
    let Making { c, mut edge, .. } = making;
    edge.secrets.extend(c.used.iter().flat_map(|cluster| c.secrets_of(cluster)));
    c.used.extend(others);
    (c.scope, c.gateways) = (scope, false);
    edge
}

/// Gateways that rules name and that do not exist.
pub(super) fn missing(config: &Config, report: &mut Vec<Unsupported>) {
    let full = |gateway: &Resource<Gateway>| format!("{}/{}", gateway.meta.namespace, gateway.meta.name);
    let known: BTreeSet<_> = config.gateways.iter().map(|gateway| full(gateway)).collect();
    for rule in &config.virtual_services {
        for (i, name) in rule.spec.gateways.iter().enumerate().filter(|(_, name)| *name != "mesh") {
            let gateway = super::entrance::gateway(name, &rule.meta.namespace);
            if !known.contains(&gateway) {
                let why = format!("there is no Gateway {gateway}, so the rule has no effect there");
                report.push(Unsupported::new("VirtualService", &rule.meta, format!("spec.gateways[{i}]"), &why));
            }
        }
    }
}

/// Does the Gateway mean proxies with these labels? Without a selector it means all.
pub(super) fn selects(gateway: &Gateway, labels: &Labels) -> bool {
    gateway.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

impl<'m> Making<'m, '_, '_> {
    /// The servers of each port that can share it.
    fn ports(&mut self) -> BTreeMap<SocketAddr, Vec<Bound<'m>>> {
        let mut ports: BTreeMap<SocketAddr, Vec<Bound<'_>>> = BTreeMap::new();
        for gateway in self.config.gateways.iter().filter(|gateway| selects(&gateway.spec, self.labels)) {
            for (index, server) in gateway.spec.servers.iter().enumerate() {
                // Admission has seen both.
                let (Some(protocol), Ok(port)) = (server.port.protocol(), u16::try_from(server.port.number)) else { continue };
                let sharing = match protocol {
                    ServerProtocol::Http => Sharing::Http,
                    ServerProtocol::Https | ServerProtocol::Tls => Sharing::Tls,
                    ServerProtocol::Tcp => Sharing::Tcp,
                };
                let bound = Bound { gateway, index, server, sharing, port };
                let bind = server.bind.parse().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
                let others = ports.entry(SocketAddr::new(bind, port)).or_default();
                match others.first() {
                    Some(first) if first.sharing != sharing || sharing == Sharing::Tcp => {
                        let why = format!("has port {port}, which {} has for another protocol", first.full_name());
                        bound.tell(self.report, ".port", &why);
                    }
                    _ => others.push(bound),
                }
            }
        }
        ports
    }

    fn port(&mut self, address: SocketAddr, servers: &[Bound<'_>]) {
        let Some(first) = servers.first() else { return };
        let chains = match first.sharing {
            Sharing::Http => vec![self.plain_http(address.port(), servers)],
            Sharing::Tls => self.by_server_name(servers),
            Sharing::Tcp => self.opaque(first).into_iter().collect(),
        };
        // A port behind which there is nothing is not opened: clients are refused at once.
        if !chains.is_empty() {
            let listener = listen(address, chains, first.sharing == Sharing::Tls);
            self.edge.listeners.insert(listener.name.clone(), versioned(&listener));
        }
    }

    /// The rules bound to the gateway of a server that may be seen there, with the hosts that rule and server have in common.
    fn rules(&self, bound: &Bound<'_>) -> Vec<(&'m Resource<VirtualService>, BTreeSet<String>)> {
        let (gateway, home) = (bound.full_name(), &bound.gateway.meta.namespace);
        let bound_to = |rule: &Resource<VirtualService>| {
            rule.spec.gateways.iter().any(|name| super::entrance::gateway(name, &rule.meta.namespace) == gateway)
        };
        let visible = |rule: &Resource<VirtualService>| host::exported(&rule.spec.export_to, &rule.meta.namespace, home);
        let rules = self.config.virtual_services.iter().map(AsRef::as_ref).filter(|rule| bound_to(rule) && visible(rule));
        let common = rules.map(|rule| {
            let served = host::served(&bound.server.hosts, home, &rule.meta.namespace);
            let asked = rule.spec.hosts.iter().map(|host| self.c.index.resolve(host));
            (rule, asked.flat_map(|asked| host::common(&asked, &served)).collect::<BTreeSet<_>>())
        });
        common.filter(|(_, hosts)| !hosts.is_empty()).collect()
    }
}

fn terminates(server: &Server) -> bool {
    server.tls.as_ref().is_some_and(|tls| matches!(tls.mode, ServerTlsMode::Simple | ServerTlsMode::Mutual))
}

fn listen(address: SocketAddr, filter_chains: Vec<listener::FilterChain>, tls: bool) -> listener::Listener {
    listener::Listener {
        name: gateway_listener(address),
        address: Some(envoy::socket_address(address.ip(), address.port())),
        listener_filters: if tls { vec![inspector()] } else { Vec::new() },
        filter_chains,
        bind_to_port: Some(envoy::BoolValue { value: true }),
        traffic_direction: envoy::core::TrafficDirection::Outbound.into(),
        ..Default::default()
    }
}
