//! RouteConfigurations: a virtual host per service of a port, its routes by the VirtualService that owns the host, and what is left over.

use super::envoy::{BoolValue, duration, pack_any, route};
use super::{Compiler, Settings, action, fault, matching};
use crate::core::registry::Service;
use crate::istio::virtual_service::HttpRoute;
use crate::istio::{Resource, VirtualService};
use mesh_xds::agent::OutboundPolicy;
use mesh_xds::names::ClusterName;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

/// Name of Envoy's fault filter, and the key of its per-route configuration.
pub(super) const FAULT: &str = "envoy.filters.http.fault";

/// The route configuration of an HTTP port.
pub(super) fn configuration(c: &mut Compiler<'_, '_>, port: u16, services: &[&Service]) -> route::RouteConfiguration {
    let mut hosts: Vec<_> = services.iter().map(|service| virtual_host(c, port, service)).collect();
    hosts.push(catch_all(c.settings));
    route::RouteConfiguration {
        name: port.to_string(),
        virtual_hosts: hosts,
        // A route to a cluster that does not exist must answer 503 there, not be refused with all other routes.
        validate_clusters: Some(BoolValue { value: false }),
        ..Default::default()
    }
}

fn virtual_host(c: &mut Compiler<'_, '_>, port: u16, service: &Service) -> route::VirtualHost {
    let mut routes = Vec::new();
    if let Some(rule) = c.index.virtual_service(service) {
        routes = of_rule(c, rule, port);
    }
    // A rule none of whose routes is for this port leaves the service as it would be without.
    if routes.is_empty() {
        routes.push(default_route(c, port, service));
    }
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

/// An address as it stands in a Host header.
fn literal(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

fn default_route(c: &mut Compiler<'_, '_>, port: u16, service: &Service) -> route::Route {
    let name = ClusterName { port, subset: String::new(), host: service.name.clone() };
    let action = action::plain(name.to_string());
    c.used.insert(name);
    route::Route {
        name: "default".to_owned(),
        r#match: Some(matching::everything()),
        action: Some(route::route::Action::Route(action)),
        ..Default::default()
    }
}

/// The routes of a VirtualService for requests to a port.
fn of_rule(c: &mut Compiler<'_, '_>, rule: &Resource<VirtualService>, port: u16) -> Vec<route::Route> {
    let mut routes = Vec::new();
    for http in &rule.spec.http {
        let mut matches = matches_of(http, port);
        // Nothing behind a catch-all is reached.
        let last = matches.iter().position(matching::is_catch_all);
        matches.truncate(last.map_or(matches.len(), |last| last + 1));
        if let Some(template) = template(c, http, port) {
            routes.extend(matches.into_iter().map(|found| route::Route { r#match: Some(found), ..template.clone() }));
        }
        if last.is_some() {
            break;
        }
    }
    routes
}

fn matches_of(http: &HttpRoute, port: u16) -> Vec<route::RouteMatch> {
    if http.r#match.is_empty() {
        return vec![matching::everything()];
    }
    http.r#match.iter().filter_map(|block| matching::request(block, port)).collect()
}

/// A rule's route without its match; `None` if it does nothing that is in force.
fn template(c: &mut Compiler<'_, '_>, http: &HttpRoute, port: u16) -> Option<route::Route> {
    let mut found = if http.delegate.is_some() {
        return None;
    } else if let Some(redirect) = &http.redirect {
        route::Route { action: Some(route::route::Action::Redirect(action::redirect(redirect))), ..Default::default() }
    } else if let Some(answer) = &http.direct_response {
        route::Route { action: Some(route::route::Action::DirectResponse(action::answer(answer))), ..Default::default() }
    } else if http.route.is_empty() {
        return None;
    } else {
        action::forward(c, http, port)
    };
    found.name.clone_from(&http.name);
    let injected = http.fault.as_ref().and_then(fault::injection);
    found.typed_per_filter_config =
        injected.map(|fault| HashMap::from([(FAULT.to_owned(), pack_any(fault))])).unwrap_or_default();
    Some(found)
}

/// Who asks for a host that no service has: 502 (Istio's `block_all`), or on to where the client meant to go.
fn catch_all(settings: &Settings) -> route::VirtualHost {
    let (name, action) = match settings.outbound {
        OutboundPolicy::AllowAny if settings.abilities.original_dst => {
            let cluster = route::route_action::ClusterSpecifier::Cluster(super::PASSTHROUGH.to_owned());
            let timeout = Some(duration(Duration::ZERO));
            let action = route::RouteAction { cluster_specifier: Some(cluster), timeout, ..Default::default() };
            ("allow_any", route::route::Action::Route(action))
        }
        OutboundPolicy::RegistryOnly | OutboundPolicy::AllowAny => {
            let refusal = route::DirectResponseAction { status: 502, ..Default::default() };
            ("block_all", route::route::Action::DirectResponse(refusal))
        }
    };
    let route =
        route::Route { name: name.to_owned(), r#match: Some(matching::everything()), action: Some(action), ..Default::default() };
    route::VirtualHost { name: name.to_owned(), domains: vec!["*".to_owned()], routes: vec![route], ..Default::default() }
}
