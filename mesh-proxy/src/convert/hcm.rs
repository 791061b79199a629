//! HttpConnectionManager: where routes come from, filters, and how the connection's protocol is treated.

use super::access_log::access_log;
use super::at::{At, Invalid};
use super::common::{limit, over_ads, unpack};
use super::downstream::downstream;
use super::{cors, fault, route, tracing};
use crate::config::{CorsFilter, HttpOptions, ServerHeader, StripPort};
use crate::core::fault::Fault;
use crate::core::forwarded::{Range, Trust};
use crate::core::path::{Escaped, Normalize};
use crate::core::route::RouteTable;
use envoy_types::pb::envoy::config::core::v3::Http1ProtocolOptions;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use envoy_types::pb::google::protobuf::{Any, Duration};
use http::HeaderValue;
use std::mem::take;
use std::net::IpAddr;
use std::sync::Arc;
use std::time;

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
/// Envoy's default for requests over which nothing passes.
const STREAM_IDLE_TIMEOUT: time::Duration = time::Duration::from_secs(300);

/// An HttpConnectionManager.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where its routes are.
    pub routes: Routes,
    /// All else.
    pub options: Arc<HttpOptions>,
}

/// Where routes come from.
#[derive(Clone, Debug)]
pub enum Routes {
    /// From the RouteConfiguration of this name.
    Named(String),
    /// From the listener itself.
    Inline(Arc<RouteTable>),
}

pub(super) fn connection_manager(at: &At<'_>, any: &Any) -> Result<Http, Invalid> {
    use pb::http_connection_manager::RouteSpecifier;
    let mut message: pb::HttpConnectionManager = unpack(at, any, HCM)?;
    message.stat_prefix.clear();
    // 0 is AUTO: both protocols are told apart by the first bytes.
    if message.codec_type == pb::http_connection_manager::CodecType::Http1 as i32 {
        message.codec_type = 0;
    }
    let routes = match at.field("rds").required(message.route_specifier.take())? {
        RouteSpecifier::Rds(mut rds) => {
            let at = at.field("rds");
            over_ads(&at.field("config_source"), rds.config_source.take())?;
            Routes::Named(take(&mut rds.route_config_name))
        }
        RouteSpecifier::RouteConfig(config) => Routes::Inline(Arc::new(route::table(&at.field("route_config"), config)?)),
        RouteSpecifier::ScopedRoutes(_) => return Err(at.field("scoped_routes").unsupported()),
    };
    let options = options(at, &mut message)?;
    at.nothing_else(&message)?;
    Ok(Http { routes, options: Arc::new(options) })
}

fn options(at: &At<'_>, message: &mut pb::HttpConnectionManager) -> Result<HttpOptions, Invalid> {
    let name = take(&mut message.server_name);
    let server_name = header_value(&at.field("server_name"), if name.is_empty() { "envoy" } else { &name })?;
    let server = match pb::http_connection_manager::ServerHeaderTransformation::try_from(take(
        &mut message.server_header_transformation,
    )) {
        Ok(pb::http_connection_manager::ServerHeaderTransformation::Overwrite) => ServerHeader::Overwrite,
        Ok(pb::http_connection_manager::ServerHeaderTransformation::AppendIfAbsent) => ServerHeader::IfAbsent,
        Ok(pb::http_connection_manager::ServerHeaderTransformation::PassThrough) => ServerHeader::Pass,
        Err(_) => return Err(at.field("server_header_transformation").value("unknown")),
    };
    let via = take(&mut message.via);
    header_value(&at.field("via"), &via)?;
    let downstream = downstream(at, message)?;
    let (http10, http10_host) = http1(&at.field("http_protocol_options"), message.http_protocol_options.take())?;
    let stream_idle_timeout =
        limit(&at.field("stream_idle_timeout"), message.stream_idle_timeout.take(), Some(STREAM_IDLE_TIMEOUT))?;
    let tracing = match message.tracing.take() {
        Some(message) => tracing::tracing(&at.field("tracing"), message)?,
        None => None,
    };
    let access_log = access_log(&at.field("access_log"), take(&mut message.access_log))?;
    disabled(message);
    let (fault, cors) = http_filters(&at.field("http_filters"), take(&mut message.http_filters))?;
    Ok(HttpOptions {
        server_name,
        server,
        via: (!via.is_empty()).then_some(via),
        fault,
        cors,
        generate_request_id: message.generate_request_id.take().is_none_or(|generate| generate.value),
        preserve_request_id: take(&mut message.preserve_external_request_id),
        downstream,
        request_timeout: limit(&at.field("request_timeout"), message.request_timeout.take(), None)?,
        pass_expect: take(&mut message.proxy_100_continue),
        stream_idle_timeout,
        upgrades: upgrades(&at.field("upgrade_configs"), take(&mut message.upgrade_configs))?,
        trust: trust(at, message)?,
        normalize: normalize(at, message)?,
        strip_port: strip_port(message),
        strip_dot: take(&mut message.strip_trailing_host_dot),
        http10,
        http10_host,
        tracing,
        access_log,
    })
}

fn header_value(at: &At<'_>, text: &str) -> Result<HeaderValue, Invalid> {
    HeaderValue::try_from(text).map_err(|_invalid| at.value("no valid header value"))
}

/// Whether HTTP/1.0 is served, and for which host if it names none.
fn http1(at: &At<'_>, options: Option<Http1ProtocolOptions>) -> Result<(bool, Option<HeaderValue>), Invalid> {
    let Some(mut options) = options else { return Ok((false, None)) };
    let accepted = take(&mut options.accept_http_10);
    let host = take(&mut options.default_host_for_http_10);
    let host = if host.is_empty() { None } else { Some(header_value(&at.field("default_host_for_http_10"), &host)?) };
    // Both are so in any case.
    options.allow_absolute_url.take_if(|allowed| allowed.value);
    options.enable_trailers = false;
    at.nothing_else(&options)?;
    Ok((accepted, host))
}

fn trust(at: &At<'_>, message: &mut pb::HttpConnectionManager) -> Result<Trust, Invalid> {
    let mut internal = Vec::new();
    if let Some(mut config) = message.internal_address_config.take() {
        let at = at.field("internal_address_config");
        for (index, range) in take(&mut config.cidr_ranges).into_iter().enumerate() {
            let address: Option<IpAddr> = range.address_prefix.parse().ok();
            let length = u8::try_from(range.prefix_len.map_or(0, |length| length.value)).ok();
            let range = address.zip(length).and_then(|(address, length)| Range::new(address, length));
            internal.push(range.ok_or_else(|| at.field("cidr_ranges").index(index).value("no address range"))?);
        }
        at.nothing_else(&config)?;
    }
    Ok(Trust {
        use_remote_address: message.use_remote_address.take().is_some_and(|on| on.value),
        trusted_hops: take(&mut message.xff_num_trusted_hops),
        skip_append: take(&mut message.skip_xff_append),
        internal,
    })
}

fn normalize(at: &At<'_>, message: &mut pb::HttpConnectionManager) -> Result<Normalize, Invalid> {
    use pb::http_connection_manager::PathWithEscapedSlashesAction as Action;
    let escaped = match Action::try_from(take(&mut message.path_with_escaped_slashes_action)) {
        Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged) => Escaped::Keep,
        Ok(Action::RejectRequest) => Escaped::Reject,
        Ok(Action::UnescapeAndRedirect) => Escaped::Redirect,
        Ok(Action::UnescapeAndForward) => Escaped::Forward,
        Err(_) => return Err(at.field("path_with_escaped_slashes_action").value("unknown")),
    };
    let canonical = message.normalize_path.take().is_some_and(|on| on.value);
    Ok(Normalize { canonical, merge_slashes: take(&mut message.merge_slashes), escaped })
}

fn strip_port(message: &mut pb::HttpConnectionManager) -> StripPort {
    let any = message.strip_port_mode.take();
    match (take(&mut message.strip_matching_host_port), any) {
        (_, Some(pb::http_connection_manager::StripPortMode::StripAnyHostPort(true))) => StripPort::Any,
        (true, _) => StripPort::Matching,
        (false, _) => StripPort::None,
    }
}

fn upgrades(at: &At<'_>, configs: Vec<pb::http_connection_manager::UpgradeConfig>) -> Result<Vec<(String, bool)>, Invalid> {
    let mut upgrades = Vec::new();
    for (index, mut config) in configs.into_iter().enumerate() {
        let at = at.index(index);
        let kind = take(&mut config.upgrade_type).to_ascii_lowercase();
        if kind.is_empty() {
            return Err(at.field("upgrade_type").missing());
        }
        upgrades.push((kind, config.enabled.take().is_none_or(|enabled| enabled.value)));
        at.nothing_else(&config)?;
    }
    Ok(upgrades)
}

/// Forgets fields whose value says: off, as it is here anyway.
fn disabled(message: &mut pb::HttpConnectionManager) {
    let zero = |duration: &mut Duration| duration.seconds == 0 && duration.nanos == 0;
    message.delayed_close_timeout.take_if(zero);
    message.add_user_agent.take_if(|on| !on.value);
}

/// The fault and the CORS filter (each at most once, in any order), then the router.
fn http_filters(at: &At<'_>, filters: Vec<pb::HttpFilter>) -> Result<(Option<Fault>, Option<CorsFilter>), Invalid> {
    let (mut found, mut cors_found, mut routed) = (None, None, false);
    for (index, mut filter) in filters.into_iter().enumerate() {
        let at = at.index(index);
        let name = take(&mut filter.name);
        let any = match filter.config_type.take() {
            Some(pb::http_filter::ConfigType::TypedConfig(any)) => any,
            Some(_) => return Err(at.field("config_discovery").unsupported()),
            None => Any::default(),
        };
        filter.is_optional = false;
        at.nothing_else(&filter)?;
        if routed {
            return Err(at.value("a filter after the router"));
        }
        let at = at.field("typed_config");
        match any.type_url.rsplit('/').next() {
            Some(ROUTER) => {
                router(&at, unpack(&at, &any, ROUTER)?)?;
                routed = true;
            }
            Some(_) if name == fault::FILTER && found.is_none() => found = Some(fault::fault(&at, &any)?),
            Some(_) if name == cors::FILTER && cors_found.is_none() => {
                cors::filter(&at, &any)?;
                cors_found = Some(if found.is_none() { CorsFilter::First } else { CorsFilter::Second });
            }
            _ => return Err(at.value(format_args!("filter {name} of type {:?} is not supported", any.type_url))),
        }
    }
    if routed { Ok((found, cors_found)) } else { Err(at.value("no router at the end")) }
}

fn router(at: &At<'_>, mut message: Router) -> Result<(), Invalid> {
    // Statistics, and spans, which are made elsewhere.
    message.dynamic_stats = None;
    message.suppress_grpc_request_failure_code_stats = false;
    at.nothing_else(&message)
}
