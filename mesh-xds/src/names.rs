//! Type URLs of the standard resources, and the cluster names that Istio's users know.

use std::fmt;
use std::net::SocketAddr;

/// Listener.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
/// RouteConfiguration.
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
/// Cluster.
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
/// ClusterLoadAssignment.
pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
/// Secret.
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The order in which updates must reach a client so that nothing refers to what is not there yet (make before break). Secrets come before
/// listeners and routes, since routes may lead to clusters that wait for them.
pub const PUSH_ORDER: &[&str] = &[
    crate::agent::MESH,
    crate::agent::WORKLOAD,
    crate::agent::SERVICE,
    crate::agent::EGRESS,
    CLUSTER,
    ENDPOINT,
    SECRET,
    LISTENER,
    ROUTE,
];

/// Name of the Listener of a gateway's port: `gateway_0.0.0.0_80`. The prefix keeps it apart from `0.0.0.0_80`, the listener of what pods
/// dial at that port. Names decide nothing: a listener is a gateway's if `bind_to_port` is not false.
#[must_use]
pub fn gateway_listener(address: SocketAddr) -> String {
    format!("gateway_{}_{}", address.ip(), address.port())
}

/// Istio's cluster name: `outbound|9080|v1|reviews.marathon.l4lb.thisdcos.directory`. Where clients of one proxy have different
/// DestinationRules, all but the usual one are told apart by a fifth part.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClusterName {
    /// The service's port.
    pub port: u16,
    /// The DestinationRule's subset, or empty.
    pub subset: String,
    /// The service's host.
    pub host: String,
    /// Whose cluster it is, or empty: everybody's who has none of his own.
    pub scope: String,
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outbound|{}|{}|{}", self.port, self.subset, self.host)?;
        if self.scope.is_empty() { Ok(()) } else { write!(f, "|{}", self.scope) }
    }
}

impl std::str::FromStr for ClusterName {
    type Err = InvalidClusterName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidClusterName(name.to_owned());
        let mut parts = name.splitn(5, '|');
        let (direction, port, subset, host) = (parts.next(), parts.next(), parts.next(), parts.next());
        let scope = parts.next();
        match (direction, port.and_then(|p| p.parse().ok()), subset, host) {
            (Some("outbound"), Some(port), Some(subset), Some(host)) if !host.is_empty() && scope != Some("") => {
                let scope = scope.unwrap_or_default().to_owned();
                Ok(Self { port, subset: subset.to_owned(), host: host.to_owned(), scope })
            }
            _ => Err(invalid()),
        }
    }
}

/// Not of the form `outbound|PORT|SUBSET|HOST`, with or without `|SCOPE`.
#[derive(Debug, thiserror::Error)]
#[error("cluster name {0:?} is not outbound|PORT|SUBSET|HOST, nor that with |SCOPE")]
pub struct InvalidClusterName(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_names_round_trip() {
        for name in
            ["outbound|9080|v1|reviews.marathon.l4lb.thisdcos.directory", "outbound|80||httpbin.org", "outbound|80||a.b|shop"]
        {
            assert_eq!(name.parse::<ClusterName>().expect("valid").to_string(), name);
        }
        for name in ["inbound|9080||x", "outbound|x||y", "outbound|80|x", "outbound|80||", "outbound|80||a.b|", ""] {
            assert!(name.parse::<ClusterName>().is_err(), "{name}");
        }
    }
}
