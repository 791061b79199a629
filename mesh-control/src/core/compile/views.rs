//! DestinationRules as different clients see them: Istio's order of look-up, and which clients have to be told apart.
//!
//! A client looks in its own namespace, then in the service's, then in the root namespace; in the latter two only at what is exported to it.
//! Within a namespace the most specific host wins, and rules for the same host are merged. Rules with a `workloadSelector` are for the
//! workloads of their own namespace that have the labels, and go before the others there.
//!
//! One proxy serves clients of all namespaces. So the clusters of the namespace `default`, where whoever says nothing lives, have Istio's
//! names, and clients that see another policy for a host have clusters of their own, to which routes lead that ask for these clients.

use super::Unsupported;
use super::index::{Names, matches, most_specific};
use crate::core::registry::{Registry, Service};
use crate::istio::destination_rule::{Subset, TrafficPolicy};
use crate::istio::{Config, DestinationPolicy, DestinationRule, Resource};
use std::collections::{BTreeMap, BTreeSet};

/// Where clients live that say nothing of a namespace.
const DEFAULT: &str = "default";
/// Istio's name of the namespace whose rules are for all that have none of their own; gateways live there too.
pub(super) const ROOT: &str = "istio-system";

/// Scope of the clusters of gateways that have certificates of Secrets. No selector has this name: it has no `=`.
pub(super) const EDGE: &str = "istio-system,gateways";

/// All DestinationRules of a namespace for one host: the oldest's policy, everyone's subsets.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Merged<'a> {
    pub(super) policy: Option<&'a TrafficPolicy>,
    pub(super) subsets: BTreeMap<&'a str, &'a Subset>,
    /// Whose Secrets they name, if they name any.
    pub(super) home: Option<Home<'a>>,
}

/// Where the Secrets of rules are looked up, and whether the rules choose their clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Home<'a> {
    pub(super) namespace: &'a str,
    /// By a selector; else only gateways get the Secrets.
    pub(super) selected: bool,
}

/// Clients that see the same rules.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Clients {
    pub(super) namespace: String,
    /// Labels that they have; empty: any.
    pub(super) labels: BTreeMap<String, String>,
}

impl Clients {
    pub(super) fn of(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), labels: BTreeMap::new() }
    }

    /// As the last part of the names of their clusters.
    pub(super) fn scope(&self) -> String {
        let labels = self.labels.iter().map(|(key, value)| format!(",{key}={value}"));
        format!("{}{}", self.namespace, labels.collect::<String>())
    }
}

/// The rules of one namespace by resolved host.
type Table<'a> = BTreeMap<String, Merged<'a>>;

/// What some clients see.
struct View<'a> {
    /// By a selector.
    selected: Option<Table<'a>>,
    by_namespace: BTreeMap<&'a str, Table<'a>>,
}

/// All of it.
pub(super) struct Views<'a> {
    by_scope: BTreeMap<String, (Clients, View<'a>)>,
    /// Scopes in which some host has another policy than in [`DEFAULT`], those with labels first.
    apart: Vec<String>,
}

impl<'a> Views<'a> {
    /// `config` is in Istio's order, oldest first.
    pub(super) fn new(registry: &Registry, config: &'a Config, names: &Names<'_>, can_scope: bool) -> Self {
        let rules = Rules { config, names };
        let mut clients: BTreeSet<Clients> = BTreeSet::from([Clients::of(DEFAULT), Clients::of(ROOT)]);
        if can_scope {
            clients.extend(registry.workloads.values().map(|workload| Clients::of(&workload.namespace)));
            let selectors =
                config.destination_rules.iter().filter_map(|rule| Some((rule, rule.spec.workload_selector.as_ref()?)));
            clients.extend(selectors.map(|(rule, selector)| Clients {
                namespace: rule.meta.namespace.clone(),
                labels: selector.match_labels.clone(),
            }));
        }
        let by_scope = clients.into_iter().map(|clients| (clients.scope(), (rules.view(&clients), clients)));
        let by_scope = by_scope.map(|(scope, (view, clients))| (scope, (clients, view))).collect();
        let mut views = Self { by_scope, apart: Vec::new() };
        // Gateways are compiled by themselves.
        let has_pods = |scope: &str| scope != ROOT || registry.workloads.values().any(|workload| workload.namespace == ROOT);
        let differs = |scope: &str| {
            // A rule may be for a name below a wildcard, which no service has.
            let mut hosts = config.destination_rules.iter().map(|rule| names.resolve(&rule.spec.host));
            let home = |host: &str| registry.host(host).map(|service| service.namespace.as_str()).unwrap_or_default();
            hosts.any(|host| views.differs(scope, &host, home(&host)))
                || registry.hosts().any(|host| views.differs(scope, &host.name, &host.namespace))
        };
        let others = views.by_scope.keys().filter(|scope| *scope != DEFAULT && has_pods(scope));
        let mut apart: Vec<String> = others.filter(|scope| differs(scope)).cloned().collect();
        apart.sort_by_key(|scope| std::cmp::Reverse(views.by_scope.get(scope).map_or(0, |(clients, _)| clients.labels.len())));
        views.apart = apart;
        views
    }

    /// Clients that are not like all others for some host, the most closely described first.
    pub(super) fn apart(&self) -> impl Iterator<Item = (&str, &Clients)> {
        self.apart.iter().filter_map(|scope| Some((scope.as_str(), &self.by_scope.get(scope)?.0)))
    }

    /// What clients of a scope (empty: all that have none) have for a service that is at home in a namespace.
    pub(super) fn of(&self, scope: &str, service: &str, home: &str) -> Option<&Merged<'a>> {
        let scope = match scope {
            "" => DEFAULT,
            EDGE => ROOT,
            scope => scope,
        };
        let (clients, view) = self.by_scope.get(scope)?;
        let selected = view.selected.as_ref().and_then(|table| most_specific(table, service));
        // In the root namespace are rules for everything, so who lives there looks at the service's own first.
        let own = if clients.namespace == ROOT { home } else { clients.namespace.as_str() };
        let mut tables = [own, home, ROOT].into_iter().filter_map(|namespace| view.by_namespace.get(namespace));
        selected.or_else(|| tables.find_map(|table| most_specific(table, service)))
    }

    /// What gateways with these labels are: workloads of the root namespace that a selector may choose.
    pub(super) fn gateway(&self, labels: &BTreeMap<String, String>) -> &str {
        let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        let theirs = |clients: &Clients| clients.namespace == ROOT && clients.labels.iter().all(has);
        let scopes = self.by_scope.iter().filter(|(_, (clients, _))| theirs(clients));
        scopes.max_by_key(|(_, (clients, _))| clients.labels.len()).map_or(ROOT, |(scope, _)| scope)
    }

    /// The scope of a gateway's cluster. Unlike its neighbours' in the namespace it has the Secrets that a rule without selector names.
    pub(super) fn of_gateway<'s>(&self, scope: &'s str, service: &str, home: &str) -> &'s str {
        let selected = self.by_scope.get(scope).and_then(|(_, view)| view.selected.as_ref());
        if selected.is_some_and(|table| most_specific(table, service).is_some()) {
            return scope;
        }
        let secrets = self.of(ROOT, service, home).is_some_and(|merged| merged.home.is_some());
        match self.differs(ROOT, service, home) {
            _ if secrets => EDGE,
            true => ROOT,
            false => "",
        }
    }

    /// Do they see another policy for it than everybody?
    pub(super) fn differs(&self, scope: &str, service: &str, home: &str) -> bool {
        self.of(scope, service, home) != self.of(DEFAULT, service, home)
    }
}

/// Would clients with labels be taken for the rest of their namespace, whose policies differ, if nothing said that they are not?
pub(super) fn shadows<T>(others: &[(Clients, T)], clients: &Clients) -> bool {
    !clients.labels.is_empty() && others.iter().any(|(other, _)| other.namespace == clients.namespace && other.labels.is_empty())
}

struct Rules<'a, 'n> {
    config: &'a Config,
    names: &'n Names<'n>,
}

impl<'a> Rules<'a, '_> {
    fn view(&self, clients: &Clients) -> View<'a> {
        let mut view = View { selected: None, by_namespace: BTreeMap::new() };
        let mut selected = Table::new();
        for rule in &self.config.destination_rules {
            let host = self.names.resolve(&rule.spec.host);
            match &rule.spec.workload_selector {
                None if is_exported(rule, &clients.namespace) => {
                    merge(view.by_namespace.entry(&rule.meta.namespace).or_default().entry(host).or_default(), rule);
                }
                Some(selector) if rule.meta.namespace == clients.namespace && selector.match_labels == clients.labels => {
                    merge(selected.entry(host).or_default(), rule);
                }
                _ => {}
            }
        }
        for rule in &self.config.destination_policies {
            let host = self.names.resolve(&rule.spec.host);
            // The old form is for all, and gives way to any DestinationRule with a policy.
            let tables = view.by_namespace.values_mut();
            let fill = |merged: &mut Merged<'a>| merged.policy = merged.policy.or(Some(&rule.spec.policy));
            tables.filter_map(|table| table.get_mut(&host)).for_each(fill);
            fill(view.by_namespace.entry(ROOT).or_default().entry(host).or_default());
        }
        view.selected = Some(selected).filter(|table| !table.is_empty());
        view
    }
}

fn merge<'a>(merged: &mut Merged<'a>, rule: &'a Resource<DestinationRule>) {
    merged.policy = merged.policy.or(rule.spec.traffic_policy.as_ref());
    for subset in &rule.spec.subsets {
        merged.subsets.entry(&subset.name).or_insert(subset);
    }
    if rule.spec.credentials().next().is_some() {
        let selected = rule.spec.workload_selector.is_some();
        merged.home = Some(Home { namespace: &rule.meta.namespace, selected });
    }
}

/// May clients of the namespace see it? Those of its own always do.
fn is_exported(rule: &Resource<DestinationRule>, namespace: &str) -> bool {
    let own = rule.meta.namespace == namespace;
    let to = |entry: &String| entry == "*" || entry == namespace;
    own || rule.spec.export_to.is_empty() || rule.spec.export_to.iter().any(to)
}

/// Tells which rules, or parts of them, no client sees.
pub(super) fn tell(registry: &Registry, config: &Config, names: &Names<'_>, report: &mut Vec<Unsupported>) {
    let mut known = Known::new();
    for rule in &config.destination_rules {
        let mut tell = |field: String, why: &str| report.push(Unsupported::new("DestinationRule", &rule.meta, field, why));
        let (own, host) = (rule.meta.namespace.as_str(), names.resolve(&rule.spec.host));
        let about = |service: &&Service| matches(&host, &service.name) || matches(&service.name, &host);
        let services: Vec<&Service> = registry.hosts().filter(about).collect();
        let clients = || registry.workloads.values().any(|workload| workload.namespace == own);
        if services.is_empty() {
            tell("spec.host".to_owned(), &format!("no service is called {host}"));
        } else if own != ROOT && !services.iter().any(|service| service.namespace == own) && !clients() {
            let why =
                format!("is looked up in {own} only by clients there, and none runs: it belongs into the service's namespace");
            tell("metadata.namespace".to_owned(), &why);
        }
        let labels = rule.spec.workload_selector.as_ref().map(|selector| &selector.match_labels);
        let merged = known.entry((own, host, labels)).or_default();
        if rule.spec.traffic_policy.is_some() && merged.policy.is_some() {
            tell("spec.trafficPolicy".to_owned(), "an older DestinationRule for this host has one");
        }
        for (i, subset) in rule.spec.subsets.iter().enumerate() {
            if merged.subsets.contains_key(subset.name.as_str()) {
                tell(format!("spec.subsets[{i}]"), "an older DestinationRule for this host has a subset of this name");
            }
        }
        merge(merged, rule);
    }
    for rule in &config.destination_policies {
        old(registry, (rule, names.resolve(&rule.spec.host)), &known, report);
    }
}

type Known<'k, 'a> = BTreeMap<(&'k str, String, Option<&'k BTreeMap<String, String>>), Merged<'a>>;

fn old(
    registry: &Registry,
    (rule, host): (&Resource<DestinationPolicy>, String),
    known: &Known<'_, '_>,
    report: &mut Vec<Unsupported>,
) {
    let mut tell = |why: &str| report.push(Unsupported::new("DestinationPolicy", &rule.meta, "spec.destination".to_owned(), why));
    if !registry.hosts().any(|service| matches(&host, &service.name)) {
        tell(&format!("no service is called {host}"));
    }
    if known.iter().any(|((_, other, _), merged)| *other == host && merged.policy.is_some()) {
        tell("a DestinationRule or an older DestinationPolicy for this host has a policy");
    }
}
