//! Connections to a cluster's endpoints: how many, for how long, by which protocol.

use super::tls;
use crate::core::compile::Abilities;
use crate::core::compile::envoy::{Any, cluster, core, duration, pack_any, percentage, uint, upstreams};
use crate::core::compile::policy::Policy;
use crate::core::registry::Protocol;
use crate::istio::destination_rule::{ConnectionPoolSettings, H2UpgradePolicy, HttpSettings, RetryBudget, TcpKeepalive};
use std::collections::HashMap;
use std::time::Duration;
use upstreams::http_protocol_options::explicit_http_config::ProtocolConfig;
use upstreams::http_protocol_options::{ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig};

/// Istio's default; a DestinationRule may say otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Where Envoy looks for what is spoken to endpoints.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Sets everything about connections but TLS.
pub(super) fn apply(to: &mut cluster::Cluster, policy: &Policy<'_>, protocol: Protocol, can: Abilities) {
    let tcp = policy.connection_pool.and_then(|pool| pool.tcp.as_ref());
    to.connect_timeout = Some(duration(tcp.and_then(|tcp| tcp.connect_timeout).unwrap_or(CONNECT_TIMEOUT)));
    to.circuit_breakers = Some(breakers(policy.connection_pool, policy.retry_budget, can));
    if let Some(keepalive) = tcp.and_then(|tcp| tcp.tcp_keepalive.as_ref()).filter(|_| can.pool) {
        let options = cluster::UpstreamConnectionOptions { tcp_keepalive: Some(probes(keepalive)), ..Default::default() };
        to.upstream_connection_options = Some(options);
    }
    if protocol.is_http() || protocol == Protocol::Undeclared {
        to.typed_extension_protocol_options = http_options(policy, protocol, can);
    }
}

/// Istio's thresholds; Envoy's own (1,024 and 3 retries) would be limits that nobody asked for.
fn breakers(pool: Option<&ConnectionPoolSettings>, budget: Option<&RetryBudget>, can: Abilities) -> cluster::CircuitBreakers {
    let http = pool.and_then(|pool| pool.http.as_ref());
    // 0 is unset, as in Istio.
    let most = |value: Option<i32>| {
        uint(value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(u32::MAX))
    };
    let new = |value: Option<i32>| most(value.filter(|_| can.pool));
    let retry_budget = budget.filter(|_| can.pool).map(|budget| cluster::circuit_breakers::thresholds::RetryBudget {
        budget_percent: budget.percent.map(percentage),
        min_retry_concurrency: (budget.min_retry_concurrency > 0).then(|| uint(budget.min_retry_concurrency)).flatten(),
        ..Default::default()
    });
    let thresholds = cluster::circuit_breakers::Thresholds {
        max_connections: new(pool.and_then(|pool| pool.tcp.as_ref()).map(|tcp| tcp.max_connections)),
        max_pending_requests: new(http.map(|http| http.http1_max_pending_requests)),
        max_requests: most(http.map(|http| http.http2_max_requests)),
        max_retries: new(http.map(|http| http.max_retries)),
        retry_budget,
        track_remaining: true,
        ..Default::default()
    };
    cluster::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() }
}

fn probes(keepalive: &TcpKeepalive) -> core::TcpKeepalive {
    // The kernel counts in seconds; less than one is one.
    let seconds = |span: Option<Duration>| span.and_then(|span| uint(u32::try_from(span.as_secs().max(1)).unwrap_or(u32::MAX)));
    core::TcpKeepalive {
        keepalive_probes: (keepalive.probes > 0).then(|| uint(keepalive.probes)).flatten(),
        keepalive_time: seconds(keepalive.time),
        keepalive_interval: seconds(keepalive.interval),
    }
}

/// What is spoken, and how long a connection is used; nothing where that is HTTP/1.1 with Envoy's defaults.
fn http_options(policy: &Policy<'_>, protocol: Protocol, can: Abilities) -> HashMap<String, Any> {
    let pool = policy.connection_pool;
    let http = pool.and_then(|pool| pool.http.as_ref());
    let upstream_http_protocol_options = policy.tls.filter(|_| can.upstream_tls).and_then(tls::from_requests);
    let common_http_protocol_options = pool.and_then(|pool| common(pool, can));
    let spoken = spoken(http, protocol, can);
    if common_http_protocol_options.is_none() && upstream_http_protocol_options.is_none() && spoken.is_none() {
        return HashMap::new();
    }
    let http1 = || ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::HttpProtocolOptions(core::Http1ProtocolOptions::default())),
    };
    let options = upstreams::HttpProtocolOptions {
        common_http_protocol_options,
        upstream_http_protocol_options,
        upstream_protocol_options: Some(spoken.unwrap_or_else(|| UpstreamProtocolOptions::ExplicitHttpConfig(http1()))),
        ..Default::default()
    };
    HashMap::from([(HTTP_OPTIONS.to_owned(), pack_any(options))])
}

fn common(pool: &ConnectionPoolSettings, can: Abilities) -> Option<core::HttpProtocolOptions> {
    let (http, tcp) = (pool.http.as_ref(), pool.tcp.as_ref());
    let idle = http.and_then(|http| http.idle_timeout).or_else(|| tcp.and_then(|tcp| tcp.idle_timeout));
    let most = http.and_then(|http| u32::try_from(http.max_requests_per_connection).ok()).filter(|most| *most > 0);
    let longest = tcp.and_then(|tcp| tcp.max_connection_duration).filter(|_| can.pool);
    (idle.is_some() || most.is_some() || longest.is_some()).then(|| core::HttpProtocolOptions {
        idle_timeout: idle.map(duration),
        max_requests_per_connection: most.and_then(uint),
        max_connection_duration: longest.map(duration),
        ..Default::default()
    })
}

/// HTTP/2 is spoken to ports that are declared so, or where a rule says so; without ALPN nothing else could tell.
pub(super) fn speaks_http2(http: Option<&HttpSettings>, protocol: Protocol, can: Abilities) -> bool {
    let upgraded = http.is_some_and(|http| http.h2_upgrade_policy == H2UpgradePolicy::Upgrade);
    can.http2 && (upgraded || matches!(protocol, Protocol::Http2 | Protocol::Grpc))
}

/// `None` is HTTP/1.1.
fn spoken(http: Option<&HttpSettings>, protocol: Protocol, can: Abilities) -> Option<UpstreamProtocolOptions> {
    // Where it is detected what clients speak, endpoints speak the same.
    let asked = protocol == Protocol::Undeclared || http.is_some_and(|http| http.use_client_protocol);
    let as_client = can.http2 && asked;
    if as_client {
        return Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
            http_protocol_options: Some(core::Http1ProtocolOptions::default()),
            http2_protocol_options: Some(http2(http)),
            ..Default::default()
        }));
    }
    let explicit = ExplicitHttpConfig { protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(http2(http))) };
    speaks_http2(http, protocol, can).then_some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit))
}

fn http2(http: Option<&HttpSettings>) -> core::Http2ProtocolOptions {
    let streams = http.and_then(|http| u32::try_from(http.max_concurrent_streams).ok()).filter(|most| *most > 0);
    let ping = http.and_then(|http| http.http2_keep_alive.as_ref()).map(|ping| core::KeepaliveSettings {
        interval: ping.interval.map(duration),
        timeout: ping.timeout.map(duration),
        ..Default::default()
    });
    core::Http2ProtocolOptions {
        max_concurrent_streams: streams.and_then(uint),
        connection_keepalive: ping,
        ..Default::default()
    }
}
