//! What mesh-control would send: a listener, routes and clusters with limits, as its compiler writes them; one port with one route, one with
//! many, one whose cluster speaks HTTP/2.

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options as options;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use mesh_xds::names;
use prost::{Message, Name};
use std::net::SocketAddr;

const HTTP: &str = "outbound|80||bench.marathon.l4lb.thisdcos.directory";
const GRPC: &str = "outbound|81||bench.marathon.l4lb.thisdcos.directory";
/// Istio's default for a service without a DestinationRule: in force, and never reached.
const LIMIT: u32 = 1_000_000;

/// Where the proxy listens and where it sends to.
#[derive(clap::Args)]
pub(crate) struct Addresses {
    /// Everything goes to the HTTP backend by one route.
    #[arg(long)]
    one: SocketAddr,
    /// The same by `--routes` routes, of which the request's is the last.
    #[arg(long)]
    many: SocketAddr,
    /// Everything goes to the gRPC backend.
    #[arg(long)]
    grpc: SocketAddr,
    #[arg(long)]
    http_backend: SocketAddr,
    #[arg(long)]
    grpc_backend: SocketAddr,
    /// How many are many.
    #[arg(long, default_value = "1000")]
    routes: u32,
}

type Resources = (String, Vec<(String, Vec<u8>)>);

/// By type, in the order of delivery.
pub(crate) fn all(to: &Addresses) -> Vec<Resources> {
    let ports = [(to.one, HTTP, 1), (to.many, HTTP, to.routes), (to.grpc, GRPC, 1)];
    let clusters = [(HTTP, to.http_backend, false), (GRPC, to.grpc_backend, true)];
    vec![
        of(names::CLUSTER, clusters.map(|(name, _, http2)| (name.to_owned(), cluster(name, http2)))),
        of(names::ENDPOINT, clusters.map(|(name, address, _)| (name.to_owned(), endpoints(name, address)))),
        of(names::LISTENER, ports.map(|(address, ..)| (names::gateway_listener(address), listener(address)))),
        of(names::ROUTE, ports.map(|(address, to, count)| (address.port().to_string(), routes(address.port(), to, count)))),
    ]
}

fn of<M: Message, const N: usize>(type_url: &str, messages: [(String, M); N]) -> Resources {
    (type_url.to_owned(), messages.into_iter().map(|(name, message)| (name, message.encode_to_vec())).collect())
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

fn ads() -> Option<core::ConfigSource> {
    let ads = core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {});
    Some(core::ConfigSource { config_source_specifier: Some(ads), ..Default::default() })
}

fn address(of: SocketAddr) -> Option<core::Address> {
    let port_specifier = Some(core::socket_address::PortSpecifier::PortValue(of.port().into()));
    let socket = core::SocketAddress { address: of.ip().to_string(), port_specifier, ..Default::default() };
    Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) })
}

fn listener(at: SocketAddr) -> listener::Listener {
    let filter = |name: &str, any| {
        let config_type = Some(hcm::http_filter::ConfigType::TypedConfig(any));
        hcm::HttpFilter { name: name.to_owned(), config_type, ..Default::default() }
    };
    let rds = hcm::Rds { config_source: ads(), route_config_name: at.port().to_string() };
    let manager = hcm::HttpConnectionManager {
        stat_prefix: at.to_string(),
        http_filters: vec![
            filter("envoy.filters.http.fault", any(&HttpFault::default())),
            filter("envoy.filters.http.router", any(&Router::default())),
        ],
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)),
        upgrade_configs: vec![hcm::http_connection_manager::UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        stream_idle_timeout: Some(Duration::default()),
        http_protocol_options: Some(core::Http1ProtocolOptions { accept_http_10: true, ..Default::default() }),
        ..Default::default()
    };
    let config_type = Some(listener::filter::ConfigType::TypedConfig(any(&manager)));
    let filters = vec![listener::Filter { name: "envoy.filters.network.http_connection_manager".to_owned(), config_type }];
    listener::Listener {
        name: names::gateway_listener(at),
        address: address(at),
        filter_chains: vec![listener::FilterChain { filters, ..Default::default() }],
        bind_to_port: Some(BoolValue { value: true }),
        ..Default::default()
    }
}

/// `/route-0/` and so on, then everything; one route is only the last.
fn routes(port: u16, to: &str, count: u32) -> route::RouteConfiguration {
    let paths = (0..count.saturating_sub(1)).map(|number| format!("/route-{number}/")).chain(["/".to_owned()]);
    let one = |path: String| {
        let action = route::RouteAction {
            cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(to.to_owned())),
            timeout: Some(Duration::default()),
            ..Default::default()
        };
        let path_specifier = Some(route::route_match::PathSpecifier::Prefix(path));
        route::Route {
            r#match: Some(route::RouteMatch { path_specifier, ..Default::default() }),
            action: Some(route::route::Action::Route(action)),
            ..Default::default()
        }
    };
    let (name, domains, routes) = ("all".to_owned(), vec!["*".to_owned()], paths.map(one).collect());
    let host = route::VirtualHost { name, domains, routes, ..Default::default() };
    route::RouteConfiguration { name: port.to_string(), virtual_hosts: vec![host], ..Default::default() }
}

fn cluster(name: &str, http2: bool) -> cluster::Cluster {
    let limit = Some(UInt32Value { value: LIMIT });
    let thresholds = cluster::circuit_breakers::Thresholds {
        max_connections: limit,
        max_pending_requests: limit,
        max_requests: limit,
        max_retries: limit,
        ..Default::default()
    };
    let mut cluster = cluster::Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(3)),
        eds_cluster_config: Some(cluster::cluster::EdsClusterConfig { eds_config: ads(), service_name: String::new() }),
        circuit_breakers: Some(cluster::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() }),
        ..Default::default()
    };
    if http2 {
        let http2 = options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(core::Http2ProtocolOptions::default());
        let explicit = options::ExplicitHttpConfig { protocol_config: Some(http2) };
        let upstream_protocol_options = Some(options::UpstreamProtocolOptions::ExplicitHttpConfig(explicit));
        let message = any(&HttpProtocolOptions { upstream_protocol_options, ..Default::default() });
        let key = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        cluster.typed_extension_protocol_options.insert(key.to_owned(), message);
    }
    cluster
}

fn endpoints(name: &str, at: SocketAddr) -> endpoint::ClusterLoadAssignment {
    let one = endpoint::Endpoint { address: address(at), ..Default::default() };
    let one = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(one)),
        ..Default::default()
    };
    let locality = endpoint::LocalityLbEndpoints { lb_endpoints: vec![one], ..Default::default() };
    endpoint::ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: vec![locality], ..Default::default() }
}
