//! `typed_extension_protocol_options`: the protocol spoken to endpoints, and how long connections are used.

use crate::convert::at::{At, Invalid};
use crate::convert::common::limit;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as http;
use std::time::Duration;

pub(super) const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Envoy's default.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// `idle_timeout` and `max_requests_per_connection`.
type Connections = (Option<Duration>, Option<u32>);

pub(super) fn http_options(at: &At<'_>, mut message: http::HttpProtocolOptions) -> Result<Connections, Invalid> {
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
