//! ServiceEntries into what nodes let out.
//!
//! The kernel decides by address and port, whatever is spoken there: that a request over an allowed HTTP or TLS port is for an allowed
//! host, the proxy will check (issue 6).

use super::Unsupported;
use super::envoy::versioned;
use super::index::Index;
use crate::core::translate::entry;
use crate::istio::service_entry::{Resolution, ServiceEntry};
use crate::istio::{Config, Resource};
use mesh_xds::agent::{Egress, EgressPort, Transport};
use mesh_xds::server::Versioned;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// An `Egress` per ServiceEntry, by `NAMESPACE/NAME`.
pub(super) fn all(index: &Index<'_>, config: &Config, unsupported: &mut Vec<Unsupported>) -> BTreeMap<String, Versioned> {
    let entries = config.service_entries.iter();
    let compiled = entries.map(|entry| {
        let egress = egress(index, entry, unsupported);
        (egress.name.clone(), versioned(&egress))
    });
    compiled.collect()
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
    }
}

fn ports(spec: &ServiceEntry, declared: bool) -> Vec<EgressPort> {
    let port = |port: &crate::istio::service_entry::ServicePort| {
        let protocol = if port.protocol.is_empty() { "TCP".to_owned() } else { port.protocol.to_ascii_uppercase() };
        let transport = if protocol == "UDP" { Transport::Udp } else { Transport::Tcp };
        let numbers: BTreeSet<u32> =
            if declared { entry::target_ports(spec, port).collect() } else { BTreeSet::from([port.number]) };
        let one = move |number| EgressPort { port: number, transport: transport.into(), protocol: protocol.clone() };
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
