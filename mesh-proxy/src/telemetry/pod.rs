//! What one pod's thread remembers of results that it has seen: their counters, so that labels are written once.

use super::edges::{Edge, Edges, Labels, Side};
use crate::config::Config;
use crate::core::flags::Flags;
use crate::core::peer::{Peer, UNKNOWN};
use crate::core::table::Table;
use mesh_common::broker::Workload;
use mesh_xds::names::ClusterName;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

/// What tells results of one pod apart.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Kind {
    /// The cluster's name, if there was a route.
    pub cluster: Option<Arc<str>>,
    /// The last endpoint.
    pub endpoint: Option<SocketAddr>,
    /// As sent to the client.
    pub code: u16,
    /// Why.
    pub flags: Flags,
    /// `Some` if it is gRPC: its status, if there was one.
    pub grpc: Option<Option<u16>>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Known {
    edges: RefCell<Table<Kind, Arc<Edge>>>,
}

impl Known {
    /// The counters of a result.
    pub fn edge(&self, kind: Kind, edges: &Edges, workload: &Workload, config: &Config) -> Arc<Edge> {
        let mut known = self.edges.borrow_mut();
        let edge = known.entry(kind).or_insert_with_key(|kind| edges.requests(request_labels(kind, workload, config)));
        Arc::clone(edge)
    }

    /// The pod or the configuration has changed: labels are written anew.
    pub fn forget(&self) {
        self.edges.borrow_mut().clear();
    }
}

/// Who an endpoint is, as the control plane says.
#[must_use]
pub fn peer(config: &Config, cluster: Option<&Arc<str>>, endpoint: Option<SocketAddr>) -> Option<Arc<Peer>> {
    let endpoints = &config.clusters.get(cluster?)?.balancer.members().endpoints;
    endpoints.iter().find(|found| Some(found.address) == endpoint)?.peer.clone()
}

fn request_labels(kind: &Kind, workload: &Workload, config: &Config) -> Labels {
    let destination = peer(config, kind.cluster.as_ref(), kind.endpoint);
    let mut pairs = both_sides(workload, destination.as_deref(), kind.cluster.as_deref());
    pairs.push(("request_protocol", if kind.grpc.is_some() { "grpc" } else { "http" }.to_owned()));
    pairs.push(("response_code", kind.code.to_string()));
    let status = kind.grpc.flatten();
    pairs.push(("grpc_response_status", status.map_or_else(String::new, |status| status.to_string())));
    pairs.push(("response_flags", kind.flags.to_string()));
    // The proxy before a captured port carries bytes: of requests only we can tell.
    let side = if kind.endpoint.is_some() { Side::Both } else { Side::Client };
    Labels { pairs, side }
}

/// The labels of client and service.
pub(super) fn both_sides(workload: &Workload, peer: Option<&Peer>, cluster: Option<&str>) -> Vec<(&'static str, String)> {
    let known = |text: &str| if text.is_empty() { UNKNOWN.to_owned() } else { text.to_owned() };
    let source = Peer::of(&workload.app, &workload.namespace, &workload.labels);
    let label = |name: &str, other: &str| known(workload.labels.get(name).map_or(other, String::as_str));
    let none = Peer::default();
    let destination = peer.unwrap_or(&none);
    let name = cluster.and_then(|name| name.parse::<ClusterName>().ok());
    // A cluster that is not Istio's is its own service.
    let host = name.as_ref().map_or_else(|| cluster.unwrap_or_default(), |name| &name.host);
    let short = if name.is_some() { host.split('.').next().unwrap_or_default() } else { host };
    vec![
        ("source_workload", known(&source.workload)),
        ("source_canonical_service", known(&source.canonical_service)),
        ("source_canonical_revision", known(&source.canonical_revision)),
        ("source_workload_namespace", known(&source.namespace)),
        ("source_principal", UNKNOWN.to_owned()),
        ("source_app", label("app", &source.canonical_service)),
        ("source_version", label("version", &source.canonical_revision)),
        ("source_cluster", known(&source.cluster)),
        ("destination_workload", known(&destination.workload)),
        ("destination_workload_namespace", known(&destination.namespace)),
        ("destination_principal", UNKNOWN.to_owned()),
        ("destination_app", known(&destination.canonical_service)),
        ("destination_version", known(&destination.canonical_revision)),
        ("destination_service", known(host)),
        ("destination_canonical_service", known(&destination.canonical_service)),
        ("destination_canonical_revision", known(&destination.canonical_revision)),
        ("destination_service_name", known(short)),
        ("destination_service_namespace", known(&destination.namespace)),
        ("destination_cluster", known(&destination.cluster)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn labels_are_istios_on_both_sides() {
        let labels = BTreeMap::from([("app".to_owned(), "productpage".to_owned()), ("version".to_owned(), "v1".to_owned())]);
        let workload = Workload { app: "/productpage".into(), namespace: "default".into(), labels, ..Workload::default() };
        let peer = Peer::parse("reviews-v2;default;reviews;v2;");
        let pairs = both_sides(&workload, Some(&peer), Some("outbound|9080|v2|reviews.marathon.l4lb.thisdcos.directory"));
        let get = |name: &str| pairs.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str());
        for (name, value) in [
            ("source_workload", "productpage"),
            ("source_app", "productpage"),
            ("source_version", "v1"),
            ("destination_workload", "reviews-v2"),
            ("destination_canonical_service", "reviews"),
            ("destination_version", "v2"),
            ("destination_service", "reviews.marathon.l4lb.thisdcos.directory"),
            ("destination_service_name", "reviews"),
            ("destination_principal", "unknown"),
        ] {
            assert_eq!(get(name), Some(value), "{name}");
        }
        let nowhere = both_sides(&workload, None, None);
        assert!(nowhere.contains(&("destination_service", "unknown".to_owned())));
        let other = both_sides(&workload, None, Some("PassthroughCluster"));
        assert!(other.contains(&("destination_service_name", "PassthroughCluster".to_owned())));
    }
}
