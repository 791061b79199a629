//! Clusters with the policy that DestinationRules give them, and their endpoints.

mod balance;
mod outlier;
mod pool;
mod tls;

use super::envoy::{self, cluster, core, endpoint, percentage, uint};
use super::index::Merged;
use super::{Settings, policy};
use crate::core::registry::{Endpoint, Health, Port};
use clap::ValueEnum;
use mesh_xds::names::ClusterName;
use std::collections::BTreeMap;
use std::net::IpAddr;

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
    let (policy, can) = (policy::effective(rule, &name.subset, name.port), settings.abilities);
    let eds = cluster::cluster::EdsClusterConfig { eds_config: Some(envoy::ads()), service_name: name.to_string() };
    let mut found = cluster::Cluster {
        name: name.to_string(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(cluster::cluster::DiscoveryType::Eds.into())),
        eds_cluster_config: Some(eds),
        ..Default::default()
    };
    pool::apply(&mut found, &policy, port.protocol, can);
    balance::apply(&mut found, policy.load_balancer, settings.default_lb, can);
    let outliers = policy.outlier_detection.filter(|_| can.outlier);
    found.outlier_detection = outliers.map(outlier::detection);
    // Endpoints that Marathon knows to be unhealthy are listed, so below Envoy's threshold of 50 % it would ask them too.
    let least = outliers.map_or(0, |rule| rule.min_health_percent);
    let common =
        cluster::cluster::CommonLbConfig { healthy_panic_threshold: Some(percentage(least.into())), ..Default::default() };
    found.common_lb_config = Some(common);
    if let Some(rule) = policy.tls.filter(|_| can.upstream_tls) {
        let http = policy.connection_pool.and_then(|pool| pool.http.as_ref());
        found.transport_socket = tls::socket(rule, pool::speaks_http2(http, port.protocol, can), &settings.system_ca);
    }
    found
}

/// Are there endpoints to tell of?
pub(super) fn has_endpoints(name: &ClusterName, rule: Option<&Merged<'_>>, settings: &Settings) -> bool {
    let policy = policy::effective(rule, &name.subset, name.port);
    !balance::is_original(policy.load_balancer, settings.abilities)
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
