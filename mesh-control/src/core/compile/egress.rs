//! ServiceEntries into what nodes let out.
//!
//! The kernel decides by address and port, whatever is spoken there: that a request over an allowed HTTP or TLS port is for an allowed
//! host, the proxy will check (issue 6).

use super::Unsupported;
use super::envoy::versioned;
use super::index::Index;
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

fn egress(index: &Index<'_>, entry: &Resource<ServiceEntry>, unsupported: &mut Vec<Unsupported>) -> Egress {
    let spec = &entry.spec;
    let mut hosts = BTreeSet::new();
    for (i, host) in spec.hosts.iter().enumerate() {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if index.is_service(&host) {
            // Its answers are the mesh's own; learning from elsewhere would let a foreign answer open a way past its rules.
            let why = "is a service of the mesh, which needs no entry; it stays as it is";
            unsupported.push(Unsupported::new("ServiceEntry", &entry.meta, format!("spec.hosts[{i}]"), why));
        } else {
            hosts.insert(host);
        }
    }
    let fixed = spec.addresses.iter().filter_map(|address| network(address));
    // Under DNS, endpoints are names or addresses to use instead of the host's, which takes a proxy; but under STATIC they are the hosts.
    let endpoints = spec.endpoints.iter().filter(|_| spec.resolution == Resolution::Static);
    let endpoints = endpoints.filter_map(|endpoint| network(&endpoint.address));
    Egress {
        name: format!("{}/{}", entry.meta.namespace, entry.meta.name),
        hosts: hosts.into_iter().collect(),
        ports: ports(spec),
        addresses: fixed.chain(endpoints).collect::<BTreeSet<_>>().into_iter().collect(),
        learn: spec.resolution != Resolution::Static,
    }
}

fn ports(spec: &ServiceEntry) -> Vec<EgressPort> {
    let port = |port: &crate::istio::service_entry::ServicePort| {
        let protocol = if port.protocol.is_empty() { "TCP".to_owned() } else { port.protocol.to_ascii_uppercase() };
        let transport = if protocol == "UDP" { Transport::Udp } else { Transport::Tcp };
        EgressPort { port: port.number, transport: transport.into(), protocol }
    };
    let mut ports: Vec<_> = spec.ports.iter().map(port).collect();
    ports.sort_by_key(|port| (port.port, port.transport));
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
