//! The listener and the route table that both proxies get.

use super::fields::boolean;
use crate::world::{any, network_listener};
use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::lua::v3::Lua;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::google::protobuf::Any;

/// Our proxy knows which pod asks and how it is labelled (the world's workload). Envoy is told by a script, and then looks for the route again;
/// nothing else is only for Envoy.
const WHO_ASKS: &str = r#"
function envoy_on_request(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("mesh.source.labels", "team", "shop")
  metadata:set("mesh.source.namespace", "namespace", "default")
  handle:clearRouteCache()
end
"#;

/// All virtual hosts.
pub fn table(hosts: &[route::VirtualHost]) -> route::RouteConfiguration {
    route::RouteConfiguration {
        name: "all".to_owned(),
        virtual_hosts: hosts.to_vec(),
        validate_clusters: boolean(false),
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

/// For our proxy.
pub fn listener(port: u16, hosts: &[route::VirtualHost]) -> Listener {
    made(port, hosts, Vec::new())
}

/// The same for Envoy, but for the port, since two processes cannot listen on one; that it opens it itself; and [`WHO_ASKS`].
pub fn listener_of_envoy(port: u16, hosts: &[route::VirtualHost]) -> Listener {
    let source = DataSource { specifier: Some(Specifier::InlineString(WHO_ASKS.to_owned())), ..Default::default() };
    let script = Lua { default_source_code: Some(source), ..Default::default() };
    Listener { bind_to_port: boolean(true), ..made(port, hosts, vec![filter("envoy.filters.http.lua", any(&script))]) }
}

fn made(port: u16, hosts: &[route::VirtualHost], mut http_filters: Vec<hcm::HttpFilter>) -> Listener {
    http_filters.extend([
        filter("envoy.filters.http.fault", any(&HttpFault::default())),
        filter("envoy.filters.http.cors", any(&Cors::default())),
        filter("envoy.filters.http.router", any(&Router::default())),
    ]);
    let manager = hcm::HttpConnectionManager {
        stat_prefix: "all".to_owned(),
        http_filters,
        generate_request_id: boolean(true),
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(table(hosts))),
        ..Default::default()
    };
    network_listener("0.0.0.0", port, "envoy.filters.network.http_connection_manager", any(&manager))
}

fn filter(name: &str, config: Any) -> hcm::HttpFilter {
    let config_type = Some(hcm::http_filter::ConfigType::TypedConfig(config));
    hcm::HttpFilter { name: name.to_owned(), config_type, ..Default::default() }
}
