//! Clusters on their way into force. As in Envoy, a cluster waits for its endpoints and Secrets, and until it has them the one that it
//! replaces goes on.

use super::secrets::Secrets;
use crate::config;
use crate::convert::cluster::{Cluster, Source};
use crate::core::balance::{Balancer, Members};
use crate::core::table::Table;
use crate::upstream_tls::{Credentials, Sds};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// See the module.
#[derive(Default)]
pub(super) struct Clusters {
    /// As last delivered.
    pub(super) given: BTreeMap<String, Cluster>,
    /// Of the last snapshot: what did not change is shared with the next.
    built: HashMap<Arc<str>, Built>,
}

/// A cluster in force, and what it was made of.
#[derive(Clone)]
struct Built {
    from: Cluster,
    credentials: Option<Credentials>,
    in_force: Arc<config::Cluster>,
}

impl Clusters {
    /// Names of endpoints that clusters mention.
    pub(super) fn wanted_endpoints(&self) -> BTreeSet<String> {
        let named = self.given.values().filter_map(|cluster| match &cluster.endpoints {
            Source::Named(name) => Some(name.clone()),
            Source::Inline(_) => None,
        });
        named.collect()
    }

    /// The same of Secrets.
    pub(super) fn wanted_secrets(&self) -> impl Iterator<Item = &str> {
        self.given.values().filter_map(|cluster| cluster.sds.as_deref()).flat_map(Sds::secrets)
    }

    /// What is in force from `now` on.
    pub(super) fn build(
        &mut self,
        endpoints: &BTreeMap<String, Members>,
        secrets: &Secrets,
        now: Duration,
    ) -> Table<Arc<str>, Arc<config::Cluster>> {
        let before = std::mem::take(&mut self.built);
        for cluster in self.given.values() {
            let before = before.get(cluster.name.as_str());
            let built = match credentials(cluster, secrets) {
                Some(credentials) => build((cluster, credentials), endpoints, before, now),
                // It waits: the one before goes on, with the endpoints of today.
                None => before.and_then(|b| build((&b.from, b.credentials.clone()), endpoints, Some(b), now)),
            };
            self.built.extend(built.map(|built| (Arc::clone(&built.in_force.name), built)));
        }
        self.built.iter().map(|(name, built)| (Arc::clone(name), Arc::clone(&built.in_force))).collect()
    }
}

/// What of its Secrets there is: `None` while one is waited for; without one that does not come, none at all.
#[expect(clippy::option_option, reason = "the outer is whether, the inner is what")]
fn credentials(cluster: &Cluster, secrets: &Secrets) -> Option<Option<Credentials>> {
    let Some(sds) = &cluster.sds else { return Some(None) };
    let found = sds.find(&secrets.here);
    (found.is_some() || sds.secrets().all(|name| secrets.is_settled(name))).then_some(found)
}

fn build(
    (from, credentials): (&Cluster, Option<Credentials>),
    endpoints: &BTreeMap<String, Members>,
    before: Option<&Built>,
    now: Duration,
) -> Option<Built> {
    let endpoints = match &from.endpoints {
        Source::Inline(endpoints) => endpoints,
        Source::Named(name) => endpoints.get(name)?,
    };
    if let Some(before) = before
        && before.from == *from
        && are(before.credentials.as_ref(), credentials.as_ref())
        && before.in_force.balancer.members() == endpoints
    {
        return Some(before.clone());
    }
    let balancer = Balancer::new(from.balance, endpoints.clone(), before.map(|before| &before.in_force.balancer), now);
    let same = before.filter(|before| before.from == *from && are(before.credentials.as_ref(), credentials.as_ref()));
    let pool = match same {
        // New endpoints are no reason to forget sessions that can be resumed.
        Some(before) => Arc::clone(&before.in_force.pool),
        None => pool(from, credentials.clone()),
    };
    let name = from.name.as_str().into();
    let in_force = Arc::new(config::Cluster { name, service: from.name.parse().ok(), pool, balancer });
    Some(Built { from: from.clone(), credentials, in_force })
}

fn pool(from: &Cluster, credentials: Option<Credentials>) -> Arc<config::PoolSettings> {
    let (Some(sds), Some(credentials)) = (&from.sds, credentials) else { return Arc::clone(&from.pool) };
    match sds.complete(credentials) {
        Ok(tls) => Arc::new(config::PoolSettings { tls: Some(Arc::new(tls)), ..(*from.pool).clone() }),
        Err(error) => {
            tracing::error!(cluster = from.name, error, "TLS cannot be spoken");
            Arc::clone(&from.pool)
        }
    }
}

fn are(one: Option<&Credentials>, other: Option<&Credentials>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(one), Some(other)) => one.are(other),
        _ => false,
    }
}
