//! Secrets that listeners and clusters mention.

use crate::convert::tls::Secret;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Default)]
pub(super) struct Secrets {
    /// As last delivered, and wanted.
    pub(super) here: BTreeMap<String, Secret>,
    /// Answered with nothing that can be taken: who mentions one is not to wait for it.
    pub(super) absent: BTreeSet<String>,
}

impl Secrets {
    /// There is nothing to wait for.
    pub(super) fn is_settled(&self, name: &str) -> bool {
        self.here.contains_key(name) || self.absent.contains(name)
    }

    /// A good one has come.
    pub(super) fn put(&mut self, name: String, secret: Secret) {
        self.absent.remove(&name);
        self.here.insert(name, secret);
    }

    /// What nobody mentions is forgotten.
    pub(super) fn keep(&mut self, wanted: &BTreeSet<String>) {
        self.here.retain(|name, _| wanted.contains(name));
        self.absent.retain(|name| wanted.contains(name));
    }
}
