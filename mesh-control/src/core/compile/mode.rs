//! Rules that only the proxy can honour move a port from the kernel to the proxy, and back when they go.
//!
//! The mode that Marathon's labels or the protocol give a port says who carries it as long as nothing more is asked. `direct` is an
//! opt-out and stays: a rule on such a port is reported, by the compiler, as being without effect. Hosts outside are the kernel's, which
//! lets them pass, until a rule asks for what only requests have.

use super::index::{Names, matches, most_specific};
use super::{Settings, has_requests};
use crate::core::registry::{Port, Protocol, Registry};
use crate::istio::destination_rule::{TlsMode, TrafficPolicy};
use crate::istio::{Config, VirtualService};
use mesh_xds::agent::{Mode, Transport};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The registry with the modes that the rules ask for; the same one if they ask for none.
pub(super) fn ruled(registry: &Arc<Registry>, config: &Config, settings: &Settings) -> Arc<Registry> {
    let names = Names::new(registry, settings);
    let mut routes: BTreeMap<String, &VirtualService> = BTreeMap::new();
    let mut policies: BTreeMap<String, &TrafficPolicy> = BTreeMap::new();
    // The oldest comes first and has the host.
    for rule in config.virtual_services.iter().filter(|rule| in_mesh(&rule.spec.gateways)) {
        for host in &rule.spec.hosts {
            routes.entry(names.resolve(host)).or_insert(&rule.spec);
        }
    }
    for rule in &config.destination_rules {
        if let Some(policy) = &rule.spec.traffic_policy {
            policies.entry(names.resolve(&rule.spec.host)).or_insert(policy);
        }
    }
    for rule in &config.destination_policies {
        policies.entry(names.resolve(&rule.spec.host)).or_insert(&rule.spec.policy);
    }
    if routes.is_empty() && policies.is_empty() {
        return registry.clone();
    }
    let mut moved = Vec::new();
    for service in registry.services.values() {
        let (route, policy) = (most_specific(&routes, &service.name), most_specific(&policies, &service.name));
        let ports = service.ports.iter().filter(|((_, transport), _)| *transport == Transport::Tcp);
        for ((number, _), port) in ports.filter(|(_, port)| port.mode == Mode::Kernel) {
            let routed = route.is_some_and(|rule| routes_port(rule, port));
            if routed || policy.is_some_and(|policy| shapes(policy, *number)) {
                moved.push((service.name.clone(), *number));
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
    if moved.is_empty() {
        return registry.clone();
    }
    let mut ruled = (**registry).clone();
    for (service, number) in moved {
        let port = ruled.host_mut(&service).and_then(|service| service.ports.get_mut(&(number, Transport::Tcp)));
        if let Some(port) = port {
            port.mode = Mode::Proxy;
        }
    }
    Arc::new(ruled)
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
