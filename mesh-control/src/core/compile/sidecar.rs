//! What a stock Envoy beside one workload holds: what proxies of nodes do, with everything settled that depends on who asks. Those serve
//! all pods of a node and choose by the pod whose connection it is; here there is only one.
//!
//! How connections reach it says its metadata, as in Istio: `INTERCEPTION_MODE` REDIRECT (iptables lead to port 15001, from where they go to
//! the listener of their destination) or NONE (the workload dials 127.0.0.1, or the sidecar's own loopback address, at the service's port). Inbound is left to the workload.

use super::envoy::{self, listener, route, versioned};
use super::matching::metadata_of;
use super::source;
use super::{PASSTHROUGH, Resources};
use crate::core::registry::{Registry, Workload};
use envoy_types::pb::envoy::r#type::matcher::v3::MetadataMatcher;
use mesh_xds::node::{INTERCEPTION_MODE, Node};
use mesh_xds::server::Versioned;
use prost::Message;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Istio's names.
const OUTBOUND: &str = "virtualOutbound";
const BLACK_HOLE: &str = "BlackHoleCluster";
/// Where iptables lead outgoing connections, also those of the first Istio for Mesos.
const OUTBOUND_PORT: u16 = 15001;

/// The one workload.
pub(super) struct Client<'r> {
    workload: Option<&'r Workload>,
    /// Where it dials, if nothing leads its connections here.
    binds: Option<IpAddr>,
    /// All conditions on who asks that hold.
    holds: Vec<MetadataMatcher>,
}

impl<'r> Client<'r> {
    /// By the instance's id, with or without the rest of the task's, else by its address. Who is unknown is in the namespace `default`.
    pub(super) fn new(node: &Node, registry: &'r Registry) -> Self {
        let id = |name: &str| registry.workloads.get(name);
        let shorter = || node.name.match_indices('.').rev().find_map(|(at, _)| id(&node.name[..at]));
        let by_address = || registry.workloads.values().find(|workload| workload.addresses.contains(&node.address));
        let workload = id(&node.name).or_else(shorter).or_else(by_address);
        let namespace = workload.map_or("default", |workload| workload.namespace.as_str());
        let labels = workload.iter().flat_map(|workload| workload.labels.iter());
        // On the host network several share 127.0.0.1: each may have a loopback address of its own.
        let local = if node.address.is_loopback() { node.address } else { Ipv4Addr::LOCALHOST.into() };
        let binds = node.labels.get(INTERCEPTION_MODE).filter(|mode| *mode == "NONE").map(|_| local);
        Self { workload, binds, holds: metadata_of(namespace, labels) }
    }

    /// From where it dials endpoints.
    pub(super) fn node(&self, node: &Node) -> IpAddr {
        self.workload.and_then(|workload| workload.node.parse().ok()).unwrap_or(node.address)
    }

    /// Distinguishes versions of what is made for different workloads, and again when a workload changes.
    fn mark(&self, of: &str) -> String {
        let who = self.holds.iter().flat_map(Message::encode_to_vec).collect::<Vec<_>>();
        let binds = self.binds.map(|address| address.to_string()).unwrap_or_default();
        envoy::version_of([of.as_bytes(), binds.as_bytes(), &who].concat().into()).version
    }

    /// Routes without those for others.
    pub(super) fn routes(&self, all: &Resources) -> Resources {
        self.each(all, |body| {
            let mut routes = route::RouteConfiguration::decode(body).ok()?;
            for found in routes.virtual_hosts.iter_mut().map(|host| &mut host.routes) {
                found.retain(|route| route.r#match.iter().flat_map(|m| &m.dynamic_metadata).all(|one| self.holds.contains(one)));
                found.iter_mut().filter_map(|route| route.r#match.as_mut()).for_each(|found| found.dynamic_metadata.clear());
            }
            Some(routes.encode_to_vec())
        })
    }

    /// Listeners without the chains for others, as connections reach them here.
    pub(super) fn listeners(&self, all: &Resources, allow_any: bool) -> Resources {
        let mut listeners = (*self.each(all, |body| self.listener(body))).clone();
        if self.binds.is_none() {
            listeners.insert(OUTBOUND.to_owned(), versioned(&outbound(allow_any)));
        }
        Arc::new(listeners)
    }

    fn listener(&self, body: bytes::Bytes) -> Option<Vec<u8>> {
        let mut listener = listener::Listener::decode(body).ok()?;
        if listener.traffic_direction() == envoy::core::TrafficDirection::Inbound {
            return None;
        }
        let mut chains: Vec<listener::FilterChain> = Vec::new();
        for mut chain in std::mem::take(&mut listener.filter_chains) {
            let meant = chain.metadata.take().is_none_or(|metadata| source::holds(&metadata, &self.holds));
            // Those that are left may have differed in their sources only: the first is the one that is meant.
            if meant && !chains.iter().any(|other| other.filter_chain_match == chain.filter_chain_match) {
                chains.push(chain);
            }
        }
        listener.filter_chains = chains;
        if let Some(address) = self.binds {
            // VIPs are nobody's addresses: ports that are told apart by them cannot be dialled.
            let port = listener.name.strip_prefix("0.0.0.0_")?.parse().ok()?;
            listener.address = Some(envoy::socket_address(address, port));
            listener.bind_to_port = Some(envoy::BoolValue { value: true });
        }
        (!listener.filter_chains.is_empty()).then(|| listener.encode_to_vec())
    }

    fn each(&self, all: &Resources, make: impl Fn(bytes::Bytes) -> Option<Vec<u8>>) -> Resources {
        let made = all.iter().filter_map(|(name, resource)| {
            // Not a hash of the body: maps are encoded in any order, and what did not change is not sent again.
            let version = self.mark(&resource.version);
            Some((name.clone(), Versioned { version, body: make(resource.body.clone())?.into() }))
        });
        Arc::new(made.collect::<BTreeMap<_, _>>())
    }
}

/// Everybody's clusters, and the one that leads nowhere.
pub(super) fn clusters(all: &Resources) -> Resources {
    use envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
    let nowhere = envoy::cluster::Cluster {
        name: BLACK_HOLE.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        connect_timeout: Some(envoy::duration(std::time::Duration::from_secs(10))),
        ..Default::default()
    };
    let mut clusters = (**all).clone();
    clusters.insert(BLACK_HOLE.to_owned(), versioned(&nowhere));
    Arc::new(clusters)
}

/// Takes what iptables lead here; what no listener is for goes on or nowhere.
fn outbound(allow_any: bool) -> listener::Listener {
    use envoy::tcp_proxy::{TcpProxy, tcp_proxy::ClusterSpecifier};
    let cluster = if allow_any { PASSTHROUGH } else { BLACK_HOLE };
    let proxy = TcpProxy {
        stat_prefix: cluster.to_owned(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    };
    let filter = super::listener::filter(super::tcp::FILTER, envoy::pack_any(proxy));
    listener::Listener {
        name: OUTBOUND.to_owned(),
        address: Some(envoy::socket_address(Ipv4Addr::UNSPECIFIED.into(), OUTBOUND_PORT)),
        filter_chains: vec![listener::FilterChain { filters: vec![filter], ..Default::default() }],
        use_original_dst: Some(envoy::BoolValue { value: true }),
        traffic_direction: envoy::core::TrafficDirection::Outbound.into(),
        ..Default::default()
    }
}
