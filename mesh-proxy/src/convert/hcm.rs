//! HttpConnectionManager: where routes come from, filters, and how the connection's protocol is treated.

use super::at::{At, Invalid};
use super::common::{limit, over_ads, unpack};
use super::{fault, route};
use crate::config::HttpOptions;
use crate::core::fault::Fault;
use crate::core::route::RouteTable;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use envoy_types::pb::google::protobuf::Any;
use http::HeaderValue;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
/// Envoy's default for idle client connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

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
    let name = take(&mut message.server_name);
    let server_name = if name.is_empty() { "envoy" } else { &name };
    let server_name =
        HeaderValue::try_from(server_name).map_err(|_invalid| at.field("server_name").value("no valid header value"))?;
    let generate_request_id = message.generate_request_id.take().is_none_or(|generate| generate.value);
    let mut idle_timeout = Some(IDLE_TIMEOUT);
    if let Some(mut common) = message.common_http_protocol_options.take() {
        let at = at.field("common_http_protocol_options");
        idle_timeout = limit(&at.field("idle_timeout"), common.idle_timeout.take(), idle_timeout)?;
        at.nothing_else(&common)?;
    }
    disabled(&mut message);
    let websocket = websocket(&at.field("upgrade_configs"), take(&mut message.upgrade_configs))?;
    let fault = http_filters(&at.field("http_filters"), take(&mut message.http_filters))?;
    at.nothing_else(&message)?;
    let options = HttpOptions { server_name, fault, generate_request_id, idle_timeout, websocket };
    Ok(Http { routes, options: Arc::new(options) })
}

/// The only upgrade that there is.
fn websocket(at: &At<'_>, configs: Vec<pb::http_connection_manager::UpgradeConfig>) -> Result<bool, Invalid> {
    let mut websocket = false;
    for (index, mut config) in configs.into_iter().enumerate() {
        let at = at.index(index);
        let kind = take(&mut config.upgrade_type);
        if !kind.eq_ignore_ascii_case("websocket") {
            return Err(at.field("upgrade_type").value(format_args!("{kind:?} is not supported; websocket is")));
        }
        websocket = config.enabled.take().is_none_or(|enabled| enabled.value);
        at.nothing_else(&config)?;
    }
    Ok(websocket)
}

/// Forgets fields whose value says: off, as it is here anyway.
fn disabled(message: &mut pb::HttpConnectionManager) {
    let zero = |duration: &mut envoy_types::pb::google::protobuf::Duration| duration.seconds == 0 && duration.nanos == 0;
    message.stream_idle_timeout.take_if(zero);
    message.request_timeout.take_if(zero);
    message.request_headers_timeout.take_if(zero);
    message.use_remote_address.take_if(|on| !on.value);
    message.normalize_path.take_if(|on| !on.value);
    message.add_user_agent.take_if(|on| !on.value);
}

/// The fault filter (at most once), then the router.
fn http_filters(at: &At<'_>, filters: Vec<pb::HttpFilter>) -> Result<Option<Fault>, Invalid> {
    let (mut found, mut routed) = (None, false);
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
                at.nothing_else(&unpack::<Router>(&at, &any, ROUTER)?)?;
                routed = true;
            }
            Some(_) if name == fault::FILTER && found.is_none() => found = Some(fault::fault(&at, &any)?),
            _ => return Err(at.value(format_args!("filter {name} of type {:?} is not supported", any.type_url))),
        }
    }
    if routed { Ok(found) } else { Err(at.value("no router at the end")) }
}
