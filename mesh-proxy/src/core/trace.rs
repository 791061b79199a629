//! Tracing, decided: which requests are traced, what their contexts are, what a span says. Pure; [`crate::telemetry`] sends the spans.
//!
//! Meaning and header names are those of Envoy's Zipkin tracer with `trace_context_option: USE_B3_WITH_W3C_PROPAGATION`: B3 is continued
//! before W3C, and both are handed on. One difference: the single header `b3` of the client is rewritten, where Envoy leaves the
//! client's own in place and the next hop would continue the wrong span.

mod attempt;
mod context;
mod sampling;
mod span;

pub use attempt::{Attempt, of_attempt};
pub use context::{Context, Incoming};
pub use sampling::{Decision, Sampling};
pub use span::{Endpoint, Facts, Span, build};

use http::HeaderName;
use std::sync::Arc;

/// What an HttpConnectionManager says of tracing.
#[derive(Clone, Debug, PartialEq)]
pub struct Tracing {
    /// Which requests.
    pub sampling: Sampling,
    /// Further tags.
    pub tags: Vec<Tag>,
    /// Most bytes of a path in `http.url`.
    pub max_path: usize,
    /// New traces get ids of 128 bits.
    pub long_ids: bool,
    /// W3C's headers are read and written too.
    pub w3c: bool,
    /// A hop of its own: the request's span is the server's, and each attempt to reach an endpoint has a client's below it.
    pub hop: bool,
    /// Who collects spans.
    pub collector: Arc<Collector>,
}

/// Where spans go.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Collector {
    /// Its cluster.
    pub cluster: Arc<str>,
    /// The path of its endpoint.
    pub path: String,
    /// The value of `Host`.
    pub host: String,
}

/// A tag that the configuration adds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tag {
    /// Its name.
    pub name: String,
    /// What it says.
    pub value: TagValue,
}

/// What a tag says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TagValue {
    /// Always this. Variables of the environment are read when the configuration comes, and are this from then on.
    Literal(String),
    /// A header of the request, or the default; without either there is no tag.
    Header(HeaderName, Option<String>),
}
