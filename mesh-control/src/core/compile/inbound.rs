//! What proxies do with connections that come to captured ports of pods: one listener for all, as Istio's `virtualInbound` is for all ports
//! of a sidecar's pod. They go on, byte by byte, to where they were going.

use super::envoy::tcp_proxy::{TcpProxy, tcp_proxy::ClusterSpecifier};
use super::envoy::{self, listener, pack_any};
use super::listener::filter;
use super::tcp::FILTER;
use envoy_types::pb::envoy::extensions::filters::listener::original_src::v3::OriginalSrc;
use mesh_common::ports;
use std::net::Ipv4Addr;

/// Istio's name of it.
pub(super) const LISTENER: &str = "virtualInbound";
/// Istio's name for "on to the application that the client meant".
pub(super) const CLUSTER: &str = "InboundPassthroughCluster";

/// The listener. The application is dialled from the client's own address.
pub(super) fn listener() -> listener::Listener {
    let proxy = TcpProxy {
        stat_prefix: CLUSTER.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(CLUSTER.to_owned())),
        ..Default::default()
    };
    let source = OriginalSrc { bind_port: true, ..Default::default() };
    let source = listener::ListenerFilter {
        name: "envoy.filters.listener.original_src".to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(pack_any(source))),
        ..Default::default()
    };
    let chain = listener::FilterChain { filters: vec![filter(FILTER, pack_any(proxy))], ..Default::default() };
    listener::Listener {
        name: LISTENER.to_owned(),
        address: Some(envoy::socket_address(Ipv4Addr::UNSPECIFIED.into(), ports::INBOUND)),
        listener_filters: vec![source],
        filter_chains: vec![chain],
        // The sockets are the agent's.
        bind_to_port: Some(envoy::BoolValue { value: false }),
        traffic_direction: envoy::core::TrafficDirection::Inbound.into(),
        ..Default::default()
    }
}
