//! The client's half of delta xDS as a state machine without I/O.
//!
//! It remembers which version of which resource was acknowledged, so that a reconnect fetches only what changed, and it answers responses
//! that break the protocol with a NACK of its own. A resource that was refused is not recorded as held: a reconnect asks for it again.

use crate::node::Node;
use crate::report::Report;
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::google::rpc::Status;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// One response of the server.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Type of everything in it.
    pub type_url: String,
    /// To be given back with the answer.
    pub nonce: String,
    /// New or changed resources.
    pub resources: Vec<Resource>,
    /// Names that exist no longer (or never did).
    pub removed: Vec<String>,
}

/// One resource, still encoded.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// The server's version of it.
    pub version: String,
    /// The protobuf message of the delivery's type.
    pub body: Bytes,
}

/// Why a response was refused without asking the owner.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidResponse {
    /// The type was never subscribed.
    #[error("response of type {0:?}, which was not asked for")]
    UnknownType(String),
    /// `resources[].name` occurs twice.
    #[error("resource {0:?} occurs twice in one response")]
    Duplicate(String),
    /// `resources[].resource` is missing or of another type.
    #[error("resource {name:?} carries type {found:?} in a response of type {expected:?}")]
    TypeMismatch {
        /// The resource.
        name: String,
        /// What it says it is.
        found: String,
        /// What the response says it is.
        expected: String,
    },
}

/// One logical stream that survives reconnects.
#[derive(Debug)]
pub struct Client {
    node: Node,
    types: BTreeMap<&'static str, Interest>,
    outgoing: VecDeque<pb::DeltaDiscoveryRequest>,
    connected: bool,
    node_sent: bool,
    report: Option<Report>,
}

#[derive(Debug, Default)]
struct Interest {
    wildcard: bool,
    names: BTreeSet<String>,
    held: BTreeMap<String, String>,
    unanswered: BTreeMap<String, Delivery>,
    opened: bool,
}

impl Client {
    /// A client that wants everything of these types.
    #[must_use]
    pub fn new(node: Node, wildcard: &[&'static str]) -> Self {
        let interest = || Interest { wildcard: true, ..Interest::default() };
        let types = wildcard.iter().map(|url| (*url, interest())).collect();
        Self { node, types, outgoing: VecDeque::new(), connected: false, node_sent: false, report: None }
    }

    /// A stream is open: everything is asked for, saying what is held already.
    pub fn handle_connected(&mut self) {
        self.connected = true;
        self.node_sent = false;
        self.outgoing.clear();
        let order = crate::names::PUSH_ORDER.iter().filter(|url| self.types.contains_key(*url));
        for type_url in order.copied().collect::<Vec<_>>() {
            self.open(type_url);
        }
    }

    /// The stream is gone. Deliveries that are not answered yet will come again.
    pub fn handle_disconnected(&mut self) {
        self.connected = false;
        self.outgoing.clear();
        for interest in self.types.values_mut() {
            interest.opened = false;
            interest.unanswered.clear();
        }
    }

    /// Takes a response in and gives it to the owner.
    ///
    /// # Errors
    /// If it breaks the protocol; the NACK is queued already.
    pub fn handle_response(&mut self, response: pb::DeltaDiscoveryResponse) -> Result<Delivery, InvalidResponse> {
        match self.check(response) {
            Ok(delivery) => {
                if let Some(interest) = self.types.get_mut(delivery.type_url.as_str()) {
                    interest.unanswered.insert(delivery.nonce.clone(), delivery.clone());
                }
                Ok(delivery)
            }
            Err((type_url, nonce, error)) => {
                self.answer(type_url, nonce, Some(error.to_string()));
                Err(error)
            }
        }
    }

    /// Wants exactly these names of a type from now on.
    pub fn subscribe(&mut self, type_url: &'static str, names: BTreeSet<String>) {
        let interest = self.types.entry(type_url).or_default();
        let added: Vec<String> = names.difference(&interest.names).cloned().collect();
        let dropped: Vec<String> = interest.names.difference(&names).cloned().collect();
        for name in &dropped {
            interest.held.remove(name);
        }
        interest.names = names;
        if !self.connected || (added.is_empty() && dropped.is_empty()) {
            return;
        }
        if !interest.opened {
            self.open(type_url);
            return;
        }
        self.push(pb::DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: added,
            resource_names_unsubscribe: dropped,
            ..pb::DeltaDiscoveryRequest::default()
        });
    }

    /// Says what is in the mesh on this node: with the next stream's first request, and now by a request that asks for nothing.
    pub fn report(&mut self, report: Report) {
        self.report = Some(report);
        // Before its first request a stream has none open, and that one says it.
        let opened = self.types.iter().find(|(_, interest)| interest.opened).map(|(type_url, _)| (*type_url).to_owned());
        if let Some(type_url) = opened {
            let node = Some(self.introduction());
            self.push(pb::DeltaDiscoveryRequest { type_url, node, ..pb::DeltaDiscoveryRequest::default() });
        }
    }

    /// A delivery is in force. An answer to a former stream's delivery is ignored.
    pub fn ack(&mut self, type_url: &str, nonce: &str) {
        let Some(delivery) = self.take_unanswered(type_url, nonce) else { return };
        if let Some(interest) = self.types.get_mut(type_url) {
            for resource in delivery.resources {
                interest.held.insert(resource.name, resource.version);
            }
            for name in &delivery.removed {
                interest.held.remove(name);
            }
        }
        self.answer(delivery.type_url, delivery.nonce, None);
    }

    /// A delivery was refused.
    pub fn nack(&mut self, type_url: &str, nonce: &str, reason: &str) {
        let Some(delivery) = self.take_unanswered(type_url, nonce) else { return };
        self.answer(delivery.type_url, delivery.nonce, Some(reason.to_owned()));
    }

    /// The next request to send.
    pub fn poll_request(&mut self) -> Option<pb::DeltaDiscoveryRequest> {
        let mut request = self.outgoing.pop_front()?;
        if !self.node_sent {
            self.node_sent = true;
            request.node = Some(self.introduction());
        }
        Some(request)
    }

    fn introduction(&self) -> core::Node {
        let metadata = self.node.metadata();
        core::Node {
            id: self.node.to_string(),
            cluster: self.node.role.as_str().to_owned(),
            metadata: match &self.report {
                Some(report) => Some(report.into_metadata(metadata)),
                None => metadata,
            },
            user_agent_name: "mesh".to_owned(),
            ..core::Node::default()
        }
    }

    fn open(&mut self, type_url: &'static str) {
        let Some(interest) = self.types.get_mut(type_url) else { return };
        // An empty first request would mean "everything".
        if !interest.wildcard && interest.names.is_empty() {
            return;
        }
        interest.opened = true;
        let wildcard = interest.wildcard.then(|| "*".to_owned());
        let request = pb::DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: wildcard.into_iter().chain(interest.names.iter().cloned()).collect(),
            initial_resource_versions: interest.held.clone().into_iter().collect(),
            ..pb::DeltaDiscoveryRequest::default()
        };
        self.push(request);
    }

    fn check(&self, response: pb::DeltaDiscoveryResponse) -> Result<Delivery, (String, String, InvalidResponse)> {
        let pb::DeltaDiscoveryResponse { type_url, nonce, resources, removed_resources, .. } = response;
        let refuse = |error| (type_url.clone(), nonce.clone(), error);
        if !self.types.contains_key(type_url.as_str()) {
            return Err(refuse(InvalidResponse::UnknownType(type_url.clone())));
        }
        let mut seen = BTreeSet::new();
        let mut taken = Vec::with_capacity(resources.len());
        for resource in resources {
            if !seen.insert(resource.name.clone()) {
                return Err(refuse(InvalidResponse::Duplicate(resource.name)));
            }
            let any = resource.resource.unwrap_or_default();
            if any.type_url != type_url {
                let (name, found, expected) = (resource.name, any.type_url, type_url.clone());
                return Err(refuse(InvalidResponse::TypeMismatch { name, found, expected }));
            }
            taken.push(Resource { name: resource.name, version: resource.version, body: Bytes::from(any.value) });
        }
        Ok(Delivery { type_url, nonce, resources: taken, removed: removed_resources })
    }

    fn take_unanswered(&mut self, type_url: &str, nonce: &str) -> Option<Delivery> {
        self.types.get_mut(type_url)?.unanswered.remove(nonce)
    }

    fn answer(&mut self, type_url: String, response_nonce: String, error: Option<String>) {
        const INVALID_ARGUMENT: i32 = 3;
        let error_detail = error.map(|message| Status { code: INVALID_ARGUMENT, message, details: Vec::new() });
        self.push(pb::DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..pb::DeltaDiscoveryRequest::default() });
    }

    fn push(&mut self, request: pb::DeltaDiscoveryRequest) {
        if self.connected {
            self.outgoing.push_back(request);
        }
    }
}
