//! Certificates towards endpoints that DestinationRules take from Secrets (`credentialName`): which, and who gets them.
//!
//! As in Istio they are for gateways, and for workloads only if a rule's `workloadSelector` chooses these; all others connect as if the rule
//! said nothing of TLS. A key leaves this process only for nodes that have such a gateway or an enrolled workload of those chosen. A Secret
//! that does not exist is named all the same: what needs it fails there, instead of going out in plain text.

use super::envoy::{core, tls as pb, versioned};
use super::policy::{self, Policy};
use super::views::{EDGE, Home, Merged, ROOT};
use super::{Compiler, Resources, Unsupported};
use crate::istio::destination_rule::{ClientTlsSettings, TlsMode};
use crate::istio::{Config, DestinationRule, Resource};
use crate::secret::{Credential, Pair, Secret};
use mesh_xds::names::ClusterName;
use mesh_xds::server::Versioned;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Istio's suffix of a Secret that has only authorities.
pub(super) const AUTHORITIES: &str = "-cacert";

/// By namespace and name.
pub(super) type Secrets = BTreeMap<(String, String), Arc<Secret>>;

/// What each node's workloads need.
#[derive(Clone, Debug, Default)]
pub(super) struct Credentials {
    by_node: BTreeMap<IpAddr, Resources>,
    none: Resources,
}

impl Credentials {
    /// What a node's workloads need.
    pub(super) fn at(&self, node: IpAddr) -> &Resources {
        self.by_node.get(&node).unwrap_or(&self.none)
    }
}

/// The resources that a cluster takes its certificates from.
pub(super) struct Named {
    pub(super) certificate: Option<String>,
    pub(super) authorities: Option<String>,
}

/// What holds for a cluster: TLS with Secrets only where its clients may have these.
pub(super) fn policy<'a>(rule: Option<&Merged<'a>>, name: &ClusterName) -> Policy<'a> {
    let mut policy = policy::effective(rule, &name.subset, name.port);
    let may = rule.and_then(|rule| rule.home).is_some_and(|home| home.selected || name.scope == EDGE);
    policy.tls = policy.tls.filter(|tls| may || !tls.uses_secret());
    policy
}

/// The names of what a rule needs; `None` if it needs no Secret.
pub(super) fn named(rule: &ClientTlsSettings, home: Home<'_>, secrets: &Secrets) -> Option<Named> {
    if !rule.uses_secret() {
        return None;
    }
    let name = &rule.credential_name;
    let resource = format!("kubernetes://{}/{name}", namespace(name, home, secrets));
    let checks = rule.insecure_skip_verify != Some(true);
    let authorities = checks.then(|| format!("{resource}{AUTHORITIES}"));
    Some(Named { certificate: (rule.mode == TlsMode::Mutual).then_some(resource), authorities })
}

/// The rule's own namespace; for gateways, which run in the root namespace, also that one.
fn namespace<'n>(name: &str, home: Home<'n>, secrets: &Secrets) -> &'n str {
    let has = |namespace: &str| {
        let has = |name: String| secrets.contains_key(&(namespace.to_owned(), name));
        has(name.to_owned()) || has(format!("{name}{AUTHORITIES}"))
    };
    if !home.selected && !has(home.namespace) && has(ROOT) { ROOT } else { home.namespace }
}

/// What a rule needs, as far as it is there, and what is wrong with it.
fn resources(rule: &ClientTlsSettings, home: Home<'_>, secrets: &Secrets) -> (Vec<(String, Versioned)>, Option<String>) {
    let Some(needed) = named(rule, home, secrets) else { return (Vec::new(), None) };
    let (mut found, mut problem) = (Vec::new(), None);
    let (name, namespace) = (&rule.credential_name, namespace(&rule.credential_name, home, secrets));
    let read = |name: &str| {
        let secret = secrets.get(&(namespace.to_owned(), name.to_owned()))?;
        Some(secret.credential().map_err(|why| format!("{name}: the Secret cannot be used: {why}")))
    };
    let (own, apart) = (read(name).transpose(), read(&format!("{name}{AUTHORITIES}")).transpose());
    let (own, apart) = match (own, apart) {
        (Ok(own), Ok(apart)) => (own, apart),
        (Err(why), _) | (_, Err(why)) => return (found, Some(why)),
    };
    if own.is_none() && apart.is_none() {
        let or = if home.selected || home.namespace == ROOT { String::new() } else { format!(" or {ROOT}") };
        return (found, Some(format!("{name}: there is no such Secret in {}{or}, so connections fail", home.namespace)));
    }
    if let Some(resource) = needed.authorities {
        let trusted = |credential: &Option<Credential>| credential.as_ref().and_then(|it| it.authorities.clone());
        match trusted(&apart).or_else(|| trusted(&own)) {
            Some(pem) => found.push((resource.clone(), authorities(&resource, pem))),
            None => problem = Some(format!("{name}: neither the Secret nor {name}{AUTHORITIES} has ca.crt, so connections fail")),
        }
    }
    if let Some(resource) = needed.certificate {
        match own.and_then(|own| own.pair) {
            Some(pair) => found.push((resource.clone(), certificate(&resource, pair))),
            None => problem = Some(format!("{name}: the Secret has no certificate and key, so connections fail")),
        }
    }
    (found, problem)
}

impl Compiler<'_, '_> {
    /// The Secrets that a cluster needs.
    pub(super) fn secrets_of(&self, name: &ClusterName) -> Vec<(String, Versioned)> {
        let rule = self.index.destination_rule(&name.scope, &name.host);
        let tls = policy(rule, name).tls.filter(|_| self.settings.abilities.upstream_tls);
        let needed = tls.and_then(|tls| Some(resources(tls, rule?.home?, self.secrets).0));
        needed.unwrap_or_default()
    }

    /// Those of the workloads that rules choose, for the nodes on which these run.
    pub(super) fn credentials(&self, before: &Credentials) -> Credentials {
        let mut by_node = BTreeMap::<IpAddr, BTreeMap<String, Versioned>>::new();
        for name in &self.used {
            let Some(clients) = self.index.chosen(&name.scope) else { continue };
            let secrets = self.secrets_of(name);
            if secrets.is_empty() {
                continue;
            }
            let has =
                |labels: &BTreeMap<String, String>| clients.labels.iter().all(|(key, value)| labels.get(key) == Some(value));
            let workloads = self.index.registry.workloads.values();
            let chosen = workloads.filter(|it| it.enrol && it.namespace == clients.namespace && has(&it.labels));
            for node in chosen.filter_map(|workload| workload.node.parse().ok()) {
                by_node.entry(node).or_default().extend(secrets.iter().cloned());
            }
        }
        let shared = |(node, now)| (node, super::share(before.at(node), now));
        Credentials { by_node: by_node.into_iter().map(shared).collect(), none: before.none.clone() }
    }
}

/// Secrets that a rule names and that do not do: the field, and why.
pub(super) fn missing(rule: &Resource<DestinationRule>, secrets: &Secrets) -> Vec<(String, String)> {
    let home = Home { namespace: &rule.meta.namespace, selected: rule.spec.workload_selector.is_some() };
    let problems = rule.spec.credentials().map(|(field, tls)| (field, resources(tls, home, secrets).1));
    problems.filter_map(|(field, why)| Some((field, why?))).collect()
}

/// Tells of all of them.
pub(super) fn tell(config: &Config, report: &mut Vec<Unsupported>) {
    for rule in &config.destination_rules {
        let missing = missing(rule, &config.secrets).into_iter();
        report.extend(missing.map(|(field, why)| Unsupported::new("DestinationRule", &rule.meta, field, &why)));
    }
}

/// A certificate with its key.
pub(super) fn certificate(name: &str, (chain, key): Pair) -> Versioned {
    let certificate =
        pb::TlsCertificate { certificate_chain: Some(inline(chain)), private_key: Some(inline(key)), ..Default::default() };
    secret(name, pb::secret::Type::TlsCertificate(certificate))
}

/// Who signs what is believed.
pub(super) fn authorities(name: &str, pem: Vec<u8>) -> Versioned {
    let context = pb::CertificateValidationContext { trusted_ca: Some(inline(pem)), ..Default::default() };
    secret(name, pb::secret::Type::ValidationContext(context))
}

fn secret(name: &str, content: pb::secret::Type) -> Versioned {
    versioned(&pb::Secret { name: name.to_owned(), r#type: Some(content) })
}

fn inline(bytes: Vec<u8>) -> core::DataSource {
    core::DataSource { specifier: Some(core::data_source::Specifier::InlineBytes(bytes)), ..Default::default() }
}
