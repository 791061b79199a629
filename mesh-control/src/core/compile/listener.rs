//! Listeners: one per HTTP port for all services of that port, one per VIP and port for opaque TCP.

use super::envoy::{self, Router, cors, fault, hcm, listener, pack_any};
use super::route::{CORS, FAULT};
use super::tcp::{self, Chain, Dialled};
use super::telemetry::Telling;
use super::{Abilities, source};
use envoy_types::pb::google::protobuf::Any;
use mesh_xds::server::Versioned;
use std::net::{IpAddr, Ipv4Addr};

/// Envoy's name of the filter.
const MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// `server` header of answers; Istio's, since clients and tests look for it.
const SERVER_NAME: &str = "istio-envoy";

/// The listener of an HTTP port: which service is meant says the Host header, in RouteConfiguration `port`.
pub(super) fn http(port: u16, can: Abilities, telling: &Telling) -> listener::Listener {
    let name = format!("0.0.0.0_{port}");
    let filter = filter(MANAGER, pack_any(manager(&format!("outbound_{name}"), &port.to_string(), can, telling)));
    let chain = listener::FilterChain { filters: vec![filter], ..Default::default() };
    captured(name, (Ipv4Addr::UNSPECIFIED.into(), port), vec![chain])
}

/// The connection manager of a gateway: what it was sent with about clients is the clients' word, and is not believed.
pub(super) fn edge_manager(routes: &str, can: Abilities, telling: &Telling) -> listener::Filter {
    let edge = hcm::HttpConnectionManager {
        use_remote_address: Some(envoy::BoolValue { value: true }),
        ..manager(&format!("gateway_{routes}"), routes, can, telling)
    };
    filter(MANAGER, pack_any(edge))
}

fn manager(stat_prefix: &str, routes: &str, can: Abilities, telling: &Telling) -> hcm::HttpConnectionManager {
    let rds = hcm::Rds { config_source: Some(envoy::ads()), route_config_name: routes.to_owned() };
    let filter = |name: &str, config| hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    };
    let mut filters = vec![filter(FAULT, pack_any(fault::HttpFault::default()))];
    if can.cors {
        filters.push(filter(CORS, pack_any(cors::Cors::default())));
    }
    filters.push(filter("envoy.filters.http.router", pack_any(Router::default())));
    let websocket = hcm::http_connection_manager::UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() };
    hcm::HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)),
        http_filters: filters,
        // Istio lets WebSockets pass everywhere.
        upgrade_configs: vec![websocket],
        server_name: SERVER_NAME.to_owned(),
        // As in Istio: a stream may rest, and an endpoint says itself whether it wants a body. Old clients are served.
        stream_idle_timeout: Some(envoy::Duration::default()),
        proxy_100_continue: true,
        http_protocol_options: Some(envoy::core::Http1ProtocolOptions { accept_http_10: true, ..Default::default() }),
        tracing: telling.tracing.clone(),
        access_log: telling.access_log.clone(),
        ..Default::default()
    }
}

/// The listener of a TCP port that the proxy carries: which service is meant says the address.
pub(super) fn tcp(to: Dialled, chains: Vec<Chain>) -> Versioned {
    let (name, sources): (_, Vec<_>) = (format!("{}_{}", to.address, to.port), chains.iter().map(|c| c.source.clone()).collect());
    let chain = |chain: Chain| listener::FilterChain {
        filter_chain_match: (!chain.names.is_empty()).then(|| tcp::server_names(&chain.names)),
        filters: vec![filter(tcp::FILTER, chain.filter)],
        ..Default::default()
    };
    let chains: Vec<_> = chains.into_iter().map(chain).collect();
    let listener = captured(name, (to.address, to.port), Vec::new());
    source::versioned(&listener, &chains, &sources)
}

/// A network filter.
pub(super) fn filter(name: &str, config: Any) -> listener::Filter {
    listener::Filter { name: name.to_owned(), config_type: Some(listener::filter::ConfigType::TypedConfig(config)) }
}

fn captured(name: String, (address, port): (IpAddr, u16), filter_chains: Vec<listener::FilterChain>) -> listener::Listener {
    listener::Listener {
        name,
        address: Some(envoy::socket_address(address, port)),
        filter_chains,
        // The sockets are the agent's: a proxy that would bind this one would take the port of the node.
        bind_to_port: Some(envoy::BoolValue { value: false }),
        traffic_direction: envoy::core::TrafficDirection::Outbound.into(),
        ..Default::default()
    }
}
