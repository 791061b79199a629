//! ServiceEntries with endpoints of their own as services: with a VIP, balanced like any other, subject to the same rules.
//!
//! Entries without endpoints (hosts whose addresses DNS has) are no services: pods dial what DNS says. What the mesh knows of them are names
//! and ports, for which there may be rules.

use super::spec::Owner;
use super::{Draft, DraftService};
use crate::core::registry::{Endpoint, Health, Locality, Port, Protocol, Registry, Service, Workload};
use crate::istio::Resource;
use crate::istio::service_entry::{Seen, ServiceEntry, ServicePort, WorkloadEntry};
use mesh_xds::agent::{Balance, Mode, Transport};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The ports at which an entry's endpoints are dialled.
pub(in crate::core) fn target_ports<'e>(entry: &'e ServiceEntry, port: &'e ServicePort) -> impl Iterator<Item = u32> + 'e {
    entry.endpoints.iter().map(|endpoint| dialled(endpoint, port))
}

fn dialled(endpoint: &WorkloadEntry, port: &ServicePort) -> u32 {
    endpoint.ports.get(&port.name).copied().unwrap_or_else(|| target(port))
}

fn target(port: &ServicePort) -> u32 {
    if port.target_port == 0 { port.number } else { port.target_port }
}

impl Draft {
    /// The services of an entry, one for each host. Workloads come before.
    pub(super) fn enter(&mut self, entry: &Resource<ServiceEntry>) {
        let Some(seen) = entry.spec.seen(&entry.meta.namespace).filter(|_| entry.spec.is_service()) else { return };
        for host in entry.spec.hosts.iter().filter(|host| !host.starts_with('*')) {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            let mut service = self.services.remove(&Owner::Host(host.clone())).unwrap_or_default();
            service.namespaces.insert(entry.meta.namespace.clone());
            service.addresses.extend(entry.spec.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()));
            for port in &entry.spec.ports {
                self.enter_port((entry, &seen), port, &mut service);
            }
            self.services.insert(Owner::Host(host), service);
        }
    }

    fn enter_port(&self, (entry, seen): (&Resource<ServiceEntry>, &Seen), port: &ServicePort, service: &mut DraftService) {
        // Admission has seen both.
        let Ok(number) = u16::try_from(port.number) else { return };
        let Some(protocol) = Protocol::parse(if port.protocol.is_empty() { "TCP" } else { &port.protocol }) else { return };
        let transport = if protocol == Protocol::Udp { Transport::Udp } else { Transport::Tcp };
        let draft = service.ports.entry((number, transport)).or_default();
        draft.protocols.insert(protocol);
        match &mut draft.seen {
            Some(known) => known.add(seen.clone()),
            none => *none = Some(seen.clone()),
        }
        let listed = entry.spec.endpoints.iter().filter_map(|endpoint| listed(entry, endpoint, port));
        draft.endpoints.extend(listed);
        if let Some(selector) = &entry.spec.workload_selector {
            let chosen = self.workloads.values().filter(|workload| {
                workload.namespace == entry.meta.namespace
                    && selector.labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
            });
            draft.endpoints.extend(chosen.filter_map(|workload| selected(workload, port)));
        }
    }
}

fn listed(entry: &Resource<ServiceEntry>, endpoint: &WorkloadEntry, port: &ServicePort) -> Option<Endpoint> {
    let address = SocketAddr::new(endpoint.address.parse().ok()?, u16::try_from(dialled(endpoint, port)).ok()?);
    Some(Endpoint {
        at_home: address,
        elsewhere: Some(address),
        published: None,
        node: None,
        place: Arc::new(Locality::parse(&endpoint.locality)),
        workload: format!("{}/{}/{}", entry.meta.namespace, entry.meta.name, endpoint.address),
        labels: Arc::new(endpoint.labels.clone()),
        health: Health::Healthy,
    })
}

/// Instances on the host network have no address of their own, and are left out.
fn selected(workload: &Workload, port: &ServicePort) -> Option<Endpoint> {
    let address = SocketAddr::new(*workload.addresses.first()?, u16::try_from(target(port)).ok()?);
    Some(Endpoint {
        at_home: address,
        elsewhere: Some(address),
        published: None,
        node: workload.node.parse().ok(),
        place: Arc::clone(&workload.place),
        workload: workload.id.clone(),
        labels: Arc::clone(&workload.labels),
        health: Health::Healthy,
    })
}

/// The hosts of entries that are no services and no names of one, with their TCP ports. Of two protocols for a port the one that tells most
/// counts.
pub(super) fn outside(entries: &[Arc<Resource<ServiceEntry>>], registry: &mut Registry) {
    let mut hosts: BTreeMap<String, Service> = BTreeMap::new();
    let services: BTreeSet<&str> = registry.services.values().flat_map(|service| &service.names).map(String::as_str).collect();
    let taken = |host: &str| match host.strip_prefix('*') {
        Some(suffix) => services.iter().any(|name| name.len() > suffix.len() && name.ends_with(suffix)),
        None => services.contains(host),
    };
    for entry in entries.iter().filter(|entry| !entry.spec.is_service()) {
        let Some(seen) = entry.spec.seen(&entry.meta.namespace) else { continue };
        let names = entry.spec.hosts.iter().map(|host| host.trim_end_matches('.').to_ascii_lowercase());
        for name in names.filter(|name| !taken(name)) {
            let host = hosts.entry(name.clone()).or_insert_with(|| Service {
                names: BTreeSet::from([name.clone()]),
                name,
                of_entry: true,
                namespace: entry.meta.namespace.clone(),
                ..Service::default()
            });
            for port in &entry.spec.ports {
                let protocol = Protocol::parse(if port.protocol.is_empty() { "TCP" } else { &port.protocol });
                // Admission has seen both.
                let (Ok(number), Some(protocol)) = (u16::try_from(port.number), protocol) else { continue };
                if protocol != Protocol::Udp {
                    let (mode, balance, endpoints) = (Mode::Kernel, Balance::default(), Vec::new());
                    let plain = || Port { protocol, mode, balance, endpoints, near: None, seen: seen.clone() };
                    let known = host.ports.entry((number, Transport::Tcp)).or_insert_with(plain);
                    known.protocol = known.protocol.min(protocol);
                    known.seen.add(seen.clone());
                }
            }
        }
    }
    registry.outside = hosts;
}

/// Takes away hosts of entries that are names of Marathon's services already; returns a sentence for each.
pub(super) fn give_way(drafts: &mut Vec<(Owner, Service)>) -> Vec<String> {
    let of_entry = |owner: &Owner| matches!(owner, Owner::Host(_));
    let taken: BTreeSet<String> =
        drafts.iter().filter(|(owner, _)| !of_entry(owner)).flat_map(|(_, service)| service.names.iter().cloned()).collect();
    let mut problems = Vec::new();
    drafts.retain(|(owner, service)| {
        let keep = !of_entry(owner) || !taken.contains(&service.name);
        if !keep {
            problems.push(format!("{}: a ServiceEntry names a service of the mesh, which stays as it is", service.name));
        }
        keep
    });
    problems
}
