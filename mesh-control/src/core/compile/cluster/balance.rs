//! How a cluster chooses among its endpoints.

use super::DefaultLb;
use crate::core::compile::Abilities;
use crate::core::compile::envoy::{UInt64Value, cluster, core, duration, percentage};
use crate::istio::destination_rule::{ConsistentHashLb, LoadBalancerSettings, SimpleLb};
use cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy, SlowStartConfig};

/// Envoy's default size of a ring, which Istio says aloud.
const RING_SIZE: u64 = 1024;

/// Sets the policy and its configuration.
pub(super) fn apply(to: &mut cluster::Cluster, settings: Option<&LoadBalancerSettings>, default: DefaultLb, can: Abilities) {
    if let Some(hash) = settings.and_then(|settings| settings.consistent_hash.as_ref()).filter(|_| can.hash) {
        return consistent(to, hash);
    }
    let policy = match settings.and_then(|settings| settings.simple) {
        Some(SimpleLb::RoundRobin) => LbPolicy::RoundRobin,
        Some(SimpleLb::Random) => LbPolicy::Random,
        Some(SimpleLb::LeastConn | SimpleLb::LeastRequest) => LbPolicy::LeastRequest,
        Some(SimpleLb::Passthrough) if can.original_dst => return original(to),
        None | Some(SimpleLb::Unspecified | SimpleLb::Passthrough) => default.policy(),
    };
    to.lb_policy = policy.into();
    let slow_start_config = settings.filter(|_| can.warmup).and_then(warmup);
    if slow_start_config.is_none() {
        return;
    }
    to.lb_config = match policy {
        LbPolicy::RoundRobin => Some(LbConfig::RoundRobinLbConfig(cluster::cluster::RoundRobinLbConfig { slow_start_config })),
        LbPolicy::LeastRequest => {
            let config = cluster::cluster::LeastRequestLbConfig { slow_start_config, ..Default::default() };
            Some(LbConfig::LeastRequestLbConfig(config))
        }
        // Without weights nothing can begin slowly.
        _ => None,
    };
}

/// On to where the client was going: behind a VIP that is the kernel's choice.
pub(super) fn original(to: &mut cluster::Cluster) {
    to.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::OriginalDst.into()));
    to.eds_cluster_config = None;
    to.lb_policy = LbPolicy::ClusterProvided.into();
}

/// Does it need no endpoints?
pub(super) fn is_original(settings: Option<&LoadBalancerSettings>, can: Abilities) -> bool {
    can.original_dst && settings.is_some_and(|settings| settings.simple == Some(SimpleLb::Passthrough))
}

fn consistent(to: &mut cluster::Cluster, hash: &ConsistentHashLb) {
    if let Some(maglev) = &hash.maglev {
        to.lb_policy = LbPolicy::Maglev.into();
        let table_size = Some(UInt64Value { value: maglev.table_size });
        to.lb_config = Some(LbConfig::MaglevLbConfig(cluster::cluster::MaglevLbConfig { table_size }));
        return;
    }
    let asked = hash.ring_hash.as_ref().map_or(hash.minimum_ring_size, |ring| ring.minimum_ring_size);
    let value = if asked == 0 { RING_SIZE } else { asked };
    let ring = cluster::cluster::RingHashLbConfig { minimum_ring_size: Some(UInt64Value { value }), ..Default::default() };
    to.lb_policy = LbPolicy::RingHash.into();
    to.lb_config = Some(LbConfig::RingHashLbConfig(ring));
}

fn warmup(settings: &LoadBalancerSettings) -> Option<SlowStartConfig> {
    let new = settings.warmup.as_ref();
    let window = new.and_then(|warmup| warmup.duration).or(settings.warmup_duration_secs)?;
    let aggression = new.and_then(|warmup| warmup.aggression).map(|value| core::RuntimeDouble {
        default_value: value,
        // Envoy wants a name, under which nobody overrides it.
        runtime_key: "mesh.warmup.aggression".to_owned(),
    });
    Some(SlowStartConfig {
        slow_start_window: Some(duration(window)),
        aggression,
        min_weight_percent: new.and_then(|warmup| warmup.minimum_percent).map(percentage),
    })
}
