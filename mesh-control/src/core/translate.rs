//! Marathon's view into the registry.
//!
//! [`spec`] brings apps and pods of every age into one form, [`instance`] does so with tasks and pod instances, and here they meet: each
//! declared port that has a service gives that service a port, and each running instance of it an endpoint. [`entry`] adds the services of
//! ServiceEntries. Specs count even without an
//! instance, so that a service that is scaled to zero stays a known name.

pub(in crate::core) mod entry;
mod instance;
mod spec;
#[cfg(test)]
mod tests;

use super::allot::{Allotment, Want};
use super::names;
use super::registry::{Endpoint, Near, Port, Protocol, Registry, Service, Workload};
use crate::istio::service_entry::Seen;
use crate::istio::{Resource, ServiceEntry};
use crate::marathon::types::View;
use instance::Running;
use mesh_common::vip;
use mesh_xds::agent::{Balance, Mode, Transport};
use spec::{Declared, Owner, Spec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Label of an app or pod: its namespace in Istio's sense.
const NAMESPACE: &str = "istio.io/namespace";
/// Label of an app, a pod or a port: who carries its connections.
const MODE: &str = "mesh.io/mode";
/// Label of the same: how the kernel picks a backend.
const BALANCE: &str = "mesh.io/balance";
/// Label of the same: are near backends preferred? Istio's name and values.
const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// Label of an app or pod: what it may outside the mesh, by MeshConfig's words.
const OUTBOUND: &str = "mesh.io/outbound-traffic-policy";

/// Translates everything that all Marathons run: services of one name are one service. `before` is the last allotment of VIPs; the new one
/// is returned beside the registry.
pub(crate) fn translate<'a>(
    views: impl IntoIterator<Item = &'a View>,
    entries: &[Arc<Resource<ServiceEntry>>],
    vip_domain: &str,
    before: &Allotment,
) -> (Registry, Allotment) {
    let mut draft = Draft::default();
    for view in views {
        draft.take(view);
    }
    for entry in entries {
        draft.enter(entry);
    }
    let (mut registry, allotment) = draft.finish(vip_domain, before);
    entry::outside(entries, &mut registry);
    (registry, allotment)
}

/// The registry in the making.
#[derive(Default)]
struct Draft {
    services: BTreeMap<Owner, DraftService>,
    workloads: BTreeMap<String, Workload>,
    problems: BTreeSet<String>,
}

#[derive(Default)]
struct DraftService {
    namespaces: BTreeSet<String>,
    /// VIPs that it brings along.
    addresses: BTreeSet<IpAddr>,
    ports: BTreeMap<(u16, Transport), DraftPort>,
}

/// Several specs may declare one port: all they said is kept until the end, so that the order in which they come does not matter.
#[derive(Default)]
struct DraftPort {
    protocols: BTreeSet<Protocol>,
    modes: BTreeSet<Mode>,
    balances: BTreeSet<Balance>,
    nears: BTreeSet<Option<Near>>,
    endpoints: BTreeSet<Endpoint>,
    /// By ServiceEntries.
    seen: Option<Seen>,
}

impl Draft {
    fn problem(&mut self, sentence: String) {
        self.problems.insert(sentence);
    }

    /// What one Marathon runs.
    fn take(&mut self, view: &View) {
        for app in view.apps.values() {
            let spec = spec::of_app(app, &view.bridge_name);
            self.declare(&spec);
            for task in &app.tasks {
                self.run(&spec, instance::of_task(app, &spec, task, &view.hosts));
            }
        }
        for pod in view.pods.values() {
            let newest = spec::of_pod(&pod.spec, &view.bridge_name);
            self.declare(&newest);
            for instance in &pod.instances {
                let reference = &instance.spec_reference;
                let old = view.versions.get(reference).map(|old| spec::of_pod(old, &view.bridge_name));
                if old.is_none() && !instance.is_newest(&pod.spec) {
                    self.problem(format!(
                        "{}: version {reference} is unknown, its labels are taken from the newest",
                        instance.id
                    ));
                }
                let spec = old.as_ref().unwrap_or(&newest);
                self.declare(spec);
                self.run(spec, instance::of_pod(&pod.spec.id, spec, instance, &view.hosts));
            }
        }
    }

    /// The services of a spec, whether or not something runs.
    fn declare(&mut self, spec: &Spec) {
        self.problems.extend(spec.problems.iter().cloned());
        for declared in &spec.ports {
            for (owner, port) in &declared.services {
                let service = self.services.entry(owner.clone()).or_default();
                service.namespaces.insert(spec.namespace.clone());
                for transport in &declared.transports {
                    let port = service.ports.entry((*port, *transport)).or_default();
                    port.protocols.extend(declared.protocol_over(*transport));
                    port.modes.extend(declared.mode);
                    port.balances.extend(declared.balance);
                    port.nears.extend(declared.near);
                }
            }
        }
    }

    /// One instance: the workload and its endpoints.
    fn run(&mut self, spec: &Spec, running: Option<Running>) {
        let Some(running) = running else { return };
        for (declared, serving) in spec.ports.iter().zip(&running.serving) {
            if let Some(endpoint) = serving {
                self.serve(declared, endpoint);
            }
        }
        self.workloads.insert(running.workload.id.clone(), running.workload);
    }

    fn serve(&mut self, declared: &Declared, endpoint: &Endpoint) {
        for (owner, port) in &declared.services {
            for transport in &declared.transports {
                let port = self.services.get_mut(owner).and_then(|service| service.ports.get_mut(&(*port, *transport)));
                // `declare` came first for every spec.
                if let Some(port) = port {
                    port.endpoints.insert(endpoint.clone());
                }
            }
        }
    }

    fn finish(mut self, vip_domain: &str, before: &Allotment) -> (Registry, Allotment) {
        let services = std::mem::take(&mut self.services);
        let mut finished = Vec::new();
        for (owner, service) in services {
            let (name, names) = match &owner {
                Owner::Name(short) => (names::full(short, vip_domain), names::all(short, vip_domain, &service.namespaces)),
                Owner::Address(address) => (address.to_string(), BTreeSet::from([address.to_string()])),
                Owner::Host(host) => (host.clone(), BTreeSet::from([host.clone()])),
            };
            let ports = service.ports.into_iter().map(|(key, port)| (key, self.settle(&name, key, port))).collect();
            let of_entry = matches!(owner, Owner::Host(_));
            let addresses = service.addresses.into_iter().collect();
            let namespace = service.namespaces.first().cloned().unwrap_or_default();
            finished.push((owner, Service { name, names, addresses, ports, of_entry, namespace }));
        }
        self.problems.extend(entry::give_way(&mut finished));
        let allotment = addresses(&mut finished, vip_domain, before);
        let services = finished.into_iter().map(|(_, service)| (service.name.clone(), service)).collect();
        let mut registry = Registry { services, workloads: self.workloads, problems: self.problems, ..Registry::default() };
        one_owner_per_name(&mut registry);
        (registry, allotment)
    }

    /// Where declarations of one port contradict each other, the choice must not depend on their order: the protocol that tells most
    /// (HTTP before TCP), the mode that does most (proxy before kernel before direct) the balance that binds most (source before random
    /// before least connections) and the nearest distribution win.
    fn settle(&mut self, service: &str, (number, transport): (u16, Transport), port: DraftPort) -> Port {
        if port.protocols.len() > 1 || port.modes.len() > 1 || port.balances.len() > 1 || port.nears.len() > 1 {
            let protocols: Vec<_> = port.protocols.iter().map(|p| p.as_str()).collect();
            let modes: Vec<_> = port.modes.iter().map(|m| spec::mode_name(*m)).collect();
            let balances: Vec<_> = port.balances.iter().map(|b| spec::balance_name(*b)).collect();
            self.problem(format!(
                "{service}:{number}: contradicting declarations, protocols {protocols:?}, modes {modes:?}, balances {balances:?}, \
                 traffic distributions {:?}",
                port.nears
            ));
        }
        let default = if transport == Transport::Udp { Protocol::Udp } else { Protocol::Undeclared };
        let protocol = port.protocols.first().copied().unwrap_or(default);
        let mut mode = port.modes.last().copied().unwrap_or_else(|| protocol.default_mode());
        if transport == Transport::Udp && mode == Mode::Proxy {
            self.problem(format!("{service}:{number}: UDP cannot be carried by the proxy, so the kernel carries it"));
            mode = Mode::Kernel;
        }
        let balance = port.balances.last().copied().unwrap_or_default();
        let (endpoints, seen) = (port.endpoints.into_iter().collect(), port.seen.unwrap_or_default());
        let near = port.nears.last().copied().flatten();
        let port = Port { protocol, mode, balance, endpoints, near, seen };
        if port.panics() {
            self.problem(format!("{service}:{number}: every instance is unhealthy, so connections go to all of them"));
        }
        port
    }
}

/// Gives named services their VIPs. IPv6 only to services that can be reached over it: a client that prefers it must not be misled.
fn addresses(services: &mut [(Owner, Service)], vip_domain: &str, before: &Allotment) -> Allotment {
    let framework = names::framework(vip_domain);
    let (mut wants, mut claimed) = (BTreeMap::new(), BTreeSet::new());
    for (owner, service) in services.iter() {
        match owner {
            Owner::Address(address) => drop(claimed.insert(*address)),
            Owner::Host(_) if !service.addresses.is_empty() => claimed.extend(&service.addresses),
            Owner::Name(_) | Owner::Host(_) => {
                let v6 = |e: &Endpoint| e.at_home.is_ipv6();
                let endpoints = || service.ports.values().flat_map(|port| &port.endpoints);
                let want = Want { v4: endpoints().next().is_none() || endpoints().any(|e| !v6(e)), v6: endpoints().any(v6) };
                wants.insert(key(owner, framework), want);
            }
        }
    }
    let allotment = before.next(&wants, &claimed);
    for (owner, service) in services {
        service.addresses = match owner {
            Owner::Address(address) => vec![*address],
            Owner::Host(_) if !service.addresses.is_empty() => continue,
            Owner::Name(_) | Owner::Host(_) => allotment.of(&key(owner, framework)),
        };
    }
    allotment
}

/// What the hash of a VIP is taken of.
fn key(owner: &Owner, framework: &str) -> String {
    match owner {
        Owner::Name(short) => vip::short_name(short, framework),
        Owner::Host(host) => host.clone(),
        Owner::Address(address) => address.to_string(),
    }
}

/// Two services may share an alias (`a.b` in namespace `c`, and `a` in namespace `b.c`). A full name is nobody else's alias, and of two
/// claims to an alias the service first in the alphabet has it.
fn one_owner_per_name(registry: &mut Registry) {
    let full: BTreeSet<String> = registry.services.keys().cloned().collect();
    let mut taken = BTreeSet::new();
    let mut problems = Vec::new();
    for service in registry.services.values_mut() {
        let own = service.name.clone();
        service.names.retain(|name| {
            let keep = *name == own || (!full.contains(name) && taken.insert(name.clone()));
            if !keep {
                problems.push(format!("{own}: the alias {name} belongs to another service"));
            }
            keep
        });
    }
    registry.problems.extend(problems);
}

/// An agent's address: Marathon gives an address or a host name.
fn node_address(host: &str, hosts: &BTreeMap<String, IpAddr>) -> Option<IpAddr> {
    host.parse().ok().or_else(|| hosts.get(host).copied())
}
