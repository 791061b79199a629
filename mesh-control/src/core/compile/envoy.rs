//! Envoy's messages under short names, and the little values that they are made of.

pub(super) use envoy_types::pb::envoy::config::cluster::v3 as cluster;
pub(super) use envoy_types::pb::envoy::config::core::v3 as core;
pub(super) use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
pub(super) use envoy_types::pb::envoy::config::listener::v3 as listener;
pub(super) use envoy_types::pb::envoy::config::route::v3 as route;
pub(super) use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as fault_common;
pub(super) use envoy_types::pb::envoy::extensions::filters::http::cors::v3 as cors;
pub(super) use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
pub(super) use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
pub(super) use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
pub(super) use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
pub(super) use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
pub(super) use envoy_types::pb::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
pub(super) use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
pub(super) use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstreams;
pub(super) use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
pub(super) use envoy_types::pb::envoy::r#type::v3::{
    FractionalPercent, HashPolicy, Percent, fractional_percent::DenominatorType, hash_policy,
};
pub(super) use envoy_types::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value, UInt64Value};
pub(super) use envoy_types::util::pack_any;

use bytes::Bytes;
use mesh_xds::server::Versioned;
use prost::Message;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::IpAddr;

/// A resource with the hash of its body as version.
///
/// A protobuf map with two entries or more that gets here is made by [`in_order`]: prost writes maps in the order of a `HashMap`, and the
/// version of an unchanged resource would change.
pub(super) fn versioned(message: &impl Message) -> Versioned {
    version_of(Bytes::from(message.encode_to_vec()))
}

pub(super) fn version_of(body: Bytes) -> Versioned {
    let digest = Sha256::digest(&body);
    // 64 bits: a version only has to differ from its predecessor's.
    let version = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Versioned { version, body }
}

/// Per-filter configurations in a map that is iterated in the order of its keys.
///
/// Each map hashes with a seed of its own, so one of a few has its entries in this order; its clones keep it. For the two or three
/// filters that routes configure that takes a handful of trials.
pub(super) fn in_order(entries: impl Iterator<Item = (&'static str, Any)>) -> HashMap<String, Any> {
    let entries: Vec<_> = entries.map(|(name, config)| (name.to_owned(), config)).collect();
    loop {
        let map: HashMap<_, _> = entries.iter().cloned().collect();
        if map.keys().is_sorted() {
            return map;
        }
    }
}

pub(super) fn socket_address(address: IpAddr, port: u16) -> core::Address {
    let socket = core::SocketAddress {
        address: address.to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    };
    core::Address { address: Some(core::address::Address::SocketAddress(socket)) }
}

pub(super) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})),
        resource_api_version: core::ApiVersion::V3.into(),
        ..Default::default()
    }
}

pub(super) fn duration(span: std::time::Duration) -> Duration {
    // Admission lets no duration pass that Envoy could not take.
    let nanos = i32::try_from(span.subsec_nanos()).unwrap_or_default();
    Duration { seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX), nanos }
}

pub(super) const fn uint(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(super) fn regex(regex: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: regex.to_owned(), ..Default::default() }
}

pub(super) const fn percentage(value: f64) -> Percent {
    Percent { value }
}

/// Istio's resolution is a ten-thousandth of a per cent, which is Envoy's MILLION.
pub(super) fn percent(value: f64) -> FractionalPercent {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=1,000,000, and a cast saturates")]
    let numerator = (value.clamp(0.0, 100.0) * 10_000.0).round() as u32;
    FractionalPercent { numerator, denominator: DenominatorType::Million.into() }
}
