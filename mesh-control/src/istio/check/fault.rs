//! Rules on faults on purpose, and on retries against those that are not.

use super::super::problem::{Path, Problems};
use super::super::virtual_service::{HttpFaultInjection, HttpRetry};
use super::text::{self, Verdict};

/// Faults on purpose.
pub(super) fn fault(fault: &HttpFaultInjection, at: &Path<'_>, problems: &mut Problems) {
    if fault.abort.is_none() && fault.delay.is_none() {
        problems.required(at, "HTTP fault injection must have an abort and/or a delay");
    }
    if let Some(abort) = &fault.abort {
        let at = at.field("abort");
        problems.judge(&at.field("percent"), abort.percent, text::whole_percent(abort.percent));
        text::percent(abort.percentage.as_ref(), &at.field("percentage"), problems);
        if let Some(status) = abort.http_status {
            problems.judge(&at.field("httpStatus"), status, text::http_status(i64::from(status)));
        } else if let Some(status) = &abort.grpc_status {
            problems.judge(&at.field("grpcStatus"), status.as_str(), grpc_status(status));
        } else if abort.http2_error.is_some() {
            problems.forbidden(&at.field("http2Error"), "HTTP/2 abort fault injection not supported yet");
        } else {
            // Ours: Istio only warns.
            problems.required(&at, "abort configured, but error type not set");
        }
    }
    if let Some(delay) = &fault.delay {
        let at = at.field("delay");
        problems.judge(&at.field("percent"), delay.percent, text::whole_percent(delay.percent));
        text::percent(delay.percentage.as_ref(), &at.field("percentage"), problems);
        text::optional_duration(delay.fixed_delay, &at.field("fixedDelay"), problems);
        if delay.exponential_delay.is_some() {
            problems.forbidden(&at.field("exponentialDelay"), "exponentialDelay not supported yet");
        } else if delay.fixed_delay.is_none() {
            // Ours, as for the abort.
            problems.required(&at.field("fixedDelay"), "");
        }
    }
}

fn grpc_status(status: &str) -> Verdict {
    let known = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    if known.contains(&status) {
        return Ok(());
    }
    Err(format!(
        "gRPC status {status:?} is not supported. See https://github.com/grpc/grpc/blob/master/doc/statuscodes.md for a list of \
         supported codes, for example 'NOT_FOUND'"
    ))
}

/// Repeating failed requests.
pub(super) fn retries(retry: &HttpRetry, at: &Path<'_>, problems: &mut Problems) {
    if retry.attempts < 0 {
        problems.judge(&at.field("attempts"), retry.attempts, Err("attempts cannot be negative".to_owned()));
    }
    let more = retry.per_try_timeout.is_some() || !retry.retry_on.is_empty() || retry.retry_remote_localities.is_some();
    if retry.attempts == 0 && more {
        let why = "http retry policy configured when attempts are set to 0 (disabled)".to_owned();
        problems.judge(&at.field("attempts"), 0, Err(why));
    }
    text::optional_duration(retry.per_try_timeout, &at.field("perTryTimeout"), problems);
    text::optional_duration(retry.backoff, &at.field("backoff"), problems);
    if retry.retry_on.is_empty() {
        return;
    }
    for policy in retry.retry_on.split(',') {
        let status = policy.parse::<u16>().ok().and_then(|code| http::StatusCode::from_u16(code).ok());
        if status.and_then(|s| s.canonical_reason()).is_none() && !RETRY_ON.contains(&policy) {
            let why = format!("{policy:?} is not a valid retryOn policy");
            problems.judge(&at.field("retryOn"), retry.retry_on.as_str(), Err(why));
        }
    }
}

const RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];
