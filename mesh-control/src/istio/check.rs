//! What the schema cannot say: Istio's own rules, in its words, each with the field that breaks it.
//!
//! The texts are those of istio/istio `pkg/config/validation`; only the field in front is new. A rule of ours that Istio does not have is
//! marked so: it refuses what would be stored without effect.

mod destination_policy;
mod fault;
mod gateway;
mod http;
mod policy;
mod service_entry;
mod tcp;
#[cfg(test)]
mod tests;
mod text;

use std::collections::BTreeSet;

use super::problem::{Path, Problems};
use super::resource::Spec;
use super::{DestinationRule, VirtualService};

impl Spec for VirtualService {
    fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        let is_delegate = self.hosts.is_empty();
        if is_delegate {
            for (name, given, why) in [
                ("gateways", !self.gateways.is_empty(), "delegate virtual service must have no gateways specified"),
                ("tls", !self.tls.is_empty(), "delegate virtual service must have no tls route specified"),
                ("tcp", !self.tcp.is_empty(), "delegate virtual service must have no tcp route specified"),
            ] {
                if given {
                    problems.forbidden(&at.field(name), why);
                }
            }
        }
        gateways(&self.gateways, &at.field("gateways"), problems);
        self.check_hosts(&at.field("hosts"), problems);
        if self.http.is_empty() && self.tcp.is_empty() && self.tls.is_empty() {
            problems.required(at, "http, tcp or tls must be provided in virtual service");
        }
        for (i, route) in self.http.iter().enumerate() {
            http::route(route, is_delegate, &at.field("http").index(i), problems);
        }
        for (i, route) in self.tls.iter().enumerate() {
            tcp::tls_route(route, &self.hosts, &at.field("tls").index(i), problems);
        }
        for (i, route) in self.tcp.iter().enumerate() {
            tcp::tcp_route(route, &at.field("tcp").index(i), problems);
        }
        export_to(&self.export_to, &at.field("exportTo"), problems);
    }
}

impl VirtualService {
    fn check_hosts(&self, at: &Path<'_>, problems: &mut Problems) {
        let mesh = self.gateways.is_empty() || self.gateways.iter().any(|g| g == "mesh");
        let mut all_valid = true;
        for (i, host) in self.hosts.iter().enumerate() {
            let verdict = match text::domain(host) {
                Err(_) if host.parse::<std::net::IpAddr>().is_ok() => Ok(()),
                Ok(()) if mesh && host == "*" => {
                    Err("wildcard host * is not allowed for virtual services bound to the mesh gateway".to_owned())
                }
                verdict => verdict,
            };
            all_valid &= verdict.is_ok();
            problems.judge(&at.index(i), host.as_str(), verdict);
        }
        if !all_valid {
            return;
        }
        for (i, one) in self.hosts.iter().enumerate() {
            for (j, other) in self.hosts.iter().enumerate().skip(i + 1) {
                if text::overlap(one, other) {
                    let why = format!("duplicate hosts in virtual service: {one} & {other}");
                    problems.judge(&at.index(j), other.as_str(), Err(why));
                }
            }
        }
    }
}

impl Spec for DestinationRule {
    fn check(&self, at: &Path<'_>, problems: &mut Problems) {
        problems.judge(&at.field("host"), self.host.as_str(), text::domain(&self.host));
        if let Some(traffic_policy) = &self.traffic_policy {
            policy::traffic(traffic_policy, &at.field("trafficPolicy"), problems);
        }
        let mut names = BTreeSet::new();
        let subsets = at.field("subsets");
        for (i, subset) in self.subsets.iter().enumerate() {
            let at = subsets.index(i);
            let name = at.field("name");
            if !names.insert(&subset.name) {
                problems.judge(&name, subset.name.as_str(), Err(format!("duplicate subset names: {}", subset.name)));
            }
            problems.judge(&name, subset.name.as_str(), text::subset(&subset.name));
            text::labels(&subset.labels, &at.field("labels"), problems);
            if let Some(traffic_policy) = &subset.traffic_policy {
                policy::traffic(traffic_policy, &at.field("trafficPolicy"), problems);
            }
        }
        export_to(&self.export_to, &at.field("exportTo"), problems);
        if let Some(selector) = &self.workload_selector {
            text::labels(&selector.match_labels, &at.field("workloadSelector").field("matchLabels"), problems);
        }
    }
}

/// `name`, `namespace/name`, or Istio's old `name.namespace.svc...`.
fn gateways(names: &[String], at: &Path<'_>, problems: &mut Problems) {
    for (i, name) in names.iter().enumerate() {
        let verdict = match name.split_once('/') {
            None => text::fqdn(name),
            Some((namespace, gateway)) if namespace.is_empty() || gateway.is_empty() => {
                Err("config namespace and gateway name cannot be empty".to_owned())
            }
            // `./name` is the own namespace.
            Some((namespace, _)) if namespace != "." && !text::is_label(namespace) => {
                Err(format!("invalid value for namespace: {namespace:?}"))
            }
            Some((_, gateway)) if !text::is_label(gateway) => Err(format!("invalid value for gateway name: {gateway:?}")),
            Some(_) => Ok(()),
        };
        problems.judge(&at.index(i), name.as_str(), verdict);
    }
}

fn export_to(namespaces: &[String], at: &Path<'_>, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (i, entry) in namespaces.iter().enumerate() {
        let verdict = if !seen.insert(entry) {
            Err(format!("duplicate entries in exportTo for entry {entry}"))
        } else if [".", "*", "~"].contains(&entry.as_str()) || text::is_label(entry) {
            Ok(())
        } else {
            Err("only ., *, or a valid DNS 1123 label is allowed as exportTo entry".to_owned())
        };
        problems.judge(&at.index(i), entry.as_str(), verdict);
    }
}
