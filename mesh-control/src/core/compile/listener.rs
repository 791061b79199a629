//! Listeners: one per HTTP port for all services of that port, one per VIP and port for opaque TCP.

use super::Abilities;
use super::envoy::{self, Router, cors, fault, hcm, listener, pack_any};
use super::route::{CORS, FAULT};
use super::tcp::{self, Dialled};
use envoy_types::pb::google::protobuf::Any;
use std::net::{IpAddr, Ipv4Addr};

/// `server` header of answers; Istio's, since clients and tests look for it.
const SERVER_NAME: &str = "istio-envoy";

/// The listener of an HTTP port: which service is meant says the Host header, in RouteConfiguration `port`.
pub(super) fn http(port: u16, can: Abilities) -> listener::Listener {
    let name = format!("0.0.0.0_{port}");
    let rds = hcm::Rds { config_source: Some(envoy::ads()), route_config_name: port.to_string() };
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
    let manager = hcm::HttpConnectionManager {
        stat_prefix: format!("outbound_{name}"),
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)),
        http_filters: filters,
        // Istio lets WebSockets pass everywhere.
        upgrade_configs: vec![websocket],
        server_name: SERVER_NAME.to_owned(),
        ..Default::default()
    };
    one_filter(name, (Ipv4Addr::UNSPECIFIED.into(), port), "envoy.filters.network.http_connection_manager", pack_any(manager))
}

/// The listener of a TCP port that the proxy carries: which service is meant says the address.
pub(super) fn tcp(to: Dialled, filter: Any) -> listener::Listener {
    one_filter(format!("{}_{}", to.address, to.port), (to.address, to.port), tcp::FILTER, filter)
}

fn one_filter(name: String, (address, port): (IpAddr, u16), filter: &str, config: Any) -> listener::Listener {
    let filter =
        listener::Filter { name: filter.to_owned(), config_type: Some(listener::filter::ConfigType::TypedConfig(config)) };
    listener::Listener {
        name,
        address: Some(envoy::socket_address(address, port)),
        filter_chains: vec![listener::FilterChain { filters: vec![filter], ..Default::default() }],
        // The sockets are the agent's: a proxy that would bind this one would take the port of the node.
        bind_to_port: Some(envoy::BoolValue { value: false }),
        traffic_direction: envoy::core::TrafficDirection::Outbound.into(),
        ..Default::default()
    }
}
