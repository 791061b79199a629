//! Precedence of hosts against a model, order of routes, shares of weights.

use super::*;
use crate::core::matching::{HeaderKey, HeaderTest, Pattern};
use http::HeaderMap;
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::collections::BTreeMap;

fn prefix(text: &str) -> When {
    let path = PathMatch::String(StringMatch::new(Pattern::Prefix(text.to_owned())));
    When { path, headers: Vec::new(), query: Vec::new(), source_labels: Vec::new(), source_namespaces: Vec::new(), share: None }
}

fn route(name: &str, when: When) -> Route {
    let action = Action::Respond(StatusCode::OK, Bytes::new());
    Route { name: name.into(), when, action, fault: None, cors: None, response: Vec::new() }
}

fn host(domains: &[String], routes: Vec<Route>) -> VirtualHost {
    VirtualHost { name: domains.join(" "), domains: domains.to_vec(), routes, attempt_count: false, require_tls: false }
}

fn view<'a>(authority: &'a str, path: &'a str, headers: &'a HeaderMap) -> RequestView<'a> {
    RequestView { method: "GET", authority, scheme: "http", path, query: None, headers }
}

/// Which domain an authority selects in a table of one host per domain.
fn selected(domains: &[String], authority: &str) -> Option<String> {
    selected_by(Ports::Ignored, domains, authority)
}

fn selected_by(ports: Ports, domains: &[String], authority: &str) -> Option<String> {
    let hosts = domains.iter().map(|domain| host(std::slice::from_ref(domain), vec![route("r", prefix("/"))])).collect();
    let table = RouteTable::new("t".to_owned(), hosts, ports).expect("distinct");
    let headers = HeaderMap::new();
    table.find(&view(authority, "/", &headers), &BTreeMap::new(), 0).map(|(host, _)| host.name.clone())
}

#[test]
fn exact_beats_suffix_beats_prefix_beats_star() {
    let all = ["*", "www*", "www.*", "*.com", "*.foo.com", "www.foo.com"].map(str::to_owned);
    for (authority, expected) in [
        ("www.foo.com", "www.foo.com"),
        ("WWW.Foo.com:8080", "www.foo.com"),
        ("a.foo.com", "*.foo.com"),
        ("foo.com", "*.com"),
        ("www.x.org:80", "www.*"),
        ("wwwx.org", "www*"),
        ("x.org", "*"),
    ] {
        assert_eq!(selected(&all, authority).as_deref(), Some(expected), "{authority}");
    }
    assert_eq!(selected(&all[4..5], "foo.com"), None);
    let with_port = ["reviews:9080".to_owned(), "*.com".to_owned()];
    for (authority, expected) in
        [("reviews:9080", Some("reviews:9080")), ("reviews", None), ("a.com", Some("*.com")), ("a.com:80", None)]
    {
        assert_eq!(selected_by(Ports::Matter, &with_port, authority).as_deref(), expected, "{authority}");
    }
    assert_eq!(selected(&with_port, "reviews:9080"), None, "the port is cut off first, as in Envoy");
}

proptest! {
    /// The rank of a domain for a host is a total order; the index must return its maximum, in whatever order the domains come.
    #[test]
    fn the_index_agrees_with_the_order(
        domains in proptest::collection::btree_set(r"\*|\*[ab.]{1,4}|[ab.]{1,4}\*|[ab.]{1,4}", 1..8),
        authority in "[ab.]{1,5}",
    ) {
        let rank = |domain: &String| -> Option<(u8, usize)> {
            let n = domain.len();
            if *domain == authority { return Some((3, 0)); }
            if domain == "*" { return Some((0, 0)); }
            if n > authority.len() { return None; }
            if let Some(suffix) = domain.strip_prefix('*') { return authority.ends_with(suffix).then_some((2, n)); }
            if let Some(start) = domain.strip_suffix('*') { return authority.starts_with(start).then_some((1, n)); }
            None
        };
        let best = domains.iter().filter(|d| rank(d).is_some()).max_by_key(|d| rank(d)).cloned();
        let domains: Vec<_> = domains.into_iter().collect();
        prop_assert_eq!(selected(&domains, &authority), best.clone());
        let reversed: Vec<_> = domains.into_iter().rev().collect();
        prop_assert_eq!(selected(&reversed, &authority), best);
    }
}

#[test]
fn the_first_route_that_holds_wins() {
    let jason = HeaderMatch {
        key: HeaderKey::Name(http::HeaderName::from_static("end-user")),
        test: HeaderTest::Value(StringMatch::new(Pattern::Exact("jason".to_owned()))),
        invert: false,
        missing_is_empty: false,
    };
    let routes = vec![
        route("jason", When { headers: vec![jason], ..prefix("/") }),
        route("curl", When { source_labels: vec![("app".to_owned(), "curl".to_owned())], ..prefix("/") }),
        route("api", When { path: PathMatch::Segments("/api".to_owned(), false), ..prefix("/") }),
        route("rest", prefix("/")),
    ];
    let table = RouteTable::new("t".to_owned(), vec![host(&["*".to_owned()], routes)], Ports::Ignored).expect("distinct");
    let none = HeaderMap::new();
    let jason = HeaderMap::from_iter([(http::HeaderName::from_static("end-user"), HeaderValue::from_static("jason"))]);
    let curl = BTreeMap::from([("app".to_owned(), "curl".to_owned())]);
    for (path, headers, labels, expected) in [
        ("/api", &jason, BTreeMap::new(), "jason"),
        ("/api", &none, curl, "curl"),
        ("/api/x", &none, BTreeMap::new(), "api"),
        ("/apix", &none, BTreeMap::new(), "rest"),
    ] {
        let (_, route) = table.find(&view("h", path, headers), &labels, 0).expect("some");
        assert_eq!(&*route.name, expected, "{path}");
    }
}

#[test]
fn weights_hold_within_four_standard_deviations() {
    let target = |name: &str, weight| Target {
        cluster: name.into(),
        weight,
        host: None,
        fault: None,
        cors: None,
        request: Vec::new(),
        response: Vec::new(),
    };
    let weights = [1_u32, 3, 0, 96];
    let targets = weights.iter().enumerate().map(|(n, weight)| target(&n.to_string(), *weight)).collect();
    let forward = Forward {
        targets,
        timeouts: Timeouts::default(),
        idle_timeout: None,
        retry: None,
        path: None,
        host: None,
        append_forwarded_host: false,
        hash: Vec::new(),
        mirrors: Vec::new(),
        upgrades: Vec::new(),
        connect: false,
    };
    let mut rng = SmallRng::seed_from_u64(5);
    let mut seen = [0_u32; 4];
    for _ in 0..100_000 {
        seen[forward.choose(&mut rng).cluster.parse::<usize>().expect("number")] += 1;
    }
    for (weight, seen) in weights.iter().zip(seen) {
        let p = f64::from(*weight) / 100.0;
        let error = 4.0 * (100_000.0 * p * (1.0 - p)).sqrt();
        assert!((f64::from(seen) - 100_000.0 * p).abs() <= error, "{weight}: {seen}");
    }
}

#[test]
fn fractions_of_requests_hold_within_four_standard_deviations() {
    let headers = HeaderMap::new();
    let request = view("h", "/", &headers);
    for (numerator, denominator) in [(0, 100), (30, 100), (50, 100), (77, 10_000), (1234, 1_000_000), (100, 100)] {
        let part = |name| route(name, When { share: Some(PerMillion::new(numerator, denominator)), ..prefix("/") });
        let routes = vec![part("part"), part("again"), route("rest", prefix("/"))];
        let table = RouteTable::new("t".to_owned(), vec![host(&["*".to_owned()], routes)], Ports::Ignored).expect("distinct");
        let mut rng = SmallRng::seed_from_u64(11);
        let mut seen = BTreeMap::<String, u32>::new();
        for _ in 0..100_000 {
            let (_, route) = table.find(&request, &BTreeMap::new(), rng.random()).expect("some");
            *seen.entry(route.name.to_string()).or_default() += 1;
        }
        let p = f64::from(numerator) / f64::from(denominator);
        let error = 4.0 * (100_000.0 * p * (1.0 - p)).sqrt();
        let taken = f64::from(seen.get("part").copied().unwrap_or_default());
        assert!((taken - 100_000.0 * p).abs() <= error, "{numerator}/{denominator}: {seen:?}");
        assert_eq!(seen.get("again"), None, "the dice are thrown once for all routes");
    }
}

#[test]
fn shares_namespaces_and_connect() {
    let in_blue = When { source_namespaces: vec!["blue".to_owned()], ..prefix("/") };
    let half = When { share: Some(PerMillion::new(50, 100)), ..prefix("/") };
    let connect = When { path: PathMatch::Connect, ..prefix("/") };
    let routes = vec![route("blue", in_blue), route("half", half), route("connect", connect), route("rest", prefix("/"))];
    let table = RouteTable::new("t".to_owned(), vec![host(&["*".to_owned()], routes)], Ports::Ignored).expect("distinct");
    let headers = HeaderMap::new();
    let blue = BTreeMap::from([("istio.io/namespace".to_owned(), "blue".to_owned())]);
    let get = view("h", "/", &headers);
    let found = |request: &RequestView<'_>, labels: &BTreeMap<_, _>, dice| {
        table.find(request, labels, dice).map(|(_, route)| &*route.name)
    };
    assert_eq!(found(&get, &blue, 0), Some("blue"));
    assert_eq!(found(&get, &BTreeMap::new(), 499_999), Some("half"));
    assert_eq!(found(&get, &BTreeMap::new(), 1_500_000), Some("rest"));
    assert_eq!(found(&RequestView { method: "CONNECT", path: "", ..get }, &BTreeMap::new(), 0), Some("connect"));
    assert!(PathMatch::Segments("/API".to_owned(), true).matches("/api/x"));
}
