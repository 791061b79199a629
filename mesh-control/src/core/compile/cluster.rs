//! Clusters with the policy that DestinationRules give them.

mod balance;
mod locality;
mod outlier;
mod pool;
mod tls;

pub(super) use locality::Preference;

use super::credentials::{self, Secrets};
use super::envoy::{self, cluster, percentage};
use super::views::Merged;
use super::{Settings, policy};
use crate::core::registry::Port;
use clap::ValueEnum;
use mesh_xds::names::ClusterName;

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

/// The cluster of a port, or of a subset of it; of a host outside it goes where the client was going.
pub(super) fn cluster(
    name: &ClusterName,
    (port, outside): (&Port, bool),
    rule: Option<&Merged<'_>>,
    (settings, secrets): (&Settings, &Secrets),
) -> cluster::Cluster {
    use cluster::cluster::CommonLbConfig;
    use cluster::cluster::common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig};
    let (policy, can) = (credentials::policy(rule, name), settings.abilities);
    let eds = cluster::cluster::EdsClusterConfig { eds_config: Some(envoy::ads()), service_name: name.to_string() };
    let mut found = cluster::Cluster {
        name: name.to_string(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(cluster::cluster::DiscoveryType::Eds.into())),
        eds_cluster_config: Some(eds),
        ..Default::default()
    };
    pool::apply(&mut found, &policy, port.protocol, can);
    if outside {
        balance::original(&mut found);
    } else {
        balance::apply(&mut found, policy.load_balancer, settings.default_lb, can);
    }
    let outliers = policy.outlier_detection.filter(|_| can.outlier);
    found.outlier_detection = outliers.map(outlier::detection);
    // Endpoints that Marathon knows to be unhealthy are listed, so below Envoy's threshold of 50 % it would ask them too.
    let least = outliers.map_or(0, |rule| rule.min_health_percent);
    let weighs = near(name, port, rule, settings).is_some_and(|preference| preference.weighs());
    found.common_lb_config = Some(CommonLbConfig {
        healthy_panic_threshold: Some(percentage(least.into())),
        locality_config_specifier: weighs
            .then(|| LocalityConfigSpecifier::LocalityWeightedLbConfig(LocalityWeightedLbConfig::default())),
        ..Default::default()
    });
    let merged = rule;
    if let Some(rule) = policy.tls.filter(|_| can.upstream_tls) {
        let http = policy.connection_pool.and_then(|pool| pool.http.as_ref());
        let named = merged.and_then(|merged| credentials::named(rule, merged.home?, secrets));
        found.transport_socket = tls::socket(rule, named, pool::speaks_http2(http, port.protocol, can), &settings.system_ca);
    }
    found
}

/// Are there endpoints to tell of?
pub(super) fn has_endpoints(name: &ClusterName, rule: Option<&Merged<'_>>, settings: &Settings) -> bool {
    let policy = policy::effective(rule, &name.subset, name.port);
    !balance::is_original(policy.load_balancer, settings.abilities)
}

/// Are some of its endpoints to be preferred by where they are?
pub(super) fn near(name: &ClusterName, port: &Port, rule: Option<&Merged<'_>>, settings: &Settings) -> Option<Preference> {
    let policy = policy::effective(rule, &name.subset, name.port);
    locality::preference(&policy, port.near, settings.localities.as_ref()).filter(|_| settings.abilities.localities)
}
