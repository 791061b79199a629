//! The whole path of a request in one process: brokered sockets, Envoy's resources, a client, backends.

#![expect(unreachable_pub, reason = "the harness is a module of a test, not of a library")]

#[path = "path/admin.rs"]
mod admin;
#[path = "path/clients.rs"]
mod clients;
#[path = "path/connection.rs"]
mod connection;
#[path = "path/copies.rs"]
mod copies;
#[path = "path/expect.rs"]
mod expect;
#[path = "path/gateway.rs"]
mod gateway;
#[path = "path/h2.rs"]
mod h2;
#[path = "path/h2c.rs"]
mod h2c;
#[path = "path/http1.rs"]
mod http1;
#[path = "path/link.rs"]
mod link;
#[path = "path/outlier.rs"]
mod outlier;
#[path = "path/pool.rs"]
mod pool;
#[path = "path/raw.rs"]
mod raw;
#[path = "path/restart.rs"]
mod restart;
#[path = "path/sds.rs"]
mod sds;
#[path = "path/spread.rs"]
mod spread;
#[path = "path/streams.rs"]
mod streams;
#[path = "path/telemetry.rs"]
mod telemetry;
#[path = "path/tls.rs"]
mod tls;
#[path = "path/transfer.rs"]
mod transfer;
#[path = "path/tunnel.rs"]
mod tunnel;
#[path = "path/upgrade.rs"]
mod upgrade;
#[path = "path/world.rs"]
mod world;

use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::google::protobuf::{Duration as ProtoDuration, UInt32Value};
use http_body_util::Full;
use hyper::Request;
use mesh_xds::names;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use world::{Backend, World, action, any, http_listener, network_listener, prefix, to};

const V1: &str = "outbound|9080|v1|reviews.marathon.l4lb.thisdcos.directory";
const V2: &str = "outbound|9080|v2|reviews.marathon.l4lb.thisdcos.directory";

fn percent(numerator: u32) -> Option<FractionalPercent> {
    Some(FractionalPercent { numerator, denominator: 0 })
}

fn end_user(text: &str) -> route::HeaderMatcher {
    use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern::Exact};
    use route::header_matcher::HeaderMatchSpecifier::StringMatch;
    let exact = StringMatch(StringMatcher { match_pattern: Some(Exact(text.to_owned())), ignore_case: false });
    route::HeaderMatcher { name: "end-user".to_owned(), header_match_specifier: Some(exact), ..Default::default() }
}

fn with_fault(mut route: route::Route, fault: &HttpFault) -> route::Route {
    route.typed_per_filter_config.insert("envoy.filters.http.fault".to_owned(), any(fault));
    route
}

fn retries(on: &str) -> Option<route::RetryPolicy> {
    Some(route::RetryPolicy { retry_on: on.to_owned(), num_retries: Some(UInt32Value { value: 2 }), ..Default::default() })
}

/// An address that refuses connections.
fn refusing() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("address")
}

#[tokio::test]
async fn requests_are_routed_by_header_over_one_kept_alive_connection() {
    let (v1, v2) = (Backend::new("v1").await, Backend::new("v2").await);
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[v1.address]);
    world.cluster(V2, &[v2.address]);
    let mut jason = to("/", action(V2));
    jason.r#match = Some(route::RouteMatch { headers: vec![end_user("jason")], ..prefix("/") });
    world.routes(vec![jason, to("/", action(V1))]);
    let mut client = world.client().await;
    for _ in 0..3 {
        let answer = client.get("/reviews/0?a=b", &[("connection", "x-hop"), ("x-hop", "1")]).await;
        assert_eq!((answer.status, &*answer.body), (200, "v1 GET /reviews/0?a=b host=reviews:9080 x=- body=0"));
        assert_eq!(answer.headers["server"], "envoy");
        assert!(answer.headers.contains_key("x-envoy-upstream-service-time"));
        assert!(client.get("/", &[("end-user", "jason")]).await.body.starts_with("v2 "));
    }
    assert_eq!(v1.connections.load(Ordering::SeqCst), 1, "the upstream connection is reused");
    let metrics = world.shared.metrics.encode(&world.shared.telemetry);
    let count = metrics.lines().find(|line| line.starts_with("istio_requests_total") && line.contains("reporter=\"source\""));
    let count = count.expect("counted");
    assert!(
        count.ends_with(" 6")
            && count.contains("destination_service_name=\"reviews\"")
            && count.contains("source_app=\"productpage\"")
            && count.contains("response_code=\"200\""),
        "{count}"
    );
}

#[tokio::test]
async fn round_robin_takes_exact_turns_over_the_endpoints() {
    let backends = [Backend::new("a").await, Backend::new("b").await, Backend::new("c").await];
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &backends.each_ref().map(|backend| backend.address));
    world.routes(vec![to("/", action(V1))]);
    let mut client = world.client().await;
    let mut seen = String::new();
    for _ in 0..9 {
        seen.push_str(&client.get("/", &[]).await.body[..1]);
    }
    assert!("abcabcabcabc".contains(&seen), "{seen}");
}

#[tokio::test]
async fn faults_delay_and_abort() {
    let v1 = Backend::new("v1").await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[v1.address]);
    let abort =
        FaultAbort { percentage: percent(100), error_type: Some(fault_abort::ErrorType::HttpStatus(555)), ..Default::default() };
    let after = fault_delay::FaultDelaySecifier::FixedDelay(ProtoDuration { seconds: 0, nanos: 300_000_000 });
    let delay = FaultDelay { percentage: percent(100), fault_delay_secifier: Some(after) };
    world.routes(vec![
        with_fault(to("/abort", action(V1)), &HttpFault { abort: Some(abort), ..Default::default() }),
        with_fault(to("/", action(V1)), &HttpFault { delay: Some(delay), ..Default::default() }),
    ]);
    let mut client = world.client().await;
    let answer = client.get("/abort", &[]).await;
    assert_eq!((answer.status, &*answer.body), (555, "fault filter abort"));
    let began = Instant::now();
    assert_eq!(client.get("/", &[]).await.status, 200);
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test]
async fn answers_without_an_upstream_are_envoys() {
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[refusing()]);
    world.cluster(V2, &[]);
    let direct = route::DirectResponseAction { status: 418, ..Default::default() };
    let direct = route::Route {
        r#match: Some(prefix("/direct")),
        action: Some(route::route::Action::DirectResponse(direct)),
        ..Default::default()
    };
    let retried = route::RouteAction { retry_policy: retries("connect-failure"), ..action(V1) };
    world.routes(vec![
        direct,
        to("/refused", action(V1)),
        to("/retried", retried),
        to("/nobody", action(V2)),
        to("/nowhere", action("outbound|1||x")),
    ]);
    let mut client = world.client().await;
    for (path, status, body) in [
        ("/direct", 418, ""),
        ("/other", 404, ""),
        ("/nowhere", 503, ""),
        ("/nobody", 503, "no healthy upstream"),
        ("/refused", 503, "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure"),
        (
            "/retried",
            503,
            "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote connection failure",
        ),
    ] {
        let answer = client.get(path, &[]).await;
        assert_eq!((answer.status, &*answer.body), (status, body), "{path}");
    }
    let metrics = world.shared.metrics.encode(&world.shared.telemetry);
    for flags in ["NR", "NC", "UH", "UF", "UF,URX"] {
        assert!(metrics.contains(&format!("response_flags=\"{flags}\"")), "{flags}: {metrics}");
    }
}

#[tokio::test]
async fn a_refused_connection_and_a_bad_status_are_retried_on_another_endpoint() {
    let good = Backend::new("good").await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[refusing(), good.address]);
    world.cluster(V2, &[good.address]);
    let retried = route::RouteAction { retry_policy: retries("connect-failure"), ..action(V1) };
    let busy = route::RouteAction { retry_policy: retries("5xx"), ..action(V2) };
    world.routes(vec![to("/busy", busy), to("/", retried)]);
    let mut client = world.client().await;
    for _ in 0..4 {
        let request = Request::post("/x").header("host", "reviews").body(Full::from("hello")).expect("valid");
        let answer = client.send(request).await;
        assert_eq!((answer.status, &*answer.body), (200, "good POST /x host=reviews x=- body=5"));
    }
    let before = world.shared.metrics.retries.get();
    assert!(before >= 2, "every other turn begins at the endpoint that refuses");
    let request = Request::post("/busy").header("host", "reviews").body(Full::from("hello")).expect("valid");
    let answer = client.send(request).await;
    assert_eq!(
        (answer.status, &*answer.body),
        (503, "good POST /busy host=reviews x=- body=5"),
        "the last answer, with its whole body"
    );
    assert_eq!(world.shared.metrics.retries.get() - before, 2);
}

#[tokio::test]
async fn an_idle_connection_that_breaks_is_no_failure_of_a_safe_request() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[listener.local_addr().expect("address")]);
    world.routes(vec![to("/", action(V1))]);
    // Answers the first request of each connection and hangs up on the second.
    let server = tokio::spawn(async move {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut buffer = [0; 4096];
            assert!(stream.read(&mut buffer).await.expect("request") > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("answer");
            assert!(stream.read(&mut buffer).await.expect("request") > 0, "the connection is used again");
        }
    });
    let mut client = world.client().await;
    assert_eq!(client.get("/", &[]).await.body, "ok");
    assert_eq!(client.get("/", &[]).await.body, "ok", "sent again, on a fresh connection");
    let request = Request::post("/").header("host", "reviews").body(Full::from("once")).expect("valid");
    let answer = client.send(request).await;
    let body = "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
    assert_eq!((answer.status, &*answer.body), (503, body), "a POST is not sent twice");
    server.await.expect("server");
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served_on_the_same_port() {
    let v1 = Backend::new("v1").await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[v1.address]);
    world.routes(vec![to("/", action(V1))]);
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", world.port)).await.expect("connect");
    let executor = hyper_util::rt::TokioExecutor::new();
    let handshake = hyper::client::conn::http2::handshake(executor, hyper_util::rt::TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.expect("handshake");
    tokio::spawn(connection);
    for _ in 0..2 {
        let request = Request::post("http://reviews:9080/x").body(Full::<bytes::Bytes>::from("hello")).expect("valid");
        let response = sender.send_request(request).await.expect("response");
        assert_eq!((response.status().as_u16(), &response.headers()["server"]), (200, &http::HeaderValue::from_static("envoy")));
        let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("body").to_bytes();
        assert_eq!(body, "v1 POST /x host=reviews:9080 x=- body=5");
    }
}

#[tokio::test]
async fn a_route_may_time_out() {
    let v1 = Backend::new("v1").await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[v1.address]);
    let timeout = Some(ProtoDuration { seconds: 0, nanos: 100_000_000 });
    world.routes(vec![to("/", route::RouteAction { timeout, ..action(V1) })]);
    let mut client = world.client().await;
    let answer = client.get("/never", &[]).await;
    assert_eq!((answer.status, &*answer.body), (504, "upstream request timeout"));
    assert_eq!(client.get("/", &[]).await.status, 200, "the client's connection goes on");
}

#[tokio::test]
async fn a_new_configuration_counts_from_the_next_request_on_the_same_connection() {
    let (v1, v2) = (Backend::new("v1").await, Backend::new("v2").await);
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[v1.address]);
    world.cluster(V2, &[v2.address]);
    world.routes(vec![to("/", action(V1))]);
    let mut client = world.client().await;
    assert!(client.get("/", &[]).await.body.starts_with("v1 "));
    world.routes(vec![to("/", action(V2))]);
    assert!(client.get("/", &[]).await.body.starts_with("v2 "));
    world.cluster(V2, &[v1.address]);
    assert!(client.get("/", &[]).await.body.starts_with("v1 "), "endpoints too");
    let mut bad = http_listener(world.port);
    bad.enable_mptcp = true;
    let complaints = world.deliver(names::LISTENER, &[("0.0.0.0_x", bad)]);
    assert_eq!(complaints, ["0.0.0.0_x: enable_mptcp is not supported"]);
    assert_eq!(client.get("/", &[]).await.status, 200, "the last good stays");
}

#[tokio::test]
async fn the_stock_carries_connections_while_the_agent_gives_nothing() {
    let v1 = Backend::new("v1").await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[v1.address]);
    world.routes(vec![to("/", action(V1))]);
    assert_eq!(world.client().await.get("/", &[]).await.status, 200);
    world.generous.store(false, Ordering::SeqCst);
    // Each waits for its own upstream connection: none can be shared while all are in flight.
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(world.client().await);
    }
    let answers = clients.iter_mut().map(|client| client.get("/", &[]));
    let answers = futures::future::join_all(answers).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
}

#[tokio::test]
async fn without_a_socket_a_request_waits_and_then_says_why() {
    let v1 = Backend::new("v1").await;
    let mut world = World::new("0.0.0.0:0");
    world.generous.store(false, Ordering::SeqCst);
    world.cluster(V1, &[v1.address]);
    world.routes(vec![to("/", action(V1))]);
    let answer = world.client().await.get("/", &[]).await;
    let body = "upstream connect error or disconnect/reset before headers. reset reason: no brokered socket";
    assert_eq!((answer.status, &*answer.body), (503, body));
}

#[tokio::test]
async fn the_meshs_own_listener_and_unknown_ports_are_refused_and_counted() {
    for (bind, reason) in [("127.0.0.1:0", "mesh_listener"), ("0.0.0.0:0", "no_listener")] {
        let mut world = World::new(bind);
        world.nothing();
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", world.port)).await.expect("connect");
        assert_eq!(stream.read(&mut [0; 1]).await.expect("closed"), 0, "{reason}");
        world.counted(&format!("connections_refused_total{{reason=\"{reason}\"}} 1")).await;
    }
}

/// The world's port is a TCP service.
fn tcp_service(world: &mut World, endpoint: std::net::SocketAddr) {
    world.cluster("outbound|9999||echo", &[endpoint]);
    let cluster_specifier = Some(tcp::tcp_proxy::ClusterSpecifier::Cluster("outbound|9999||echo".to_owned()));
    let proxy = tcp::TcpProxy { stat_prefix: "x".to_owned(), cluster_specifier, ..Default::default() };
    let listener = network_listener("127.0.0.1", world.port, "envoy.filters.network.tcp_proxy", any(&proxy));
    assert_eq!(world.deliver(names::LISTENER, &[("l", listener)]), [""; 0]);
}

#[tokio::test]
async fn tcp_is_copied_and_closed_one_direction_at_a_time() {
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut world = World::new("0.0.0.0:0");
    tcp_service(&mut world, echo.local_addr().expect("address"));
    let server = tokio::spawn(async move {
        let (mut stream, _) = echo.accept().await.expect("accept");
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect("read");
        stream.write_all(&all).await.expect("write, after the client's end");
    });
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", world.port)).await.expect("connect");
    stream.write_all(b"server, please wait for my end").await.expect("write");
    stream.shutdown().await.expect("half close");
    let mut back = String::new();
    stream.read_to_string(&mut back).await.expect("read");
    assert_eq!(back, "server, please wait for my end");
    server.await.expect("server");
}
