//! What proxies of each set of labels hold for gateways, made when the first of them asks.
//!
//! Clusters are everybody's, so all Gateways are compiled once with everything else, for proxies with just the labels that they select:
//! these are mostly the labels that proxies have, and what is wrong with a Gateway is known whether or not a proxy serves it.

use super::gateway::{Edge, edge};
use super::index::Index;
use super::views::ROOT;
use super::{Compiler, Labels, Resources, Settings, Unsupported};
use crate::core::registry::Registry;
use crate::istio::Config;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Sets of labels of which the result is kept: an installation has a few.
const KEPT_MAX: usize = 64;

/// What proxies with some labels hold for gateways.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) listeners: Resources,
    pub(super) routes: Resources,
    pub(super) secrets: Resources,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Edges {
    /// What they are made of; `None` without any Gateway.
    from: Option<Arc<Origin>>,
    made: Arc<Mutex<BTreeMap<Labels, Held>>>,
    /// For proxies without labels: always the same, so that nothing has to be compared.
    none: Held,
}

#[derive(Debug)]
struct Origin {
    registry: Arc<Registry>,
    config: Config,
    settings: Settings,
}

impl Edges {
    pub(super) fn new(
        c: &mut Compiler<'_, '_>,
        registry: &Arc<Registry>,
        config: &Config,
        report: &mut Vec<Unsupported>,
        before: &Self,
    ) -> Self {
        let none = before.none.clone();
        if config.gateways.is_empty() {
            return Self { none, ..Self::default() };
        }
        let made = label_sets(config).into_iter().map(|labels| {
            let held = Held::from(edge(c, config, &labels, report));
            (labels, held)
        });
        let made = Arc::new(Mutex::new(made.collect()));
        let from = Origin { registry: registry.clone(), config: config.clone(), settings: c.settings.clone() };
        Self { from: Some(Arc::new(from)), made, none }
    }

    /// What proxies with these labels hold; who has none serves no gateway.
    pub(super) fn of(&self, labels: &Labels) -> Held {
        let Some(from) = self.from.as_ref().filter(|_| !labels.is_empty()) else { return self.none.clone() };
        let mut made = self.made.lock();
        if let Some(held) = made.get(labels) {
            return held.clone();
        }
        // What is told of it was told when everything was compiled.
        let mut told = Vec::new();
        let index = Index::new(&from.registry, &from.registry, &from.config, &from.settings, &mut told);
        let mut compiler = Compiler::new(&index, &from.settings, &from.config.secrets);
        let held = Held::from(edge(&mut compiler, &from.config, labels, &mut told));
        if made.len() < KEPT_MAX {
            made.insert(labels.clone(), held.clone());
        }
        held
    }
}

/// The labels that Gateways select; with those that DestinationRules for gateways select, so that every cluster is known that proxies with
/// more labels may come to use.
fn label_sets(config: &Config) -> BTreeSet<Labels> {
    let rules = config.destination_rules.iter().filter(|rule| rule.meta.namespace == ROOT);
    let chosen: Vec<&Labels> = rules.filter_map(|rule| Some(&rule.spec.workload_selector.as_ref()?.match_labels)).collect();
    let selectors = config.gateways.iter().map(|gateway| &gateway.spec.selector);
    let both = |one: &Labels, other: &Labels| one.iter().chain(other).map(|(key, value)| (key.clone(), value.clone())).collect();
    selectors.flat_map(|own| std::iter::once(own.clone()).chain(chosen.iter().map(move |more| both(own, more)))).collect()
}

impl From<Edge> for Held {
    fn from(edge: Edge) -> Self {
        Self { listeners: Arc::new(edge.listeners), routes: Arc::new(edge.routes), secrets: Arc::new(edge.secrets) }
    }
}
