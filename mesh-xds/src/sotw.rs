//! The server's half of state-of-the-world xDS as a state machine without I/O: what one client holds, and what to send it next. For stock
//! Envoys that are configured so (`api_type: GRPC`); our own processes speak delta ([`crate::server`]).
//!
//! A response of listeners or clusters is the whole set, and what it lacks is removed. So that nothing a client holds ever refers to what it
//! does not hold, a set is sent with what is to go first, and without it after everything that may refer to it was answered. Of the
//! other types only what changed is sent; what is gone is not asked for any more, since whoever named it is gone or has changed.

use crate::names::{CLUSTER, ENDPOINT, LISTENER, PUSH_ORDER};
use crate::server::{InvalidRequest, Request, SUBSCRIPTIONS_MAX, Snapshot, Versioned};
use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::google::protobuf::Any;
use std::collections::{BTreeMap, BTreeSet};

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
    /// What the client holds, or will once it has answered.
    held: BTreeMap<String, Versioned>,
    /// Names that must be answered although nothing about them changed.
    owed: BTreeSet<String>,
    /// Of endpoints: those of clusters that were sent and wait for them, as they were then. A cluster that goes meanwhile would wait in vain,
    /// and all others with it: Envoy takes no clusters as long as one of them warms.
    warming: BTreeMap<String, Versioned>,
    /// A first request for everything is answered even when there is nothing.
    owed_empty: bool,
    /// The last response's nonce; stays after the answer, since later requests repeat it.
    nonce: String,
    in_flight: bool,
    refused: bool,
}

/// Is a response of this type the whole set?
fn is_whole(type_url: &str) -> bool {
    matches!(type_url, CLUSTER | LISTENER)
}

impl Session {
    /// Takes a request in.
    ///
    /// # Errors
    /// If it breaks the protocol.
    pub fn handle_request(&mut self, request: &pb::DiscoveryRequest) -> Result<Request, InvalidRequest> {
        let known = PUSH_ORDER.iter().find(|url| **url == request.type_url);
        let type_url = *known.ok_or_else(|| InvalidRequest::UnknownType(request.type_url.clone()))?;
        if request.resource_names.len() > SUBSCRIPTIONS_MAX {
            return Err(InvalidRequest::TooMany(type_url));
        }
        let subscription = self.types.entry(type_url).or_default();
        let first = !std::mem::replace(&mut subscription.asked, true);
        // Of a response that another has overtaken, or of another stream: what it asks for is asked for again by the next one.
        if !first && request.response_nonce != subscription.nonce {
            return Ok(Request::Stale);
        }
        subscription.subscribe(type_url, &request.resource_names, first);
        if !subscription.in_flight || request.response_nonce.is_empty() {
            return Ok(Request::Subscribed);
        }
        subscription.in_flight = false;
        subscription.refused = request.error_detail.is_some();
        Ok(match &request.error_detail {
            None => Request::Ack(type_url),
            Some(status) => Request::Nack(type_url, status.message.clone()),
        })
    }

    /// The next response, if one is due. Call again until it returns `None`.
    pub fn poll_response(&mut self, snapshot: &Snapshot) -> Option<pb::DiscoveryResponse> {
        let mut clusters_open = false;
        for type_url in PUSH_ORDER {
            let Some(subscription) = self.types.get_mut(type_url) else { continue };
            match (subscription.in_flight, *type_url) {
                // Envoy answers clusters when they are warm, for which it needs their endpoints.
                (true, CLUSTER) => {
                    clusters_open = true;
                    continue;
                }
                (false, ENDPOINT) => {}
                (in_flight, _) if in_flight || clusters_open => return None,
                _ => {}
            }
            let due = subscription.due(type_url, snapshot);
            if !due.is_empty() || subscription.owed_empty {
                return Some(self.send(type_url, due, snapshot, false));
            }
        }
        if clusters_open {
            return None;
        }
        for type_url in PUSH_ORDER.iter().rev() {
            let Some(subscription) = self.types.get_mut(type_url) else { continue };
            let gone = subscription.gone(type_url, snapshot);
            if gone.is_empty() {
                continue;
            }
            if is_whole(type_url) {
                return Some(self.send(type_url, BTreeSet::new(), snapshot, true));
            }
            subscription.held.retain(|name, _| !gone.contains(name));
        }
        None
    }

    /// Does the client hold, acknowledged, all that the snapshot has for its subscription of this type?
    #[must_use]
    pub fn in_sync(&self, type_url: &str, snapshot: &Snapshot) -> bool {
        let Some(subscription) = self.types.get(type_url).filter(|of| of.asked) else { return false };
        let idle = !subscription.in_flight && !subscription.refused && !subscription.owed_empty;
        idle && snapshot
            .all(type_url)
            .iter()
            .filter(|(name, _)| subscription.wants(name))
            .all(|(name, resource)| subscription.holds(name, resource))
    }

    /// The same for all that the snapshot has of this type: what the client has yet to subscribe counts as missing.
    #[must_use]
    pub fn holds_all(&self, type_url: &str, snapshot: &Snapshot) -> bool {
        let Some(subscription) = self.types.get(type_url).filter(|of| of.asked) else { return false };
        snapshot.all(type_url).keys().all(|name| subscription.wants(name)) && self.in_sync(type_url, snapshot)
    }

    /// Does the client hold, acknowledged, all of the snapshot and nothing else?
    #[must_use]
    pub fn settled(&self, snapshot: &Snapshot) -> bool {
        let quiet = |(type_url, of): (&&'static str, &Subscription)| {
            !of.in_flight && !of.refused && !of.owed_empty && of.owed.is_empty() && of.gone(type_url, snapshot).is_empty()
        };
        let has = |type_url: &&str| snapshot.all(type_url).is_empty() || self.holds_all(type_url, snapshot);
        PUSH_ORDER.iter().all(has) && self.types.iter().all(quiet)
    }

    /// `due` has changed; of a type that is sent whole the rest goes along, with what is to go unless it is `exact`.
    fn send(&mut self, type_url: &'static str, due: BTreeSet<String>, snapshot: &Snapshot, exact: bool) -> pb::DiscoveryResponse {
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        // A cluster that changed is warmed until its endpoints are answered, although they did not change.
        if type_url == CLUSTER && !due.is_empty() {
            let endpoints = self.types.entry(ENDPOINT).or_default();
            let again = due.iter().filter(|name| endpoints.names.contains(*name)).cloned();
            endpoints.owed.extend(again);
            let told = due.iter().filter_map(|name| Some((name.clone(), snapshot.all(ENDPOINT).get(name)?.clone())));
            endpoints.warming.extend(told);
        }
        let subscription = self.types.entry(type_url).or_default();
        let all = snapshot.all(type_url);
        let mut sent: BTreeMap<String, Versioned> = BTreeMap::new();
        if is_whole(type_url) {
            let kept = subscription.held.iter().filter(|(name, _)| !exact && !all.contains_key(*name));
            let wanted = all.iter().filter(|(name, _)| subscription.wants(name));
            sent.extend(kept.chain(wanted).map(|(name, resource)| (name.clone(), resource.clone())));
            subscription.held.clone_from(&sent);
        } else {
            let of = |name: &String| all.get(name).or_else(|| subscription.warming.get(name)).cloned();
            sent.extend(due.iter().filter_map(|name| Some((name.clone(), of(name)?))));
            subscription.held.extend(sent.clone());
            subscription.warming.retain(|name, _| !due.contains(name));
        }
        subscription.owed.retain(|name| !due.contains(name));
        subscription.owed_empty = false;
        subscription.in_flight = true;
        subscription.nonce.clone_from(&nonce);
        let resources = sent.into_values().map(|resource| Any { type_url: type_url.to_owned(), value: resource.body.to_vec() });
        // Clients only repeat it; that each response has its own is enough.
        let version_info = nonce.clone();
        pb::DiscoveryResponse {
            version_info,
            resources: resources.collect(),
            type_url: type_url.to_owned(),
            nonce,
            ..pb::DiscoveryResponse::default()
        }
    }
}

impl Subscription {
    fn wants(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    fn holds(&self, name: &str, resource: &Versioned) -> bool {
        self.held.get(name).is_some_and(|held| held.version == resource.version)
    }

    /// The names replace those before. None at all is everything, if there never were any and the type is one that is sent whole.
    fn subscribe(&mut self, type_url: &str, names: &[String], first: bool) {
        let wildcard =
            names.iter().any(|name| name == "*") || (names.is_empty() && is_whole(type_url) && (first || self.wildcard));
        self.owed_empty |= wildcard && !self.wildcard;
        self.wildcard = wildcard;
        let names: BTreeSet<String> = names.iter().filter(|name| *name != "*").cloned().collect();
        self.owed.extend(names.difference(&self.names).cloned());
        self.owed.retain(|name| names.contains(name));
        self.names = names;
        if !self.wildcard {
            let names = &self.names;
            self.held.retain(|name, _| names.contains(name));
        }
    }

    /// What there is that is new, changed or owed.
    fn due(&self, type_url: &str, snapshot: &Snapshot) -> BTreeSet<String> {
        let all = snapshot.all(type_url).iter().filter(|(name, _)| self.wants(name));
        let due = all.filter(|(name, resource)| self.owed.contains(*name) || !self.holds(name, resource));
        let waiting = self.warming.keys().filter(|name| self.owed.contains(*name));
        due.map(|(name, _)| name).chain(waiting).cloned().collect()
    }

    /// What the client holds and should not.
    fn gone(&self, type_url: &str, snapshot: &Snapshot) -> Vec<String> {
        let all = snapshot.all(type_url);
        self.held.keys().filter(|name| !all.contains_key(*name)).cloned().collect()
    }
}

#[cfg(test)]
mod tests;
