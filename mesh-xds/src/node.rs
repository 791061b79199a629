//! Who a client of the control plane is.
//!
//! The id follows Istio's form `role~address~name~domain`, so that a stock Envoy (`sidecar~9.0.1.2~task.default~...`) and our own
//! processes say the same four things.

use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// What a client does with what it gets.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// mesh-agent: takes services, workloads and mesh settings.
    Agent,
    /// The DNS process: takes services and mesh settings.
    Dns,
    /// mesh-proxy for all pods of a node.
    Node,
    /// A proxy at the edge, bound to Gateways.
    Gateway,
    /// A stock Envoy beside one workload.
    Sidecar,
}

impl Role {
    /// The first part of the node id.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Dns => "dns",
            Self::Node => "node",
            Self::Gateway => "gateway",
            Self::Sidecar => "sidecar",
        }
    }
}

/// A client's identity.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Node {
    /// What it does.
    pub role: Role,
    /// The address of the Mesos agent's node (for a sidecar: of its workload).
    pub address: IpAddr,
    /// A name for logs: the host name or task id.
    pub name: String,
    /// What the `selector` of a Gateway is matched with; empty for whoever serves no gateway. Not part of the id: they travel as
    /// `node.metadata.LABELS`, where Istio's proxies have them too.
    pub labels: BTreeMap<String, String>,
}

/// Key of the labels in the node's metadata.
const LABELS: &str = "LABELS";

/// Key of the same, in which a sidecar says as Istio's do how connections reach it: `REDIRECT` (the default) or `NONE`. Kept beside the labels
/// under this name, which no label has.
pub const INTERCEPTION_MODE: &str = "INTERCEPTION_MODE";

impl Node {
    /// The node's metadata as the wire has it; `None` without labels.
    #[must_use]
    pub fn metadata(&self) -> Option<Struct> {
        if self.labels.is_empty() {
            return None;
        }
        let text = |(key, value): (&String, &String)| (key.clone(), value_of(Kind::StringValue(value.clone())));
        let labels = Struct { fields: self.labels.iter().map(text).collect() };
        Some(Struct { fields: [(LABELS.to_owned(), value_of(Kind::StructValue(labels)))].into() })
    }

    /// The same node with the labels that this metadata states. What is no text is no label.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Option<&Struct>) -> Self {
        let field = |name: &str| metadata.and_then(|metadata| metadata.fields.get(name)).and_then(|field| field.kind.as_ref());
        if let Some(Kind::StructValue(labels)) = field(LABELS) {
            self.take_labels(labels);
        }
        if let (Role::Sidecar, Some(Kind::StringValue(mode))) = (self.role, field(INTERCEPTION_MODE)) {
            self.labels.insert(INTERCEPTION_MODE.to_owned(), mode.clone());
        }
        self
    }

    fn take_labels(&mut self, labels: &Struct) {
        let text = |(key, value): (&String, &Value)| match &value.kind {
            Some(Kind::StringValue(text)) => Some((key.clone(), text.clone())),
            _ => None,
        };
        self.labels = labels.fields.iter().filter_map(text).collect();
    }
}

fn value_of(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}~{}~{}~mesh", self.role.as_str(), self.address, self.name)
    }
}

/// Why a node id was refused.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidNode {
    /// Fewer than three parts.
    #[error("node id {0:?} is not ROLE~ADDRESS~NAME~DOMAIN")]
    Form(String),
    /// The first part.
    #[error("node id has unknown role {0:?}; known are agent, dns, node, gateway (router), sidecar")]
    Role(String),
    /// The second part.
    #[error("node id has address {0:?}, which is no IP address")]
    Address(String),
}

impl FromStr for Node {
    type Err = InvalidNode;

    fn from_str(id: &str) -> Result<Self, Self::Err> {
        let mut parts = id.splitn(4, '~');
        let (Some(role), Some(address), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(InvalidNode::Form(id.to_owned()));
        };
        let all = [Role::Agent, Role::Dns, Role::Node, Role::Gateway, Role::Sidecar];
        // Istio's word for its gateways.
        let known = all.into_iter().find(|r| r.as_str() == role || (role == "router" && *r == Role::Gateway));
        let role = known.ok_or_else(|| InvalidNode::Role(role.to_owned()))?;
        let address =
            address.parse().map_err(|_no_address: std::net::AddrParseError| InvalidNode::Address(address.to_owned()))?;
        Ok(Self { role, address, name: name.to_owned(), labels: BTreeMap::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_travel_as_metadata_and_what_is_no_text_is_none() {
        let plain: Node = "node~192.0.2.11~agent-1~mesh".parse().expect("valid");
        assert_eq!(plain.metadata(), None);
        let labels: BTreeMap<_, _> = [("istio".to_owned(), "ingressgateway".to_owned())].into();
        let gateway = Node { labels, ..plain.clone() };
        let mut metadata = gateway.metadata().expect("labels");
        if let Some(Kind::StructValue(labels)) = &mut metadata.fields.get_mut(LABELS).expect("there").kind {
            labels.fields.insert("n".to_owned(), value_of(Kind::NumberValue(1.0)));
        }
        assert_eq!(plain.clone().with_metadata(Some(&metadata)), gateway);
        assert_eq!(plain.clone().with_metadata(None), plain);
    }

    #[test]
    fn ids_round_trip_and_bad_ones_are_named() {
        let node: Node = "node~192.0.2.11~agent-1~mesh".parse().expect("valid");
        assert_eq!(node.to_string(), "node~192.0.2.11~agent-1~mesh");
        let istios: Node = "router~192.0.2.12~edge-1~istio-system.svc.cluster.local".parse().expect("valid");
        assert_eq!(istios.to_string(), "gateway~192.0.2.12~edge-1~mesh");
        assert_eq!("node".parse::<Node>(), Err(InvalidNode::Form("node".to_owned())));
        assert_eq!("pilot~1.2.3.4~x~y".parse::<Node>(), Err(InvalidNode::Role("pilot".to_owned())));
        assert_eq!("node~here~x~y".parse::<Node>(), Err(InvalidNode::Address("here".to_owned())));
    }
}
