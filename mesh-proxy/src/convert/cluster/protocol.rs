//! `typed_extension_protocol_options` and `upstream_connection_options`: the protocol spoken to endpoints, and how long connections are used.

use super::tls::Names;
use crate::config::{Keepalive, PoolSettings, Protocol};
use crate::convert::at::{At, Invalid};
use crate::convert::common::limit;
use crate::convert::http2::http2;
use envoy_types::pb::envoy::config::cluster::v3::UpstreamConnectionOptions;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as http;
use http::http_protocol_options::UpstreamProtocolOptions as Spec;
use http::http_protocol_options::explicit_http_config::ProtocolConfig;
use std::mem::take;
use std::time::Duration;

pub(super) const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// What of it concerns the pool goes there; what concerns TLS is returned.
pub(super) fn http_options(
    at: &At<'_>,
    mut message: http::HttpProtocolOptions,
    pool: &mut PoolSettings,
) -> Result<Names, Invalid> {
    match message.upstream_protocol_options.take() {
        None => {}
        Some(Spec::ExplicitHttpConfig(explicit)) => {
            let at = at.field("explicit_http_config");
            match explicit.protocol_config {
                None => {}
                Some(ProtocolConfig::HttpProtocolOptions(options)) => http1(&at, Some(options))?,
                Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
                    (pool.protocol, pool.http2) = (Protocol::Http2, http2(&at, Some(options))?);
                }
                Some(ProtocolConfig::Http3ProtocolOptions(_)) => return Err(at.field("http3_protocol_options").unsupported()),
            }
        }
        Some(Spec::UseDownstreamProtocolConfig(mut config)) => {
            let at = at.field("use_downstream_protocol_config");
            http1(&at, config.http_protocol_options.take())?;
            (pool.protocol, pool.http2) = (Protocol::Downstream, http2(&at, config.http2_protocol_options.take())?);
            at.nothing_else(&config)?;
        }
        Some(Spec::AutoConfig(mut config)) => {
            let at = at.field("auto_config");
            http1(&at, config.http_protocol_options.take())?;
            (pool.protocol, pool.http2) = (Protocol::Negotiated, http2(&at, config.http2_protocol_options.take())?);
            at.nothing_else(&config)?;
        }
    }
    if let Some(mut common) = message.common_http_protocol_options.take() {
        let at = at.field("common_http_protocol_options");
        pool.idle_timeout = limit(&at.field("idle_timeout"), common.idle_timeout.take(), pool.idle_timeout)?;
        let duration = common.max_connection_duration.take();
        pool.max_connection_duration = limit(&at.field("max_connection_duration"), duration, None)?;
        let most = common.max_requests_per_connection.take().map(|most| most.value);
        pool.max_requests_per_connection = most.filter(|most| *most != 0);
        at.nothing_else(&common)?;
    }
    let mut names = Names::default();
    if let Some(mut tls) = message.upstream_http_protocol_options.take() {
        names = Names { auto_sni: take(&mut tls.auto_sni), auto_san: take(&mut tls.auto_san_validation) };
        at.field("upstream_http_protocol_options").nothing_else(&tls)?;
    }
    at.nothing_else(&message)?;
    Ok(names)
}

/// Announced trailers pass anyway.
fn http1(at: &At<'_>, options: Option<core::Http1ProtocolOptions>) -> Result<(), Invalid> {
    let Some(mut options) = options else { return Ok(()) };
    options.enable_trailers = false;
    at.field("http_protocol_options").nothing_else(&options)
}

pub(super) fn keepalive(at: &At<'_>, options: Option<UpstreamConnectionOptions>) -> Result<Option<Keepalive>, Invalid> {
    let Some(mut options) = options else { return Ok(None) };
    let keepalive = match options.tcp_keepalive.take() {
        None => None,
        Some(mut message) => {
            let seconds = |value: u32| Duration::from_secs(value.into());
            let keepalive = Keepalive {
                probes: message.keepalive_probes.take().map(|probes| probes.value),
                time: message.keepalive_time.take().map(|time| seconds(time.value)),
                interval: message.keepalive_interval.take().map(|interval| seconds(interval.value)),
            };
            at.field("tcp_keepalive").nothing_else(&message)?;
            Some(keepalive)
        }
    };
    at.nothing_else(&options)?;
    Ok(keepalive)
}
