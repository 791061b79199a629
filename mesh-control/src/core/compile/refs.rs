//! What rules refer to and is not there: hosts, subsets, gateways, other rules, Secrets. Told in each object's condition `ResolvedRefs`; the
//! rest of a rule is in force all the same, as in Istio.

use super::index::Index;
use super::mode::in_mesh;
use super::{credentials, entrance, index};
use crate::istio::virtual_service::{Destination, VirtualService};
use crate::istio::{Config, Gateway, Kind, Resource};
use std::collections::BTreeMap;

/// A reference to nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Dangling {
    /// Of the Gateway API's reasons for this condition the nearest.
    pub(crate) reason: &'static str,
    /// `FIELD: there is no ...`.
    pub(crate) message: String,
}

/// By kind, namespace and name; who has none is not in it.
pub(crate) type Refs = BTreeMap<(Kind, String, String), Vec<Dangling>>;

const BACKEND: &str = "BackendNotFound";
const PARENT: &str = "ParentNotFound";
const CERTIFICATE: &str = "InvalidCertificateRef";

/// Looks through all rules.
pub(super) fn dangling(index: &Index<'_>, config: &Config) -> Refs {
    let mut refs = Refs::new();
    let mut tell = |kind: Kind, namespace: &str, name: &str, found: Vec<Dangling>| {
        if !found.is_empty() {
            refs.insert((kind, namespace.to_owned(), name.to_owned()), found);
        }
    };
    for rule in &config.virtual_services {
        tell(Kind::VirtualService, &rule.meta.namespace, &rule.meta.name, virtual_service(index, config, rule));
    }
    for rule in &config.destination_rules {
        let mut found: Vec<_> = host(index, "spec.host", &rule.spec.host).into_iter().collect();
        let secrets = credentials::missing(rule, &config.secrets);
        found.extend(secrets.into_iter().map(|(field, why)| dangles(CERTIFICATE, &field, &why)));
        tell(Kind::DestinationRule, &rule.meta.namespace, &rule.meta.name, found);
    }
    for rule in &config.destination_policies {
        let found = host(index, "spec.destination", &rule.spec.host).into_iter().collect();
        tell(Kind::DestinationPolicy, &rule.meta.namespace, &rule.meta.name, found);
    }
    for rule in &config.gateways {
        tell(Kind::Gateway, &rule.meta.namespace, &rule.meta.name, gateway(config, rule));
    }
    refs
}

fn dangles(reason: &'static str, field: &str, why: &str) -> Dangling {
    Dangling { reason, message: format!("{field}: {why}") }
}

fn virtual_service(index: &Index<'_>, config: &Config, rule: &Resource<VirtualService>) -> Vec<Dangling> {
    let (spec, namespace) = (&rule.spec, &rule.meta.namespace);
    let mut found = Vec::new();
    if in_mesh(&spec.gateways) {
        let hosts = spec.hosts.iter().enumerate();
        found.extend(hosts.filter_map(|(i, name)| host(index, &format!("spec.hosts[{i}]"), name)));
    }
    for (i, name) in spec.gateways.iter().enumerate().filter(|(_, name)| *name != "mesh") {
        let full = entrance::gateway(name, namespace);
        let is_it = |gateway: &Resource<Gateway>| format!("{}/{}", gateway.meta.namespace, gateway.meta.name) == full;
        if !config.gateways.iter().any(|gateway| is_it(gateway)) {
            found.push(dangles(PARENT, &format!("spec.gateways[{i}]"), &format!("there is no Gateway {full}")));
        }
    }
    for (i, route) in spec.http.iter().enumerate() {
        if let Some(to) = &route.delegate {
            let owner = if to.namespace.is_empty() { namespace } else { &to.namespace };
            let is_it = |other: &Resource<VirtualService>| (&other.meta.namespace, &other.meta.name) == (owner, &to.name);
            if !config.virtual_services.iter().any(|other| is_it(other)) {
                let why = format!("there is no VirtualService {owner}/{}", to.name);
                found.push(dangles(BACKEND, &format!("spec.http[{i}].delegate"), &why));
            }
        }
    }
    found.extend(destinations(spec).into_iter().filter_map(|(field, to)| destination(index, config, &field, to)));
    found
}

/// Everywhere that a rule sends something.
fn destinations(spec: &VirtualService) -> Vec<(String, &Destination)> {
    let mut all = Vec::new();
    for (i, route) in spec.http.iter().enumerate() {
        let at = format!("spec.http[{i}]");
        let to = route.route.iter().enumerate();
        all.extend(to.map(|(j, to)| (format!("{at}.route[{j}].destination"), &to.destination)));
        all.extend(route.mirror.iter().map(|to| (format!("{at}.mirror"), to)));
        let copies = route.mirrors.iter().enumerate();
        all.extend(copies.map(|(j, to)| (format!("{at}.mirrors[{j}].destination"), &to.destination)));
    }
    let tls = spec.tls.iter().enumerate().map(|(i, route)| (format!("spec.tls[{i}]"), &route.route));
    let tcp = spec.tcp.iter().enumerate().map(|(i, route)| (format!("spec.tcp[{i}]"), &route.route));
    for (at, routes) in tls.chain(tcp) {
        let to = routes.iter().enumerate();
        all.extend(to.map(|(j, to)| (format!("{at}.route[{j}].destination"), &to.destination)));
    }
    all
}

/// A subset is there if any rule for the host has it: which clients see that rule is another matter.
fn destination(index: &Index<'_>, config: &Config, field: &str, to: &Destination) -> Option<Dangling> {
    let service = index.resolve(&to.host);
    if index.wanted.host(&service).is_none() {
        return Some(dangles(BACKEND, &format!("{field}.host"), &format!("no service is called {service}")));
    }
    let about = |host: &str| index::matches(&index.resolve(host), &service);
    let mut rules = config.destination_rules.iter().filter(|rule| about(&rule.spec.host));
    let defined = rules.any(|rule| rule.spec.subsets.iter().any(|subset| subset.name == to.subset));
    let missing = !to.subset.is_empty() && !defined;
    missing.then(|| {
        let why = format!("no DestinationRule for {service} has a subset {}", to.subset);
        dangles(BACKEND, &format!("{field}.subset"), &why)
    })
}

/// The host of a rule, which may be a wildcard over some or one below a wildcard.
fn host(index: &Index<'_>, field: &str, name: &str) -> Option<Dangling> {
    let full = index.resolve(name);
    let is_there =
        index.wanted.hosts().any(|service| index::matches(&full, &service.name) || index::matches(&service.name, &full));
    (!is_there).then(|| dangles(BACKEND, field, &format!("no service is called {full}")))
}

fn gateway(config: &Config, rule: &Resource<Gateway>) -> Vec<Dangling> {
    let servers = rule.spec.servers.iter().enumerate().filter_map(|(i, server)| Some((i, server.tls.as_ref()?)));
    let missing = servers.filter_map(|(i, tls)| {
        let name = Some(&tls.credential_name).filter(|name| !name.is_empty()).or_else(|| tls.credential_names.first())?;
        let namespaces = [rule.meta.namespace.as_str(), super::views::ROOT];
        let has = |namespace: &&str| config.secrets.contains_key(&((*namespace).to_owned(), name.clone()));
        let why = || format!("there is no Secret {name} in {} or {}", namespaces[0], namespaces[1]);
        (!namespaces.iter().any(has)).then(|| dangles(CERTIFICATE, &format!("spec.servers[{i}].tls.credentialName"), &why()))
    });
    missing.collect()
}
