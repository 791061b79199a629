//! Answers that no upstream gave: Envoy's statuses, bodies and flags, word for word.

use crate::core::flags::Flags;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};

/// An answer of the proxy itself.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    pub(super) flags: Flags,
    /// `x-envoy-overloaded: true`.
    pub(super) overloaded: bool,
    /// Where it points.
    pub(super) location: Option<HeaderValue>,
}

impl Local {
    pub(super) fn new(status: StatusCode, body: &'static str, flags: Flags) -> Self {
        Self { status, body: Bytes::from_static(body.as_bytes()), flags, overloaded: false, location: None }
    }

    pub(super) fn redirect(status: StatusCode, location: &str) -> Self {
        Self { location: HeaderValue::try_from(location).ok(), ..Self::new(status, "", Flags::default()) }
    }

    pub(super) fn respond(status: StatusCode, body: Bytes) -> Self {
        Self { body, ..Self::new(status, "", Flags::default()) }
    }

    pub(super) fn refused_upgrade() -> Self {
        Self::new(StatusCode::FORBIDDEN, "", Flags::default())
    }

    /// Nothing passed for too long: whose turn was it?
    pub(super) fn idle(request_complete: bool) -> Self {
        let status = if request_complete { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT };
        Self::new(status, "stream timeout", Flags::STREAM_IDLE)
    }

    /// The request's body is none: its framing is wrong, or it ended too early.
    pub(super) fn bad_body() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Bad Request", Flags::DOWNSTREAM_PROTOCOL)
    }

    /// The request has not come whole in time.
    pub(super) fn late_request() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "request timeout", Flags::default())
    }

    pub(super) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "", Flags::NO_ROUTE)
    }

    pub(super) fn no_cluster() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "", Flags::NO_CLUSTER)
    }

    pub(super) fn no_healthy_upstream() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no healthy upstream", Flags::NO_HEALTHY)
    }

    pub(super) fn timeout() -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "upstream request timeout", Flags::TIMEOUT)
    }

    pub(super) fn overflow() -> Self {
        Self { overloaded: true, ..Self::reset("overflow", false, Flags::OVERFLOW) }
    }

    /// No response: `reason` is one of Envoy's (or `no brokered socket`, ours).
    pub(super) fn reset(reason: &str, retried: bool, flags: Flags) -> Self {
        let what = if retried { "retried and the latest reset reason" } else { "reset reason" };
        let body = format!("upstream connect error or disconnect/reset before headers. {what}: {reason}");
        let status = if flags.has(Flags::PROTOCOL) { StatusCode::BAD_GATEWAY } else { StatusCode::SERVICE_UNAVAILABLE };
        Self { status, body: body.into(), flags, overloaded: false, location: None }
    }
}
