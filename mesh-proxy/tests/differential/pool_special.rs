//! Clusters that say something about connections, TLS, localities, or panic; of each kind several, so that many cases meet it.

use super::backend::Backends;
use super::certificates;
use super::fields::{millis, number};
use super::pool::{Pooled, built, hosts};
use crate::world::any;
use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options as options;
use envoy_types::pb::envoy::r#type::v3::Percent;
use options::explicit_http_config::ProtocolConfig;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

const EACH: usize = 6;

pub fn special(backends: &Backends, rng: &mut SmallRng) -> Vec<Pooled> {
    let mut all = Vec::new();
    for n in 0..EACH {
        let plain = backends.plain[n % backends.plain.len()];
        all.push(brief(n, backends));
        all.push(kept(&format!("kept-{n}"), plain, rng));
        all.push(distributed(&format!("distributed-{n}"), backends, rng));
        all.push(warming(&format!("warming-{n}"), backends, rng));
        all.push(panicking(&format!("panicking-{n}"), plain, rng));
        for (kind, address, socket, field) in [
            ("plain", plain, certificates::plain(), "TLS DISABLE"),
            ("simple", backends.simple, backends.certificates.client(false), "TLS SIMPLE"),
            ("mutual", backends.mutual, backends.certificates.client(true), "TLS MUTUAL"),
        ] {
            let mut pooled = hosts(&format!("{kind}-{n}"), &[address]);
            pooled.message.transport_socket = Some(socket);
            pooled.fields.push(field);
            all.push(pooled);
        }
    }
    all
}

fn with_options(pooled: &mut Pooled, common: core::HttpProtocolOptions) {
    let http1 = Some(ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default()));
    let explicit = options::ExplicitHttpConfig { protocol_config: http1 };
    let all = HttpProtocolOptions {
        common_http_protocol_options: Some(common),
        upstream_protocol_options: Some(options::UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    };
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    pooled.message.typed_extension_protocol_options.insert(name.to_owned(), any(&all));
}

/// A connection carries one request; of its backend the test compares how many came over each.
fn brief(n: usize, backends: &Backends) -> Pooled {
    let mut pooled = hosts(&format!("brief-{n}"), &[backends.brief]);
    with_options(&mut pooled, core::HttpProtocolOptions { max_requests_per_connection: number(1), ..Default::default() });
    pooled.fields.push("maxRequestsPerConnection");
    pooled
}

/// Times that do not run out here: that they do not disturb is what is seen.
fn kept(name: &str, address: std::net::SocketAddr, rng: &mut SmallRng) -> Pooled {
    let mut pooled = hosts(name, &[address]);
    let idle_timeout = millis(*[60_000, 3_600_000].choose(rng).expect("some"));
    let max_connection_duration = millis(600_000);
    with_options(&mut pooled, core::HttpProtocolOptions { idle_timeout, max_connection_duration, ..Default::default() });
    pooled.message.connect_timeout = millis(*[3000, 30_000].choose(rng).expect("some"));
    let keepalive = core::TcpKeepalive {
        keepalive_probes: number(3),
        keepalive_time: number(rng.random_range(10..100)),
        keepalive_interval: number(10),
    };
    let keepalive = cluster::UpstreamConnectionOptions { tcp_keepalive: Some(keepalive), ..Default::default() };
    pooled.message.upstream_connection_options = Some(keepalive);
    pooled.fields = vec!["idleTimeout", "maxConnectionDuration", "connectTimeout", "tcpKeepalive"];
    pooled
}

/// All weight on one locality: shares are shown by the statistical tests.
fn distributed(name: &str, backends: &Backends, rng: &mut SmallRng) -> Pooled {
    let taking = rng.random_range(0..3);
    let mut pooled = built(name, &[]);
    pooled.message.common_lb_config.get_or_insert_default().locality_config_specifier =
        Some(cluster::cluster::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(Default::default()));
    let locality = |zone: usize| {
        let mut one = hosts(name, &backends.plain[zone..=zone]).message.load_assignment.expect("built so").endpoints.remove(0);
        one.locality = Some(core::Locality { region: "r".to_owned(), zone: zone.to_string(), ..Default::default() });
        one.load_balancing_weight = (zone == taking).then(|| number(100)).flatten();
        one
    };
    pooled.message.load_assignment.get_or_insert_default().endpoints = (0..3).map(locality).collect();
    pooled.fields = vec!["locality distribute"];
    pooled.single = true;
    pooled
}

/// Which endpoint is a matter of turns and weights that grow: see the statistical tests.
fn warming(name: &str, backends: &Backends, rng: &mut SmallRng) -> Pooled {
    use cluster::cluster::{LbConfig, LeastRequestLbConfig, RoundRobinLbConfig, SlowStartConfig};
    let mut pooled = hosts(name, &backends.plain[..3]);
    let slow_start_config = Some(SlowStartConfig { slow_start_window: millis(60_000), ..Default::default() });
    if rng.random_bool(0.5) {
        pooled.message.lb_config = Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config }));
    } else {
        pooled.message.lb_policy = 1;
        let config = LeastRequestLbConfig { slow_start_config, ..Default::default() };
        pooled.message.lb_config = Some(LbConfig::LeastRequestLbConfig(config));
    }
    pooled.fields = vec!["warmup"];
    pooled
}

/// The only endpoint is sick: it is asked where that is panic.
fn panicking(name: &str, address: std::net::SocketAddr, rng: &mut SmallRng) -> Pooled {
    let mut pooled = built(name, &[(address, 1, core::HealthStatus::Unhealthy, 0)]);
    let value = *[0.0, 50.0, 100.0].choose(rng).expect("some");
    pooled.message.common_lb_config.get_or_insert_default().healthy_panic_threshold = Some(Percent { value });
    // In Envoy a copy needs an upstream of its original, with us not (docs/design/0018).
    pooled.fields = vec!["minHealthPercent", "no endpoint"];
    pooled.single = true;
    pooled
}
