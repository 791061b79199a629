//! Rules that only the proxy can honour move a port from the kernel to the proxy, and back when they go. How the kernel chooses among endpoints is
//! a rule's to say as well ([`in_kernel`]).
//!
//! The mode that Marathon's labels or the protocol give a port says who carries it as long as nothing more is asked. `direct` is an
//! opt-out and stays: a rule on such a port is reported, by the compiler, as being without effect. Hosts outside are the kernel's, which
//! lets them pass, until a rule asks for what only requests have.

use super::index::{Names, matches, most_specific};
use super::views::ROOT;
use super::{Settings, has_requests};
use crate::core::registry::{Port, Protocol, Registry, Service};
use crate::istio::destination_rule::{
    ConsistentHashLb, LoadBalancerSettings, PortTrafficPolicy, SimpleLb, TlsMode, TrafficPolicy,
};
use crate::istio::{Config, DestinationRule, Resource, VirtualService};
use mesh_xds::agent::{Balance, Mode, Transport};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The registry with the modes that the rules ask for; the same one if they ask for none.
pub(super) fn ruled(registry: &Arc<Registry>, config: &Config, settings: &Settings) -> Arc<Registry> {
    let names = Names::new(registry, settings);
    let mut routes: BTreeMap<String, &VirtualService> = BTreeMap::new();
    let mut policies: BTreeMap<String, Policies<'_>> = BTreeMap::new();
    // The oldest comes first and has the host.
    for rule in config.virtual_services.iter().filter(|rule| in_mesh(&rule.spec.gateways)) {
        for host in &rule.spec.hosts {
            routes.entry(names.resolve(host)).or_insert(&rule.spec);
        }
    }
    for rule in &config.destination_rules {
        if let Some(policy) = &rule.spec.traffic_policy {
            policies.entry(names.resolve(&rule.spec.host)).or_default().push((policy, Some(rule)));
        }
    }
    for rule in &config.destination_policies {
        policies.entry(names.resolve(&rule.spec.host)).or_default().push((&rule.spec.policy, None));
    }
    if routes.is_empty() && policies.is_empty() {
        return registry.clone();
    }
    let (mut moved, mut balanced) = (Vec::new(), Vec::new());
    for service in registry.services.values() {
        let (route, policy) = (most_specific(&routes, &service.name), most_specific(&policies, &service.name));
        let ports = service.ports.iter().filter(|((_, transport), _)| *transport == Transport::Tcp);
        for ((number, _), port) in ports.filter(|(_, port)| port.mode == Mode::Kernel) {
            let routed = route.is_some_and(|rule| routes_port(rule, port));
            let first = policy.and_then(|policies| policies.first());
            let shaped = first.is_some_and(|(policy, _)| shapes(policy, *number));
            match policy.and_then(|policies| in_kernel(policies, service, (*number, port))) {
                Some(balance) if !routed => balanced.push((service.name.clone(), *number, balance)),
                _ if routed || shaped => moved.push((service.name.clone(), *number)),
                _ => {}
            }
        }
    }
    for host in registry.outside.values() {
        // Under a wildcard there may be rules for single names.
        let about = |other: &String| matches(other, &host.name) || matches(&host.name, other);
        let routed = routes.iter().any(|(other, rule)| about(other) && !rule.http.is_empty());
        if routed || policies.keys().any(about) {
            let ports = host.ports.iter().filter(|(_, port)| has_requests(settings.abilities, port));
            moved.extend(ports.map(|((number, _), _)| (host.name.clone(), *number)));
        }
    }
    if moved.is_empty() && balanced.is_empty() {
        return registry.clone();
    }
    let mut ruled = (**registry).clone();
    for (service, number, balance) in balanced {
        let port = ruled.host_mut(&service).and_then(|service| service.ports.get_mut(&(number, Transport::Tcp)));
        if let Some(port) = port {
            port.balance = balance;
        }
    }
    for (service, number) in moved {
        let port = ruled.host_mut(&service).and_then(|service| service.ports.get_mut(&(number, Transport::Tcp)));
        if let Some(port) = port {
            port.mode = Mode::Proxy;
        }
    }
    Arc::new(ruled)
}

/// The policies for a host, oldest first, and the DestinationRules that they are from.
type Policies<'a> = Vec<(&'a TrafficPolicy, Option<&'a Resource<DestinationRule>>)>;

/// How the kernel chooses among the port's endpoints, if that is all that is asked for and the kernel can: connections, not requests, for all
/// clients alike, by connections in use, by chance or by the client's address.
fn in_kernel(policies: &Policies<'_>, service: &Service, (number, port): (u16, &Port)) -> Option<Balance> {
    let [(policy, rule)] = policies.as_slice() else { return None };
    let is_for_all = rule.is_none_or(|rule| {
        let spec = &rule.spec;
        let exported = spec.export_to.is_empty() || spec.export_to.iter().any(|to| to == "*");
        let looked_at_by_all = rule.meta.namespace == service.namespace || rule.meta.namespace == ROOT;
        exported && looked_at_by_all && spec.workload_selector.is_none()
    });
    let opaque = !port.protocol.is_http() && port.protocol != Protocol::Undeclared;
    let own = policy.port_level_settings.iter().find(|own| own.port.as_ref().is_some_and(|p| p.number == u32::from(number)));
    let settings = own.map_or(policy.load_balancer.as_ref(), |own| own.load_balancer.as_ref())?;
    // What else it asks for makes the port the proxy's, which honours all of it.
    let rest = TrafficPolicy { load_balancer: None, ..(*policy).clone() };
    let rest = TrafficPolicy { port_level_settings: own.iter().map(|own| without_balancer(own)).collect(), ..rest };
    if !is_for_all || !opaque || shapes(&rest, number) {
        return None;
    }
    choice(settings)
}

fn without_balancer(own: &PortTrafficPolicy) -> PortTrafficPolicy {
    PortTrafficPolicy { load_balancer: None, ..own.clone() }
}

fn choice(settings: &LoadBalancerSettings) -> Option<Balance> {
    let LoadBalancerSettings {
        simple,
        consistent_hash,
        locality_lb_setting: None,
        zone_aware_lb_setting: None,
        warmup_duration_secs: None,
        warmup: None,
    } = settings
    else {
        return None;
    };
    match (simple, consistent_hash) {
        (Some(SimpleLb::LeastConn | SimpleLb::LeastRequest), None) => Some(Balance::LeastConnections),
        (Some(SimpleLb::Random), None) => Some(Balance::Random),
        // The kernel's is a Maglev table of a size of its own.
        (None, Some(hash)) => {
            let address = ConsistentHashLb { use_source_ip: Some(true), ..ConsistentHashLb::default() };
            (*hash == address).then_some(Balance::Source)
        }
        _ => None,
    }
}

/// Absent means the mesh.
pub(super) fn in_mesh(gateways: &[String]) -> bool {
    gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh")
}

/// Has the rule routes for what is spoken on the port?
fn routes_port(rule: &VirtualService, port: &Port) -> bool {
    if port.protocol.is_http() {
        return !rule.http.is_empty();
    }
    let undeclared = port.protocol == Protocol::Undeclared;
    let http = undeclared && !rule.http.is_empty();
    let tls = (undeclared || matches!(port.protocol, Protocol::Https | Protocol::Tls)) && !rule.tls.is_empty();
    http || tls || !rule.tcp.is_empty()
}

/// Does the policy ask for something that happens to connections of the port? Port settings replace those of the host wholesale.
fn shapes(policy: &TrafficPolicy, number: u16) -> bool {
    let own = policy.port_level_settings.iter().find(|own| own.port.as_ref().is_some_and(|p| p.number == u32::from(number)));
    let (balancer, pool, outliers, tls) = match own {
        Some(own) => (own.load_balancer.is_some(), &own.connection_pool, own.outlier_detection.is_some(), &own.tls),
        None => (
            policy.load_balancer.is_some(),
            &policy.connection_pool,
            policy.outlier_detection.is_some() || policy.proxy_protocol.is_some() || policy.tunnel.is_some(),
            &policy.tls,
        ),
    };
    let tcp = pool.as_ref().is_some_and(|pool| pool.tcp.is_some());
    let encrypts = tls.as_ref().is_some_and(|tls| tls.mode != TlsMode::Disable);
    balancer || tcp || outliers || encrypts
}
