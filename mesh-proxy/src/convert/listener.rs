//! Listener, with HttpConnectionManager or TcpProxy in its only filter chain.

use super::at::{At, Invalid};
use super::common::{address, limit, over_ads, unpack};
use super::{fault, route};
use crate::config::Tcp;
use crate::core::fault::Fault;
use crate::core::route::RouteTable;
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::google::protobuf::Any;
use http::HeaderValue;
use std::mem::take;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
/// Envoy's default for idle client connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// A listener whose route table may still be elsewhere.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Of the original destination.
    pub address: SocketAddr,
    /// How its connections are served.
    pub serve: Serve,
}

/// How connections are served.
#[derive(Clone, Debug)]
pub enum Serve {
    /// As HTTP.
    Http(Box<Http>),
    /// As TCP.
    Tcp(Tcp),
}

/// An HttpConnectionManager.
#[derive(Clone, Debug)]
pub struct Http {
    /// Where its routes are.
    pub routes: Routes,
    /// See [`crate::config::Http`].
    pub server_name: HeaderValue,
    /// See [`crate::config::Http`].
    pub fault: Option<Fault>,
    /// See [`crate::config::Http`].
    pub generate_request_id: bool,
    /// See [`crate::config::Http`].
    pub idle_timeout: Option<Duration>,
    /// See [`crate::config::Http`].
    pub websocket: bool,
}

/// Where routes come from.
#[derive(Clone, Debug)]
pub enum Routes {
    /// From the RouteConfiguration of this name.
    Named(String),
    /// From the listener itself.
    Inline(Arc<RouteTable>),
}

/// Reads a listener.
///
/// # Errors
/// Names the field that is not taken.
pub fn listener(at: &At<'_>, mut message: pb::Listener) -> Result<Listener, Invalid> {
    let name = take(&mut message.name);
    let address = address(at, message.address.take())?;
    // What the sockets are is the agent's to decide; statistics and metadata change no decision.
    message.stat_prefix.clear();
    message.metadata = None;
    message.traffic_direction = 0;
    message.bind_to_port = None;
    message.transparent = None;
    let chains = at.field("filter_chains");
    let [mut chain] = <[pb::FilterChain; 1]>::try_from(take(&mut message.filter_chains))
        .map_err(|chains_| chains.value(format_args!("{} chains; exactly one is supported", chains_.len())))?;
    at.nothing_else(&message)?;
    let at = chains.index(0);
    chain.name.clear();
    chain.metadata = None;
    if let Some(condition) = chain.filter_chain_match.take() {
        at.field("filter_chain_match").nothing_else(&condition)?;
    }
    let filters = at.field("filters");
    let [filter] = <[pb::Filter; 1]>::try_from(take(&mut chain.filters))
        .map_err(|given| filters.value(format_args!("{} filters; exactly one is supported", given.len())))?;
    at.nothing_else(&chain)?;
    let at = filters.index(0);
    let Some(pb::filter::ConfigType::TypedConfig(any)) = filter.config_type else {
        return Err(at.field("typed_config").missing());
    };
    let at = at.field("typed_config");
    let serve = match any.type_url.rsplit('/').next() {
        Some(TCP_PROXY) => Serve::Tcp(tcp_proxy(&at, unpack(&at, &any, TCP_PROXY)?)?),
        _ => Serve::Http(Box::new(connection_manager(&at, unpack(&at, &any, HCM)?)?)),
    };
    Ok(Listener { name, address, serve })
}

fn tcp_proxy(at: &At<'_>, mut message: tcp::TcpProxy) -> Result<Tcp, Invalid> {
    use tcp::tcp_proxy::ClusterSpecifier as Spec;
    message.stat_prefix.clear();
    let mut targets = Vec::new();
    match at.field("cluster").required(message.cluster_specifier.take())? {
        Spec::Cluster(name) => targets.push((Arc::from(name), 1)),
        Spec::WeightedClusters(mut weighted) => {
            let at = at.field("weighted_clusters");
            for (index, mut cluster) in take(&mut weighted.clusters).into_iter().enumerate() {
                targets.push((Arc::from(take(&mut cluster.name)), take(&mut cluster.weight)));
                at.field("clusters").index(index).nothing_else(&cluster)?;
            }
            if targets.iter().all(|(_, weight)| *weight == 0) {
                return Err(at.value("the weights add up to 0"));
            }
        }
    }
    let connect_attempts = message.max_connect_attempts.take().map_or(1, |attempts| attempts.value.max(1));
    at.nothing_else(&message)?;
    Ok(Tcp { targets, connect_attempts })
}

fn connection_manager(at: &At<'_>, mut message: hcm::HttpConnectionManager) -> Result<Http, Invalid> {
    use hcm::http_connection_manager::RouteSpecifier;
    message.stat_prefix.clear();
    // 0 is AUTO: both protocols are told apart by the first bytes.
    if message.codec_type == hcm::http_connection_manager::CodecType::Http1 as i32 {
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
    Ok(Http { routes, server_name, fault, generate_request_id, idle_timeout, websocket })
}

/// The only upgrade that there is.
fn websocket(at: &At<'_>, configs: Vec<hcm::http_connection_manager::UpgradeConfig>) -> Result<bool, Invalid> {
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
fn disabled(message: &mut hcm::HttpConnectionManager) {
    let zero = |duration: &mut envoy_types::pb::google::protobuf::Duration| duration.seconds == 0 && duration.nanos == 0;
    message.stream_idle_timeout.take_if(zero);
    message.request_timeout.take_if(zero);
    message.request_headers_timeout.take_if(zero);
    message.use_remote_address.take_if(|on| !on.value);
    message.normalize_path.take_if(|on| !on.value);
    message.add_user_agent.take_if(|on| !on.value);
}

/// The fault filter (at most once), then the router.
fn http_filters(at: &At<'_>, filters: Vec<hcm::HttpFilter>) -> Result<Option<Fault>, Invalid> {
    let (mut found, mut routed) = (None, false);
    for (index, mut filter) in filters.into_iter().enumerate() {
        let at = at.index(index);
        let name = take(&mut filter.name);
        let any = match filter.config_type.take() {
            Some(hcm::http_filter::ConfigType::TypedConfig(any)) => any,
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
