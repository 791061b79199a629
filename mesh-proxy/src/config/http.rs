//! How a listener treats HTTP connections and requests, apart from routes: what its HttpConnectionManager says.

use super::Http2;
use crate::core::access::Format;
use crate::core::fault::Fault;
use crate::core::forwarded::Trust;
use crate::core::path::Normalize;
use crate::core::trace::Tracing;
use http::HeaderValue;
use std::sync::Arc;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub struct HttpOptions {
    /// The value of `server` on every response.
    pub server_name: HeaderValue,
    /// What becomes of an upstream's own.
    pub server: ServerHeader,
    /// Appended to `via`, both ways.
    pub via: Option<String>,
    /// The fault filter's own configuration, for routes that have none.
    pub fault: Option<Fault>,
    /// Cross-origin requests are looked at; else routes' policies for them are without effect, as in Envoy.
    pub cors: Option<CorsFilter>,
    /// A request without `x-request-id` gets one.
    pub generate_request_id: bool,
    /// One from outside keeps the id that it came with.
    pub preserve_request_id: bool,
    /// How long client connections last, and what they may carry.
    pub downstream: Downstream,
    /// From a request's head to its end. Beyond: 408.
    pub request_timeout: Option<Duration>,
    /// `Expect: 100-continue` is the upstream's to answer; else it is answered here.
    pub pass_expect: bool,
    /// A request is ended if nothing passes in either direction for this long.
    pub stream_idle_timeout: Option<Duration>,
    /// Upgrades that pass or not; others are answered 403. In lower case.
    pub upgrades: Vec<(String, bool)>,
    /// Whose word is believed.
    pub trust: Trust,
    /// How paths are made comparable.
    pub normalize: Normalize,
    /// Which port is taken off the host.
    pub strip_port: StripPort,
    /// A dot at the end of the host is taken off.
    pub strip_dot: bool,
    /// HTTP/1.0 is served; else it is answered 426.
    pub http10: bool,
    /// The host of a request by HTTP/1.0 that names none.
    pub http10_host: Option<HeaderValue>,
    /// Which requests are traced, and where that is told.
    pub tracing: Option<Arc<Tracing>>,
    /// A line for each request.
    pub access_log: Option<Arc<Format>>,
}

/// What a client's connection may be.
#[derive(Clone, Debug)]
pub struct Downstream {
    /// One that is idle is closed after this.
    pub idle_timeout: Option<Duration>,
    /// From then on it begins nothing more.
    pub max_connection_duration: Option<Duration>,
    /// So long after it an idle HTTP/1 connection is closed; until then its next answer says that it is the last.
    pub drain_timeout: Duration,
    /// Requests that it may carry.
    pub max_requests_per_connection: Option<u32>,
    /// From the first byte of an HTTP/1 request's head to its last. Beyond: 408.
    pub request_headers_timeout: Option<Duration>,
    /// Bytes of a request's head. Beyond: 431.
    pub head_bytes: usize,
    /// Headers of a request. Beyond: 431.
    pub headers: usize,
    /// Of HTTP/2.
    pub http2: Http2,
}

/// What becomes of a response's `server` header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ServerHeader {
    /// It is replaced.
    Overwrite,
    /// It stays; if there is none, ours is said.
    IfAbsent,
    /// It stays as it is.
    Pass,
}

/// Which port is taken off the host before routing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StripPort {
    /// None.
    None,
    /// The one that the client connected to.
    Matching,
    /// Any.
    Any,
}

/// Where the CORS filter stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CorsFilter {
    /// Before the fault filter: preflights are neither delayed nor aborted, answers of aborts are marked.
    First,
    /// After it.
    Second,
}

/// Does an upgrade pass? The route's word counts before the listener's.
#[must_use]
pub fn upgrade_passes(kind: &str, route: &[(String, bool)], listener: &[(String, bool)]) -> bool {
    let said = |list: &[(String, bool)]| list.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind)).map(|(_, passes)| *passes);
    said(route).or_else(|| said(listener)).unwrap_or(false)
}
