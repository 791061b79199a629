//! What of a rule has no effect: the one list, of which kubectl is warned when a rule is applied and which the compiler reports.
//!
//! What depends on other objects or on what runs (a host that no service has) only the compiler can know; everything else stands here,
//! and the code that would honour a field has to take its line away from here.

mod gateway;
mod http;
mod net;
mod policy;
#[cfg(test)]
mod tests;

use serde_json::Value;

pub(crate) use http::grpc_code;

use super::service_entry::Location;
use super::{DestinationPolicy, DestinationRule, Gateway, Kind, Resource, ServiceEntry, VirtualService};

/// What the proxies take. One refused field costs every route of its port, so what they do not take is reported and not sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Abilities {
    /// HTTP/2 towards a service. Without it HTTP/2 and gRPC ports are carried as opaque TCP, which works, without rules for requests.
    pub(crate) http2: bool,
    /// `request_mirror_policies`.
    pub(crate) mirror: bool,
    /// A host rewrite that depends on the destination that the weights chose.
    pub(crate) host_per_destination: bool,
    /// Clusters of type ORIGINAL_DST. Without them a request for an unknown host is refused under ALLOW_ANY too: it came to a VIP, and
    /// behind a VIP there is nothing but services.
    pub(crate) original_dst: bool,
    /// Metadata `mesh.source.namespace` of the asking pod in a route's match.
    pub(crate) source_namespace: bool,
    /// The filter for cross-origin requests.
    pub(crate) cors: bool,
    /// Hash policies of routes, and balancers that use them.
    pub(crate) hash: bool,
    /// `slow_start_config` of balancers.
    pub(crate) warmup: bool,
    /// Priorities and weights of localities.
    pub(crate) localities: bool,
    /// Limits on connections, waiting requests and retries, retry budgets, keep-alive probes, the longest life of a connection.
    pub(crate) pool: bool,
    /// `outlier_detection`, and with it a panic threshold above 0.
    pub(crate) outlier: bool,
    /// Transport socket TLS of clusters, with files.
    pub(crate) upstream_tls: bool,
    /// `retry_priority` of retries.
    pub(crate) previous_priorities: bool,
    /// Filter chains by server name, and by labels and namespace of the asking pod.
    pub(crate) filter_chains: bool,
}

impl Abilities {
    /// Those of mesh-proxy (docs/xds.md).
    pub(crate) const MESH_PROXY: Self = Self {
        http2: true,
        mirror: true,
        host_per_destination: true,
        original_dst: true,
        source_namespace: true,
        cors: true,
        hash: true,
        warmup: true,
        localities: true,
        pool: true,
        outlier: true,
        upstream_tls: true,
        previous_priorities: false,
        filter_chains: true,
    };
    /// Those of a proxy that takes everything.
    #[cfg(test)]
    pub(crate) const ALL: Self = Self {
        http2: true,
        mirror: true,
        host_per_destination: true,
        original_dst: true,
        source_namespace: true,
        cors: true,
        hash: true,
        warmup: true,
        localities: true,
        pool: true,
        outlier: true,
        upstream_tls: true,
        previous_priorities: true,
        filter_chains: true,
    };
}

/// Fields without effect: path, and why, as the end of a sentence that begins with the path.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<(String, String)>);

impl Findings {
    fn tell(&mut self, field: String, why: &str) {
        self.0.push((field, why.to_owned()));
    }

    fn if_set(&mut self, field: String, set: bool) {
        if set {
            self.tell(field, "is not enforced by this version");
        }
    }

    fn export_to(&mut self, namespaces: &[String]) {
        self.if_set("spec.exportTo".to_owned(), namespaces.iter().any(|to| to != "*"));
    }
}

/// A spec that knows which of its fields have no effect.
pub(crate) trait Enforced {
    fn look(&self, can: Abilities, found: &mut Findings);

    /// All of them, in the order of the spec.
    fn unenforced(&self, can: Abilities) -> Vec<(String, String)> {
        let mut found = Findings::default();
        self.look(can, &mut found);
        found.0
    }
}

/// The same for an object that was admitted.
pub(crate) fn of_object(kind: Kind, object: &Value, can: Abilities) -> Vec<(String, String)> {
    match kind {
        Kind::VirtualService => Resource::<VirtualService>::try_from(object).map(|rule| rule.spec.unenforced(can)),
        Kind::DestinationRule => Resource::<DestinationRule>::try_from(object).map(|rule| rule.spec.unenforced(can)),
        Kind::ServiceEntry => Resource::<ServiceEntry>::try_from(object).map(|entry| entry.spec.unenforced(can)),
        Kind::Gateway => Resource::<Gateway>::try_from(object).map(|gateway| gateway.spec.unenforced(can)),
        Kind::DestinationPolicy => Resource::<DestinationPolicy>::try_from(object).map(|rule| rule.spec.unenforced(can)),
    }
    // What does not parse was refused before anybody could be warned of it.
    .unwrap_or_default()
}

impl Enforced for ServiceEntry {
    fn look(&self, can: Abilities, found: &mut Findings) {
        if self.ports.is_empty() {
            found.tell("spec.ports".to_owned(), "is empty, so nothing is allowed");
        }
        for (i, port) in self.ports.iter().enumerate() {
            let mapped = port.target_port != 0 && port.target_port != port.number;
            found.if_set(format!("spec.ports[{i}].targetPort"), mapped && !self.is_service());
        }
        found.if_set("spec.location".to_owned(), self.location == Location::MeshInternal && !self.is_service());
        for (i, endpoint) in self.endpoints.iter().enumerate() {
            let at = format!("spec.endpoints[{i}]");
            if endpoint.address.parse::<std::net::IpAddr>().is_err() {
                found.tell(
                    format!("{at}.address"),
                    "is not used by this version: pods reach the addresses that DNS has for the hosts",
                );
            }
            if !self.is_service() {
                found.if_set(format!("{at}.ports"), !endpoint.ports.is_empty());
                found.if_set(format!("{at}.labels"), !endpoint.labels.is_empty());
            }
            found.if_set(format!("{at}.network"), !endpoint.network.is_empty());
            found.if_set(format!("{at}.locality"), !endpoint.locality.is_empty() && !can.localities);
            found.if_set(format!("{at}.weight"), endpoint.weight != 0);
            found.if_set(format!("{at}.serviceAccount"), !endpoint.service_account.is_empty());
        }
        found.if_set("spec.subjectAltNames".to_owned(), !self.subject_alt_names.is_empty());
    }
}
