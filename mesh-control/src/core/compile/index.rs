//! Which rule applies to which service: names are resolved here, and only here.

use super::mode::in_mesh;
use super::views::{self, Clients, Merged, Views};
use super::{Settings, Unsupported, outside};
use crate::core::names;
use crate::core::registry::{Registry, Service};
use crate::istio::{Config, Resource, VirtualService};
use std::collections::{BTreeMap, HashMap};

/// What hosts in rules mean.
pub(super) struct Names<'a> {
    vip_domain: &'a str,
    /// Any name to the full name.
    aliases: HashMap<&'a str, &'a str>,
    registry: &'a Registry,
}

impl<'a> Names<'a> {
    pub(super) fn new(registry: &'a Registry, settings: &'a Settings) -> Self {
        let services = registry.services.values();
        let aliases = services.flat_map(|s| s.names.iter().map(|name| (name.as_str(), s.name.as_str()))).collect();
        Self { vip_domain: &settings.vip_domain, aliases, registry }
    }

    /// The full name of a host in a rule: a name without a dot is in the VIP domain (on Kubernetes it would be in the rule's namespace),
    /// an alias is its service's name, anything else is itself.
    pub(super) fn resolve(&self, host: &str) -> String {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        match self.aliases.get(host.as_str()) {
            Some(name) => (*name).to_owned(),
            None if host.contains(['.', '*', ':']) || self.registry.outside.contains_key(&host) => host,
            None => names::full(&host, self.vip_domain),
        }
    }
}

/// Registry and rules, joined by names.
pub(super) struct Index<'a> {
    pub(super) registry: &'a Registry,
    /// The same with the modes that are wanted: what is carried for the sake of old connections alone is no rule's effect.
    pub(super) wanted: &'a Registry,
    settings: &'a Settings,
    names: Names<'a>,
    /// By resolved host, exact or `*.suffix`.
    virtual_services: BTreeMap<String, &'a Resource<VirtualService>>,
    views: Views<'a>,
}

impl<'a> Index<'a> {
    /// `config` is in Istio's order, oldest first, which is how conflicts are settled.
    pub(super) fn new(
        registry: &'a Registry,
        wanted: &'a Registry,
        config: &'a Config,
        settings: &'a Settings,
        report: &mut Vec<Unsupported>,
    ) -> Self {
        let names = Names::new(registry, settings);
        let views = Views::new(registry, config, &names, settings.abilities.source_namespace);
        views::tell(registry, config, &names, report);
        let mut index = Self { registry, wanted, settings, names, virtual_services: BTreeMap::new(), views };
        for rule in &config.virtual_services {
            index.add_virtual_service(rule, report);
        }
        for rule in &config.destination_rules {
            outside::policy(wanted, (rule, &index.resolve(&rule.spec.host)), report);
        }
        index
    }

    /// The full name of a host in a rule.
    pub(super) fn resolve(&self, host: &str) -> String {
        self.names.resolve(host)
    }

    /// Hosts of rules for requests that are below a wildcard outside the mesh, and not names of their own there.
    pub(super) fn below<'s>(&'s self, wildcard: &'s Service) -> impl Iterator<Item = &'s String> {
        let hosts = self.virtual_services.keys().filter(|host| **host != wildcard.name && matches(&wildcard.name, host));
        hosts.filter(|host| {
            !self.is_service(host)
                && self.registry.outside_host(host).is_some_and(|nearest| nearest.name == wildcard.name && **host != nearest.name)
        })
    }

    /// Whether this is one of the names of a service, or a wildcard over some.
    pub(super) fn is_service(&self, host: &str) -> bool {
        self.names.aliases.contains_key(host)
            || (host.starts_with('*') && self.names.aliases.keys().any(|name| matches(host, name)))
    }

    pub(super) fn virtual_service(&self, service: &Service) -> Option<&'a Resource<VirtualService>> {
        most_specific(&self.virtual_services, &service.name).copied()
    }

    /// What DestinationRules say of a service to clients of a scope.
    pub(super) fn destination_rule(&self, scope: &str, service: &str) -> Option<&Merged<'a>> {
        self.views.of(scope, service, &self.registry.host(service)?.namespace)
    }

    /// The scope of a cluster of this service for clients of a scope, which may be gateways: empty where it is everybody's.
    pub(super) fn scope_of<'s>(&self, (scope, gateways): (&'s str, bool), service: &str) -> &'s str {
        let home = self.registry.host(service).map(|service| service.namespace.as_str()).unwrap_or_default();
        match self.views.differs(scope, service, home) {
            _ if gateways => self.views.of_gateway(scope, service, home),
            true => scope,
            false => "",
        }
    }

    /// The scope of gateways with these labels.
    pub(super) fn gateway(&self, labels: &BTreeMap<String, String>) -> &str {
        self.views.gateway(labels)
    }

    /// The clients of a scope that a selector chooses.
    pub(super) fn chosen(&self, scope: &str) -> Option<&Clients> {
        self.views.apart().find(|(other, _)| *other == scope).map(|(_, clients)| clients)
    }

    /// Clients that see other policies than everybody, most closely described first.
    pub(super) fn apart(&self) -> impl Iterator<Item = (&str, &Clients)> {
        self.views.apart()
    }

    fn add_virtual_service(&mut self, rule: &'a Resource<VirtualService>, report: &mut Vec<Unsupported>) {
        if !in_mesh(&rule.spec.gateways) {
            return;
        }
        for (i, host) in rule.spec.hosts.iter().enumerate() {
            let resolved = self.resolve(host);
            outside::routes(self.wanted, &self.names, (rule, &resolved), report);
            let mut tell = |field: String, why: &str| report.push(Unsupported::new("VirtualService", &rule.meta, field, why));
            let about = |service: &&Service| matches(&resolved, &service.name) || matches(&service.name, &resolved);
            let mut services = self.wanted.hosts().filter(about).peekable();
            if services.peek().is_none() {
                tell(format!("spec.hosts[{i}]"), &format!("no service is called {resolved}"));
            } else if !rule.spec.http.is_empty()
                && !services
                    .any(|service| service.ports.values().any(|port| super::routes_requests(self.settings.abilities, port)))
            {
                let why = format!("{resolved} has no HTTP port that the proxy carries, so the http routes have no effect");
                tell(format!("spec.hosts[{i}]"), &why);
            }
            if let Some(older) = self.virtual_services.get(&resolved) {
                let meta = &older.meta;
                if meta.uid != rule.meta.uid || (&meta.namespace, &meta.name) != (&rule.meta.namespace, &rule.meta.name) {
                    let why = format!("{} is routed by the older VirtualService {}/{}", resolved, meta.namespace, meta.name);
                    tell(format!("spec.hosts[{i}]"), &why);
                }
            } else {
                self.virtual_services.insert(resolved, rule);
            }
        }
    }
}

/// Exact before the longest wildcard.
pub(super) fn most_specific<'m, T>(rules: &'m BTreeMap<String, T>, service: &str) -> Option<&'m T> {
    let wildcards = || rules.iter().filter(|(host, _)| host.starts_with('*') && matches(host, service));
    rules.get(service).or_else(|| wildcards().max_by_key(|(host, _)| host.len()).map(|(_, rule)| rule))
}

/// `*.foo.com` matches `a.foo.com`, not `foo.com`; `*` matches all.
pub(super) fn matches(host: &str, name: &str) -> bool {
    match host.strip_prefix('*') {
        Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
        None => host == name,
    }
}
