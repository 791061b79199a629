//! Ports of which nobody said what they carry, in the hands of the proxy.

use super::net::speaking;
use super::*;
use crate::core::flip::Carriage;
use envoy::listener;

const LISTENER_NAME: &str = "11.15.94.83_9080";

fn labelled(mode: Mode) -> Registry {
    let mut registry = speaking(Protocol::Undeclared);
    registry.services.values_mut().flat_map(|service| service.ports.values_mut()).for_each(|port| port.mode = mode);
    registry
}

fn kind(chain: &listener::FilterChain) -> (String, Vec<String>, bool) {
    let found = chain.filter_chain_match.clone().unwrap_or_default();
    let http = chain.filters[0].name.ends_with("http_connection_manager");
    (found.transport_protocol, found.application_protocols, http)
}

#[test]
fn the_first_bytes_say_what_is_spoken() {
    let compiled = compiled(&labelled(Mode::Proxy), &[]);
    let found: listener::Listener = decode(&compiled, LISTENER, LISTENER_NAME);
    let inspectors: Vec<_> = found.listener_filters.iter().map(|filter| filter.name.rsplit('.').next().expect("name")).collect();
    assert_eq!(inspectors, ["tls_inspector", "http_inspector"]);
    let timeout = found.listener_filters_timeout.expect("a time limit");
    assert_eq!((timeout.seconds, timeout.nanos, found.continue_on_listener_filters_timeout), (0, 100_000_000, true));
    let http = vec!["http/1.0".to_owned(), "http/1.1".to_owned(), "h2c".to_owned()];
    let (plain, any) = ("raw_buffer".to_owned(), String::new());
    let chains: Vec<_> = found.filter_chains.iter().map(kind).collect();
    assert_eq!(chains, [(plain.clone(), http, true), (plain, vec![], false), (any, vec![], false)]);
    let routes: pb::RouteConfiguration = decode(&compiled, ROUTE, &format!("{REVIEWS}:9080"));
    assert_eq!(routes.virtual_hosts.len(), 1);
    assert_eq!(
        (routes.virtual_hosts[0].domains.as_slice(), routes.virtual_hosts[0].routes.len()),
        (["*".to_owned()].as_slice(), 1)
    );
    let cluster: envoy::cluster::Cluster = decode(&compiled, CLUSTER, &format!("outbound|9080||{REVIEWS}"));
    assert!(!cluster.typed_extension_protocol_options.is_empty(), "endpoints are spoken to as the client speaks");
    let key = PortKey { service: REVIEWS.to_owned(), port: 9080 };
    assert_eq!(compiled.carried[&key], Carriage::Http, "the port is handed over when its routes are there too");
    let snapshot = compiled.snapshot(&node("node~10.0.0.0~n~mesh"));
    assert!(!snapshot.types[LISTENER].contains_key("0.0.0.0_9080"));
}

#[test]
fn without_rules_and_label_the_kernel_has_the_port() {
    let plain = compiled(&speaking(Protocol::Undeclared), &[]);
    assert!(plain.modes.values().all(|mode| *mode == Mode::Kernel) && plain.carried.is_empty());
    let tcp = compiled(&speaking(Protocol::Tcp), &[virtual_service("v", 1, "reviews", json!([{"route": [to("reviews", "")]}]))]);
    assert!(tcp.modes.values().all(|mode| *mode == Mode::Kernel), "what was declared opaque has no requests");
    let declared = compiled(&speaking(Protocol::Tcp), &[]);
    assert!(!declared.snapshot(&node("node~10.0.0.0~n~mesh")).types[LISTENER].contains_key(LISTENER_NAME));
}

#[test]
fn rules_for_requests_and_for_connections_hold_for_their_own() {
    let spec = json!({"hosts": ["reviews"], "http": [{"route": [to("reviews", "v1")]}], "tcp": [{"route": [to("reviews", "v2")]}],
        "tls": [{"match": [{"sniHosts": ["reviews"]}], "route": [to("reviews", "v1")]}]});
    let rules = [subsets("reviews", &["v1", "v2"]), rule("VirtualService", "v", 1, spec)];
    let compiled = compiled(&speaking(Protocol::Undeclared), &rules);
    assert_eq!(compiled.unsupported, []);
    let routes: pb::RouteConfiguration = decode(&compiled, ROUTE, &format!("{REVIEWS}:9080"));
    assert_eq!(cluster_of(&routes.virtual_hosts[0].routes[0]), format!("outbound|9080|v1|{REVIEWS}"));
    let found: listener::Listener = decode(&compiled, LISTENER, LISTENER_NAME);
    let names = |chain: &listener::FilterChain| chain.filter_chain_match.clone().unwrap_or_default().server_names;
    let chains: Vec<_> = found.filter_chains.iter().map(|chain| (kind(chain).0, names(chain).len(), kind(chain).2)).collect();
    let (plain, any) = ("raw_buffer".to_owned(), String::new());
    assert_eq!(chains, [(plain.clone(), 0, true), (any.clone(), 1, false), (plain, 0, false), (any, 0, false)]);
}

#[test]
fn http_is_managed_as_istio_does_by_default() {
    use prost::Message;
    let compiled = compiled(&reviews(&["v1"]), &[]);
    let found: listener::Listener = decode(&compiled, LISTENER, "0.0.0.0_9080");
    let Some(listener::filter::ConfigType::TypedConfig(any)) = &found.filter_chains[0].filters[0].config_type else {
        panic!("no filter")
    };
    let manager = envoy::hcm::HttpConnectionManager::decode(any.value.as_slice()).expect("a manager");
    assert!(manager.proxy_100_continue, "ENABLE_100_CONTINUE_HEADERS is on since Istio 1.24");
    assert_eq!(manager.stream_idle_timeout, Some(envoy::Duration::default()), "a stream may rest");
    assert!(manager.http_protocol_options.is_some_and(|options| options.accept_http_10));
}
