//! How a listener treats HTTP connections and requests, apart from routes: what its HttpConnectionManager says.

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
    /// An idle client connection is closed after this.
    pub idle_timeout: Option<Duration>,
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
    /// Bytes of a request's head. Beyond: 431.
    pub head_bytes: usize,
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
