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
