//! Requests from elsewhere (CORS), and copies of requests (mirrors).

use super::raw::{Raw, Stage};
use super::world::{Backend, World, action, any, filter, to};
use super::{V1, V2};
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::{Cors, CorsPolicy};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use http_body_util::Full;
use hyper::Request;
use std::sync::atomic::Ordering;

const ORIGIN: &str = "https://shop.example";

#[tokio::test]
async fn a_preflight_is_answered_here_and_a_real_answer_says_who_may_read_it() {
    let backend = Backend::new("v1").await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[backend.address]);
    let origin = StringMatcher { match_pattern: Some(MatchPattern::Exact(ORIGIN.to_owned())), ignore_case: false };
    let policy = CorsPolicy {
        allow_origin_string_match: vec![origin],
        allow_methods: "GET,POST".to_owned(),
        allow_headers: "x-shop".to_owned(),
        expose_headers: "x-stock".to_owned(),
        max_age: "86400".to_owned(),
        ..Default::default()
    };
    let mut route = to("/", action(V1));
    route.typed_per_filter_config.insert("envoy.filters.http.cors".to_owned(), any(&policy));
    world.routes_with(vec![route], |manager| {
        manager.http_filters.insert(0, filter("envoy.filters.http.cors", any(&Cors::default())));
    });
    let mut client = world.client().await;
    let mut ask = async |origin: &'static str, preflight: bool| {
        let request =
            if preflight { Request::options("/").header("access-control-request-method", "POST") } else { Request::get("/") };
        client.send(request.header("host", "reviews").header("origin", origin).body(Full::default()).expect("valid")).await
    };
    let answer = ask(ORIGIN, true).await;
    assert_eq!((answer.status, &*answer.body), (200, ""));
    for (name, value) in [("origin", ORIGIN), ("methods", "GET,POST"), ("headers", "x-shop")] {
        assert_eq!(answer.headers[format!("access-control-allow-{name}")], value);
    }
    assert_eq!(answer.headers["access-control-max-age"], "86400");
    assert_eq!(backend.connections.load(Ordering::SeqCst), 0, "the endpoint was not asked");
    let answer = ask(ORIGIN, false).await;
    assert!(answer.body.starts_with("v1 GET "));
    assert_eq!(
        (&answer.headers["access-control-allow-origin"], &answer.headers["access-control-expose-headers"]),
        (&ORIGIN.parse().expect("a value"), &"x-stock".parse().expect("a value"))
    );
    // Somebody else: passed on, and nothing is promised.
    for preflight in [true, false] {
        let answer = ask("https://evil.example", preflight).await;
        assert!(answer.body.starts_with("v1 "), "{}", answer.body);
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
    }
}

fn mirrored(world: &mut World) {
    let mirror = route::route_action::RequestMirrorPolicy { cluster: V2.to_owned(), ..Default::default() };
    world.routes(vec![to("/", route::RouteAction { request_mirror_policies: vec![mirror], ..action(V1) })]);
}

fn post(body: &'static str) -> Request<Full<bytes::Bytes>> {
    Request::post("/x?y=z").header("host", "reviews:9080").header("x", "1").body(Full::from(body)).expect("valid")
}

#[tokio::test]
async fn a_copy_has_the_whole_request_and_says_what_it_is() {
    let backend = Backend::new("v1").await;
    let (stage, address) = Stage::new().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[backend.address]);
    world.cluster(V2, &[address]);
    mirrored(&mut world);
    let mut client = world.client().await;
    let answer = client.send(post("hello")).await;
    assert_eq!((answer.status, &*answer.body), (200, "v1 POST /x?y=z host=reviews:9080 x=1 body=5"));
    // The mirror has not answered, and is not waited for.
    let mut mirror = stage.next().await;
    let head = mirror.head().await;
    assert!(head.starts_with("post /x?y=z http/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nhost: reviews-shadow:9080\r\n") && head.contains("\r\nx: 1\r\n"), "{head}");
    assert_eq!(mirror.bytes(5).await, b"hello");
    // What it answers is nobody's.
    mirror.say("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 3\r\nset-cookie: a=b\r\n\r\nbad").await;
    let answer = client.get("/", &[]).await;
    assert!(answer.status == 200 && !answer.headers.contains_key("set-cookie"));
    assert!(mirror.head().await.starts_with("get / http/1.1\r\n"), "its connection is used again");
}

#[tokio::test]
async fn a_mirror_that_hangs_or_is_down_is_not_noticed() {
    let backend = Backend::new("v1").await;
    let (stage, hanging) = Stage::new().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[backend.address]);
    for (address, lost) in [(hanging, false), (super::refusing(), true)] {
        world.cluster(V2, &[address]);
        mirrored(&mut world);
        let mut client = world.client().await;
        for _ in 0..20 {
            let answer = client.send(post("hello")).await;
            assert_eq!((answer.status, &*answer.body), (200, "v1 POST /x?y=z host=reviews:9080 x=1 body=5"));
        }
        if !lost {
            drop(stage.next().await);
            continue;
        }
        world.counted("mesh_proxy_mirrors_lost_total{reason=\"mirror_failed\"}").await;
    }
}

#[tokio::test]
async fn an_unfinished_request_has_no_copy() {
    let (endpoint, address) = Stage::new().await;
    let (stage, mirror) = Stage::new().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[address]);
    world.cluster(V2, &[mirror]);
    mirrored(&mut world);
    let mut client = Raw::to(world.port).await;
    client.say("POST /begun HTTP/1.1\r\nhost: reviews\r\ncontent-length: 5\r\n\r\nhe").await;
    let mut begun = endpoint.next().await;
    begun.head().await;
    begun.bytes(2).await;
    drop(client);
    assert_eq!(begun.rest().await, "", "the endpoint is told");
    // The first that the mirror hears of is the next request.
    let mut client = Raw::to(world.port).await;
    client.say("GET /whole HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    assert!(stage.next().await.head().await.starts_with("get /whole "));
}
