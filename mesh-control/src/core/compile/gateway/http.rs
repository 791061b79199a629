//! Virtual hosts of a gateway: the routes of all rules with a host, in their order, with those that take everything at the end.

use super::super::entrance::{At, Entrance};
use super::super::envoy::{BoolValue, listener, route, versioned};
use super::super::{listener as listeners, matching, route as routes};
use super::{Bound, Making, host};
use std::collections::{BTreeMap, BTreeSet};

impl Making<'_, '_, '_> {
    /// One chain for all plain HTTP servers of a port.
    pub(super) fn plain_http(&mut self, port: u16, servers: &[Bound<'_>]) -> listener::FilterChain {
        let name = format!("http.{port}");
        self.routes_of(&name, servers, false);
        listener::FilterChain { filters: vec![self.manager(&name)], ..Default::default() }
    }

    /// What serves requests by these routes.
    pub(super) fn manager(&mut self, routes: &str) -> listener::Filter {
        let telling = self.c.telling().at_gateway();
        listeners::edge_manager(routes, self.c.settings.abilities, &telling)
    }

    /// Makes the route configuration of some servers.
    pub(super) fn routes_of(&mut self, name: &str, servers: &[Bound<'_>], tls: bool) {
        let mut hosts: BTreeMap<String, route::VirtualHost> = BTreeMap::new();
        for bound in servers {
            self.collect(bound, tls, &mut hosts);
        }
        let mut virtual_hosts: Vec<_> = hosts.into_values().collect();
        for found in &mut virtual_hosts {
            let takes_all = |route: &route::Route| route.r#match.as_ref().is_some_and(matching::is_catch_all);
            // Stable: else rules would change places.
            found.routes.sort_by_key(takes_all);
        }
        if virtual_hosts.is_empty() {
            // No route: 404, as Istio's.
            virtual_hosts.push(virtual_host("blackhole", "*"));
        }
        let configuration = route::RouteConfiguration {
            name: name.to_owned(),
            virtual_hosts,
            validate_clusters: Some(BoolValue { value: false }),
            ignore_port_in_host_matching: true,
            ..Default::default()
        };
        self.edge.routes.insert(name.to_owned(), versioned(&configuration));
    }

    fn collect(&mut self, bound: &Bound<'_>, tls: bool, hosts: &mut BTreeMap<String, route::VirtualHost>) {
        let names = BTreeSet::from([bound.full_name()]);
        let here = Entrance { port: bound.port, at: At::Gateway { names: &names, labels: self.labels, tls } };
        for (rule, common) in self.rules(bound) {
            if rule.spec.http.is_empty() {
                continue;
            }
            let found = routes::of_rule(self.c, rule, &here);
            for name in common {
                let host = hosts.entry(name.clone()).or_insert_with(|| virtual_host(&format!("{name}:{}", bound.port), &name));
                host.routes.extend(found.iter().cloned());
            }
        }
        if bound.server.tls.as_ref().is_some_and(|tls| tls.https_redirect) {
            for entry in &bound.server.hosts {
                let name = host::name(entry);
                let host = hosts.entry(name.clone()).or_insert_with(|| virtual_host(&format!("{name}:{}", bound.port), &name));
                host.require_tls = route::virtual_host::TlsRequirementType::All.into();
            }
        }
    }
}

fn virtual_host(name: &str, domain: &str) -> route::VirtualHost {
    route::VirtualHost {
        name: name.to_owned(),
        domains: vec![domain.to_owned()],
        include_request_attempt_count: true,
        ..Default::default()
    }
}
