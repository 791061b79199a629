//! How a pod talks to a cluster's endpoints: connections, protocol, limits, what it avoids.

use crate::core::budget::Limits;
use crate::core::outlier;
use crate::upstream_tls::UpstreamTls;
use std::sync::Arc;
use std::time::Duration;

/// The cluster's part that the pool of connections obeys.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSettings {
    /// Limit of a connection attempt, TLS included.
    pub connect_timeout: Duration,
    /// A connection is not used for a request after it idled so long.
    pub idle_timeout: Option<Duration>,
    /// A connection is not used for a request after it was open so long.
    pub max_connection_duration: Option<Duration>,
    /// A connection is not used for more requests than this.
    pub max_requests_per_connection: Option<u32>,
    /// The kernel's probes of idle connections.
    pub keepalive: Option<Keepalive>,
    /// What is spoken.
    pub protocol: Protocol,
    /// Of HTTP/2.
    pub http2: Http2,
    /// Of one pod.
    pub limits: Limits,
    /// TLS; `None`: plain.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Ejection of endpoints that fail; `None`: never.
    pub outlier: Option<Arc<outlier::Settings>>,
}

impl PoolSettings {
    /// A number for what the cluster says of TLS, 0 for plain. Secrets are not part of it: a renewed one ends no connection.
    #[must_use]
    pub fn tls_id(&self) -> u64 {
        self.tls.as_ref().map_or(0, |tls| tls.id())
    }
}

/// The protocol towards endpoints.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2; without TLS by prior knowledge.
    Http2,
    /// What the client speaks.
    Downstream,
    /// What TLS negotiates.
    Negotiated,
}

/// Envoy's `Http2ProtocolOptions`, as far as they are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Http2 {
    /// Requests at a time on one connection; the endpoint's own limit counts too.
    pub max_streams: u32,
    /// Bytes that an endpoint may send ahead on one stream; `None`: the library's choice.
    pub stream_window: Option<u32>,
    /// The same for a connection.
    pub connection_window: Option<u32>,
    /// A ping each so often, and how long its answer may take.
    pub ping: Option<(Duration, Duration)>,
}

/// TCP keep-alive. What is `None` is as the system has it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Keepalive {
    /// Unanswered probes until the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first.
    pub time: Option<Duration>,
    /// Between probes.
    pub interval: Option<Duration>,
}

impl Default for PoolSettings {
    /// Envoy's defaults where nothing is said, but without limits.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_requests_per_connection: None,
            keepalive: None,
            protocol: Protocol::default(),
            http2: Http2::default(),
            limits: Limits::default(),
            tls: None,
            outlier: None,
        }
    }
}

impl Default for Http2 {
    fn default() -> Self {
        Self { max_streams: crate::limits::STREAMS, stream_window: None, connection_window: None, ping: None }
    }
}
