//! What a TCP connection becomes: the destinations of the first route that holds for it.
//!
//! A listener of the mesh stands for one address and one port, one of a gateway for a port, so port and destination subnets are settled
//! here. Server names, and who asks, are conditions of filter chains.

use super::Compiler;
use super::entrance::gateway;
use super::envoy::{Any, HashPolicy, duration, hash_policy, listener, pack_any, tcp_proxy};
use super::mode::in_mesh;
use super::policy;
use super::views::{Clients, shadows};
use crate::istio::Resource;
use crate::istio::virtual_service::{L4MatchAttributes, RouteDestination, TlsMatchAttributes, VirtualService};
use mesh_xds::names::ClusterName;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight};

/// Envoy's name of the filter.
pub(super) const FILTER: &str = "envoy.filters.network.tcp_proxy";

/// Where a pod's connection was going.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialled {
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// Where connections come in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'p> {
    /// At an address of a service.
    Mesh(Dialled),
    /// At a port of the gateway with this full name, at proxies with these labels.
    Gateway { name: &'p str, labels: &'p BTreeMap<String, String>, port: u16 },
}

/// Who must ask, as far as that is open: one proxy serves all pods of a node. Empty: anybody.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Source {
    pub(super) labels: BTreeMap<String, String>,
    pub(super) namespace: String,
}

impl Source {
    /// The part of these sources that some clients are; `None` if none of them is.
    fn of(&self, clients: &Clients) -> Option<Self> {
        let elsewhere = !self.namespace.is_empty() && self.namespace != clients.namespace;
        let others = clients.labels.iter().any(|(key, value)| self.labels.get(key).is_some_and(|own| own != value));
        let labels = self.labels.iter().chain(&clients.labels).map(|(key, value)| (key.clone(), value.clone()));
        (!elsewhere && !others).then(|| Self { labels: labels.collect(), namespace: clients.namespace.clone() })
    }
}

/// A way of serving connections to an address of a service.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    /// Server names; empty: any, also none.
    pub(super) names: BTreeSet<String>,
    pub(super) source: Source,
    pub(super) filter: Any,
}

/// The chains of a port of a service, what is asked first first, with those of clients that see other DestinationRules before everybody's.
pub(super) fn chains(
    c: &mut Compiler<'_, '_>,
    rule: Option<&Resource<VirtualService>>,
    to: Dialled,
    of: (&str, bool),
) -> Vec<Chain> {
    let usual = of_everybody(c, rule, to, of);
    if !c.settings.abilities.filter_chains {
        return usual;
    }
    let others = c.for_each_apart(|c| of_everybody(c, rule, to, of));
    let mut chains: Vec<Chain> = Vec::new();
    for (i, chain) in usual.into_iter().enumerate() {
        for (clients, theirs) in &others {
            let Some(filter) = theirs.get(i).map(|chain| chain.filter.clone()) else { continue };
            let source = chain.source.of(clients).filter(|_| filter != chain.filter || shadows(&others, clients));
            chains.extend(source.map(|source| Chain { source, filter, ..chain.clone() }));
        }
        if !chains.iter().any(|other| other.names == chain.names && other.source == chain.source) {
            chains.push(chain);
        }
    }
    chains
}

/// By TLS routes if TLS is spoken, by TCP routes, else to the service itself.
fn of_everybody(
    c: &mut Compiler<'_, '_>,
    rule: Option<&Resource<VirtualService>>,
    to: Dialled,
    (service, tls): (&str, bool),
) -> Vec<Chain> {
    let mut chains = Chains { by_chain: c.settings.abilities.filter_chains, ..Default::default() };
    if let Some(rule) = rule {
        let (place, namespace) = (Place::Mesh(to), rule.meta.namespace.as_str());
        for route in rule.spec.tls.iter().filter(|_| tls) {
            for block in &route.r#match {
                let names: BTreeSet<_> = block.sni_hosts.iter().map(|name| name.to_ascii_lowercase()).collect();
                if let Some(source) = place.source(&Block::of_tls(block), namespace) {
                    chains.add(c, names, source, (&route.route, to.port));
                }
            }
        }
        for route in &rule.spec.tcp {
            let always = route.r#match.is_empty().then(Source::default);
            let sources = route.r#match.iter().filter_map(|block| place.source(&Block::of(block), namespace));
            for source in always.into_iter().chain(sources) {
                chains.add(c, BTreeSet::new(), source, (&route.route, to.port));
            }
        }
    }
    if !chains.all_taken {
        let name = c.named(to.port, "", service);
        let filter = proxy(c, std::slice::from_ref(&name), ClusterSpecifier::Cluster(name.to_string()));
        chains.list.push(Chain { names: BTreeSet::new(), source: Source::default(), filter });
    }
    chains.list
}

/// Chains in the making.
#[derive(Default)]
struct Chains {
    list: Vec<Chain>,
    /// The proxy chooses among chains.
    by_chain: bool,
    /// Nothing is left for a chain behind the last.
    all_taken: bool,
}

impl Chains {
    /// The first of two chains with the same conditions has them.
    fn add(
        &mut self,
        c: &mut Compiler<'_, '_>,
        names: BTreeSet<String>,
        source: Source,
        (route, port): (&[RouteDestination], u16),
    ) {
        let conditional = !names.is_empty() || source != Source::default();
        let same = |chain: &Chain| chain.names == names && chain.source == source;
        if self.all_taken || (conditional && !self.by_chain) || self.list.iter().any(same) {
            return;
        }
        self.all_taken = !conditional;
        self.list.push(Chain { names, source, filter: forward(c, route, port) });
    }
}

/// What TCP and TLS blocks have in common.
struct Block<'b> {
    subnets: &'b [String],
    port: u32,
    labels: &'b BTreeMap<String, String>,
    namespace: &'b str,
    gateways: &'b [String],
}

impl<'b> Block<'b> {
    fn of(block: &'b L4MatchAttributes) -> Self {
        let L4MatchAttributes { destination_subnets, port, source_labels, gateways, source_namespace, .. } = block;
        Self { subnets: destination_subnets, port: *port, labels: source_labels, namespace: source_namespace, gateways }
    }

    fn of_tls(block: &'b TlsMatchAttributes) -> Self {
        let TlsMatchAttributes { destination_subnets, port, source_labels, gateways, source_namespace, .. } = block;
        Self { subnets: destination_subnets, port: *port, labels: source_labels, namespace: source_namespace, gateways }
    }
}

impl Place<'_> {
    /// Do connections that come in here have a block that holds? None at all means: always.
    pub(super) fn takes(&self, blocks: &[L4MatchAttributes], namespace: &str) -> bool {
        blocks.is_empty() || blocks.iter().any(|block| self.source(&Block::of(block), namespace).is_some())
    }

    /// The same for a block of a TLS route.
    pub(super) fn takes_tls(&self, block: &TlsMatchAttributes, namespace: &str) -> bool {
        self.source(&Block::of_tls(block), namespace).is_some()
    }

    /// The condition on who asks that is left of a block of a rule in `namespace`; `None` if the block cannot hold here.
    fn source(&self, block: &Block<'_>, namespace: &str) -> Option<Source> {
        let (port, here, at) = match self {
            Place::Mesh(to) => (to.port, in_mesh(block.gateways), among(block.subnets, to.address)),
            Place::Gateway { name, port, .. } => {
                let named = block.gateways.iter().any(|other| gateway(other, namespace) == *name);
                // Which address of its node a client dialled is not known to a gateway.
                (*port, block.gateways.is_empty() || named, block.subnets.is_empty())
            }
        };
        if !here || !at || (block.port != 0 && block.port != u32::from(port)) {
            return None;
        }
        // As with requests: a block that names gateways is not bound to sources.
        if !block.gateways.is_empty() {
            return Some(Source::default());
        }
        match self {
            Place::Mesh(_) => Some(Source { labels: block.labels.clone(), namespace: block.namespace.to_owned() }),
            Place::Gateway { labels, .. } => {
                let holds = block.labels.iter().all(|(key, value)| labels.get(key) == Some(value));
                (holds && block.namespace.is_empty()).then(Source::default)
            }
        }
    }
}

/// The match of a chain for some server names; `*` among them is any, also none.
pub(super) fn server_names(names: &BTreeSet<String>) -> listener::FilterChainMatch {
    let any = names.contains("*");
    listener::FilterChainMatch {
        server_names: if any { Vec::new() } else { names.iter().cloned().collect() },
        ..Default::default()
    }
}

/// The filter for the destinations of a route; `port` is where a destination without a port goes.
pub(super) fn forward(c: &mut Compiler<'_, '_>, route: &[RouteDestination], port: u16) -> Any {
    let live: Vec<_> = route.iter().filter(|to| route.len() == 1 || to.weight > 0).collect();
    let names: Vec<_> = live.iter().map(|to| c.target(&to.destination, port)).collect();
    if let [only] = names.as_slice() {
        return proxy(c, &names, ClusterSpecifier::Cluster(only.to_string()));
    }
    let clusters: Vec<_> = live
        .iter()
        .zip(&names)
        .map(|(to, name)| ClusterWeight {
            name: name.to_string(),
            // Envoy's weight here is no wrapper, and admission has seen that none is negative.
            weight: u32::try_from(to.weight).unwrap_or_default(),
            ..Default::default()
        })
        .collect();
    proxy(c, &names, ClusterSpecifier::WeightedClusters(WeightedCluster { clusters }))
}

/// Time limits and hashing are of the connection, before anybody knows where it goes: of several destinations the first that has a policy
/// for it speaks.
fn proxy(c: &Compiler<'_, '_>, names: &[ClusterName], cluster: ClusterSpecifier) -> Any {
    let policies =
        || names.iter().map(|name| policy::effective(c.index.destination_rule(&name.scope, &name.host), &name.subset, name.port));
    let tcp = || policies().filter_map(|policy| policy.connection_pool?.tcp.as_ref());
    let can = c.settings.abilities;
    let by_source = policies().any(|policy| {
        let hash = policy.load_balancer.and_then(|balancer| balancer.consistent_hash.as_ref());
        can.hash && hash.is_some_and(|hash| hash.use_source_ip == Some(true))
    });
    let source = hash_policy::PolicySpecifier::SourceIp(hash_policy::SourceIp {});
    pack_any(tcp_proxy::TcpProxy {
        stat_prefix: names.first().map(ToString::to_string).unwrap_or_default(),
        cluster_specifier: Some(cluster),
        idle_timeout: tcp().find_map(|tcp| tcp.idle_timeout).map(duration),
        max_downstream_connection_duration: tcp().find_map(|tcp| tcp.max_connection_duration).filter(|_| can.pool).map(duration),
        hash_policy: by_source.then_some(HashPolicy { policy_specifier: Some(source) }).into_iter().collect(),
        ..Default::default()
    })
}

/// Is the address in one of the networks? None at all means: any address.
fn among(networks: &[String], address: IpAddr) -> bool {
    networks.is_empty() || networks.iter().any(|network| contains(network, address))
}

fn contains(network: &str, address: IpAddr) -> bool {
    let (base, length) = network.split_once('/').map_or((network, None), |(base, length)| (base, Some(length)));
    let (Ok(base), length) = (base.parse::<IpAddr>(), length.map(str::parse::<u32>)) else { return false };
    let (base, address, bits) = match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => (u128::from(u32::from(base)), u128::from(u32::from(address)), 32),
        (IpAddr::V6(base), IpAddr::V6(address)) => (u128::from(base), u128::from(address), 128),
        _ => return false,
    };
    // Admission lets no longer prefix pass.
    let length = length.and_then(Result::ok).unwrap_or(bits).min(bits);
    let shift = bits - length;
    base.checked_shr(shift).unwrap_or(0) == address.checked_shr(shift).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        for (network, address, inside) in [
            ("11.0.0.0/8", "11.15.94.83", true),
            ("11.0.0.0/8", "12.0.0.1", false),
            ("11.15.94.83", "11.15.94.83", true),
            ("11.15.94.83", "11.15.94.84", false),
            ("0.0.0.0/0", "9.9.9.9", true),
            ("::/0", "fd01::1", true),
            ("::/0", "9.9.9.9", false),
            ("fd01:c::/32", "fd01:c::1", true),
        ] {
            assert_eq!(contains(network, address.parse().expect("address")), inside, "{network} {address}");
        }
        assert!(among(&[], "9.9.9.9".parse().expect("address")));
    }
}
