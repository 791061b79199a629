//! `VirtualService` as Istio's proto declares it (networking/v1alpha3/virtual_service.proto), plus the old `fault.abort.percent`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::decode::{Decode, at_most_one, enumeration, message, object};
use super::problem::{Path, Problems};

message! {
    /// How requests for some hosts are routed.
    VirtualService {
        hosts: Vec<String>,
        gateways: Vec<String>,
        http: Vec<HttpRoute>,
        tls: Vec<TlsRoute>,
        tcp: Vec<TcpRoute>,
        export_to: Vec<String>,
    }
}

impl VirtualService {
    /// Is it meant for some namespaces only?
    pub(crate) fn is_scoped(&self) -> bool {
        !self.export_to.is_empty() && self.export_to.iter().all(|to| to != "*")
    }
}

message! {
    /// A service, and the part of it.
    Destination {
        host: String = required,
        subset: String,
        port: Option<PortSelector>,
    }
}

message! {
    /// A port by its number.
    PortSelector { number: u32, }
}

message! {
    /// One rule; the first whose match holds is taken.
    HttpRoute {
        name: String,
        r#match: Vec<HttpMatchRequest>,
        route: Vec<HttpRouteDestination>,
        redirect: Option<HttpRedirect>,
        direct_response: Option<HttpDirectResponse>,
        delegate: Option<Delegate>,
        rewrite: Option<HttpRewrite>,
        timeout: Option<Duration>,
        retries: Option<HttpRetry>,
        fault: Option<HttpFaultInjection>,
        mirror: Option<Destination>,
        mirrors: Vec<HttpMirrorPolicy>,
        /// Deprecated: whole per cent.
        mirror_percent: Option<u32>,
        /// The same in proto's spelling, which the schema has too.
        mirror_percent_: Option<u32>,
        mirror_percentage: Option<Percent>,
        cors_policy: Option<CorsPolicy>,
        headers: Option<Headers>,
    }
}

message! {
    /// Another VirtualService that has the routes.
    Delegate { name: String, namespace: String, }
}

message! {
    /// Changes of headers on the way there and back.
    Headers { request: Option<HeaderOperations>, response: Option<HeaderOperations>, }
}

message! {
    /// `set` overwrites, `add` appends.
    HeaderOperations { set: BTreeMap<String, String>, add: BTreeMap<String, String>, remove: Vec<String>, }
}

message! {
    /// Routing of TLS by SNI.
    TlsRoute { r#match: Vec<TlsMatchAttributes> = required, route: Vec<RouteDestination>, }
}

message! {
    /// Routing of opaque TCP.
    TcpRoute { r#match: Vec<L4MatchAttributes>, route: Vec<RouteDestination>, }
}

message! {
    /// All given conditions must hold.
    HttpMatchRequest {
        name: String,
        uri: Option<StringMatch>,
        scheme: Option<StringMatch>,
        method: Option<StringMatch>,
        authority: Option<StringMatch>,
        headers: BTreeMap<String, StringMatch>,
        /// The port that the client connected to; 0 is any.
        port: u32,
        source_labels: BTreeMap<String, String>,
        gateways: Vec<String>,
        query_params: BTreeMap<String, StringMatch>,
        ignore_uri_case: bool,
        without_headers: BTreeMap<String, StringMatch>,
        source_namespace: String,
        stat_prefix: String,
    }
}

message! {
    /// A destination and its share.
    HttpRouteDestination { destination: Destination, weight: i32, headers: Option<Headers>, }
}

message! {
    /// A destination of TCP or TLS and its share.
    RouteDestination { destination: Destination, weight: i32, }
}

message! {
    /// All given conditions must hold.
    L4MatchAttributes {
        destination_subnets: Vec<String>,
        port: u32,
        source_subnet: String,
        source_labels: BTreeMap<String, String>,
        gateways: Vec<String>,
        source_namespace: String,
    }
}

message! {
    /// All given conditions must hold.
    TlsMatchAttributes {
        sni_hosts: Vec<String> = required,
        destination_subnets: Vec<String>,
        port: u32,
        source_labels: BTreeMap<String, String>,
        gateways: Vec<String>,
        source_namespace: String,
    }
}

enumeration! {
    /// Which port a redirect names.
    RedirectPortSelection {
        FromProtocolDefault = "FROM_PROTOCOL_DEFAULT",
        FromRequestPort = "FROM_REQUEST_PORT",
    }
}

message! {
    /// An answer that sends the client elsewhere.
    HttpRedirect {
        uri: String,
        authority: String,
        port: Option<u32>,
        derive_port: Option<RedirectPortSelection>,
        scheme: String,
        /// 0 means 301.
        redirect_code: u32,
        prefix_rewrite: String,
    } oneof [port, derive_port]
}

message! {
    /// An answer without any upstream.
    HttpDirectResponse { status: u32 = required, body: Option<HttpBody>, }
}

message! {
    /// `bytes` is base64.
    HttpBody { string: Option<String>, bytes: Option<String>, } oneof [string, bytes]
}

message! {
    /// What the upstream sees instead.
    HttpRewrite { uri: String, authority: String, uri_regex_rewrite: Option<RegexRewrite>, }
}

message! {
    /// Regex substitution in the path.
    RegexRewrite { r#match: String, rewrite: String, }
}

/// A condition on a string.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum StringMatch {
    /// The whole value.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// RE2, matching the whole value.
    Regex(String),
    /// `{}`: present, whatever the value.
    #[default]
    Present,
}

impl Decode for StringMatch {
    fn decode(value: &Value, at: &Path<'_>, problems: &mut Problems) -> Option<Self> {
        let names = ["exact".to_owned(), "prefix".to_owned(), "regex".to_owned()];
        let fields = object(value, &names, at, problems)?;
        at_most_one(fields, &names, at, problems);
        let mut read = |name: &str| match fields.get(name) {
            None | Some(Value::Null) => Some(None),
            Some(value) => String::decode(value, &at.field(name), problems).map(Some),
        };
        let (exact, prefix, regex) = (read("exact"), read("prefix"), read("regex"));
        Some(match (exact?, prefix?, regex?) {
            (Some(text), _, _) => Self::Exact(text),
            (None, Some(text), _) => Self::Prefix(text),
            (None, None, Some(text)) => Self::Regex(text),
            (None, None, None) => Self::Present,
        })
    }

    fn absent() -> Option<Self> {
        None
    }
}

message! {
    /// Repeating failed requests.
    HttpRetry {
        attempts: i32,
        per_try_timeout: Option<Duration>,
        retry_on: String,
        retry_remote_localities: Option<bool>,
        retry_ignore_previous_hosts: Option<bool>,
        backoff: Option<Duration>,
    }
}

enumeration! {
    /// What happens to a preflight that does not match.
    UnmatchedPreflights {
        Unspecified = "UNSPECIFIED",
        Forward = "FORWARD",
        Ignore = "IGNORE",
    }
}

message! {
    /// Cross-origin requests.
    CorsPolicy {
        /// Deprecated: exact origins.
        allow_origin: Vec<String>,
        allow_origins: Vec<StringMatch>,
        allow_methods: Vec<String>,
        allow_headers: Vec<String>,
        expose_headers: Vec<String>,
        max_age: Option<Duration>,
        allow_credentials: Option<bool>,
        unmatched_preflights: UnmatchedPreflights,
    }
}

message! {
    /// Faults on purpose: first the delay, then the abort.
    HttpFaultInjection { delay: Option<Delay>, abort: Option<Abort>, }
}

message! {
    /// Waits before the request is routed.
    Delay {
        /// Deprecated: whole per cent, used if `percentage` is absent.
        percent: i32,
        fixed_delay: Option<Duration>,
        exponential_delay: Option<Duration>,
        percentage: Option<Percent>,
    } oneof [fixed_delay, exponential_delay]
}

message! {
    /// Answers instead of the upstream.
    Abort {
        /// Istio up to 1.0: whole per cent, used if `percentage` is absent. Istio has since dropped it; the walkthroughs use it.
        percent: i32,
        http_status: Option<i32>,
        grpc_status: Option<String>,
        http2_error: Option<String>,
        percentage: Option<Percent>,
    } oneof [http_status, grpc_status, http2_error]
}

message! {
    /// A copy of requests, whose answer is thrown away.
    HttpMirrorPolicy { destination: Destination, percentage: Option<Percent>, }
}

message! {
    /// 0.0 to 100.0.
    Percent { value: f64, }
}
