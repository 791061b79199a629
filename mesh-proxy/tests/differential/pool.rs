//! The clusters that generated routes send to. Each says whether the endpoint of a request is decided by the request alone.

use super::backend::Backends;
use super::pool_special::special;
use crate::world::socket_address;
use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Duration, UInt32Value, UInt64Value};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::net::SocketAddr;

/// A cluster and what is known of it.
pub struct Pooled {
    pub message: cluster::Cluster,
    /// Which of the fields it has.
    pub fields: Vec<&'static str>,
    /// The same request goes to the same endpoint, if the route has a hash policy.
    pub hashed: bool,
    /// It has one usable endpoint, or none.
    pub single: bool,
}

/// Clusters of every kind.
pub fn pool(all_backends: &Backends, seed: u64) -> Vec<Pooled> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let backends = &all_backends.plain[..];
    let mut all: Vec<Pooled> = (0..backends.len()).map(|n| one(&format!("one-{n}"), backends[n])).collect();
    for n in 0..4 {
        all.push(Pooled { fields: vec!["no connection"], ..one(&format!("dead-{n}"), all_backends.dead) });
    }
    all.push(Pooled { fields: vec!["no endpoint"], ..built("empty", &[]) });
    for n in 0..24 {
        all.push(turns(&format!("turns-{n}"), backends, &mut rng));
        all.push(hashed(&format!("hashed-{n}"), backends, &mut rng));
        all.push(ranked(&format!("ranked-{n}"), backends, &mut rng));
    }
    all.extend(special(all_backends, &mut rng));
    all
}

fn one(name: &str, address: SocketAddr) -> Pooled {
    Pooled { single: true, ..built(name, &[(address, 1, core::HealthStatus::Unknown, 0)]) }
}

/// Equal endpoints, in turn.
pub fn hosts(name: &str, addresses: &[SocketAddr]) -> Pooled {
    let hosts: Vec<Host> = addresses.iter().map(|address| (*address, 1, core::HealthStatus::Unknown, 0)).collect();
    built(name, &hosts)
}

pub type Host = (SocketAddr, u32, core::HealthStatus, u32);

pub fn built(name: &str, hosts: &[Host]) -> Pooled {
    let priorities = hosts.iter().map(|host| host.3).max().unwrap_or_default();
    let endpoints = (0..=priorities).map(|priority| endpoint::LocalityLbEndpoints {
        priority,
        lb_endpoints: hosts.iter().filter(|host| host.3 == priority).map(lb_endpoint).collect(),
        ..Default::default()
    });
    let load =
        endpoint::ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: endpoints.collect(), ..Default::default() };
    let common = cluster::cluster::CommonLbConfig {
        healthy_panic_threshold: Some(Percent { value: 0.0 }),
        update_merge_window: Some(Duration::default()),
        ..Default::default()
    };
    let message = cluster::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(0)),
        connect_timeout: Some(Duration { seconds: 1, nanos: 0 }),
        common_lb_config: Some(common),
        circuit_breakers: Some(unlimited()),
        load_assignment: Some(load),
        ..Default::default()
    };
    Pooled { message, fields: Vec::new(), hashed: false, single: hosts.len() < 2 }
}

/// Said, since Envoy's limits are others where nothing is said, and several cases are asked at once.
fn unlimited() -> cluster::CircuitBreakers {
    let most = Some(UInt32Value { value: u32::MAX });
    let limits = cluster::circuit_breakers::Thresholds {
        max_connections: most,
        max_pending_requests: most,
        max_requests: most,
        max_retries: most,
        ..Default::default()
    };
    cluster::CircuitBreakers { thresholds: vec![limits], ..Default::default() }
}

fn lb_endpoint((address, weight, health, _): &Host) -> endpoint::LbEndpoint {
    endpoint::LbEndpoint {
        health_status: *health as i32,
        load_balancing_weight: Some(UInt32Value { value: *weight }),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
            address: socket_address(&address.ip().to_string(), address.port()),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Round robin, least request, random: which endpoint is a matter of turns and lots, but only of these endpoints.
fn turns(name: &str, backends: &[SocketAddr], rng: &mut SmallRng) -> Pooled {
    let hosts: Vec<Host> = chosen(backends, rng).into_iter().map(|a| (a, 1, core::HealthStatus::Healthy, 0)).collect();
    let mut pooled = built(name, &hosts);
    let (policy, field) = *[(0, "ROUND_ROBIN"), (1, "LEAST_REQUEST"), (3, "RANDOM")].choose(rng).expect("some");
    pooled.message.lb_policy = policy;
    pooled.fields.push(field);
    pooled
}

fn chosen(backends: &[SocketAddr], rng: &mut SmallRng) -> Vec<SocketAddr> {
    let count = rng.random_range(2..=backends.len());
    let mut hosts = backends.to_vec();
    hosts.truncate(count);
    hosts
}

fn hashed(name: &str, backends: &[SocketAddr], rng: &mut SmallRng) -> Pooled {
    use cluster::cluster::{LbConfig, MaglevLbConfig, RingHashLbConfig};
    let weighted = rng.random_bool(0.3);
    let with_weight = |a: SocketAddr| (a, if weighted { u32::from(a.port() % 3) + 1 } else { 1 }, core::HealthStatus::Healthy, 0);
    let mut hosts: Vec<Host> = chosen(backends, rng).into_iter().map(with_weight).collect();
    let sick = rng.random_bool(0.3);
    if sick {
        hosts[0].2 = core::HealthStatus::Unhealthy;
    }
    let mut pooled = built(name, &hosts);
    if rng.random_bool(0.5) {
        pooled.message.lb_policy = 2;
        let minimum_ring_size = rng.random_bool(0.5).then(|| UInt64Value { value: *[64, 1024, 2048].choose(rng).expect("some") });
        pooled.message.lb_config = Some(LbConfig::RingHashLbConfig(RingHashLbConfig { minimum_ring_size, ..Default::default() }));
        pooled.fields.push("ring hash");
    } else {
        pooled.message.lb_policy = 5;
        let table_size = rng.random_bool(0.5).then(|| UInt64Value { value: *[1009, 65537].choose(rng).expect("some") });
        pooled.message.lb_config = Some(LbConfig::MaglevLbConfig(MaglevLbConfig { table_size }));
        pooled.fields.push("maglev");
    }
    if weighted {
        pooled.fields.push("endpoint weight");
    }
    if sick {
        pooled.fields.push("unhealthy endpoint");
    }
    pooled.hashed = true;
    pooled.single = hosts.len() - usize::from(sick) < 2;
    pooled
}

/// Priorities: the first one that is healthy takes everything.
fn ranked(name: &str, backends: &[SocketAddr], rng: &mut SmallRng) -> Pooled {
    use core::HealthStatus::{Degraded, Draining, Healthy, Timeout, Unhealthy};
    let sick = *[Unhealthy, Draining, Timeout].choose(rng).expect("some");
    let first = *[sick, Healthy].choose(rng).expect("some");
    let second = *[Healthy, Degraded].choose(rng).expect("some");
    let at = rng.random_range(0..backends.len() - 1);
    let hosts = [(backends[at], 1, first, 0), (backends[at + 1], 1, second, 1)];
    let mut pooled = built(name, &hosts);
    pooled.fields = vec!["locality failover"];
    pooled.single = true;
    pooled
}
