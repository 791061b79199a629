//! How long a request and each attempt may take: the route's word, gRPC's own header, and what trusted clients ask for by `x-envoy-` headers.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use std::time::Duration;

const TOTAL: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What a route says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Timeouts {
    /// For the whole request; `None`: as long as it takes.
    pub total: Option<Duration>,
    /// gRPC requests go by their own `grpc-timeout`, up to this (`Some(None)`: whatever it says); `None`: they are as others.
    pub grpc: Option<Option<Duration>>,
}

/// What holds for a request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Limits {
    /// For all attempts and the response's body.
    pub total: Option<Duration>,
    /// For each attempt.
    pub per_try: Option<Duration>,
}

/// Is it gRPC?
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let rest = headers.get(header::CONTENT_TYPE).and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"));
    rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'+' || rest[0] == b';')
}

impl Timeouts {
    /// Decides, takes the headers that ask, and tells the upstream what it may expect. `envoy`: there are `x-envoy-` headers at all.
    pub fn settle(&self, headers: &mut HeaderMap, per_try: Option<Duration>, envoy: bool) -> Limits {
        let own = self.grpc.filter(|_| is_grpc(headers));
        let total = match own {
            Some(most) => match (headers.get(GRPC_TIMEOUT).and_then(grpc_timeout), most) {
                (Some(asked), Some(most)) => Some(asked.min(most)),
                (asked, most) => asked.or(most),
            },
            None => self.total,
        };
        let asked = |headers: &mut HeaderMap, name| headers.remove(name).and_then(|value| millis(&value)).filter(|_| envoy);
        let (mut limits, zero) = (Limits { total, per_try }, Duration::ZERO);
        if envoy {
            // 0 means: no limit.
            limits.total = asked(headers, TOTAL).map_or(limits.total, |limit| Some(limit).filter(|limit| *limit != zero));
            limits.per_try = asked(headers, PER_TRY).map_or(limits.per_try, |limit| Some(limit).filter(|limit| *limit != zero));
        }
        if limits.total.is_some_and(|total| limits.per_try.is_some_and(|per_try| per_try >= total)) {
            limits.per_try = None;
        }
        if let Some(expected) = limits.per_try.or(limits.total) {
            let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
            headers.insert(EXPECTED, millis.into());
            if own.is_some() {
                headers.insert(GRPC_TIMEOUT, grpc_header(millis));
            }
        }
        limits
    }
}

fn millis(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

/// Up to eight digits and a unit.
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 3600),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

/// The smallest unit that leaves eight digits.
fn grpc_header(millis: u64) -> HeaderValue {
    let (mut n, mut unit) = (millis, "m");
    for (next, factor) in [("S", 1000), ("M", 60), ("H", 60)] {
        if n <= 99_999_999 {
            break;
        }
        (n, unit) = (n / factor, next);
    }
    HeaderValue::try_from(format!("{}{unit}", n.min(99_999_999))).unwrap_or_else(|_never| HeaderValue::from_static("99999999H"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(timeouts: Timeouts, headers: &[(&'static str, &'static str)]) -> (Option<u64>, Option<u64>, String, String) {
        let mut map: HeaderMap =
            headers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
        let limits = timeouts.settle(&mut map, Some(Duration::from_millis(500)), true);
        let ms = |limit: Option<Duration>| limit.map(|limit| u64::try_from(limit.as_millis()).expect("short"));
        let text = |name: HeaderName| map.get(name).map_or("-", |value| value.to_str().expect("text")).to_owned();
        assert!(!map.contains_key(TOTAL) && !map.contains_key(PER_TRY), "what asks is taken");
        (ms(limits.total), ms(limits.per_try), text(EXPECTED), text(GRPC_TIMEOUT))
    }

    #[test]
    fn the_client_may_ask_and_the_upstream_is_told() {
        let route = Timeouts { total: Some(Duration::from_secs(2)), grpc: None };
        let told = |total, per_try, expected: &str| (total, per_try, expected.to_owned(), "-".to_owned());
        assert_eq!(settle(route, &[]), told(Some(2000), Some(500), "500"));
        assert_eq!(settle(route, &[("x-envoy-upstream-rq-timeout-ms", "300")]), told(Some(300), None, "300"));
        assert_eq!(settle(route, &[("x-envoy-upstream-rq-timeout-ms", "0")]), told(None, Some(500), "500"));
        assert_eq!(settle(route, &[("x-envoy-upstream-rq-timeout-ms", "x")]), told(Some(2000), Some(500), "500"));
        assert_eq!(settle(route, &[("x-envoy-upstream-rq-per-try-timeout-ms", "20")]), told(Some(2000), Some(20), "20"));
    }

    #[test]
    fn grpc_goes_by_its_own_header_up_to_the_routes_limit() {
        let grpc = ("content-type", "application/grpc+proto");
        let route = |most| Timeouts { total: Some(Duration::from_secs(9)), grpc: Some(most) };
        let two = Some(Duration::from_secs(2));
        assert_eq!(settle(route(two), &[grpc]).0, Some(2000));
        assert_eq!(settle(route(two), &[grpc, ("grpc-timeout", "1S")]), (Some(1000), Some(500), "500".into(), "500m".into()));
        assert_eq!(settle(route(two), &[grpc, ("grpc-timeout", "1H")]).0, Some(2000));
        assert_eq!(settle(route(None), &[grpc, ("grpc-timeout", "1H")]).0, Some(3_600_000));
        assert_eq!(settle(route(None), &[grpc]).0, None, "as long as the client waits");
        assert_eq!(settle(route(two), &[("content-type", "application/grpcx")]).0, Some(9000));
        assert_eq!(grpc_header(100_000_000), "100000S");
    }
}
