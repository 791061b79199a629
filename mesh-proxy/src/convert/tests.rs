//! What is refused, and with which words; what must be taken.

mod balance;
mod found;

use super::at::At;
use super::{cluster, listener, route};
use crate::config::PoolSettings;
use crate::core::balance::{Health, Policy};
use crate::core::budget::Limits;
use crate::core::route::Action;
use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use envoy_types::pb::envoy::config::listener::v3 as lds;
use envoy_types::pb::envoy::config::route::v3 as rds;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use std::time::Duration as Time;

fn static_cluster() -> cds::Cluster {
    cds::Cluster { name: "c".to_owned(), ..Default::default() }
}

fn refused_cluster(message: cds::Cluster) -> String {
    cluster::cluster(&At::resource("c"), message).expect_err("refused").to_string()
}

#[test]
fn a_field_without_effect_is_refused_by_name() {
    let rates = cds::Cluster { outlier_detection: Some(cds::OutlierDetection::default()), ..static_cluster() };
    let text = refused_cluster(rates);
    let expected = "only 0 is supported (absent means 100): there is no detection by rates";
    assert_eq!(text, format!("c: outlier_detection.enforcing_success_rate: {expected}"));
    let threshold =
        cds::circuit_breakers::Thresholds { max_connection_pools: Some(UInt32Value { value: 1 }), ..Default::default() };
    let breakers = cds::CircuitBreakers { thresholds: vec![threshold], ..Default::default() };
    let text = refused_cluster(cds::Cluster { circuit_breakers: Some(breakers), ..static_cluster() });
    assert_eq!(text, "c: circuit_breakers.thresholds[0].max_connection_pools: only 4294967295 (no limit) is supported");
    let text = listener::listener(&At::resource("l"), lds::Listener::default()).expect_err("refused").to_string();
    assert_eq!(text, "l: address is missing");
}

#[test]
fn defaults_are_envoys_and_limits_of_istio_say_nothing() {
    let none = Some(UInt32Value { value: u32::MAX });
    let threshold = cds::circuit_breakers::Thresholds {
        max_connections: none,
        max_pending_requests: none,
        max_requests: Some(UInt32Value { value: 7 }),
        max_retries: none,
        track_remaining: true,
        ..Default::default()
    };
    let breakers = cds::CircuitBreakers { thresholds: vec![threshold], ..Default::default() };
    let message = cds::Cluster { circuit_breakers: Some(breakers), ..static_cluster() };
    let cluster = cluster::cluster(&At::resource("c"), message).expect("taken");
    assert_eq!((cluster.balance.policy, cluster.pool.limits), (Policy::RoundRobin, Limits { requests: 7, ..Limits::default() }));
    assert_eq!(*cluster.pool, PoolSettings { limits: cluster.pool.limits, ..PoolSettings::default() });
    assert_eq!((cluster.pool.connect_timeout, cluster.pool.idle_timeout), (Time::from_secs(5), Some(Time::from_secs(3600))));
}

#[test]
fn health_and_weights_of_endpoints() {
    let endpoint = |status: core::HealthStatus, weight: Option<u32>| {
        let socket = core::SocketAddress {
            address: "9.0.1.1".to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(9080)),
            ..Default::default()
        };
        let address = Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) });
        let endpoint = eds::Endpoint { address, ..Default::default() };
        eds::LbEndpoint {
            health_status: status as i32,
            load_balancing_weight: weight.map(|value| UInt32Value { value }),
            host_identifier: Some(eds::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
            ..Default::default()
        }
    };
    let lb_endpoints = vec![
        endpoint(core::HealthStatus::Unknown, None),
        endpoint(core::HealthStatus::Draining, Some(3)),
        endpoint(core::HealthStatus::Degraded, Some(0)),
    ];
    let locality = eds::LocalityLbEndpoints { lb_endpoints, ..Default::default() };
    let load = |priority| eds::ClusterLoadAssignment {
        endpoints: vec![eds::LocalityLbEndpoints { priority, ..locality.clone() }],
        ..Default::default()
    };
    let taken = cluster::load_assignment(&At::resource("c"), load(0)).expect("taken").endpoints;
    let seen: Vec<_> = taken.iter().map(|e| (e.health, e.weight)).collect();
    assert_eq!(seen, [(Health::Healthy, 1)], "the same address thrice is one endpoint");
    assert_eq!(cluster::load_assignment(&At::resource("c"), load(1)).expect("taken").endpoints[0].priority, 1);
}

fn table(action: rds::RouteAction, change: impl FnOnce(&mut rds::Route)) -> Result<crate::core::route::RouteTable, String> {
    let path = Some(rds::route_match::PathSpecifier::Prefix("/".to_owned()));
    let mut route = rds::Route {
        r#match: Some(rds::RouteMatch { path_specifier: path, ..Default::default() }),
        action: Some(rds::route::Action::Route(action)),
        ..Default::default()
    };
    change(&mut route);
    let host =
        rds::VirtualHost { name: "h".to_owned(), domains: vec!["*".to_owned()], routes: vec![route], ..Default::default() };
    let message = rds::RouteConfiguration { virtual_hosts: vec![host], ..Default::default() };
    route::table(&At::resource("80"), message).map_err(|invalid| invalid.to_string())
}

fn to_cluster() -> rds::RouteAction {
    let cluster = rds::route_action::ClusterSpecifier::Cluster("c".to_owned());
    rds::RouteAction { cluster_specifier: Some(cluster), ..Default::default() }
}

#[test]
fn routes_are_refused_with_the_whole_path_of_the_field() {
    let hedged = rds::RouteAction { hedge_policy: Some(rds::HedgePolicy::default()), ..to_cluster() };
    let at = "80: virtual_hosts[0].routes[0]";
    assert_eq!(table(hedged, |_| {}).expect_err("refused"), format!("{at}.route.hedge_policy is not supported"));
    let other = table(to_cluster(), |route| {
        route.typed_per_filter_config.insert("envoy.filters.http.lua".to_owned(), Any::default());
    });
    assert_eq!(other.expect_err("refused"), format!("{at}.typed_per_filter_config.envoy.filters.http.lua is not supported"));
    let retry = rds::RetryPolicy { retry_on: "5xx,whenever".to_owned(), ..Default::default() };
    let text = table(rds::RouteAction { retry_policy: Some(retry), ..to_cluster() }, |_| {}).expect_err("refused");
    assert_eq!(text, format!("{at}.route.retry_policy.retry_on: \"whenever\" is not supported"));
    let header = core::HeaderValue { key: "x".to_owned(), value: "%ENVIRONMENT(HOME)%".to_owned(), ..Default::default() };
    let text = table(to_cluster(), |route| {
        route.request_headers_to_add = vec![core::HeaderValueOption { header: Some(header), ..Default::default() }];
    });
    let expected = format!("{at}.request_headers_to_add[0].header.value: %ENVIRONMENT(HOME)% is not supported");
    assert_eq!(text.expect_err("refused"), expected);
}

#[test]
fn an_absent_timeout_is_15_seconds_and_zero_is_none() {
    for (timeout, expected) in [(None, Some(Time::from_secs(15))), (Some(Duration { seconds: 0, nanos: 0 }), None)] {
        let table = table(rds::RouteAction { timeout, ..to_cluster() }, |_| {}).expect("taken");
        let Action::Forward(forward) = &table.virtual_hosts()[0].routes[0].action else { panic!("forwards") };
        assert_eq!(forward.timeouts.total, expected);
    }
    // What asks for what we do anyway is taken.
    let message = rds::RouteConfiguration {
        validate_clusters: Some(BoolValue { value: false }),
        ignore_port_in_host_matching: true,
        ..Default::default()
    };
    assert!(route::table(&At::resource("80"), message).is_ok());
}
