//! What of the rules is not in force: told, never dropped in silence.

use crate::istio::enforced::{Abilities, Enforced};
use crate::istio::{Config, Meta, Resource};
use std::sync::Arc;

/// A field that has no effect.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Unsupported {
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// `spec.http[0].corsPolicy`.
    pub(crate) field: String,
    /// Why, as the end of a sentence that begins with the field.
    pub(crate) reason: String,
}

impl Unsupported {
    pub(crate) fn new(kind: &'static str, meta: &Meta, field: String, reason: &str) -> Self {
        Self { kind, namespace: meta.namespace.clone(), name: meta.name.clone(), field, reason: reason.to_owned() }
    }
}

/// What the rules themselves have without effect, by the list of which kubectl was warned too.
pub(super) fn of_rules(config: &Config, can: Abilities) -> Vec<Unsupported> {
    let mut all = Vec::new();
    of_kind("VirtualService", &config.virtual_services, can, &mut all);
    of_kind("DestinationRule", &config.destination_rules, can, &mut all);
    of_kind("ServiceEntry", &config.service_entries, can, &mut all);
    of_kind("Gateway", &config.gateways, can, &mut all);
    of_kind("DestinationPolicy", &config.destination_policies, can, &mut all);
    all
}

fn of_kind<T: Enforced>(kind: &'static str, rules: &[Arc<Resource<T>>], can: Abilities, all: &mut Vec<Unsupported>) {
    for rule in rules {
        let found = rule.spec.unenforced(can).into_iter();
        all.extend(found.map(|(field, reason)| Unsupported::new(kind, &rule.meta, field, &reason)));
    }
}
