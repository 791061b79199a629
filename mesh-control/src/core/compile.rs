//! Registry and rules into what each node holds.
//!
//! Nearly all of it is the same for all nodes and is built once; what differs (a bridge endpoint has another address on its own node) is
//! laid over it when a node asks. A resource that did not change keeps its version and its buffer, and a type of which nothing changed
//! keeps its whole map, so that the server has nothing to compare.

mod action;
mod agent;
mod answer;
mod carry;
mod cluster;
mod cors;
mod credentials;
mod delegate;
mod edges;
mod egress;
mod endpoints;
mod entrance;
mod entries;
mod envoy;
mod fault;
mod gateway;
mod hash;
mod headers;
mod inbound;
mod index;
mod listener;
mod matching;
mod mesh;
mod mirror;
mod mode;
mod outside;
mod policy;
mod refs;
mod report;
mod retry;
mod route;
mod scope;
mod sidecar;
mod source;
mod tcp;
mod telemetry;
#[cfg(test)]
pub(crate) mod tests;
mod views;

pub(crate) use crate::istio::enforced::Abilities;
pub(crate) use cluster::DefaultLb;
pub(crate) use refs::{Dangling, Refs};
pub(crate) use report::Unsupported;
pub(crate) use retry::RetryOnDefault;
pub(crate) use telemetry::{AccessLog, Address as ZipkinAddress, Telemetry};

use super::flip::{Carried, Modes, PortKey};
use super::registry::{Locality, Port, Protocol, Registry, Service};
use crate::istio::Config;
use crate::istio::destination_rule::LocalityLbSetting;
use crate::istio::virtual_service::{Destination, HttpRetry};
use endpoints::{Assigned, Endpoints};
use envoy::versioned;
use index::Index;
use mesh_xds::agent::{EGRESS, MESH, MESH_NAME, Mode, OutboundPolicy, SERVICE, Transport, WORKLOAD};
use mesh_xds::names::{CLUSTER, ClusterName, ENDPOINT, LISTENER, ROUTE, SECRET};
use mesh_xds::node::{Node, Role};
use mesh_xds::server::{Snapshot, Versioned};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use telemetry::Telling;

/// Istio's name for "on to where the client meant to go".
const PASSTHROUGH: &str = "PassthroughCluster";

/// What the operator chose for the whole mesh.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) vip_domain: String,
    pub(crate) outbound: OutboundPolicy,
    pub(crate) default_lb: DefaultLb,
    pub(crate) retry_on_default: RetryOnDefault,
    /// On nodes: whom TLS to outside services trusts where a rule names no authority.
    pub(crate) system_ca: String,
    pub(crate) vip_ranges: Vec<String>,
    pub(crate) zones: Vec<String>,
    /// The cluster's id in names that hold everywhere.
    pub(crate) cluster: Option<String>,
    /// Our own ports that no workload may dial, on every node's address and on these.
    pub(crate) own_ports: Vec<u16>,
    pub(crate) own_addresses: Vec<IpAddr>,
    /// What else no workload may dial.
    pub(crate) protect: Vec<SocketAddr>,
    pub(crate) abilities: Abilities,
    /// How long a client's first bytes are waited for on undeclared ports; zero: for ever.
    pub(crate) detection_timeout: std::time::Duration,
    pub(crate) telemetry: Telemetry,
    /// Of requests for which no rule speaks; `None`: Istio's default.
    pub(crate) default_retries: Option<HttpRetry>,
    /// Of services for which no rule speaks.
    pub(crate) localities: Option<LocalityLbSetting>,
}

/// Does the proxy see requests on the port?
fn sees_requests(can: Abilities, port: &Port) -> bool {
    port.mode == Mode::Proxy && has_requests(can, port)
}

/// Has a rule for requests effect on the port?
fn routes_requests(can: Abilities, port: &Port) -> bool {
    sees_requests(can, port) || (port.mode == Mode::Proxy && detects(can, port))
}

/// Would it, if it carried the port?
fn has_requests(can: Abilities, port: &Port) -> bool {
    port.protocol == Protocol::Http || (can.http2 && port.protocol.is_http())
}

/// Would it look at the first bytes of each connection?
fn detects(can: Abilities, port: &Port) -> bool {
    port.protocol == Protocol::Undeclared && can.filter_chains
}

type Resources = Arc<BTreeMap<String, Versioned>>;
type Labels = BTreeMap<String, String>;

/// Everything for every node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compiled {
    registry: Arc<Registry>,
    /// What proxies carry: the registry, with ports that some kernel may still hand over to them, and those on standby.
    carrying: Arc<Registry>,
    /// The mode of every TCP port, as wanted.
    pub(crate) modes: Arc<Modes>,
    /// The ports that proxies serve.
    pub(crate) carried: Arc<Carried>,
    mesh: Resources,
    workloads: Resources,
    services: Resources,
    /// Services without backends, for DNS.
    names: Resources,
    egress: egress::Entries,
    listeners: Resources,
    routes: Resources,
    clusters: Resources,
    endpoints: Endpoints,
    credentials: credentials::Credentials,
    edges: edges::Edges,
    /// Of the configuration that is compiled.
    pub(crate) version: u64,
    /// Fields of rules that have no effect.
    pub(crate) unsupported: Vec<Unsupported>,
    /// What rules refer to and is not there.
    pub(crate) refs: Arc<Refs>,
}

/// One compilation.
struct Compiler<'i, 'a> {
    index: &'i Index<'a>,
    settings: &'i Settings,
    /// Clusters that listeners and routes refer to.
    used: BTreeSet<ClusterName>,
    secrets: &'i credentials::Secrets,
    /// Whose routes are made; empty: everybody's.
    scope: String,
    /// They are gateways'.
    gateways: bool,
}

/// Compiles everything. `before` is the last result: what is equal in it is shared. Proxies serve `linger` too, which is no longer theirs.
pub(crate) fn compile(
    registry: &Arc<Registry>,
    config: &Config,
    settings: &Settings,
    linger: &BTreeSet<PortKey>,
    before: &Compiled,
) -> Compiled {
    let version = config.version;
    let settings = &*mesh::settled(config.mesh.as_ref(), settings);
    let mut unsupported = report::of_rules(config, settings.abilities);
    let given = config;
    let config = &*delegate::merged(config, &mut unsupported);
    let seen = &*scope::scoped(config, settings.abilities);
    let registry = &mode::ruled(registry, seen, settings);
    let carrying = carry::carrying(registry, linger, before, settings.abilities);
    let index = Index::new(&carrying, registry, seen, settings, &mut unsupported);
    let modes = registry.tcp_ports().map(|(key, port)| (key, port.mode)).collect();
    let egress = egress::Entries::new(&index, config, &modes, &mut unsupported, &before.egress);
    let mut compiler = Compiler::new(&index, settings, &config.secrets);
    let (mut listeners, routes) = (compiler.listeners(), compiler.routes());
    gateway::missing(config, &mut unsupported);
    credentials::tell(config, &mut unsupported);
    entries::tell(config, &mut unsupported);
    let edges = edges::Edges::new(&mut compiler, &carrying, config, &mut unsupported, &before.edges);
    unsupported.sort();
    unsupported.dedup();
    let refs = Arc::new(refs::dangling(&index, given));
    let (assigned, mut clusters) = compiler.clusters();
    if settings.outbound != OutboundPolicy::RegistryOnly && settings.abilities.original_dst {
        clusters.insert(PASSTHROUGH.to_owned(), versioned(&passthrough(PASSTHROUGH)));
    }
    if registry.workloads.values().any(|workload| !workload.inbound.is_empty()) {
        clusters.insert(inbound::CLUSTER.to_owned(), versioned(&passthrough(inbound::CLUSTER)));
        listeners.insert(inbound::LISTENER.to_owned(), versioned(&inbound::listener()));
    }
    let collector = settings.telemetry.zipkin.as_ref().and_then(|address| Some((address.ip()?, address.port)));
    if let Some((ip, port)) = collector {
        clusters.insert(telemetry::COLLECTOR.to_owned(), versioned(&telemetry::fixed(ip, port)));
    }
    let services = registry.services.values();
    let workloads = registry.workloads.values();
    let carried = carry::carried(&carrying, registry, settings.abilities);
    let nowhere = Locality::default();
    let everybody = endpoints::Client { node: None, place: &nowhere };
    Compiled {
        registry: registry.clone(),
        modes: same(&before.modes, modes),
        carried: same(&before.carried, carried),
        mesh: share(&before.mesh, BTreeMap::from([(MESH_NAME.to_owned(), agent::mesh(registry, settings))])),
        workloads: share(&before.workloads, workloads.map(|w| (w.id.clone(), agent::workload(w))).collect()),
        services: share(&before.services, services.clone().map(|s| (s.name.clone(), agent::service(s, everybody))).collect()),
        names: share(&before.names, services.map(|s| (s.name.clone(), agent::names(s))).collect()),
        egress,
        listeners: share(&before.listeners, listeners),
        routes: share(&before.routes, routes),
        clusters: share(&before.clusters, clusters),
        endpoints: Endpoints::new(&carrying, assigned, &before.endpoints),
        credentials: compiler.credentials(&before.credentials),
        edges,
        version,
        carrying: carrying.clone(),
        unsupported,
        refs,
    }
}

impl Compiled {
    /// The addresses of nodes on which something runs.
    pub(crate) fn nodes(&self) -> BTreeSet<IpAddr> {
        self.registry.nodes()
    }

    /// What a node holds when nothing is in the midst of a change.
    #[cfg(test)]
    pub(crate) fn snapshot(&self, node: &Node) -> Snapshot {
        self.snapshot_in(node, &self.modes)
    }

    /// What a node holds, with the modes that its agent may be told now.
    pub(crate) fn snapshot_in(&self, node: &Node, modes: &Arc<Modes>) -> Snapshot {
        let types = match node.role {
            Role::Agent => vec![
                (MESH, self.mesh.clone()),
                (WORKLOAD, self.workloads.clone()),
                (SERVICE, self.services_at(node.address, modes)),
                (EGRESS, self.egress.at(modes, &self.modes)),
            ],
            Role::Dns => vec![(MESH, self.mesh.clone()), (SERVICE, self.names.clone()), (EGRESS, self.egress.wanted.clone())],
            Role::Node => {
                let edge = self.edges.of(&node.labels);
                vec![
                    (LISTENER, both(&self.listeners, &edge.listeners)),
                    (ROUTE, both(&self.routes, &edge.routes)),
                    (CLUSTER, self.clusters.clone()),
                    (ENDPOINT, self.endpoints.at(node.address, &self.carrying)),
                    (SECRET, both(self.credentials.at(node.address), &edge.secrets)),
                ]
            }
            Role::Gateway => {
                let edge = self.edges.of(&node.labels);
                vec![
                    (LISTENER, edge.listeners),
                    (ROUTE, edge.routes),
                    (CLUSTER, self.clusters.clone()),
                    (ENDPOINT, self.endpoints.at(node.address, &self.carrying)),
                    (SECRET, both(self.credentials.at(node.address), &edge.secrets)),
                ]
            }
            Role::Sidecar => {
                let client = sidecar::Client::new(node, &self.registry);
                vec![
                    (LISTENER, client.listeners(&self.listeners, self.clusters.contains_key(PASSTHROUGH))),
                    (ROUTE, client.routes(&self.routes)),
                    (CLUSTER, sidecar::clusters(&self.clusters)),
                    (ENDPOINT, self.endpoints.at(client.node(node), &self.carrying)),
                    (SECRET, self.credentials.at(client.node(node)).clone()),
                ]
            }
        };
        Snapshot { types: types.into_iter().collect() }
    }

    fn services_at(&self, node: IpAddr, modes: &Arc<Modes>) -> Resources {
        let mut differ: BTreeSet<&String> = self.endpoints.local.get(&node).into_iter().flatten().collect();
        if !Arc::ptr_eq(modes, &self.modes) {
            differ.extend(self.modes.iter().filter(|(key, mode)| modes.get(key) != Some(mode)).map(|(key, _)| &key.service));
        }
        let (nowhere, place) = (Locality::default(), self.registry.place(node));
        differ.extend(&self.endpoints.preferring);
        if differ.is_empty() {
            return self.services.clone();
        }
        let client = endpoints::Client { node: Some(node), place: place.map_or(&nowhere, |place| place) };
        let mut services = (*self.services).clone();
        for service in differ.into_iter().filter_map(|name| self.registry.services.get(name)) {
            let mut service = service.clone();
            service.ports.retain(|(number, transport), port| {
                let key = PortKey { service: service.name.clone(), port: *number };
                let mode = if *transport == Transport::Tcp { modes.get(&key).copied() } else { Some(port.mode) };
                port.mode = mode.unwrap_or(port.mode);
                mode.is_some()
            });
            services.insert(service.name.clone(), agent::service(&service, client));
        }
        Arc::new(services)
    }
}

impl<'i, 'a> Compiler<'i, 'a> {
    fn new(index: &'i Index<'a>, settings: &'i Settings, secrets: &'i credentials::Secrets) -> Self {
        Self { index, settings, used: BTreeSet::new(), secrets, scope: String::new(), gateways: false }
    }
}

impl Compiler<'_, '_> {
    /// HTTP ports with the services that have them.
    fn http_ports(&self) -> BTreeMap<u16, Vec<&Service>> {
        let mut ports: BTreeMap<u16, Vec<&Service>> = BTreeMap::new();
        for service in self.index.registry.hosts() {
            for ((number, _), _) in service.ports.iter().filter(|(_, port)| sees_requests(self.settings.abilities, port)) {
                ports.entry(*number).or_default().push(service);
            }
        }
        ports
    }

    fn listeners(&mut self) -> BTreeMap<String, Versioned> {
        let can = self.settings.abilities;
        let telling = self.telling();
        let listeners = self.http_ports().into_keys().map(|port| listener::http(port, can, &telling));
        let mut listeners: BTreeMap<_, _> = listeners.map(|listener| (listener.name.clone(), versioned(&listener))).collect();
        let index = self.index;
        for service in index.registry.services.values() {
            let is_tcp_proxy = |port: &&Port| port.mode == Mode::Proxy && !sees_requests(can, port);
            let ports = service.ports.iter().filter(|((_, transport), _)| *transport == Transport::Tcp);
            let rule = index.virtual_service(service);
            for ((number, _), port) in ports.filter(|(_, port)| is_tcp_proxy(port)) {
                let tls = matches!(port.protocol, Protocol::Tls | Protocol::Https | Protocol::Undeclared);
                let http = detects(can, port).then(|| route::of_service(&service.name, *number));
                let http = http.map(|routes| listener::detected(&routes, self.settings, &telling));
                for address in &service.addresses {
                    let dialled = tcp::Dialled { address: *address, port: *number };
                    let chains = tcp::chains(self, rule, dialled, (&service.name, tls));
                    listeners.insert(format!("{address}_{number}"), listener::tcp(dialled, chains, http.as_ref()));
                }
            }
        }
        listeners
    }

    /// What listeners tell of requests. A collector that does not exist is not named: a stock Envoy would refuse the listener.
    fn telling(&mut self) -> Telling {
        let telemetry = &self.settings.telemetry;
        let tracing = telemetry.zipkin.as_ref().and_then(|address| {
            let cluster = match address.ip() {
                Some(_) => telemetry::COLLECTOR.to_owned(),
                None => {
                    let name = telemetry::collector(address, |host| self.index.resolve(host));
                    self.index.registry.services.get(&name.host)?.tcp_port(name.port)?;
                    let text = name.to_string();
                    self.used.insert(name);
                    text
                }
            };
            Some(telemetry::tracing(telemetry.sampling, &cluster, address))
        });
        Telling { tracing, access_log: telemetry::access_log(telemetry.access_log) }
    }

    fn routes(&mut self) -> BTreeMap<String, Versioned> {
        let index = self.index;
        let other = Compiler::new(index, self.settings, self.secrets);
        let ports = other.http_ports();
        let shared = ports.iter().map(|(port, services)| route::configuration(self, *port, services)).collect::<Vec<_>>();
        let can = self.settings.abilities;
        let services = index.registry.services.values().flat_map(|service| service.ports.iter().map(move |port| (service, port)));
        let detecting = services.filter(|(_, (_, port))| port.mode == Mode::Proxy && detects(can, port));
        let own: Vec<_> = detecting.map(|(service, ((number, _), _))| route::detected(self, *number, service)).collect();
        shared.into_iter().chain(own).map(|routes| (routes.name.clone(), versioned(&routes))).collect()
    }

    /// The clusters in use that can exist, and whose endpoints they have.
    fn clusters(&self) -> (BTreeMap<ClusterName, Assigned>, BTreeMap<String, Versioned>) {
        let (mut assigned, mut clusters) = (BTreeMap::new(), BTreeMap::new());
        for name in &self.used {
            let registry = self.index.registry;
            let port = registry.host(&name.host).and_then(|service| service.tcp_port(name.port));
            let outside = !registry.services.contains_key(&name.host);
            let rule = self.index.destination_rule(&name.scope, &name.host);
            let subset = rule.and_then(|rule| rule.subsets.get(name.subset.as_str()));
            // A subset that no rule defines has no cluster: requests to it get 503, as in Istio.
            let (Some(port), true) = (port, name.subset.is_empty() || subset.is_some()) else { continue };
            clusters.insert(
                name.to_string(),
                versioned(&cluster::cluster(name, (port, outside), rule, (self.settings, self.secrets))),
            );
            if !outside && cluster::has_endpoints(name, rule, self.settings) {
                let labels = subset.map(|subset| subset.labels.clone());
                assigned.insert(name.clone(), Assigned { labels, near: cluster::near(name, port, rule, self.settings) });
            }
        }
        (assigned, clusters)
    }

    /// The name of a destination's cluster.
    fn destination(&mut self, to: &Destination, dialled: u16) -> String {
        self.target(to, dialled).to_string()
    }

    /// A destination's cluster: its port, else its service's only one, else the one that the client dialled.
    fn target(&mut self, to: &Destination, dialled: u16) -> ClusterName {
        let host = self.index.resolve(&to.host);
        let service = self.index.registry.host(&host);
        let ports: Vec<u16> =
            service.iter().flat_map(|s| s.ports.keys()).filter(|(_, t)| *t == Transport::Tcp).map(|(n, _)| *n).collect();
        let chosen = to.port.as_ref().and_then(|port| u16::try_from(port.number).ok());
        let port = chosen.unwrap_or(if let [only] = ports.as_slice() { *only } else { dialled });
        self.named(port, &to.subset, &host)
    }

    /// A cluster for those whose routes are made.
    fn named(&mut self, port: u16, subset: &str, host: &str) -> ClusterName {
        let scope = self.index.scope_of((&self.scope, self.gateways), host).to_owned();
        let name = ClusterName { port, subset: subset.to_owned(), host: host.to_owned(), scope };
        self.used.insert(name.clone());
        name
    }

    /// The same for all clients that see other policies than everybody.
    fn for_each_apart<T>(&mut self, make: impl Fn(&mut Self) -> T) -> Vec<(views::Clients, T)> {
        let index = self.index;
        let all = index.apart().map(|(scope, clients)| {
            let before = std::mem::replace(&mut self.scope, scope.to_owned());
            let made = make(self);
            self.scope = before;
            (clients.clone(), made)
        });
        all.collect()
    }
}

fn passthrough(name: &str) -> envoy::cluster::Cluster {
    use envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
    envoy::cluster::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into())),
        lb_policy: LbPolicy::ClusterProvided.into(),
        connect_timeout: Some(envoy::duration(std::time::Duration::from_secs(10))),
        ..Default::default()
    }
}

/// Two sets of resources, whose names differ.
fn both(one: &Resources, other: &Resources) -> Resources {
    if other.is_empty() {
        return one.clone();
    }
    let resources = one.iter().chain(other.iter());
    Arc::new(resources.map(|(name, resource)| (name.clone(), resource.clone())).collect())
}

/// The new value, or the old one if it is equal.
fn same<T: PartialEq>(before: &Arc<T>, now: T) -> Arc<T> {
    if **before == now { before.clone() } else { Arc::new(now) }
}

/// The new resources, in the old buffers where they are equal.
fn share(before: &Resources, mut now: BTreeMap<String, Versioned>) -> Resources {
    if **before == now {
        return before.clone();
    }
    for (name, resource) in &mut now {
        if let Some(old) = before.get(name)
            && old == resource
        {
            *resource = old.clone();
        }
    }
    Arc::new(now)
}
