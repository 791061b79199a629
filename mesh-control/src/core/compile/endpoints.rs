//! Endpoints of clusters as each node sees them.
//!
//! Nearly all nodes see the same. What differs is laid over it: near endpoints come first where a policy wants that, so nodes of a place
//! have their own order; and an endpoint behind a bridge has another address on its own node.

use super::cluster::Preference;
use super::envoy::{self, core, endpoint, uint, versioned};
use super::{Labels, Resources, share, telemetry};
use crate::core::registry::{Endpoint, Health, Locality, Near, Port, Registry, Service};
use mesh_xds::names::ClusterName;
use mesh_xds::server::Versioned;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// Which endpoints a cluster has.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Assigned {
    /// Those of a subset only.
    pub(super) labels: Option<Labels>,
    /// Some before others.
    pub(super) near: Option<Preference>,
}

/// Endpoints for all nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Endpoints {
    /// As a node sees them that runs none of them, at no known place.
    all: Resources,
    assigned: BTreeMap<ClusterName, Assigned>,
    /// What nodes of a place see otherwise.
    by_place: BTreeMap<Locality, BTreeMap<String, Versioned>>,
    /// Services of which a node sees some endpoint otherwise than the rest.
    pub(super) local: HashMap<IpAddr, BTreeSet<String>>,
    /// Services of which the kernel prefers some endpoints, which depends on where it is.
    pub(super) preferring: BTreeSet<String>,
}

/// Who asks: a node, or with `None` all that run none of the endpoints.
#[derive(Clone, Copy)]
pub(super) struct Client<'a> {
    pub(super) node: Option<IpAddr>,
    pub(super) place: &'a Locality,
}

impl Endpoints {
    pub(super) fn new(registry: &Registry, assigned: BTreeMap<ClusterName, Assigned>, before: &Self) -> Self {
        let nowhere = Locality::default();
        let prefers = |service: &&Service| service.ports.values().any(|port| port.near.is_some());
        let preferring = registry.services.values().filter(prefers).map(|service| service.name.clone()).collect();
        let mut found = Self { assigned, local: local(registry), preferring, ..Self::default() };
        let everybody = Client { node: None, place: &nowhere };
        found.all = share(&before.all, found.told(registry, everybody, |_, _| true));
        for place in registry.all_places() {
            let own = found.told(registry, Client { node: None, place }, |_, assigned| assigned.near.is_some());
            if !own.is_empty() {
                found.by_place.insert((**place).clone(), own);
            }
        }
        found
    }

    /// What a node sees.
    pub(super) fn at(&self, node: IpAddr, registry: &Registry) -> Resources {
        let place = registry.place(node);
        let near = place.and_then(|place| self.by_place.get(&**place));
        let local = self.local.get(&node);
        if near.is_none() && local.is_none() {
            return self.all.clone();
        }
        let mut endpoints = (*self.all).clone();
        endpoints.extend(near.into_iter().flatten().map(|(name, told)| (name.clone(), told.clone())));
        if let Some(local) = local {
            let nowhere = Locality::default();
            let client = Client { node: Some(node), place: place.map_or(&nowhere, |place| place) };
            endpoints.extend(self.told(registry, client, |name, _| local.contains(&name.host)));
        }
        endpoints.into()
    }

    /// Some clusters' endpoints for a client.
    fn told(
        &self,
        registry: &Registry,
        client: Client<'_>,
        which: impl Fn(&ClusterName, &Assigned) -> bool,
    ) -> BTreeMap<String, Versioned> {
        let chosen = self.assigned.iter().filter(|(name, assigned)| which(name, assigned));
        let told = chosen.filter_map(|(name, assigned)| {
            let port = registry.services.get(&name.host)?.tcp_port(name.port)?;
            Some((name.to_string(), versioned(&assignment(name, port, assigned, (client, registry)))))
        });
        told.collect()
    }
}

/// Services of which a node sees some endpoint otherwise than the rest.
fn local(registry: &Registry) -> HashMap<IpAddr, BTreeSet<String>> {
    let mut local: HashMap<IpAddr, BTreeSet<String>> = HashMap::new();
    for service in registry.services.values() {
        let endpoints = service.ports.values().flat_map(|port| port.endpoints.iter().map(move |endpoint| (port, endpoint)));
        let differs = |(port, endpoint): &(&Port, &Endpoint)| port.near == Some(Near::Node) || endpoint.depends_on_node();
        for node in endpoints.filter(differs).filter_map(|(_, endpoint)| endpoint.node) {
            local.entry(node).or_default().insert(service.name.clone());
        }
    }
    local
}

/// The endpoints of a port as a client dials them.
fn assignment(
    name: &ClusterName,
    port: &Port,
    assigned: &Assigned,
    (client, registry): (Client<'_>, &Registry),
) -> endpoint::ClusterLoadAssignment {
    let has_labels = |endpoint: &&Endpoint| assigned.labels.as_ref().is_none_or(|labels| has_all(endpoint, labels));
    let chosen = port.endpoints.iter().filter(has_labels);
    let told = chosen.filter_map(|endpoint| {
        let mut told = lb_endpoint(port, endpoint, client.node)?;
        let port = endpoint.at_home.port();
        told.metadata = registry.workloads.get(&endpoint.workload).map(|workload| telemetry::identity(workload, port));
        Some((endpoint, told))
    });
    let told: Vec<_> = told.collect();
    let endpoints = match &assigned.near {
        Some(preference) => preference.seen_from(client, told),
        None if told.is_empty() => Vec::new(),
        None => {
            let lb_endpoints = told.into_iter().map(|(_, told)| told).collect();
            vec![endpoint::LocalityLbEndpoints { lb_endpoints, load_balancing_weight: uint(1), ..Default::default() }]
        }
    };
    endpoint::ClusterLoadAssignment { cluster_name: name.to_string(), endpoints, ..Default::default() }
}

fn has_all(endpoint: &Endpoint, labels: &Labels) -> bool {
    labels.iter().all(|(key, value)| endpoint.labels.get(key) == Some(value))
}

/// A weight of 0 is not a weight in Envoy: the health status says it.
fn lb_endpoint(port: &Port, endpoint: &Endpoint, node: Option<IpAddr>) -> Option<endpoint::LbEndpoint> {
    let address = endpoint.seen_from(node)?;
    let status = match (port.weight(endpoint), endpoint.health) {
        (0, Health::Draining) => core::HealthStatus::Draining,
        (0, _) => core::HealthStatus::Unhealthy,
        _ => core::HealthStatus::Healthy,
    };
    let dialled = endpoint::Endpoint { address: Some(envoy::socket_address(address.ip(), address.port())), ..Default::default() };
    Some(endpoint::LbEndpoint {
        health_status: status.into(),
        load_balancing_weight: uint(port.weight(endpoint).max(1)),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(dialled)),
        ..Default::default()
    })
}
