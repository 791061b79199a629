//! The server's half of delta xDS as a state machine without I/O: what one client holds, and what to send it next.
//!
//! Rules that this file keeps (Envoy's `xds_protocol.rst`): one response of a type is in flight at a time; additions go out in
//! [`PUSH_ORDER`](crate::names::PUSH_ORDER), each type after the one before was answered (endpoints before clusters are), and removals in the reverse order afterwards, so
//! that nothing a client holds ever refers to what it does not hold; a subscription is always answered, with the resource or with its
//! absence; a resource that was refused is not sent again until it changes.

use crate::names::{CLUSTER, ENDPOINT, PUSH_ORDER};
use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::google::protobuf::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Everything that one client may hold, at one moment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By type URL, then by name.
    pub types: BTreeMap<&'static str, Arc<BTreeMap<String, Versioned>>>,
}

/// A resource and its version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Versioned {
    /// Changes if and only if the body changes (a hash of it).
    pub version: String,
    /// The encoded message (not wrapped into Any).
    pub body: Bytes,
}

/// What a request meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// Subscriptions changed, nothing was answered.
    Subscribed,
    /// An ACK of this type.
    Ack(&'static str),
    /// A NACK of this type, with the client's words.
    Nack(&'static str, String),
    /// The request answers a response that is not in flight; its subscriptions were honoured all the same.
    Stale,
}

/// A request that breaks the protocol; the stream must be closed.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidRequest {
    /// Field `type_url`.
    #[error("type_url {0:?} is not served here")]
    UnknownType(String),
    /// Too many names in one subscription.
    #[error("more than {SUBSCRIPTIONS_MAX} names of {0} are subscribed")]
    TooMany(&'static str),
}

/// Names per type that one client may subscribe: twice the largest mesh of our design (10,000 services with four ports and subsets).
pub const SUBSCRIPTIONS_MAX: usize = 100_000;

/// One client's stream.
#[derive(Debug, Default)]
pub struct Session {
    types: BTreeMap<&'static str, Subscription>,
    nonces: u64,
}

#[derive(Debug, Default)]
struct Subscription {
    /// The client has named this type.
    asked: bool,
    wildcard: bool,
    names: BTreeSet<String>,
    /// What the client holds, or will once it has answered: name to version.
    held: BTreeMap<String, String>,
    /// Names that must be answered although nothing about them changed.
    owed: BTreeSet<String>,
    /// Of endpoints: those of clusters that were sent and wait for them, as they were then. A cluster that goes meanwhile would wait in vain,
    /// and all others with it: Envoy takes no clusters as long as one of them warms.
    warming: BTreeMap<String, Versioned>,
    /// A wildcard subscription is answered once even when there is nothing.
    owed_empty: bool,
    in_flight: Option<String>,
    refused: bool,
}

impl Session {
    /// Takes a request in.
    ///
    /// # Errors
    /// If it breaks the protocol.
    pub fn handle_request(&mut self, request: &pb::DeltaDiscoveryRequest) -> Result<Request, InvalidRequest> {
        let known = PUSH_ORDER.iter().find(|url| **url == request.type_url);
        let type_url = *known.ok_or_else(|| InvalidRequest::UnknownType(request.type_url.clone()))?;
        let subscription = self.types.entry(type_url).or_default();
        let first = !std::mem::replace(&mut subscription.asked, true);
        if first {
            subscription.held = request.initial_resource_versions.clone().into_iter().collect();
            subscription.wildcard = request.resource_names_subscribe.is_empty();
            subscription.owed_empty = subscription.wildcard;
        }
        subscription.subscribe(&request.resource_names_subscribe);
        subscription.unsubscribe(&request.resource_names_unsubscribe);
        if subscription.names.len() > SUBSCRIPTIONS_MAX {
            return Err(InvalidRequest::TooMany(type_url));
        }
        if request.response_nonce.is_empty() {
            return Ok(Request::Subscribed);
        }
        if subscription.in_flight.as_deref() != Some(request.response_nonce.as_str()) {
            return Ok(Request::Stale);
        }
        subscription.in_flight = None;
        match &request.error_detail {
            None => {
                subscription.refused = false;
                Ok(Request::Ack(type_url))
            }
            Some(status) => {
                subscription.refused = true;
                Ok(Request::Nack(type_url, status.message.clone()))
            }
        }
    }

    /// The next response, if one is due. Call again until it returns `None`.
    pub fn poll_response(&mut self, snapshot: &Snapshot) -> Option<pb::DeltaDiscoveryResponse> {
        let mut clusters_open = false;
        for type_url in PUSH_ORDER {
            let Some(subscription) = self.types.get_mut(type_url) else { continue };
            match (subscription.in_flight.is_some(), *type_url) {
                // Envoy answers clusters when they are warm, for which it needs their endpoints.
                (true, CLUSTER) => {
                    clusters_open = true;
                    continue;
                }
                (false, ENDPOINT) => {}
                (in_flight, _) if in_flight || clusters_open => return None,
                _ => {}
            }
            let (resources, removed) = subscription.due(type_url, snapshot);
            if !resources.is_empty() || !removed.is_empty() || subscription.owed_empty {
                return Some(self.send(type_url, resources, removed, snapshot));
            }
        }
        if clusters_open {
            return None;
        }
        for type_url in PUSH_ORDER.iter().rev() {
            let Some(subscription) = self.types.get_mut(type_url) else { continue };
            let removed = subscription.gone(type_url, snapshot);
            if !removed.is_empty() {
                return Some(self.send(type_url, Vec::new(), removed, snapshot));
            }
        }
        None
    }

    /// Does the client hold, acknowledged, all that the snapshot has for its subscription of this type?
    #[must_use]
    pub fn in_sync(&self, type_url: &str, snapshot: &Snapshot) -> bool {
        let Some(subscription) = self.types.get(type_url).filter(|of| of.asked) else { return false };
        let idle = subscription.in_flight.is_none() && !subscription.refused && !subscription.owed_empty;
        idle && snapshot
            .all(type_url)
            .iter()
            .filter(|(name, _)| subscription.wants(name))
            .all(|(name, r)| subscription.held.get(name) == Some(&r.version))
    }

    /// The same for all that the snapshot has of this type: what the client has yet to subscribe counts as missing.
    #[must_use]
    pub fn holds_all(&self, type_url: &str, snapshot: &Snapshot) -> bool {
        let Some(subscription) = self.types.get(type_url).filter(|of| of.asked) else { return false };
        snapshot.all(type_url).keys().all(|name| subscription.wants(name)) && self.in_sync(type_url, snapshot)
    }

    /// Does the client hold, acknowledged, all of the snapshot and nothing else? What it has yet to subscribe counts as missing.
    #[must_use]
    pub fn settled(&self, snapshot: &Snapshot) -> bool {
        let quiet = |(type_url, of): (&&'static str, &Subscription)| {
            let idle = of.in_flight.is_none() && !of.refused && !of.owed_empty && of.owed.is_empty();
            idle && of.gone(type_url, snapshot).is_empty()
        };
        let has = |type_url: &&str| snapshot.all(type_url).is_empty() || self.holds_all(type_url, snapshot);
        PUSH_ORDER.iter().all(has) && self.types.iter().all(quiet)
    }

    fn send(
        &mut self,
        type_url: &'static str,
        resources: Vec<pb::Resource>,
        removed: Vec<String>,
        snapshot: &Snapshot,
    ) -> pb::DeltaDiscoveryResponse {
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        // A cluster that changed is warmed until its endpoints are answered, although they did not change.
        if type_url == CLUSTER && !resources.is_empty() {
            let endpoints = self.types.entry(ENDPOINT).or_default();
            let again = resources.iter().map(|r| r.name.clone()).filter(|name| endpoints.names.contains(name));
            endpoints.owed.extend(again);
            let told = resources.iter().filter_map(|r| Some((r.name.clone(), snapshot.all(ENDPOINT).get(&r.name)?.clone())));
            endpoints.warming.extend(told);
        }
        let subscription = self.types.entry(type_url).or_default();
        for resource in &resources {
            subscription.held.insert(resource.name.clone(), resource.version.clone());
            subscription.owed.remove(&resource.name);
            subscription.warming.remove(&resource.name);
        }
        for name in &removed {
            subscription.held.remove(name);
            subscription.owed.remove(name);
        }
        subscription.owed_empty = false;
        subscription.in_flight = Some(nonce.clone());
        pb::DeltaDiscoveryResponse {
            resources,
            removed_resources: removed,
            type_url: type_url.to_owned(),
            nonce,
            ..pb::DeltaDiscoveryResponse::default()
        }
    }
}

impl Snapshot {
    pub(crate) fn all(&self, type_url: &str) -> &BTreeMap<String, Versioned> {
        static NONE: BTreeMap<String, Versioned> = BTreeMap::new();
        self.types.get(type_url).map_or(&NONE, |resources| resources)
    }
}

impl Subscription {
    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn subscribe(&mut self, names: &[String]) {
        for name in names {
            if name == "*" {
                self.wildcard = true;
                self.owed_empty = true;
            } else {
                self.names.insert(name.clone());
                self.owed.insert(name.clone());
            }
        }
    }

    fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            if name == "*" {
                self.wildcard = false;
            } else {
                self.names.remove(name);
                // Under a wildcard the client must be told that it goes on holding the resource, or that there is none.
                if self.wildcard {
                    self.owed.insert(name.clone());
                } else {
                    self.owed.remove(name);
                }
            }
        }
        if !self.wildcard {
            let names = &self.names;
            self.held.retain(|name, _| names.contains(name));
        }
    }

    /// What is new, changed or owed.
    fn due(&self, type_url: &str, snapshot: &Snapshot) -> (Vec<pb::Resource>, Vec<String>) {
        let all = snapshot.all(type_url);
        let changed = |name: &String, resource: &Versioned| {
            self.wants(name) && (self.owed.contains(name) || self.held.get(name) != Some(&resource.version))
        };
        let resources = all.iter().filter(|(name, resource)| changed(name, resource));
        let waiting = self.warming.iter().filter(|(name, _)| self.owed.contains(*name) && !all.contains_key(*name));
        let resources = resources.chain(waiting).map(|(name, resource)| encode(type_url, name, resource)).collect();
        let is_absent = |name: &&String| !all.contains_key(*name) && !self.warming.contains_key(*name);
        let absent = self.owed.iter().filter(is_absent).cloned().collect();
        (resources, absent)
    }

    /// What the client holds and should not.
    fn gone(&self, type_url: &str, snapshot: &Snapshot) -> Vec<String> {
        let all = snapshot.all(type_url);
        self.held.keys().filter(|name| !all.contains_key(*name)).cloned().collect()
    }
}

fn encode(type_url: &str, name: &str, resource: &Versioned) -> pb::Resource {
    pb::Resource {
        name: name.to_owned(),
        version: resource.version.clone(),
        resource: Some(Any { type_url: type_url.to_owned(), value: resource.body.to_vec() }),
        ..pb::Resource::default()
    }
}

#[cfg(test)]
mod tests;
