//! RouteConfigurations: a virtual host per service of a port, its routes by the VirtualService that owns the host, and what is left over.

use super::entrance::Entrance;
use super::envoy::{self, BoolValue, duration, pack_any, route};
use super::views::{Clients, shadows};
use super::{Abilities, Compiler, Settings, action, answer, cors, fault, hash, headers, matching};
use crate::core::registry::Service;
use crate::istio::service_entry::Seen;
use crate::istio::virtual_service::HttpRoute;
use crate::istio::{Resource, VirtualService};
use mesh_xds::agent::OutboundPolicy;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// Name of Envoy's fault filter, and the key of its per-route configuration.
pub(super) const FAULT: &str = "envoy.filters.http.fault";
/// The same of Envoy's filter for cross-origin requests.
pub(super) const CORS: &str = "envoy.filters.http.cors";

/// The route configuration of an HTTP port.
pub(super) fn configuration(c: &mut Compiler<'_, '_>, port: u16, services: &[&Service]) -> route::RouteConfiguration {
    let index = c.index;
    // Under a wildcard outside the mesh, names with rules of their own are hosts of their own.
    let below = services.iter().filter(|service| service.name.starts_with('*')).flat_map(|service| {
        let named = |host: &String| Service { name: host.clone(), names: BTreeSet::from([host.clone()]), ..(*service).clone() };
        index.below(service).map(named).collect::<Vec<_>>()
    });
    let below: Vec<_> = below.collect();
    let mut hosts: Vec<_> = services.iter().copied().chain(&below).map(|service| virtual_host(c, port, service)).collect();
    hosts.push(catch_all(c.settings));
    route::RouteConfiguration {
        name: port.to_string(),
        virtual_hosts: hosts,
        // A route to a cluster that does not exist must answer 503 there, not be refused with all other routes.
        validate_clusters: Some(BoolValue { value: false }),
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

/// The route configuration of a port of a service that detects what is spoken.
pub(super) fn detected(c: &mut Compiler<'_, '_>, port: u16, service: &Service) -> route::RouteConfiguration {
    // The address says which service is meant, whatever the Host header says.
    let host = route::VirtualHost { domains: vec!["*".to_owned()], ..virtual_host(c, port, service) };
    route::RouteConfiguration {
        name: of_service(&service.name, port),
        virtual_hosts: vec![host],
        validate_clusters: Some(BoolValue { value: false }),
        ignore_port_in_host_matching: true,
        ..Default::default()
    }
}

/// The name of that, as Istio has it.
pub(super) fn of_service(service: &str, port: u16) -> String {
    format!("{service}:{port}")
}

fn virtual_host(c: &mut Compiler<'_, '_>, port: u16, service: &Service) -> route::VirtualHost {
    let routes = for_clients(c, |c| {
        let rule = c.index.virtual_service(service);
        let mut routes = rule.map(|rule| of_rule(c, rule, &Entrance::mesh(port))).unwrap_or_default();
        if let Some(others) = refusals(&routes) {
            routes.extend(others);
            routes.push(default_route(c, port, service));
        }
        routes
    });
    let routes = match service.tcp_port(port).map(|port| &port.seen) {
        Some(Seen::By(namespaces)) if c.settings.abilities.source_namespace => for_seeing(namespaces, routes, c.settings),
        _ => routes,
    };
    let hosts = service.names.iter().cloned().chain(service.addresses.iter().map(literal));
    route::VirtualHost {
        name: format!("{}:{port}", service.name),
        // A set: the name of a literal VIP is its address.
        domains: hosts.flat_map(|host| [format!("{host}:{port}"), host]).collect::<BTreeSet<_>>().into_iter().collect(),
        routes,
        include_request_attempt_count: true,
        ..Default::default()
    }
}

/// Routes, with those of clients that see other DestinationRules before everybody's: their rules are the same, where they lead is not.
fn for_clients(c: &mut Compiler<'_, '_>, make: impl Fn(&mut Compiler<'_, '_>) -> Vec<route::Route>) -> Vec<route::Route> {
    let usual = make(c);
    let others = c.for_each_apart(make);
    let mut routes = Vec::new();
    for (i, route) in usual.into_iter().enumerate() {
        for (clients, theirs) in &others {
            let theirs = theirs.get(i).filter(|theirs| **theirs != route || shadows(&others, clients));
            routes.extend(theirs.and_then(|theirs| matching::only(theirs, clients)));
        }
        routes.push(route);
    }
    routes
}

/// The routes of a service for those who see its port; for others it is a host that no service has.
fn for_seeing(namespaces: &BTreeSet<String>, routes: Vec<route::Route>, settings: &Settings) -> Vec<route::Route> {
    let clients: Vec<_> = namespaces.iter().map(|namespace| Clients::of(namespace)).collect();
    let theirs = routes.iter().flat_map(|route| clients.iter().filter_map(|clients| matching::only(route, clients)));
    theirs.chain(catch_all(settings).routes).collect()
}

/// An address as it stands in a Host header.
fn literal(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

fn default_route(c: &mut Compiler<'_, '_>, port: u16, service: &Service) -> route::Route {
    let name = c.named(port, "", &service.name);
    let mut action = action::plain(name.to_string(), c.settings);
    action.hash_policy.extend(hash::of(c, &name));
    route::Route {
        name: "default".to_owned(),
        r#match: Some(matching::everything()),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}

/// The routes of a VirtualService for requests that come in somewhere.
pub(super) fn of_rule(c: &mut Compiler<'_, '_>, rule: &Resource<VirtualService>, here: &Entrance<'_>) -> Vec<route::Route> {
    let (mut routes, can) = (Vec::new(), c.settings.abilities);
    for http in &rule.spec.http {
        let mut matches = matches_of(http, here, &rule.meta.namespace, can);
        // Nothing behind a catch-all is reached.
        let last = matches.iter().position(|(_, found)| matching::is_catch_all(found));
        matches.truncate(last.map_or(matches.len(), |last| last + 1));
        if let Some(template) = template(c, http, here) {
            routes.extend(matches.into_iter().map(|(name, found)| {
                let name = if name.is_empty() { http.name.clone() } else { format!("{}.{name}", http.name) };
                route::Route { name, r#match: Some(found), ..template.clone() }
            }));
        }
        if last.is_some() {
            break;
        }
    }
    routes
}

/// What follows a rule all of whose routes are for some pods only; `None` if there is nothing to follow.
///
/// A rule without any route for a pod leaves the service to it as it would be without the rule, but a pod for which it has routes gets 404
/// where none of them matches, as in Istio. So whoever is meant by a route, and was not taken by it, is refused before the default route.
fn refusals(routes: &[route::Route]) -> Option<Vec<route::Route>> {
    let mut refused: Vec<&[_]> = Vec::new();
    for found in routes.iter().filter_map(|route| route.r#match.as_ref()) {
        if found.dynamic_metadata.is_empty() {
            return None;
        }
        if !refused.contains(&found.dynamic_metadata.as_slice()) {
            refused.push(&found.dynamic_metadata);
        }
    }
    let taken = |who: &[_]| {
        let mut matches = routes.iter().filter_map(|route| route.r#match.as_ref());
        matches.any(|found| found.dynamic_metadata == who && matching::is_for_all_requests(found))
    };
    let refusal = |who: &[_]| route::Route {
        name: "no_route".to_owned(),
        r#match: Some(route::RouteMatch { dynamic_metadata: who.to_vec(), ..matching::everything() }),
        action: Some(route::route::Action::DirectResponse(route::DirectResponseAction { status: 404, ..Default::default() })),
        ..Default::default()
    };
    Some(refused.into_iter().filter(|who| !taken(who)).map(refusal).collect())
}

/// The blocks that can hold, with their names.
fn matches_of<'h>(
    http: &'h HttpRoute,
    here: &Entrance<'_>,
    namespace: &str,
    can: Abilities,
) -> Vec<(&'h str, route::RouteMatch)> {
    if http.r#match.is_empty() {
        return vec![("", matching::everything())];
    }
    let blocks = http.r#match.iter();
    blocks.filter_map(|block| Some((block.name.as_str(), matching::request(block, here, namespace, can)?))).collect()
}

/// A rule's route without its match; `None` if it does nothing that is in force.
fn template(c: &mut Compiler<'_, '_>, http: &HttpRoute, here: &Entrance<'_>) -> Option<route::Route> {
    let mut found = if let Some(redirect) = &http.redirect {
        headers::with(http.headers.as_ref(), route::route::Action::Redirect(answer::redirect(redirect, here)))
    } else if let Some(answer) = &http.direct_response {
        headers::with(http.headers.as_ref(), route::route::Action::DirectResponse(answer::direct(answer)))
    } else if http.route.is_empty() {
        return None;
    } else {
        action::forward(c, http, here.port)
    };
    let injected = http.fault.as_ref().and_then(fault::injection).map(|fault| (FAULT, pack_any(fault)));
    let cors = http.cors_policy.as_ref().filter(|_| c.settings.abilities.cors).map(|rule| (CORS, pack_any(cors::policy(rule))));
    found.typed_per_filter_config = envoy::in_order(injected.into_iter().chain(cors));
    Some(found)
}

/// Who asks for a host that no service has: 502 (Istio's `block_all`), or on to where the client meant to go.
fn catch_all(settings: &Settings) -> route::VirtualHost {
    let (name, action) = match settings.outbound {
        OutboundPolicy::AllowAny | OutboundPolicy::Audit if settings.abilities.original_dst => {
            let cluster = route::route_action::ClusterSpecifier::Cluster(super::PASSTHROUGH.to_owned());
            let timeout = Some(duration(Duration::ZERO));
            let action = route::RouteAction { cluster_specifier: Some(cluster), timeout, ..Default::default() };
            ("allow_any", route::route::Action::Route(action))
        }
        OutboundPolicy::RegistryOnly | OutboundPolicy::AllowAny | OutboundPolicy::Audit => {
            let refusal = route::DirectResponseAction { status: 502, ..Default::default() };
            ("block_all", route::route::Action::DirectResponse(refusal))
        }
    };
    let route =
        route::Route { name: name.to_owned(), r#match: Some(matching::everything()), action: Some(action), ..Default::default() };
    route::VirtualHost { name: name.to_owned(), domains: vec!["*".to_owned()], routes: vec![route], ..Default::default() }
}
