//! Rules for hosts outside the mesh: what of them has no effect there, because nobody but DNS knows where such a host is.
//!
//! Requests for a host outside go on to the address that the client dialled, which the mesh's DNS has given it for that host; so a cluster
//! of such a host is of type ORIGINAL_DST, and there is nothing to balance over and nothing to choose by label.

use super::Unsupported;
use super::index::{Names, matches};
use crate::core::registry::{Registry, Service};
use crate::istio::virtual_service::VirtualService;
use crate::istio::{DestinationRule, Resource};

/// Tells what of a VirtualService has no effect for its host `resolved`, or on the way to hosts outside.
pub(super) fn routes(
    registry: &Registry,
    names: &Names<'_>,
    (rule, resolved): (&Resource<VirtualService>, &str),
    report: &mut Vec<Unsupported>,
) {
    let mut tell = |field: String, why: &str| report.push(Unsupported::new("VirtualService", &rule.meta, field, why));
    if let Some(host) = registry.outside_host(resolved).filter(|_| !registry.services.contains_key(resolved)) {
        let why = format!("has no effect for {}, which is outside the mesh: only its requests over HTTP are routed", host.name);
        for (field, given) in [("spec.tls", !rule.spec.tls.is_empty()), ("spec.tcp", !rule.spec.tcp.is_empty())] {
            if given {
                tell(field.to_owned(), &why);
            }
        }
    }
    for (i, route) in rule.spec.http.iter().enumerate() {
        let routes = route
            .route
            .iter()
            .enumerate()
            .map(|(j, to)| (format!("spec.http[{i}].route[{j}].destination.host"), &to.destination));
        let mirrors = route.mirror.iter().map(|to| (format!("spec.http[{i}].mirror.host"), to));
        let copies = route.mirrors.iter().enumerate();
        let copies = copies.map(|(j, to)| (format!("spec.http[{i}].mirrors[{j}].destination.host"), &to.destination));
        for (field, to) in routes.chain(mirrors).chain(copies) {
            let there = names.resolve(&to.host);
            let outside = !registry.services.contains_key(&there) && registry.outside_host(&there).is_some();
            if outside && !matches(&there, resolved) && !matches(resolved, &there) {
                let why = format!(
                    "is outside the mesh, and requests go on to where their client was going: from {resolved} they do not get to {there}"
                );
                tell(field, &why);
            }
        }
    }
}

/// Tells what of a DestinationRule has no effect for its host `resolved`.
pub(super) fn policy(registry: &Registry, (rule, resolved): (&Resource<DestinationRule>, &str), report: &mut Vec<Unsupported>) {
    let mut tell =
        |field: &str, why: String| report.push(Unsupported::new("DestinationRule", &rule.meta, field.to_owned(), &why));
    let services = registry.services.keys().any(|name| matches(resolved, name));
    let outside: Vec<&Service> = registry.outside.values().filter(|host| matches(resolved, &host.name)).collect();
    let named = outside.first().copied().or_else(|| registry.outside_host(resolved));
    let Some(host) = named.filter(|_| !services) else { return };
    let name = &host.name;
    if !host.ports.values().any(|port| port.protocol.is_http()) {
        return tell(
            "spec.host",
            format!("{name} is outside the mesh and has no HTTP port, so the kernel lets its connections pass as they are"),
        );
    }
    if rule.spec.traffic_policy.as_ref().is_some_and(|policy| policy.load_balancer.is_some()) {
        tell(
            "spec.trafficPolicy.loadBalancer",
            format!("{name} is outside the mesh: requests go on to where their client was going"),
        );
    }
    if rule.spec.subsets.iter().any(|subset| !subset.labels.is_empty()) {
        tell("spec.subsets", format!("{name} is outside the mesh, where nothing has labels: a subset is all of it"));
    }
}
