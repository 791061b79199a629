//! `ServiceEntry` as Istio's proto declares it (networking/v1alpha3/service_entry.proto).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::decode::{enumeration, message};

/// The protocols of ports; absent is TCP.
pub(crate) const PROTOCOLS: [&str; 11] =
    ["HTTP", "HTTP2", "GRPC", "GRPC-WEB", "HTTPS", "TLS", "MONGO", "REDIS", "MYSQL", "TCP", "UDP"];

message! {
    /// A service that no registry knows.
    ServiceEntry {
        hosts: Vec<String> = required,
        addresses: Vec<String>,
        ports: Vec<ServicePort>,
        location: Location,
        resolution: Resolution,
        endpoints: Vec<WorkloadEntry>,
        workload_selector: Option<EntrySelector>,
        export_to: Vec<String>,
        subject_alt_names: Vec<String>,
    }
}

/// To whose workloads an entry is exported.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Seen {
    #[default]
    ByAll,
    By(BTreeSet<String>),
}

impl Seen {
    /// The namespaces; none: everybody.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        match self {
            Self::ByAll => Vec::new(),
            Self::By(names) => names.iter().cloned().collect(),
        }
    }

    /// Several entries may name one host: who sees one of them sees the host.
    pub(crate) fn add(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::By(names), Self::By(more)) => names.extend(more),
            (_, Self::ByAll) => *self = Self::ByAll,
            (Self::ByAll, Self::By(_)) => {}
        }
    }
}

impl ServiceEntry {
    /// Who sees an entry of this namespace; `None`: nobody.
    pub(crate) fn seen(&self, namespace: &str) -> Option<Seen> {
        if self.export_to.is_empty() || self.export_to.iter().any(|to| to == "*") {
            return Some(Seen::ByAll);
        }
        let names = self.export_to.iter().filter(|to| *to != "~").map(|to| if to == "." { namespace } else { to });
        let names: BTreeSet<String> = names.map(str::to_owned).collect();
        (!names.is_empty()).then_some(Seen::By(names))
    }

    /// Are its endpoints known without asking DNS, so that the mesh can balance over them? A service has addresses, not networks.
    pub(crate) fn is_service(&self) -> bool {
        let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
        let known = match self.resolution {
            Resolution::Static => true,
            Resolution::Dns | Resolution::DnsRoundRobin => {
                !self.endpoints.is_empty() && self.endpoints.iter().all(|endpoint| is_address(&endpoint.address))
            }
            Resolution::None | Resolution::DynamicDns => false,
        };
        known && self.addresses.iter().all(|address| is_address(address))
    }
}

message! {
    /// A port with its protocol.
    ServicePort { number: u32 = required, protocol: String, name: String = required, target_port: u32, }
}

enumeration! {
    /// Whether the service is part of the mesh.
    Location { MeshExternal = "MESH_EXTERNAL", MeshInternal = "MESH_INTERNAL", }
}

enumeration! {
    /// How its endpoints are found.
    Resolution {
        None = "NONE",
        Static = "STATIC",
        Dns = "DNS",
        DnsRoundRobin = "DNS_ROUND_ROBIN",
        DynamicDns = "DYNAMIC_DNS",
    }
}

impl Resolution {
    /// Its name in the proto.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(resolution, _)| *resolution == self).map_or("", |(_, name)| name)
    }
}

message! {
    /// One endpoint.
    WorkloadEntry {
        address: String,
        ports: BTreeMap<String, u32>,
        labels: BTreeMap<String, String>,
        network: String,
        locality: String,
        weight: u32,
        service_account: String,
    }
}

message! {
    /// Workloads by their labels.
    EntrySelector { labels: BTreeMap<String, String>, }
}
