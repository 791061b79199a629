//! What a span says: Envoy's tags in Zipkin's v2 JSON.

use super::{Context, Tag, TagValue};
use crate::core::flags::Flags;
use crate::core::peer::Peer;
use http::HeaderMap;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A span as Zipkin takes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Span {
    trace_id: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    pub(super) kind: &'static str,
    pub(super) name: String,
    /// Microseconds since 1970.
    timestamp: u64,
    /// Microseconds.
    duration: u64,
    pub(super) local_endpoint: Endpoint,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remote_endpoint: Option<Endpoint>,
    pub(super) tags: BTreeMap<String, String>,
}

impl Span {
    /// One of a client that has no more than its ids and its time.
    pub(super) fn timed(context: &Context, started: SystemTime, duration: Duration) -> Self {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self {
            trace_id: context.trace_id(),
            id: format!("{:016x}", context.span),
            parent_id: context.parent.map(|parent| format!("{parent:016x}")),
            kind: "CLIENT",
            name: String::new(),
            timestamp: micros(started.duration_since(UNIX_EPOCH).unwrap_or_default()),
            // Zipkin takes 0 for: unknown.
            duration: micros(duration).max(1),
            local_endpoint: Endpoint::default(),
            remote_endpoint: None,
            tags: BTreeMap::new(),
        }
    }
}

/// One side of a span.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    service_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv4: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipv6: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

impl Endpoint {
    /// A service, where it runs.
    #[must_use]
    pub fn new(peer: &Peer, address: Option<IpAddr>, port: Option<u16>) -> Self {
        let service_name = match (peer.canonical_service.as_str(), peer.namespace.as_str()) {
            ("", _) => String::new(),
            (service, "") => service.to_owned(),
            (service, namespace) => format!("{service}.{namespace}"),
        };
        Self { service_name, ipv4: address.filter(IpAddr::is_ipv4), ipv6: address.filter(IpAddr::is_ipv6), port }
    }
}

/// What is known of a request that is over.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// When it began.
    pub started: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// Its method.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The host that the client named.
    pub authority: &'a str,
    /// Path and query as the client sent them.
    pub path: &'a str,
    /// `HTTP/1.1`.
    pub protocol: &'static str,
    /// As the client sent them, and its `x-request-id`.
    pub headers: &'a HeaderMap,
    /// As sent to the client; 0: none.
    pub status: u16,
    /// gRPC's status, if it is gRPC.
    pub grpc_status: Option<u16>,
    /// Why the answer is what it is.
    pub flags: Flags,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// Attempts after the first.
    pub retries: u32,
    /// The cluster's name, `-` if there was none.
    pub cluster: &'a str,
    /// The route's decorator, if it has one.
    pub operation: Option<&'a str>,
    /// The client, or the hop.
    pub source: &'a Peer,
    /// The client's address.
    pub source_address: Option<IpAddr>,
    /// At a hop of its own: the address that the client called; else the client is the pod whose proxy this is.
    pub hop: Option<Option<IpAddr>>,
    /// The last endpoint that was tried.
    pub upstream: Option<SocketAddr>,
    /// Who it is.
    pub destination: Option<&'a Peer>,
    /// This node.
    pub node: &'a str,
}

/// The span of a request: the client's side of it, or at a hop the server's.
#[must_use]
pub fn build(context: &Context, facts: &Facts<'_>, tags: &[Tag], max_path: usize) -> Span {
    let none = Peer::default();
    let (local, remote) = match facts.hop {
        // The other side of what came is the client, whose name nobody knows.
        Some(own) => (own, facts.source_address.map(|address| Endpoint::new(&none, Some(address), None))),
        None => (facts.source_address, facts.upstream.map(|address| upstream(facts.destination, address))),
    };
    Span {
        kind: if facts.hop.is_some() { "SERVER" } else { "CLIENT" },
        name: facts.operation.unwrap_or(facts.authority).to_owned(),
        local_endpoint: Endpoint::new(facts.source, local, None),
        remote_endpoint: remote,
        tags: all_tags(facts, tags, max_path),
        ..Span::timed(context, facts.started, facts.duration)
    }
}

/// The side that was called.
pub(super) fn upstream(destination: Option<&Peer>, address: SocketAddr) -> Endpoint {
    let none = Peer::default();
    Endpoint::new(destination.unwrap_or(&none), Some(address.ip()), Some(address.port()))
}

/// Who was called.
pub(super) fn destination_tags(tags: &mut BTreeMap<String, String>, destination: &Peer) {
    let mut tag = |name: &str, value: &str| drop(tags.insert(name.to_owned(), value.to_owned()));
    tag("istio.destination_workload", &destination.workload);
    tag("istio.destination_canonical_service", &destination.canonical_service);
    tag("istio.destination_canonical_revision", &destination.canonical_revision);
    tag("istio.destination_namespace", &destination.namespace);
}

fn all_tags(facts: &Facts<'_>, custom: &[Tag], max_path: usize) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    let mut tag = |name: &str, value: String| drop(tags.insert(name.to_owned(), value));
    let header = |name: &str| facts.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    tag("component", "proxy".to_owned());
    tag("node_id", facts.node.to_owned());
    if let Some(id) = header("x-request-id") {
        tag("guid:x-request-id", id);
    }
    if let Some(id) = header("x-client-trace-id") {
        tag("guid:x-client-trace-id", id);
    }
    tag("http.url", format!("{}://{}{}", facts.scheme, facts.authority, cut(facts.path, max_path)));
    tag("http.method", facts.method.to_owned());
    tag("http.protocol", facts.protocol.to_owned());
    tag("http.status_code", facts.status.to_string());
    tag("downstream_cluster", or_dash(header("x-envoy-downstream-service-cluster")));
    tag("user_agent", or_dash(header("user-agent")));
    tag("request_size", facts.received.to_string());
    tag("response_size", facts.sent.to_string());
    tag("response_flags", facts.flags.to_string());
    if facts.cluster != "-" {
        tag("upstream_cluster", facts.cluster.to_owned());
        tag("upstream_cluster.name", facts.cluster.to_owned());
    }
    if let Some(upstream) = facts.upstream {
        tag("upstream_address", upstream.to_string());
    }
    if let Some(address) = facts.source_address {
        tag("peer.address", address.to_string());
    }
    if facts.retries > 0 {
        tag("retry.count", facts.retries.to_string());
    }
    if let Some(status) = facts.grpc_status {
        tag("grpc.status_code", status.to_string());
        tag("grpc.path", cut(facts.path, max_path).to_owned());
        tag("grpc.authority", facts.authority.to_owned());
    }
    if facts.status == 0 || facts.status >= 500 || facts.grpc_status.is_some_and(|status| status != 0) {
        tag("error", "true".to_owned());
    }
    tag("istio.canonical_service", facts.source.canonical_service.clone());
    tag("istio.canonical_revision", facts.source.canonical_revision.clone());
    tag("istio.namespace", facts.source.namespace.clone());
    tag("istio.mesh_id", "mesh".to_owned());
    for custom in custom {
        let value = match &custom.value {
            TagValue::Literal(value) => Some(value.clone()),
            TagValue::Header(name, default) => header(name.as_str()).or_else(|| default.clone()),
        };
        if let Some(value) = value {
            tag(&custom.name, value);
        }
    }
    if let Some(destination) = facts.destination {
        destination_tags(&mut tags, destination);
    }
    tags
}

/// At most so many bytes, never within a character.
fn cut(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn peer(service: &str, revision: &str) -> Peer {
        Peer::parse(&format!("{service}-{revision};default;{service};{revision};"))
    }

    #[test]
    fn a_failed_and_retried_request_says_all_of_it() {
        let mut flags = Flags::default();
        flags.set(Flags::DELAY);
        flags.set(Flags::FAULT);
        let headers: HeaderMap = [("x-request-id", "id"), ("end-user", "jason")]
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("a value")))
            .into_iter()
            .collect();
        let (source, destination) = (peer("productpage", "v1"), peer("details", "v1"));
        let facts = Facts {
            started: UNIX_EPOCH + Duration::from_secs(1),
            duration: Duration::from_millis(7001),
            method: "GET",
            scheme: "http",
            authority: "details:9080",
            path: "/details/0123456789",
            protocol: "HTTP/1.1",
            headers: &headers,
            status: 500,
            grpc_status: None,
            flags,
            received: 3,
            sent: 18,
            retries: 2,
            cluster: "outbound|9080|v1|details",
            operation: Some("details:9080/*"),
            source: &source,
            source_address: Some("9.0.1.4".parse().expect("address")),
            hop: None,
            upstream: Some("9.0.2.3:9080".parse().expect("address")),
            destination: Some(&destination),
            node: "node~192.0.2.1~n~mesh",
        };
        let custom = [
            Tag { name: "user".into(), value: TagValue::Header(HeaderName::from_static("end-user"), None) },
            Tag { name: "absent".into(), value: TagValue::Header(HeaderName::from_static("absent"), None) },
            Tag { name: "dflt".into(), value: TagValue::Header(HeaderName::from_static("absent"), Some("x".into())) },
            Tag { name: "lit".into(), value: TagValue::Literal("y".into()) },
        ];
        let context = Context { trace: 0xa, span: 0xb, parent: Some(0xc), sampled: true };
        let json = serde_json::to_value(build(&context, &facts, &custom, 10)).expect("JSON");
        assert_eq!(
            (&json["traceId"], &json["id"], &json["parentId"]),
            (&"000000000000000a".into(), &"000000000000000b".into(), &"000000000000000c".into())
        );
        assert_eq!(
            (&json["kind"], &json["name"], &json["timestamp"], &json["duration"]),
            (&"CLIENT".into(), &"details:9080/*".into(), &1_000_000.into(), &7_001_000.into())
        );
        assert_eq!(json["localEndpoint"], serde_json::json!({"serviceName": "productpage.default", "ipv4": "9.0.1.4"}));
        assert_eq!(
            json["remoteEndpoint"],
            serde_json::json!({"serviceName": "details.default", "ipv4": "9.0.2.3", "port": 9080})
        );
        for (name, value) in [
            ("http.status_code", "500"),
            ("response_flags", "DI,FI"),
            ("retry.count", "2"),
            ("error", "true"),
            ("http.url", "http://details:9080/details/0"),
            ("guid:x-request-id", "id"),
            ("istio.canonical_service", "productpage"),
            ("istio.destination_workload", "details-v1"),
            ("user", "jason"),
            ("dflt", "x"),
            ("lit", "y"),
            ("user_agent", "-"),
        ] {
            assert_eq!(json["tags"][name], value, "{name}");
        }
        assert!(json["tags"].get("absent").is_none());
    }

    #[test]
    fn a_success_without_upstream_has_no_error_and_no_other_side() {
        let (headers, source) = (HeaderMap::new(), peer("a", "latest"));
        let facts = Facts {
            started: UNIX_EPOCH,
            duration: Duration::ZERO,
            method: "GET",
            scheme: "http",
            authority: "a",
            path: "/",
            protocol: "HTTP/2",
            headers: &headers,
            status: 404,
            grpc_status: None,
            flags: Flags::NO_ROUTE,
            received: 0,
            sent: 0,
            retries: 0,
            cluster: "-",
            operation: None,
            source: &source,
            source_address: None,
            hop: None,
            upstream: None,
            destination: None,
            node: "n",
        };
        let context = Context { trace: 1 << 64, span: 1, parent: None, sampled: true };
        let json = serde_json::to_value(build(&context, &facts, &[], 256)).expect("JSON");
        assert_eq!((&json["name"], &json["duration"]), (&"a".into(), &1.into()));
        assert!(json["traceId"].as_str().is_some_and(|id| id.len() == 32));
        for absent in ["error", "retry.count", "upstream_cluster", "upstream_address"] {
            assert!(json["tags"].get(absent).is_none(), "{absent}");
        }
        assert!(json.get("remoteEndpoint").is_none() && json.get("parentId").is_none());
        assert_eq!(cut("äöü", 3), "ä");
    }
}
