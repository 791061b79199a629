//! May an attempt be repeated, and after which pause?

use http::StatusCode;
use rand::{Rng, RngCore};
use std::time::Duration;

/// Envoy's default base of the back-off.
pub const BASE: Duration = Duration::from_millis(25);

/// When and how often to try again.
#[derive(Clone, Debug)]
pub struct RetryPolicy {
    /// On what.
    pub on: Conditions,
    /// Further statuses, for `retriable-status-codes`.
    pub status_codes: Vec<u16>,
    /// At most so many times beyond the first.
    pub retries: u32,
    /// Limit of each attempt; `None`: only the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// Base of the back-off.
    pub base: Duration,
    /// Its cap.
    pub max: Duration,
    /// Picks again, so many times, while the balancer returns an endpoint that was tried already.
    pub other_host_attempts: u32,
}

/// A set of `retry_on` conditions.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Conditions(u16);

macro_rules! conditions {
    ($($name:ident = $bit:literal => $label:literal,)+) => {
        impl Conditions {
            $(const $name: Self = Self(1 << $bit);)+

            /// Reads one condition of Envoy's list; `None` if unknown.
            #[must_use]
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($label => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

conditions! {
    SERVER_ERROR = 0 => "5xx",
    GATEWAY_ERROR = 1 => "gateway-error",
    RESET = 2 => "reset",
    RESET_BEFORE_REQUEST = 3 => "reset-before-request",
    CONNECT_FAILURE = 4 => "connect-failure",
    REFUSED_STREAM = 5 => "refused-stream",
    RETRIABLE_4XX = 6 => "retriable-4xx",
    STATUS_CODES = 7 => "retriable-status-codes",
    CANCELLED = 8 => "cancelled",
    DEADLINE_EXCEEDED = 9 => "deadline-exceeded",
    INTERNAL = 10 => "internal",
    RESOURCE_EXHAUSTED = 11 => "resource-exhausted",
    UNAVAILABLE = 12 => "unavailable",
}

impl Conditions {
    /// Adds conditions.
    pub fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// True if an attempt whose request was sent may be repeated, so that its body must be kept.
    #[must_use]
    pub fn after_sending(self) -> bool {
        self.0 & !(Self::CONNECT_FAILURE.0 | Self::RESET_BEFORE_REQUEST.0 | Self::REFUSED_STREAM.0) != 0
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// No connection.
    ConnectFailure,
    /// The connection ended without a response.
    Reset {
        /// Nothing of the request was sent.
        before_request: bool,
        /// The request may be sent twice without harm: idempotent, without a body.
        safe: bool,
    },
    /// The upstream refused the stream (HTTP/2).
    Refused,
    /// The attempt's own limit.
    PerTryTimeout,
    /// A response with this status, and `grpc-status` if its headers carry one.
    Response(StatusCode, Option<u32>),
}

impl RetryPolicy {
    /// True if such an attempt may be repeated. Counting attempts is the caller's.
    #[must_use]
    pub fn wants(&self, outcome: Outcome) -> bool {
        let on = |conditions| self.on.any(conditions);
        match outcome {
            Outcome::ConnectFailure => on(Conditions(
                Conditions::CONNECT_FAILURE.0 | Conditions::SERVER_ERROR.0 | Conditions::GATEWAY_ERROR.0 | Conditions::RESET.0,
            )),
            Outcome::Refused => on(Conditions(
                Conditions::REFUSED_STREAM.0 | Conditions::SERVER_ERROR.0 | Conditions::GATEWAY_ERROR.0 | Conditions::RESET.0,
            )),
            // More than Envoy: for a safe request, an endpoint that went away is the same whether it did so before or after accepting.
            Outcome::Reset { before_request, safe } => {
                on(Conditions(Conditions::RESET.0 | Conditions::SERVER_ERROR.0 | Conditions::GATEWAY_ERROR.0))
                    || (before_request && on(Conditions::RESET_BEFORE_REQUEST))
                    || (safe && on(Conditions::CONNECT_FAILURE))
            }
            // Measured on Envoy: with the mesh's default list a per-try timeout ends the request.
            Outcome::PerTryTimeout => {
                on(Conditions(Conditions::RESET.0 | Conditions::SERVER_ERROR.0 | Conditions::GATEWAY_ERROR.0))
            }
            Outcome::Response(status, grpc) => self.wants_response(status, grpc),
        }
    }

    fn wants_response(&self, status: StatusCode, grpc: Option<u32>) -> bool {
        let on = |condition| self.on.any(condition);
        let by_status = match status.as_u16() {
            502..=504 if on(Conditions::GATEWAY_ERROR) => true,
            500..=599 if on(Conditions::SERVER_ERROR) => true,
            409 if on(Conditions::RETRIABLE_4XX) => true,
            code => on(Conditions::STATUS_CODES) && self.status_codes.contains(&code),
        };
        let by_grpc = match grpc {
            Some(1) => on(Conditions::CANCELLED),
            Some(4) => on(Conditions::DEADLINE_EXCEEDED),
            Some(8) => on(Conditions::RESOURCE_EXHAUSTED),
            Some(13) => on(Conditions::INTERNAL),
            Some(14) => on(Conditions::UNAVAILABLE),
            _ => false,
        };
        by_status || by_grpc
    }

    /// The pause before retry number `retry` (from 1): fully jittered in `[0, (2^retry - 1)·base)`, capped.
    pub fn pause(&self, retry: u32, rng: &mut dyn RngCore) -> Duration {
        let factor = 2_u32.saturating_pow(retry.min(20)) - 1;
        let most = self.base.saturating_mul(factor).min(self.max);
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        if micros == 0 { Duration::ZERO } else { Duration::from_micros(rng.random_range(0..micros)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::SmallRng};

    fn policy(on: &str) -> RetryPolicy {
        let mut conditions = Conditions::default();
        for name in on.split(',') {
            conditions.set(Conditions::parse(name).expect("known"));
        }
        RetryPolicy {
            on: conditions,
            status_codes: Vec::new(),
            retries: 2,
            per_try_timeout: None,
            base: BASE,
            max: BASE * 10,
            other_host_attempts: 5,
        }
    }

    #[test]
    fn the_meshs_default_retries_what_never_reached_a_server() {
        let default = policy("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes");
        for (outcome, expected) in [
            (Outcome::ConnectFailure, true),
            (Outcome::Refused, true),
            (Outcome::Reset { before_request: true, safe: false }, false),
            (Outcome::Reset { before_request: false, safe: false }, false),
            (Outcome::Reset { before_request: false, safe: true }, true),
            (Outcome::PerTryTimeout, false),
            (Outcome::Response(StatusCode::SERVICE_UNAVAILABLE, None), false),
            (Outcome::Response(StatusCode::OK, Some(14)), true),
            (Outcome::Response(StatusCode::OK, Some(13)), false),
        ] {
            assert_eq!(default.wants(outcome), expected, "{outcome:?}");
        }
    }

    #[test]
    fn conditions_mean_what_envoys_mean() {
        let status = |code: u16| Outcome::Response(StatusCode::from_u16(code).expect("valid"), None);
        for (on, outcome, expected) in [
            ("5xx", status(500), true),
            ("5xx", Outcome::ConnectFailure, true),
            ("5xx", Outcome::PerTryTimeout, true),
            ("gateway-error", status(500), false),
            ("gateway-error", status(503), true),
            ("retriable-4xx", status(409), true),
            ("retriable-4xx", status(404), false),
            ("reset", Outcome::Reset { before_request: false, safe: false }, true),
            ("reset-before-request", Outcome::Reset { before_request: false, safe: false }, false),
            ("reset-before-request", Outcome::Reset { before_request: true, safe: false }, true),
            ("refused-stream", Outcome::Reset { before_request: false, safe: true }, false),
            ("connect-failure", Outcome::Reset { before_request: true, safe: false }, false),
        ] {
            assert_eq!(policy(on).wants(outcome), expected, "{on} {outcome:?}");
        }
    }

    #[test]
    fn pauses_grow_and_stay_below_the_cap() {
        let (policy, mut rng) = (policy("5xx"), SmallRng::seed_from_u64(1));
        for (retry, below) in [(1, 25), (2, 75), (3, 175), (4, 250), (40, 250)] {
            let longest = (0..500).map(|_| policy.pause(retry, &mut rng)).max().expect("some");
            assert!(
                longest < Duration::from_millis(below) && longest > Duration::from_millis(below * 9 / 10),
                "{retry}: {longest:?}"
            );
        }
    }
}
