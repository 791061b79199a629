//! What is repeated, and what is not.

use super::*;
use http::{HeaderName, HeaderValue};
use rand::{SeedableRng, rngs::SmallRng};

fn name(text: &'static str) -> HeaderName {
    HeaderName::from_static(text)
}

fn value(text: &'static str) -> HeaderValue {
    HeaderValue::from_static(text)
}

fn policy(on: &str) -> RetryPolicy {
    let mut conditions = Conditions::default();
    for name in on.split(',') {
        conditions.set(Conditions::parse(name).expect("known"));
    }
    RetryPolicy { on: conditions, retries: 2, other_host_attempts: 5, ..RetryPolicy::default() }
}

#[test]
fn the_meshs_default_retries_what_never_reached_a_server() {
    let none = HeaderMap::new();
    let grpc = |status: &'static str| HeaderMap::from_iter([(name("grpc-status"), value(status))]);
    let (unavailable, internal) = (grpc("14"), grpc("13"));
    let default = policy("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes");
    for (outcome, expected) in [
        (Outcome::ConnectFailure, true),
        (Outcome::Refused, true),
        (Outcome::Reset { before_request: true, safe: false }, false),
        (Outcome::Reset { before_request: false, safe: false }, false),
        (Outcome::Reset { before_request: false, safe: true }, true),
        (Outcome::PerTryTimeout, false),
        (Outcome::Response(StatusCode::SERVICE_UNAVAILABLE, &none), false),
        (Outcome::Response(StatusCode::OK, &unavailable), true),
        (Outcome::Response(StatusCode::OK, &internal), false),
    ] {
        assert_eq!(default.wants(outcome), expected, "{outcome:?}");
    }
}

#[test]
fn conditions_mean_what_envoys_mean() {
    let none = HeaderMap::new();
    let status = |code: u16| Outcome::Response(StatusCode::from_u16(code).expect("valid"), &none);
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
        ("reset-before-request", Outcome::ConnectFailure, true),
        ("envoy-ratelimited", status(429), false),
        ("http3-post-connect-failure", Outcome::ConnectFailure, false),
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

#[test]
fn headers_of_the_response_ask_for_a_retry_or_forbid_it() {
    let limited = HeaderMap::from_iter([(name("x-envoy-ratelimited"), value("true"))]);
    let busy = Outcome::Response(StatusCode::SERVICE_UNAVAILABLE, &limited);
    assert!(!policy("5xx,gateway-error").wants(busy), "the upstream wants no more");
    assert!(policy("envoy-ratelimited").wants(busy));
    let key = HeaderKey::Name(name("x-again"));
    let again = HeaderMatch { key, test: HeaderTest::Present(true), invert: false, missing_is_empty: false };
    let by_header = RetryPolicy { headers: vec![again], ..policy("retriable-headers") };
    let asks = HeaderMap::from_iter([(name("x-again"), value("1"))]);
    assert!(by_header.wants(Outcome::Response(StatusCode::OK, &asks)));
    assert!(!by_header.wants(Outcome::Response(StatusCode::OK, &HeaderMap::new())));
    assert!(!RetryPolicy { on: Conditions::default(), ..by_header }.wants(Outcome::Response(StatusCode::OK, &asks)));
}

#[test]
fn a_client_adds_to_the_routes_policy() {
    let asked = |route: Option<&RetryPolicy>, given: &[(&'static str, &'static str)]| {
        let mut headers: HeaderMap = given.iter().map(|(n, v)| (name(n), value(v))).collect();
        let policy = RetryPolicy::asked(route, &mut headers).map(Cow::into_owned);
        assert!(headers.is_empty(), "what asks is taken: {headers:?}");
        policy
    };
    assert!(asked(None, &[("x-envoy-max-retries", "3")]).is_none(), "of what?");
    let none = HeaderMap::new();
    let bad = Outcome::Response(StatusCode::BAD_GATEWAY, &none);
    let given = [("x-envoy-retry-on", "gateway-error, unknown"), ("x-envoy-max-retries", "3")];
    let alone = asked(None, &given).expect("asked");
    assert!(alone.wants(bad) && alone.retries == 3);
    let route = policy("connect-failure");
    let both = asked(Some(&route), &given).expect("some");
    assert!(both.wants(bad) && both.wants(Outcome::ConnectFailure) && both.retries == 3 && both.other_host_attempts == 5);
    let codes = [("x-envoy-retry-on", "retriable-status-codes"), ("x-envoy-retriable-status-codes", "418, 502")];
    assert!(asked(Some(&route), &codes).expect("some").wants(bad));
    let names = [("x-envoy-retry-on", "retriable-headers"), ("x-envoy-retriable-header-names", "x-a, x-b")];
    let marked = HeaderMap::from_iter([(name("x-b"), value(""))]);
    assert!(asked(None, &names).expect("some").wants(Outcome::Response(StatusCode::OK, &marked)));
    let grpc = HeaderMap::from_iter([(name("grpc-status"), value("1"))]);
    assert!(
        asked(None, &[("x-envoy-retry-grpc-on", "cancelled")]).expect("some").wants(Outcome::Response(StatusCode::OK, &grpc))
    );
}

#[test]
fn only_requests_that_the_policy_names_are_repeated() {
    let key = HeaderKey::Method;
    let test =
        HeaderTest::Value(super::super::matching::StringMatch::new(super::super::matching::Pattern::Exact("GET".to_owned())));
    let gets = HeaderMatch { key, test, invert: false, missing_is_empty: false };
    let policy = RetryPolicy { request_headers: vec![gets], ..policy("5xx") };
    let headers = HeaderMap::new();
    let view = |method| RequestView { method, authority: "h", scheme: "http", path: "/", query: None, headers: &headers };
    assert!(policy.concerns(&view("GET")) && !policy.concerns(&view("POST")));
}
