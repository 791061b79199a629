//! What is in force: one immutable snapshot, swapped as a whole, shared by all threads.

mod http;
mod listener;
mod pool;

use crate::core::balance::Balancer;
use crate::core::table::Table;
pub use http::{CorsFilter, Downstream, HttpOptions, ServerHeader, StripPort, upgrade_passes};
pub use listener::{Chain, Http, Inbound, Inspect, Listener, Serve, Tcp, Tls};
pub use pool::{Http2, Keepalive, PoolSettings, Protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

/// Everything a request may need.
#[derive(Debug, Default)]
pub struct Config {
    /// Counts the snapshots of this process.
    pub generation: u64,
    /// For captured connections, by original destination; port wildcards under the unspecified address.
    pub listeners: Table<SocketAddr, Arc<Listener>>,
    /// For the gateway's ports, by where they listen.
    pub gateway: Table<SocketAddr, Arc<Listener>>,
    /// For what comes to pods' captured ports.
    pub inbound: Option<Arc<Listener>>,
    /// By name.
    pub clusters: Table<Arc<str>, Arc<Cluster>>,
}

impl Config {
    /// Who serves connections to this destination: the exact address first, then any address with this port.
    #[must_use]
    pub fn listener(&self, destination: SocketAddr) -> Option<&Arc<Listener>> {
        let address = destination.ip().to_canonical();
        let port = destination.port();
        let at = |ip: IpAddr| self.listeners.get(&SocketAddr::new(ip, port));
        let own_family = if address.is_ipv6() { at(Ipv6Addr::UNSPECIFIED.into()) } else { None };
        at(address).or(own_family).or_else(|| at(Ipv4Addr::UNSPECIFIED.into()))
    }
}

/// A set of endpoints and how to use them.
#[derive(Debug)]
pub struct Cluster {
    /// Its name.
    pub name: Arc<str>,
    /// For metrics: the service's host and port, and the subset, if the name is Istio's.
    pub service: Option<mesh_xds::names::ClusterName>,
    /// Connections to endpoints.
    pub pool: Arc<PoolSettings>,
    /// The endpoints, and how one is chosen.
    pub balancer: Balancer,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_listener_goes_before_a_wildcard() {
        let listener = |address: &str| {
            let address: SocketAddr = address.parse().expect("address");
            let listener = Listener {
                name: address.to_string(),
                address,
                bound: false,
                inbound: false,
                original_source: false,
                inspect: Inspect::default(),
                conditions: Vec::new(),
                chains: Vec::new(),
                default: None,
            };
            (address, Arc::new(listener))
        };
        let listeners = ["11.0.0.1:80", "0.0.0.0:80", "[::]:81", "0.0.0.0:81"].map(listener);
        let config = Config { listeners: listeners.into_iter().collect(), ..Config::default() };
        for (destination, expected) in [
            ("11.0.0.1:80", Some("11.0.0.1:80")),
            ("11.0.0.2:80", Some("0.0.0.0:80")),
            ("[::ffff:11.0.0.1]:80", Some("11.0.0.1:80")),
            ("[fd00::1]:80", Some("0.0.0.0:80")),
            ("[fd00::1]:81", Some("[::]:81")),
            ("11.0.0.1:82", None),
        ] {
            let found = config.listener(destination.parse().expect("address")).map(|l| l.name.as_str());
            assert_eq!(found, expected, "{destination}");
        }
    }
}
