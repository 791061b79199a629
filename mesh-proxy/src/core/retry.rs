//! May an attempt be repeated, and after which pause?

use super::matching::{HeaderKey, HeaderMatch, HeaderTest, RequestView};
use http::{HeaderMap, StatusCode};
use rand::{Rng, RngCore};
use std::borrow::Cow;
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
    /// A response with one of these, for `retriable-headers`.
    pub headers: Vec<HeaderMatch>,
    /// Only requests with one of these are ever repeated; empty: all.
    pub request_headers: Vec<HeaderMatch>,
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
    HEADERS = 13 => "retriable-headers",
    RATE_LIMITED = 14 => "envoy-ratelimited",
    // Of HTTP/3 upstreams, which there are none of.
    HTTP3 = 15 => "http3-post-connect-failure",
}

impl Conditions {
    /// Adds conditions.
    pub fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    const GRPC: Self =
        Self(Self::CANCELLED.0 | Self::DEADLINE_EXCEEDED.0 | Self::INTERNAL.0 | Self::RESOURCE_EXHAUSTED.0 | Self::UNAVAILABLE.0);

    fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// True if an attempt whose request was sent may be repeated, so that its body must be kept. An HTTP/2 endpoint refuses a stream when
    /// it likes, and part of the body is on its way by then.
    #[must_use]
    pub fn after_sending(self) -> bool {
        self.0 & !(Self::CONNECT_FAILURE.0 | Self::RESET_BEFORE_REQUEST.0 | Self::HTTP3.0) != 0
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
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
    /// A response with this status and these headers.
    Response(StatusCode, &'a HeaderMap),
}

impl RetryPolicy {
    /// True if such an attempt may be repeated. Counting attempts is the caller's.
    #[must_use]
    pub fn wants(&self, outcome: Outcome<'_>) -> bool {
        let on = |conditions| self.on.any(conditions);
        match outcome {
            Outcome::ConnectFailure => on(Conditions(
                Conditions::CONNECT_FAILURE.0
                    | Conditions::SERVER_ERROR.0
                    | Conditions::GATEWAY_ERROR.0
                    | Conditions::RESET.0
                    | Conditions::RESET_BEFORE_REQUEST.0,
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
            Outcome::Response(status, headers) => self.wants_response(status, headers),
        }
    }

    fn wants_response(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let on = |condition| self.on.any(condition);
        // The upstream's proxy says: not more of these.
        if headers.contains_key("x-envoy-ratelimited") {
            return on(Conditions::RATE_LIMITED);
        }
        let by_status = match status.as_u16() {
            502..=504 if on(Conditions::GATEWAY_ERROR) => true,
            500..=599 if on(Conditions::SERVER_ERROR) => true,
            409 if on(Conditions::RETRIABLE_4XX) => true,
            code => on(Conditions::STATUS_CODES) && self.status_codes.contains(&code),
        };
        let grpc = self.on.any(Conditions::GRPC).then(|| headers.get("grpc-status")).flatten();
        let by_grpc = match grpc.and_then(|status| status.to_str().ok()?.parse::<u32>().ok()) {
            Some(1) => on(Conditions::CANCELLED),
            Some(4) => on(Conditions::DEADLINE_EXCEEDED),
            Some(8) => on(Conditions::RESOURCE_EXHAUSTED),
            Some(13) => on(Conditions::INTERNAL),
            Some(14) => on(Conditions::UNAVAILABLE),
            _ => false,
        };
        by_status || by_grpc || (on(Conditions::HEADERS) && any_header(&self.headers, headers))
    }

    /// The route's policy and what a trusted client asks for on top of it. Takes the headers that ask.
    #[must_use]
    pub fn asked<'a>(route: Option<&'a Self>, request: &mut HeaderMap) -> Option<Cow<'a, Self>> {
        let mut take = |name: &str| request.remove(name).and_then(|value| value.to_str().map(str::to_owned).ok());
        let on = [take("x-envoy-retry-on"), take("x-envoy-retry-grpc-on")];
        let (most, codes) = (take("x-envoy-max-retries"), take("x-envoy-retriable-status-codes"));
        let names = take("x-envoy-retriable-header-names");
        take("x-envoy-hedge-on-per-try-timeout");
        let asks = on.iter().any(Option::is_some);
        let mut policy = match route {
            Some(route) => route.clone(),
            None if asks => Self::default(),
            None => return None,
        };
        for name in on.iter().flatten().flat_map(|list| list.split(',')) {
            policy.on.set(Conditions::parse(name.trim()).unwrap_or_default());
        }
        if let Some(most) = most.and_then(|most| most.trim().parse().ok()).filter(|_| policy.on != Conditions::default()) {
            policy.retries = most;
        }
        policy
            .status_codes
            .extend(codes.iter().flat_map(|list| list.split(',')).filter_map(|code| code.trim().parse::<u16>().ok()));
        for name in names.iter().flat_map(|list| list.split(',')).filter_map(|name| name.trim().parse().ok()) {
            let (key, test) = (HeaderKey::Name(name), HeaderTest::Present(true));
            policy.headers.push(HeaderMatch { key, test, invert: false, missing_is_empty: false });
        }
        Some(Cow::Owned(policy))
    }

    /// May this request be repeated at all?
    #[must_use]
    pub fn concerns(&self, request: &RequestView<'_>) -> bool {
        self.request_headers.is_empty() || self.request_headers.iter().any(|header| header.matches(request))
    }

    /// The pause before retry number `retry` (from 1): fully jittered in `[0, (2^retry - 1)·base)`, capped.
    pub fn pause(&self, retry: u32, rng: &mut dyn RngCore) -> Duration {
        let factor = 2_u32.saturating_pow(retry.min(20)) - 1;
        let most = self.base.saturating_mul(factor).min(self.max);
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        if micros == 0 { Duration::ZERO } else { Duration::from_micros(rng.random_range(0..micros)) }
    }
}

impl Default for RetryPolicy {
    /// Envoy's: on nothing, once.
    fn default() -> Self {
        Self {
            on: Conditions::default(),
            status_codes: Vec::new(),
            retries: 1,
            per_try_timeout: None,
            base: BASE,
            max: BASE * 10,
            other_host_attempts: 0,
            headers: Vec::new(),
            request_headers: Vec::new(),
        }
    }
}

fn any_header(tests: &[HeaderMatch], headers: &HeaderMap) -> bool {
    // A response has nothing but headers.
    let view = RequestView { method: "", authority: "", scheme: "", path: "", query: None, headers };
    tests.iter().any(|test| test.matches(&view))
}

#[cfg(test)]
mod tests;
