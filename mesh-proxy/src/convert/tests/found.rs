//! What fuzzing and its models found.

#![expect(deprecated, reason = "deprecated header conditions are still sent by control planes")]

use super::{rds, refused_cluster, static_cluster, table, to_cluster};
use crate::core::matching::RequestView;
use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use envoy_types::pb::google::protobuf::Any;
use http::{HeaderMap, HeaderValue};
use prost::Message;

#[test]
fn an_exact_match_of_nothing_is_any_value() {
    let condition = |invert_match| rds::HeaderMatcher {
        name: "x".to_owned(),
        header_match_specifier: Some(rds::header_matcher::HeaderMatchSpecifier::ExactMatch(String::new())),
        invert_match,
        ..Default::default()
    };
    for (value, invert, expected) in
        [(Some("a"), false, true), (Some("a"), true, false), (None, false, false), (None, true, false)]
    {
        let table = table(to_cluster(), |route| {
            route.r#match.as_mut().expect("there").headers = vec![condition(invert)];
        });
        let headers =
            HeaderMap::from_iter(value.map(|value| (http::HeaderName::from_static("x"), HeaderValue::from_static(value))));
        let request = RequestView { method: "GET", authority: "a", scheme: "http", path: "/", query: None, headers: &headers };
        let labels = std::collections::BTreeMap::new();
        assert_eq!(table.expect("taken").find(&request, &labels, 0).is_some(), expected, "{value:?}, inverted: {invert}");
    }
}

#[test]
fn a_certificate_is_not_read_from_a_device() {
    let filename = Some(core::data_source::Specifier::Filename("/dev/zero".to_owned()));
    let source = Some(core::DataSource { specifier: filename, ..Default::default() });
    let authority = tls::CertificateValidationContext { trusted_ca: source, ..Default::default() };
    let common = tls::CommonTlsContext {
        validation_context_type: Some(tls::common_tls_context::ValidationContextType::ValidationContext(authority)),
        ..Default::default()
    };
    let context = tls::UpstreamTlsContext { common_tls_context: Some(common), ..Default::default() };
    let any = Any {
        type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext".to_owned(),
        value: context.encode_to_vec(),
    };
    let socket = core::TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(any)),
    };
    let text = refused_cluster(cds::Cluster { transport_socket: Some(socket), ..static_cluster() });
    assert!(text.ends_with("trusted_ca.filename: /dev/zero is no regular file"), "{text}");
}

#[test]
fn the_clients_address_is_shown_to_whom_it_can_be_shown() {
    use envoy_types::pb::envoy::config::listener::v3 as lds;
    use envoy_types::pb::envoy::extensions::filters::listener::original_src::v3::OriginalSrc;
    use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier};
    use envoy_types::util::pack_any;
    let listener = |bind_port, direction: core::TrafficDirection| {
        let tcp = TcpProxy {
            stat_prefix: "x".to_owned(),
            cluster_specifier: Some(ClusterSpecifier::Cluster("c".to_owned())),
            ..Default::default()
        };
        let filter =
            lds::Filter { name: "tcp".to_owned(), config_type: Some(lds::filter::ConfigType::TypedConfig(pack_any(tcp))) };
        let source = lds::listener_filter::ConfigType::TypedConfig(pack_any(OriginalSrc { bind_port, mark: 0 }));
        let address = core::SocketAddress {
            address: "0.0.0.0".to_owned(),
            port_specifier: Some(core::socket_address::PortSpecifier::PortValue(15006)),
            ..Default::default()
        };
        let message = lds::Listener {
            name: "virtualInbound".to_owned(),
            address: Some(core::Address { address: Some(core::address::Address::SocketAddress(address)) }),
            listener_filters: vec![lds::ListenerFilter { name: "s".to_owned(), config_type: Some(source), ..Default::default() }],
            filter_chains: vec![lds::FilterChain { filters: vec![filter], ..Default::default() }],
            bind_to_port: Some(envoy_types::pb::google::protobuf::BoolValue { value: false }),
            traffic_direction: direction.into(),
            ..Default::default()
        };
        crate::convert::listener::listener(&crate::convert::at::At::resource("virtualInbound"), message)
    };
    let taken = listener(true, core::TrafficDirection::Inbound).expect("taken");
    assert!(taken.inbound && taken.original_source && !taken.bound);
    for (bind_port, direction, why) in [
        (false, core::TrafficDirection::Inbound, "bind_port"),
        (true, core::TrafficDirection::Outbound, "traffic_direction INBOUND"),
    ] {
        let text = listener(bind_port, direction).expect_err(why).to_string();
        assert!(text.contains(why), "{text}");
    }
}
