//! The span of one attempt to reach an endpoint, where the proxy is a hop of its own (a gateway): a client's, below the request's.
//!
//! Name and tags are those of Envoy's upstream spans; who the endpoint is stands beside them, as in a request's span.

use super::span::{destination_tags, upstream};
use super::{Context, Endpoint, Span};
use crate::core::flags::Flags;
use crate::core::peer::Peer;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

/// What is known of an attempt that is over.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    /// When it began.
    pub started: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// `HTTP/1.1`, as the client spoke.
    pub protocol: &'static str,
    /// The endpoint's; 0: it gave none.
    pub status: u16,
    /// Why it gave none.
    pub flags: Flags,
    /// Retries until then.
    pub before: u32,
    /// The cluster's name.
    pub cluster: &'a str,
    /// The hop.
    pub source: &'a Peer,
    /// Its address.
    pub source_address: Option<IpAddr>,
    /// The endpoint.
    pub upstream: SocketAddr,
    /// Who it is.
    pub destination: Option<&'a Peer>,
    /// This node.
    pub node: &'a str,
}

/// Its span.
#[must_use]
pub fn of_attempt(context: &Context, facts: &Attempt<'_>) -> Span {
    let mut span = Span::timed(context, facts.started, facts.duration);
    span.name = format!("router {} egress", facts.cluster);
    span.local_endpoint = Endpoint::new(facts.source, facts.source_address, None);
    span.remote_endpoint = Some(upstream(facts.destination, facts.upstream));
    let mut tag = |name: &str, value: String| drop(span.tags.insert(name.to_owned(), value));
    tag("component", "proxy".to_owned());
    tag("node_id", facts.node.to_owned());
    tag("http.protocol", facts.protocol.to_owned());
    tag("http.status_code", facts.status.to_string());
    tag("response_flags", facts.flags.to_string());
    tag("upstream_cluster", facts.cluster.to_owned());
    tag("upstream_cluster.name", facts.cluster.to_owned());
    tag("upstream_address", facts.upstream.to_string());
    tag("peer.address", facts.upstream.to_string());
    if facts.before > 0 {
        tag("retry.count", facts.before.to_string());
    }
    if facts.status == 0 || facts.status >= 500 {
        tag("error", "true".to_owned());
    }
    if let Some(destination) = facts.destination {
        destination_tags(&mut span.tags, destination);
    }
    span
}
