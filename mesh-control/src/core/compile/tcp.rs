//! What a TCP connection to a VIP becomes: the destinations of the first route that holds for it.
//!
//! A listener stands for one address and one port, so port and destination subnets are settled here.

use super::Compiler;
use super::envoy::{pack_any, tcp_proxy};
use super::mode::in_mesh;
use crate::istio::virtual_service::{L4MatchAttributes, RouteDestination, VirtualService};
use envoy_types::pb::google::protobuf::Any;
use mesh_xds::names::ClusterName;
use std::net::IpAddr;
use tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight};

/// Envoy's name of the filter.
pub(super) const FILTER: &str = "envoy.filters.network.tcp_proxy";

/// Where a connection was going.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialled {
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

/// The filter for a port of a service: by the first TCP route that holds, else to the service itself.
pub(super) fn filter(c: &mut Compiler<'_, '_>, rule: Option<&VirtualService>, to: Dialled, service: &str) -> Any {
    let route = rule.and_then(|rule| rule.tcp.iter().find(|route| holds(&route.r#match, to)));
    if let Some(route) = route {
        return forward(c, &route.route, to.port);
    }
    let name = ClusterName { port: to.port, subset: String::new(), host: service.to_owned() };
    let cluster = name.to_string();
    c.used.insert(name);
    proxy(cluster.clone(), ClusterSpecifier::Cluster(cluster))
}

/// The filter for the destinations of a route; `port` is where a destination without a port goes.
pub(super) fn forward(c: &mut Compiler<'_, '_>, route: &[RouteDestination], port: u16) -> Any {
    let live: Vec<_> = route.iter().filter(|to| route.len() == 1 || to.weight > 0).collect();
    if let [only] = live.as_slice() {
        let cluster = c.destination(&only.destination, port);
        return proxy(cluster.clone(), ClusterSpecifier::Cluster(cluster));
    }
    let clusters: Vec<_> = live
        .iter()
        .map(|to| ClusterWeight {
            name: c.destination(&to.destination, port),
            // Envoy's weight here is no wrapper, and admission has seen that none is negative.
            weight: u32::try_from(to.weight).unwrap_or_default(),
            ..Default::default()
        })
        .collect();
    let prefix = clusters.first().map(|first| first.name.clone()).unwrap_or_default();
    proxy(prefix, ClusterSpecifier::WeightedClusters(WeightedCluster { clusters }))
}

fn proxy(stat_prefix: String, cluster: ClusterSpecifier) -> Any {
    pack_any(tcp_proxy::TcpProxy { stat_prefix, cluster_specifier: Some(cluster), ..Default::default() })
}

/// Does one of the blocks hold? None at all means: always.
fn holds(blocks: &[L4MatchAttributes], to: Dialled) -> bool {
    blocks.is_empty() || blocks.iter().any(|block| of_mesh(block, to))
}

fn of_mesh(block: &L4MatchAttributes, to: Dialled) -> bool {
    let sources = block.source_labels.is_empty() && block.source_namespace.is_empty();
    in_mesh(&block.gateways)
        && (block.port == 0 || block.port == u32::from(to.port))
        && among(&block.destination_subnets, to.address)
        // As with requests: a block that names gateways is not bound to sources.
        && (sources || !block.gateways.is_empty())
}

/// Is the address in one of the networks? None at all means: any address.
pub(super) fn among(networks: &[String], address: IpAddr) -> bool {
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
