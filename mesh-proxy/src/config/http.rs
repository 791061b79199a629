//! How a listener treats HTTP connections and requests, apart from routes: what its HttpConnectionManager says.

use crate::core::fault::Fault;
use http::HeaderValue;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub struct HttpOptions {
    /// The value of `server` on every response.
    pub server_name: HeaderValue,
    /// The fault filter's own configuration, for routes that have none.
    pub fault: Option<Fault>,
    /// A request without `x-request-id` gets one.
    pub generate_request_id: bool,
    /// An idle client connection is closed after this.
    pub idle_timeout: Option<Duration>,
    /// WebSockets pass; else a request for one is answered 403.
    pub websocket: bool,
}
