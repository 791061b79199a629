//! Answers that no upstream gave: Envoy's statuses, bodies and flags, word for word.

use crate::core::flags::Flags;
use bytes::Bytes;
use http::StatusCode;

/// An answer of the proxy itself.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
    pub(super) flags: Flags,
    /// `x-envoy-overloaded: true`.
    pub(super) overloaded: bool,
}

impl Local {
    pub(super) fn new(status: StatusCode, body: &'static str, flags: Flags) -> Self {
        Self { status, body: Bytes::from_static(body.as_bytes()), flags, overloaded: false }
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
        Self { status, body: body.into(), flags, overloaded: false }
    }
}
