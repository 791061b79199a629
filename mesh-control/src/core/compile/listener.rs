//! Listeners: one per HTTP port for all services of that port, one per VIP and port for opaque TCP.

use super::envoy::{self, Router, cors, fault, hcm, listener, pack_any};
use super::gateway::inspector as tls_inspector;
use super::route::{CORS, FAULT};
use super::tcp::{self, Chain, Dialled, Source};
use super::telemetry::Telling;
use super::{Abilities, Settings, source};
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::google::protobuf::Any;
use mesh_xds::server::Versioned;
use std::net::{IpAddr, Ipv4Addr};

/// Envoy's name of the filter.
const MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// As the HTTP inspector names what it has seen.
const HTTP_VERSIONS: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];

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

/// How connections are served that turn out to carry HTTP.
pub(super) struct Detected {
    filter: listener::Filter,
    timeout: std::time::Duration,
}

/// The same for requests of a port that nobody has declared.
pub(super) fn detected(routes: &str, settings: &Settings, telling: &Telling) -> Detected {
    let manager = manager(&format!("outbound_{routes}"), routes, settings.abilities, telling);
    Detected { filter: filter(MANAGER, pack_any(manager)), timeout: settings.detection_timeout }
}

/// The listener of a TCP port that the proxy carries: which service is meant says the address, what is spoken the first bytes, if that is
/// open.
pub(super) fn tcp(to: Dialled, chains: Vec<Chain>, http: Option<&Detected>) -> Versioned {
    let mut listener = captured(format!("{}_{}", to.address, to.port), (to.address, to.port), Vec::new());
    let matched = |chain: &Chain| (!chain.names.is_empty()).then(|| tcp::server_names(&chain.names));
    let (mut served, mut sources) = (Vec::new(), Vec::new());
    if let Some(http) = http {
        listener.listener_filters = vec![tls_inspector(), http_inspector()];
        listener.listener_filters_timeout = Some(envoy::duration(http.timeout));
        // A client that waits for the server's words.
        listener.continue_on_listener_filters_timeout = true;
        served.push(listener::FilterChain {
            filter_chain_match: Some(plain(&HTTP_VERSIONS)),
            filters: vec![http.filter.clone()],
            ..Default::default()
        });
        sources.push(Source::default());
    }
    for chain in chains {
        let filters = vec![filter(tcp::FILTER, chain.filter.clone())];
        let found = matched(&chain);
        // Beside the chain for plain HTTP: the choice by transport comes before that by protocol, and there is no way back.
        if http.is_some() && found.is_none() {
            served.push(listener::FilterChain {
                filter_chain_match: Some(plain(&[])),
                filters: filters.clone(),
                ..Default::default()
            });
            sources.push(chain.source.clone());
        }
        served.push(listener::FilterChain { filter_chain_match: found, filters, ..Default::default() });
        sources.push(chain.source);
    }
    source::versioned(&listener, &served, &sources)
}

/// Not TLS, and one of these protocols; none is any.
fn plain(protocols: &[&str]) -> listener::FilterChainMatch {
    listener::FilterChainMatch {
        transport_protocol: "raw_buffer".to_owned(),
        application_protocols: protocols.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

/// Looks whether the first bytes are HTTP's.
fn http_inspector() -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: "envoy.filters.listener.http_inspector".to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(pack_any(HttpInspector::default()))),
        ..Default::default()
    }
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
