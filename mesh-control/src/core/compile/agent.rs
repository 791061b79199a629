//! The resources of mesh-agent and of the DNS process.

use super::Settings;
use super::endpoints::Client;
use super::envoy::{version_of, versioned};
use crate::core::registry::{Registry, Service, Workload};
use bytes::Bytes;
use mesh_xds::agent;
use mesh_xds::server::Versioned;
use prost::Message;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Settings of the whole mesh.
pub(super) fn mesh(registry: &Registry, settings: &Settings) -> Versioned {
    // An endpoint of ours that listens on all addresses is protected on all nodes' addresses, since it may run on any of them.
    let mut everywhere = registry.nodes();
    everywhere.extend(&settings.own_addresses);
    let own = settings.own_ports.iter().flat_map(|port| everywhere.iter().map(move |address| (*address, *port)));
    let given = settings.protect.iter().map(|address| (address.ip(), address.port()));
    let endpoints: BTreeSet<(IpAddr, u16)> = own.chain(given).collect();
    let protected = endpoints.into_iter().map(|(address, port)| agent::Endpoint {
        address: address.to_string(),
        port: port.into(),
        transport: agent::Transport::Tcp.into(),
    });
    versioned(&agent::Mesh {
        outbound_policy: settings.outbound.into(),
        vip_ranges: settings.vip_ranges.clone(),
        protected: protected.collect(),
        zones: settings.zones.clone(),
    })
}

/// A workload.
pub(super) fn workload(workload: &Workload) -> Versioned {
    let message = agent::Workload {
        id: workload.id.clone(),
        app: workload.app.clone(),
        namespace: workload.namespace.clone(),
        node: workload.node.clone(),
        addresses: workload.addresses.iter().map(ToString::to_string).collect(),
        labels: std::collections::HashMap::new(),
        enrol: workload.enrol,
        host_network: workload.host_network,
        inbound_ports: workload.inbound.iter().copied().map(u32::from).collect(),
        outbound_policy: workload.outbound.map(i32::from),
    };
    let mut body = message.encode_to_vec();
    // prost writes a map in the order of a HashMap, which would change the version of an unchanged workload. Fields may come in any order
    // and those of a repeated one add up, so the labels are appended one message at a time, sorted.
    for (key, value) in workload.labels.iter() {
        let labels = std::collections::HashMap::from([(key.clone(), value.clone())]);
        body.extend(agent::Workload { labels, ..Default::default() }.encode_to_vec());
    }
    version_of(Bytes::from(body))
}

/// A service as a node sees it.
pub(super) fn service(service: &Service, client: Client<'_>) -> Versioned {
    versioned(&message(service, |port| {
        let backends = port.endpoints.iter().filter_map(|endpoint| {
            let address = endpoint.seen_from(client.node)?;
            Some(agent::Backend {
                address: address.ip().to_string(),
                port: address.port().into(),
                weight: port.weight(endpoint),
                workload: endpoint.workload.clone(),
                priority: port.near.map_or(0, |near| near.distance((client.node, client.place), endpoint)),
                published: endpoint
                    .published
                    .filter(|place| *place != address)
                    .map(|place| place.to_string())
                    .unwrap_or_default(),
            })
        });
        backends.collect()
    }))
}

/// A service as DNS needs it: without backends, so that no answer changes when instances come and go.
pub(super) fn names(service: &Service) -> Versioned {
    versioned(&message(service, |_| Vec::new()))
}

fn message(service: &Service, backends: impl Fn(&crate::core::registry::Port) -> Vec<agent::Backend>) -> agent::Service {
    let ports = service.ports.iter().map(|((number, transport), port)| agent::ServicePort {
        port: (*number).into(),
        transport: (*transport).into(),
        mode: port.mode.into(),
        protocol: port.protocol.as_str().to_owned(),
        backends: backends(port),
        balance: port.balance.into(),
        namespaces: port.seen.namespaces(),
    });
    agent::Service {
        name: service.name.clone(),
        names: service.names.iter().cloned().collect(),
        addresses: service.addresses.iter().map(ToString::to_string).collect(),
        ports: ports.collect(),
    }
}
