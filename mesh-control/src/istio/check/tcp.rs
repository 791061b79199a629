//! Rules on TLS and TCP routes.

use super::super::problem::{Path, Problems};
use super::super::virtual_service::{Destination, RouteDestination, TcpRoute, TlsRoute};
use super::{gateways, text};

/// One TLS route.
pub(super) fn tls_route(route: &TlsRoute, hosts: &[String], at: &Path<'_>, problems: &mut Problems) {
    let matches = at.field("match");
    if route.r#match.is_empty() {
        problems.required(&matches, "TLS route must have at least one match condition");
    }
    for (i, condition) in route.r#match.iter().enumerate() {
        let at = matches.index(i);
        let sni = at.field("sniHosts");
        if condition.sni_hosts.is_empty() {
            problems.required(&sni, "TLS match must have at least one SNI host");
        }
        for (i, host) in condition.sni_hosts.iter().enumerate() {
            let listed = || {
                if hosts.iter().any(|outer| text::is_subset(host, outer)) {
                    return Ok(());
                }
                let hosts = hosts.join(", ");
                Err(format!("SNI host {host:?} is not a compatible subset of any of the virtual service hosts: [{hosts}]"))
            };
            problems.judge(&sni.index(i), host.as_str(), text::domain(host).and_then(|()| listed()));
        }
        layer4(&condition.destination_subnets, condition.port, &condition.gateways, &at, problems);
        text::labels(&condition.source_labels, &at.field("sourceLabels"), problems);
    }
    if route.route.is_empty() {
        problems.required(&at.field("route"), "TLS route is required");
    }
    destinations(&route.route, &at.field("route"), problems);
}

/// One TCP route.
pub(super) fn tcp_route(route: &TcpRoute, at: &Path<'_>, problems: &mut Problems) {
    let matches = at.field("match");
    for (i, condition) in route.r#match.iter().enumerate() {
        let at = matches.index(i);
        layer4(&condition.destination_subnets, condition.port, &condition.gateways, &at, problems);
        text::labels(&condition.source_labels, &at.field("sourceLabels"), problems);
    }
    if route.route.is_empty() {
        problems.required(&at.field("route"), "TCP route is required");
    }
    destinations(&route.route, &at.field("route"), problems);
}

fn layer4(subnets: &[String], port: u32, names: &[String], at: &Path<'_>, problems: &mut Problems) {
    for (i, subnet) in subnets.iter().enumerate() {
        problems.judge(&at.field("destinationSubnets").index(i), subnet.as_str(), text::subnet(subnet));
    }
    if port != 0 {
        problems.judge(&at.field("port"), port, text::port(port));
    }
    gateways(names, &at.field("gateways"), problems);
}

fn destinations(routes: &[RouteDestination], at: &Path<'_>, problems: &mut Problems) {
    for (i, route) in routes.iter().enumerate() {
        destination(&route.destination, &at.index(i).field("destination"), problems);
    }
    weights(routes.iter().map(|route| route.weight), at, problems);
}

/// Shares: none negative, and of several not all zero.
pub(super) fn weights(weights: impl ExactSizeIterator<Item = i32>, at: &Path<'_>, problems: &mut Problems) {
    let (several, mut total) = (weights.len() > 1, 0_i64);
    for (i, weight) in weights.enumerate() {
        let verdict = if weight < 0 { Err(format!("weight {weight} < 0")) } else { Ok(()) };
        problems.judge(&at.index(i).field("weight"), weight, verdict);
        total += i64::from(weight);
    }
    if several && total == 0 {
        problems.judge(at, total, Err("total destination weight = 0".to_owned()));
    }
}

/// Where requests go.
pub(super) fn destination(to: &Destination, at: &Path<'_>, problems: &mut Problems) {
    let host = to.host.as_str();
    let verdict = if host == "*" { Err(format!("invalid destination host {host}")) } else { text::domain(host) };
    problems.judge(&at.field("host"), host, verdict);
    if !to.subset.is_empty() {
        problems.judge(&at.field("subset"), to.subset.as_str(), text::subset(&to.subset));
    }
    if let Some(port) = &to.port {
        problems.judge(&at.field("port").field("number"), port.number, text::port(port.number));
    }
}
