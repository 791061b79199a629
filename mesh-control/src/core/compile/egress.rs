//! ServiceEntries into what nodes let out.
//!
//! The kernel decides by address and port, whatever is spoken there. A port on which there are rules for a host goes to the proxy, which
//! looks at the host of each request and lets none out for a host that no entry names.

use super::envoy::versioned;
use super::index::Index;
use super::{Resources, Unsupported, share};
use crate::core::flip::{Modes, PortKey};
use crate::core::translate::entry;
use crate::istio::service_entry::{Resolution, ServiceEntry};
use crate::istio::{Config, Resource};
use mesh_xds::agent::{Egress, EgressPort, Mode, Transport};
use mesh_xds::server::Versioned;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// An `Egress` per ServiceEntry, by `NAMESPACE/NAME`.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    /// With the modes that are wanted.
    pub(super) wanted: Resources,
    /// Of hosts that may have rules, as they are before modes say which ports are the proxy's.
    open: Arc<BTreeMap<String, Egress>>,
}

impl Entries {
    pub(super) fn new(
        index: &Index<'_>,
        config: &Config,
        modes: &Modes,
        unsupported: &mut Vec<Unsupported>,
        before: &Self,
    ) -> Self {
        let (mut wanted, mut open) = (BTreeMap::new(), BTreeMap::new());
        for rule in &config.service_entries {
            let Some(seen) = rule.spec.seen(&rule.meta.namespace) else { continue };
            let egress = Egress { namespaces: seen.namespaces(), ..egress(index, rule, unsupported) };
            if rule.spec.is_service() {
                wanted.insert(egress.name.clone(), versioned(&egress));
            } else {
                wanted.insert(egress.name.clone(), told(&egress, modes));
                open.insert(egress.name.clone(), egress);
            }
        }
        Self { wanted: share(&before.wanted, wanted), open: Arc::new(open) }
    }

    /// As an agent is told them with these modes.
    pub(super) fn at(&self, modes: &Modes, wanted: &Modes) -> Resources {
        let is_other = |key: &PortKey| modes.get(key) != wanted.get(key);
        let differ = self.open.iter().filter(|(_, egress)| keys(egress).any(|(_, key)| is_other(&key)));
        let differ: Vec<_> = differ.map(|(name, egress)| (name.clone(), told(egress, modes))).collect();
        if differ.is_empty() {
            return self.wanted.clone();
        }
        let mut all = (*self.wanted).clone();
        all.extend(differ);
        Arc::new(all)
    }
}

/// The ports that may be the proxy's, by their places among the ports.
fn keys(egress: &Egress) -> impl Iterator<Item = (usize, PortKey)> {
    let tcp = egress.ports.iter().enumerate().filter(|(_, port)| port.transport() == Transport::Tcp);
    tcp.flat_map(|(i, port)| {
        let number = u16::try_from(port.port).unwrap_or_default();
        egress.hosts.iter().map(move |host| (i, PortKey { service: host.clone(), port: number }))
    })
}

/// An address does not say for which host it was learned, so a port is the proxy's if it is for any host of the entry. A port that the proxy
/// has yet to serve is not there.
fn told(egress: &Egress, modes: &Modes) -> Versioned {
    let mut told = egress.clone();
    let mut early = BTreeSet::new();
    for (i, key) in keys(egress) {
        match modes.get(&key) {
            Some(Mode::Proxy) => told.ports[i].mode = Mode::Proxy.into(),
            Some(_) => {}
            None => drop(early.insert(i)),
        }
    }
    let mut place = 0..;
    told.ports.retain(|port| place.next().is_none_or(|i| !early.contains(&i)) || port.mode() == Mode::Proxy);
    versioned(&told)
}

fn egress(index: &Index<'_>, rule: &Resource<ServiceEntry>, unsupported: &mut Vec<Unsupported>) -> Egress {
    let spec = &rule.spec;
    let (mut hosts, declared) = (BTreeSet::new(), spec.is_service());
    for (i, host) in spec.hosts.iter().enumerate() {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if declared && index.registry.services.get(&host).is_some_and(|service| service.of_entry) {
            // DNS has its VIP; what is let out are its endpoints.
        } else if index.is_service(&host) {
            // Its answers are the mesh's own; learning from elsewhere would let a foreign answer open a way past its rules.
            let why = "is a service of the mesh, which needs no entry; it stays as it is";
            unsupported.push(Unsupported::new("ServiceEntry", &rule.meta, format!("spec.hosts[{i}]"), why));
        } else {
            hosts.insert(host);
        }
    }
    // The addresses of a service are its VIPs: nobody is there.
    let fixed = spec.addresses.iter().filter(|_| !declared).filter_map(|address| network(address));
    let endpoints = spec.endpoints.iter().filter(|_| declared || spec.resolution == Resolution::Static);
    let endpoints = endpoints.filter_map(|endpoint| network(&endpoint.address));
    Egress {
        name: format!("{}/{}", rule.meta.namespace, rule.meta.name),
        hosts: hosts.into_iter().collect(),
        ports: ports(spec, declared),
        addresses: fixed.chain(endpoints).collect::<BTreeSet<_>>().into_iter().collect(),
        learn: spec.resolution != Resolution::Static && !declared,
        namespaces: Vec::new(),
        terminate_on_revoke: rule.meta.terminate_on_revoke,
    }
}

fn ports(spec: &ServiceEntry, declared: bool) -> Vec<EgressPort> {
    let port = |port: &crate::istio::service_entry::ServicePort| {
        let protocol = if port.protocol.is_empty() { "TCP".to_owned() } else { port.protocol.to_ascii_uppercase() };
        let transport = if protocol == "UDP" { Transport::Udp } else { Transport::Tcp };
        let numbers: BTreeSet<u32> =
            if declared { entry::target_ports(spec, port).collect() } else { BTreeSet::from([port.number]) };
        let one = move |number| EgressPort {
            port: number,
            transport: transport.into(),
            protocol: protocol.clone(),
            ..Default::default()
        };
        numbers.into_iter().map(one).collect::<Vec<_>>()
    };
    let mut ports: Vec<_> = spec.ports.iter().flat_map(port).collect();
    ports.sort_by_key(|port| (port.port, port.transport));
    ports.dedup_by_key(|port| (port.port, port.transport));
    ports
}

/// An address or network without bits behind its length: `203.0.113.7/24` is `203.0.113.0/24`, as Istio reads it.
fn network(text: &str) -> Option<String> {
    let Some((address, length)) = text.split_once('/') else { return text.parse::<IpAddr>().ok().map(|a| a.to_string()) };
    let length: u32 = length.parse().ok()?;
    let masked = match address.parse().ok()? {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32u32.checked_sub(length)?).unwrap_or(0);
            IpAddr::from((u32::from(address) & mask).to_be_bytes())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128u32.checked_sub(length)?).unwrap_or(0);
            IpAddr::from((u128::from(address) & mask).to_be_bytes())
        }
    };
    Some(format!("{masked}/{length}"))
}
