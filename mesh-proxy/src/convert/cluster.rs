//! Cluster and ClusterLoadAssignment.

use super::at::{At, Invalid};
use super::common::{address, duration, limit, over_ads, unpack};
use crate::core::balance::{Endpoint, Health, Policy};
use envoy_types::pb::envoy::config::cluster::v3 as pb;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as http;
use std::mem::take;
use std::time::Duration;

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Envoy's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Envoy's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// A cluster without its endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Where its endpoints are.
    pub endpoints: Source,
    /// See [`crate::config::Cluster`].
    pub policy: Policy,
    /// See [`crate::config::Cluster`].
    pub connect_timeout: Duration,
    /// See [`crate::config::Cluster`].
    pub idle_timeout: Option<Duration>,
    /// See [`crate::config::Cluster`].
    pub max_requests_per_connection: Option<u32>,
    /// See [`crate::config::Cluster`].
    pub max_requests: Option<u32>,
}

/// Where endpoints come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// From the ClusterLoadAssignment of this name.
    Named(String),
    /// From the cluster itself.
    Inline(Vec<Endpoint>),
}

/// Reads a cluster.
///
/// # Errors
/// Names the field that is not taken.
pub fn cluster(at: &At<'_>, mut message: pb::Cluster) -> Result<Cluster, Invalid> {
    let name = take(&mut message.name);
    // For the eyes of operators and statistics only.
    message.alt_stat_name.clear();
    message.metadata = None;
    let endpoints = source(at, &name, &mut message)?;
    let policy = policy(at, &mut message)?;
    let timeout = message.connect_timeout.take().map(|timeout| duration(&at.field("connect_timeout"), &timeout));
    let connect_timeout = timeout.transpose()?.filter(|timeout| !timeout.is_zero()).unwrap_or(CONNECT_TIMEOUT);
    common_lb(&at.field("common_lb_config"), message.common_lb_config.take())?;
    let max_requests = breakers(&at.field("circuit_breakers"), message.circuit_breakers.take())?;
    let (mut idle_timeout, mut max_requests_per_connection) = (Some(IDLE_TIMEOUT), None);
    for (kind, any) in take(&mut message.typed_extension_protocol_options) {
        let at = at.field("typed_extension_protocol_options");
        let at = at.field(&kind);
        (idle_timeout, max_requests_per_connection) = http_options(&at, unpack(&at, &any, HTTP_OPTIONS)?)?;
    }
    at.nothing_else(&message)?;
    Ok(Cluster { name, endpoints, policy, connect_timeout, idle_timeout, max_requests_per_connection, max_requests })
}

fn source(at: &At<'_>, name: &str, message: &mut pb::Cluster) -> Result<Source, Invalid> {
    use pb::cluster::{ClusterDiscoveryType, DiscoveryType};
    let kind = match message.cluster_discovery_type.take() {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => {
            DiscoveryType::try_from(kind).map_err(|_unknown| at.field("type").value(kind))?
        }
        Some(ClusterDiscoveryType::ClusterType(_)) => return Err(at.field("cluster_type").unsupported()),
    };
    match kind {
        DiscoveryType::Eds => {
            let at = at.field("eds_cluster_config");
            let mut config = at.required(message.eds_cluster_config.take())?;
            over_ads(&at.field("eds_config"), config.eds_config.take())?;
            let service = take(&mut config.service_name);
            Ok(Source::Named(if service.is_empty() { name.to_owned() } else { service }))
        }
        DiscoveryType::Static => {
            let at = at.field("load_assignment");
            Ok(Source::Inline(load_assignment(&at, message.load_assignment.take().unwrap_or_default())?))
        }
        other => Err(at.field("type").value(format_args!("{} is not supported; EDS and STATIC are", other.as_str_name()))),
    }
}

fn policy(at: &At<'_>, message: &mut pb::Cluster) -> Result<Policy, Invalid> {
    use pb::cluster::{LbConfig, LbPolicy};
    let policy = match LbPolicy::try_from(take(&mut message.lb_policy)) {
        Ok(LbPolicy::RoundRobin) => Policy::RoundRobin,
        Ok(LbPolicy::LeastRequest) => Policy::LeastRequest,
        Ok(LbPolicy::Random) => Policy::Random,
        Ok(other) => return Err(at.field("lb_policy").value(format_args!("{} is not supported", other.as_str_name()))),
        Err(_) => return Err(at.field("lb_policy").value("unknown")),
    };
    // An empty configuration of the policy says nothing.
    if let Some(LbConfig::RoundRobinLbConfig(config)) = &message.lb_config {
        at.field("round_robin_lb_config").nothing_else(config)?;
        message.lb_config = None;
    } else if let Some(LbConfig::LeastRequestLbConfig(config)) = &mut message.lb_config {
        if config.choice_count.as_ref().is_some_and(|count| count.value == 2) {
            config.choice_count = None;
        }
        at.field("least_request_lb_config").nothing_else(config)?;
        message.lb_config = None;
    }
    Ok(policy)
}

/// Only what says "no panic mode", which is all there is here.
fn common_lb(at: &At<'_>, config: Option<pb::cluster::CommonLbConfig>) -> Result<(), Invalid> {
    let Some(mut config) = config else { return Ok(()) };
    if config.healthy_panic_threshold.take().is_some_and(|percent| percent.value != 0.0) {
        return Err(at.field("healthy_panic_threshold").value("only 0 is supported: there is no panic mode"));
    }
    // Updates are in force at once anyway.
    if config.update_merge_window.as_ref().is_some_and(|window| window.seconds == 0 && window.nanos == 0) {
        config.update_merge_window = None;
    }
    at.nothing_else(&config)
}

/// `max_requests` is a limit; the others are taken where they say "no limit", as Istio's defaults do.
fn breakers(at: &At<'_>, breakers: Option<pb::CircuitBreakers>) -> Result<Option<u32>, Invalid> {
    let Some(mut breakers) = breakers else { return Ok(None) };
    let mut max_requests = None;
    for (index, mut threshold) in take(&mut breakers.thresholds).into_iter().enumerate() {
        let at = at.field("thresholds");
        let at = at.index(index);
        let limits = [
            ("max_connections", &mut threshold.max_connections),
            ("max_pending_requests", &mut threshold.max_pending_requests),
            ("max_retries", &mut threshold.max_retries),
            ("max_connection_pools", &mut threshold.max_connection_pools),
        ];
        for (name, limit) in limits {
            if limit.take().is_some_and(|limit| limit.value != u32::MAX) {
                return Err(at.field(name).value("only 4294967295 (no limit) is supported"));
            }
        }
        max_requests = threshold.max_requests.take().map(|limit| limit.value).filter(|limit| *limit != u32::MAX);
        threshold.track_remaining = false;
        at.nothing_else(&threshold)?;
    }
    at.nothing_else(&breakers)?;
    Ok(max_requests)
}

type Connections = (Option<Duration>, Option<u32>);

fn http_options(at: &At<'_>, mut message: http::HttpProtocolOptions) -> Result<Connections, Invalid> {
    use http::http_protocol_options::UpstreamProtocolOptions as Spec;
    use http::http_protocol_options::explicit_http_config::ProtocolConfig;
    if let Some(Spec::ExplicitHttpConfig(explicit)) =
        message.upstream_protocol_options.take_if(|spec| !matches!(spec, Spec::AutoConfig(_)))
    {
        let at = at.field("explicit_http_config");
        match explicit.protocol_config {
            None => {}
            Some(ProtocolConfig::HttpProtocolOptions(options)) => at.field("http_protocol_options").nothing_else(&options)?,
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => return Err(at.field("http2_protocol_options").unsupported()),
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => return Err(at.field("http3_protocol_options").unsupported()),
        }
    }
    let mut connections = (Some(IDLE_TIMEOUT), None);
    if let Some(mut common) = message.common_http_protocol_options.take() {
        let at = at.field("common_http_protocol_options");
        connections = common_options(&at, &mut common)?;
        at.nothing_else(&common)?;
    }
    at.nothing_else(&message)?;
    Ok(connections)
}

fn common_options(at: &At<'_>, common: &mut core::HttpProtocolOptions) -> Result<Connections, Invalid> {
    let idle_timeout = limit(&at.field("idle_timeout"), common.idle_timeout.take(), Some(IDLE_TIMEOUT))?;
    let most = common.max_requests_per_connection.take().map(|most| most.value).filter(|most| *most != 0);
    Ok((idle_timeout, most))
}

/// Reads endpoints.
///
/// # Errors
/// Names the field that is not taken.
pub fn load_assignment(at: &At<'_>, mut message: eds::ClusterLoadAssignment) -> Result<Vec<Endpoint>, Invalid> {
    message.cluster_name.clear();
    let mut endpoints = Vec::new();
    for (index, mut locality) in take(&mut message.endpoints).into_iter().enumerate() {
        let at = at.field("endpoints");
        let at = at.index(index);
        // Without locality weighting, as Envoy: where endpoints are does not matter, nor do weights of localities.
        locality.locality = None;
        locality.load_balancing_weight = None;
        locality.metadata = None;
        for (index, endpoint) in take(&mut locality.lb_endpoints).into_iter().enumerate() {
            let at = at.field("lb_endpoints");
            endpoints.push(lb_endpoint(&at.index(index), endpoint)?);
        }
        at.nothing_else(&locality)?;
    }
    at.nothing_else(&message)?;
    Ok(endpoints)
}

fn lb_endpoint(at: &At<'_>, mut message: eds::LbEndpoint) -> Result<Endpoint, Invalid> {
    use core::HealthStatus;
    message.metadata = None;
    let health = match HealthStatus::try_from(take(&mut message.health_status)) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        Ok(HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout) => Health::Unhealthy,
        Err(_) => return Err(at.field("health_status").value("unknown")),
    };
    let weight = message.load_balancing_weight.take().map_or(1, |weight| weight.value);
    let Some(eds::lb_endpoint::HostIdentifier::Endpoint(mut endpoint)) = message.host_identifier.take() else {
        return Err(at.field("endpoint").missing());
    };
    at.nothing_else(&message)?;
    let at = at.field("endpoint");
    let address = address(&at, endpoint.address.take())?;
    endpoint.hostname.clear();
    at.nothing_else(&endpoint)?;
    Ok(Endpoint { address, weight, health })
}
