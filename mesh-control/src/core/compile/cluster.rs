//! Clusters, their endpoints, and the policy that a DestinationRule gives them.

use super::envoy::{self, cluster, core, duration, endpoint, uint, upstreams};
use super::index::Merged;
use super::{Abilities, Settings};
use crate::core::registry::{Endpoint, Health, Port, Protocol};
use crate::istio::destination_rule::{SimpleLb, TrafficPolicy};
use clap::ValueEnum;
use mesh_xds::names::ClusterName;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

/// Istio's default; a DestinationRule may say otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Balancing where no DestinationRule chooses.
///
/// Today's Istio defaults to `LEAST_REQUEST`. Istio 1.0, for which the walkthroughs of Istio on Mesos were written, took turns, and users
/// see that (v1, v2, v3, v1, ...); so taking turns is the default here.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum DefaultLb {
    /// Take turns
    #[default]
    RoundRobin,
    /// The less busy of two random endpoints
    LeastRequest,
    /// Any endpoint
    Random,
}

impl DefaultLb {
    const fn policy(self) -> cluster::cluster::LbPolicy {
        match self {
            Self::RoundRobin => cluster::cluster::LbPolicy::RoundRobin,
            Self::LeastRequest => cluster::cluster::LbPolicy::LeastRequest,
            Self::Random => cluster::cluster::LbPolicy::Random,
        }
    }
}

/// The cluster of a port, or of a subset of it.
pub(super) fn cluster(name: &ClusterName, port: &Port, rule: Option<&Merged<'_>>, settings: &Settings) -> cluster::Cluster {
    let subset = rule.and_then(|rule| rule.subsets.get(name.subset.as_str()));
    let policies = [subset.and_then(|subset| subset.traffic_policy.as_ref()), rule.and_then(|rule| rule.policy)];
    let eds = cluster::cluster::EdsClusterConfig { eds_config: Some(envoy::ads()), service_name: name.to_string() };
    cluster::Cluster {
        name: name.to_string(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(cluster::cluster::DiscoveryType::Eds.into())),
        eds_cluster_config: Some(eds),
        connect_timeout: Some(duration(connect_timeout(&policies))),
        lb_policy: lb_policy(&policies, settings.default_lb).into(),
        circuit_breakers: Some(unlimited()),
        typed_extension_protocol_options: upstream_protocol(port.protocol, settings.abilities),
        ..Default::default()
    }
}

/// The subset's block wins over the host's, block by block.
fn lb_policy(policies: &[Option<&TrafficPolicy>], default: DefaultLb) -> cluster::cluster::LbPolicy {
    let settings = policies.iter().flatten().find_map(|policy| policy.load_balancer.as_ref());
    match settings.and_then(|settings| settings.simple) {
        Some(SimpleLb::RoundRobin) => cluster::cluster::LbPolicy::RoundRobin,
        Some(SimpleLb::Random) => cluster::cluster::LbPolicy::Random,
        Some(SimpleLb::LeastConn | SimpleLb::LeastRequest) => cluster::cluster::LbPolicy::LeastRequest,
        None | Some(SimpleLb::Unspecified | SimpleLb::Passthrough) => default.policy(),
    }
}

fn connect_timeout(policies: &[Option<&TrafficPolicy>]) -> Duration {
    let pool = policies.iter().flatten().find_map(|policy| policy.connection_pool.as_ref());
    pool.and_then(|pool| pool.tcp.as_ref()).and_then(|tcp| tcp.connect_timeout).unwrap_or(CONNECT_TIMEOUT)
}

/// Istio's thresholds; Envoy's own (1,024 and 3 retries) would be limits that nobody asked for.
fn unlimited() -> cluster::CircuitBreakers {
    let thresholds = cluster::circuit_breakers::Thresholds {
        max_connections: uint(u32::MAX),
        max_pending_requests: uint(u32::MAX),
        max_requests: uint(u32::MAX),
        max_retries: uint(u32::MAX),
        ..Default::default()
    };
    cluster::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() }
}

/// HTTP/2 is spoken to ports that are declared so; without ALPN nothing else could tell.
fn upstream_protocol(protocol: Protocol, abilities: Abilities) -> HashMap<String, envoy_types::pb::google::protobuf::Any> {
    use upstreams::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig};
    if !abilities.http2 || !matches!(protocol, Protocol::Http2 | Protocol::Grpc) {
        return HashMap::new();
    }
    let explicit =
        ExplicitHttpConfig { protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default())) };
    let options = upstreams::HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    };
    HashMap::from([("envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(), envoy::pack_any(options))])
}

/// The endpoints of a port as a node dials them, those of a subset only if there is one.
pub(super) fn assignment(
    name: &ClusterName,
    port: &Port,
    labels: Option<&BTreeMap<String, String>>,
    node: Option<IpAddr>,
) -> endpoint::ClusterLoadAssignment {
    let chosen = port.endpoints.iter().filter(|endpoint| labels.is_none_or(|labels| has_labels(endpoint, labels)));
    let lb_endpoints: Vec<_> = chosen.filter_map(|endpoint| lb_endpoint(port, endpoint, node)).collect();
    let locality = endpoint::LocalityLbEndpoints { lb_endpoints, load_balancing_weight: uint(1), ..Default::default() };
    let endpoints = if locality.lb_endpoints.is_empty() { Vec::new() } else { vec![locality] };
    endpoint::ClusterLoadAssignment { cluster_name: name.to_string(), endpoints, ..Default::default() }
}

fn has_labels(endpoint: &Endpoint, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value))
}

/// A weight of 0 is not a weight in Envoy: the health status says it.
fn lb_endpoint(port: &Port, endpoint: &Endpoint, node: Option<IpAddr>) -> Option<endpoint::LbEndpoint> {
    let address = endpoint.seen_from(node)?;
    let status = match (port.weight(endpoint), endpoint.health) {
        (0, Health::Draining) => core::HealthStatus::Draining,
        (0, _) => core::HealthStatus::Unhealthy,
        _ => core::HealthStatus::Healthy,
    };
    let dialled = endpoint::Endpoint { address: Some(envoy::socket_address(address.ip(), address.port())), ..Default::default() };
    Some(endpoint::LbEndpoint {
        health_status: status.into(),
        load_balancing_weight: uint(port.weight(endpoint).max(1)),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(dialled)),
        ..Default::default()
    })
}
