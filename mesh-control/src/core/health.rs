//! What was known of health before Marathon forgot it.
//!
//! After a change of its leader Marathon knows of no check's result until each has run again (marathon#3419, #4094). One instance that
//! reports first must not get the whole load: who was healthy is so until somebody says otherwise, or it ends.

use super::registry::{Health, Registry};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// The endpoints that were healthy when somebody last knew: by instance, and by address, since an instance outlives its tasks.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeSet<(String, SocketAddr)>);

impl Known {
    /// Gives endpoints of unknown health the one that they had, and remembers what is known now. Of what is gone nothing is kept.
    pub(crate) fn settle(&mut self, registry: &mut Registry) {
        let mut healthy = BTreeSet::new();
        let ports = registry.services.values_mut().flat_map(|service| service.ports.values_mut());
        for endpoint in ports.flat_map(|port| &mut port.endpoints) {
            let key = (endpoint.workload.clone(), endpoint.at_home);
            if endpoint.health == Health::Unknown && self.0.contains(&key) {
                endpoint.health = Health::Healthy;
            }
            if endpoint.health == Health::Healthy {
                healthy.insert(key);
            }
        }
        self.0 = healthy;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::registry::{Endpoint, Locality, Port, Protocol, Service};
    use crate::istio::service_entry::Seen;
    use mesh_xds::agent::{Balance, Mode, Transport};
    use std::sync::Arc;

    fn registry(of: &[(&str, u16, Health)]) -> Registry {
        let endpoint = |(workload, port, health): &(&str, u16, Health)| Endpoint {
            at_home: ([10, 0, 0, 1], *port).into(),
            elsewhere: None,
            node: None,
            workload: (*workload).to_owned(),
            place: Arc::new(Locality::default()),
            labels: Arc::default(),
            health: *health,
            published: None,
        };
        let (protocol, mode, balance) = (Protocol::Http, Mode::Proxy, Balance::default());
        let endpoints = of.iter().map(endpoint).collect();
        let port = Port { protocol, mode, balance, endpoints, near: None, seen: Seen::default() };
        let service = Service { ports: [((80, Transport::Tcp), port)].into(), ..Service::default() };
        Registry { services: [("s".to_owned(), service)].into(), ..Registry::default() }
    }

    fn weights(known: &mut Known, of: &[(&str, u16, Health)]) -> Vec<u32> {
        let mut registry = registry(of);
        known.settle(&mut registry);
        let port = &registry.services["s"].ports[&(80, Transport::Tcp)];
        port.endpoints.iter().map(|endpoint| port.weight(endpoint)).collect()
    }

    #[test]
    fn who_was_healthy_is_so_until_somebody_says_otherwise() {
        use Health::{Healthy, Unhealthy, Unknown};
        let mut known = Known::default();
        assert_eq!(
            weights(&mut known, &[("a", 1, Healthy), ("b", 2, Healthy), ("c", 3, Unknown)]),
            [1, 1, 0],
            "c has just started"
        );
        assert_eq!(weights(&mut known, &[("a", 1, Unknown), ("b", 2, Unknown), ("c", 3, Unknown)]), [1, 1, 0], "all forgotten");
        assert_eq!(weights(&mut known, &[("a", 1, Healthy), ("b", 2, Unknown), ("c", 3, Healthy)]), [1, 1, 1], "not a alone");
        assert_eq!(weights(&mut known, &[("a", 1, Healthy), ("b", 2, Unhealthy), ("c", 3, Healthy)]), [1, 0, 1]);
        assert_eq!(
            weights(&mut known, &[("a", 1, Healthy), ("b", 2, Unknown), ("c", 3, Healthy)]),
            [1, 0, 1],
            "last known: sick"
        );
        assert_eq!(weights(&mut known, &[("a", 9, Unknown), ("c", 3, Healthy)]), [0, 1], "a new task of the same instance");
    }
}
