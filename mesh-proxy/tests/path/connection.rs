//! Clients' connections: HTTP/1.0, framing that must not pass, limits of heads, and every time that ends something.

use super::V1;
use super::raw::{LONG, Raw, Stage};
use super::world::{Backend, World, action, to};
use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::google::protobuf::{Duration as ProtoDuration, UInt32Value};
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const TIME: Duration = Duration::from_millis(300);

fn time() -> Option<ProtoDuration> {
    Some(ProtoDuration { seconds: 0, nanos: 300_000_000 })
}

fn world(endpoint: SocketAddr, change: impl FnOnce(&mut HttpConnectionManager)) -> World {
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[endpoint]);
    world.routes_with(vec![to("/", action(V1))], change);
    world
}

fn common(manager: &mut HttpConnectionManager) -> &mut core::HttpProtocolOptions {
    manager.common_http_protocol_options.get_or_insert_default()
}

async fn http2_client(world: &World) -> (http2::SendRequest<Full<Bytes>>, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(("127.0.0.1", world.port)).await.expect("connect");
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("handshake");
    (sender, tokio::spawn(connection))
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://reviews:9080{path}")).body(Full::default()).expect("valid")
}

#[tokio::test]
async fn http10_is_served_with_its_own_manners() {
    let (stage, address) = Stage::new().await;
    let world = world(address, |manager| {
        let host = "fallback".to_owned();
        let http1 = core::Http1ProtocolOptions { accept_http_10: true, default_host_for_http_10: host, ..Default::default() };
        manager.http_protocol_options = Some(http1);
    });
    let endpoint = tokio::spawn(async move {
        let mut connection = stage.next().await;
        let head = connection.head().await;
        assert!(head.starts_with("get /x http/1.1\r\n") && head.contains("\r\nhost: fallback\r\n"), "{head}");
        connection.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n").await;
        for _ in 0..2 {
            assert!(connection.head().await.contains("\r\nhost: named\r\n"));
            connection.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    });
    // Without a length the end of the connection is the end of the body, and the client knows no chunks.
    let mut client = Raw::to(world.port).await;
    client.say("GET /x HTTP/1.0\r\n\r\n").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\nabcdef"), "{answer}");
    let mut client = Raw::to(world.port).await;
    for _ in 0..2 {
        client.say("GET /x HTTP/1.0\r\nhost: named\r\nconnection: keep-alive\r\n\r\n").await;
        let (head, body) = client.answer().await;
        assert!(head.starts_with("http/1.0 200 ") && head.contains("\r\nconnection: keep-alive\r\n"), "{head}");
        assert_eq!(body, "ok");
    }
    endpoint.await.expect("the endpoint saw what it should");
}

#[tokio::test]
async fn http10_is_answered_426_where_it_is_not_allowed_and_a_request_without_host_400() {
    let backend = Backend::new("v1").await;
    let world = world(backend.address, |_| {});
    for (request, status) in [
        ("GET / HTTP/1.0\r\nhost: reviews\r\n\r\n", "HTTP/1.0 426 "),
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n", "HTTP/1.1 400 "),
        ("GET / HTTP/1.1\r\nhost:\r\nconnection: close\r\n\r\n", "HTTP/1.1 400 "),
    ] {
        let mut client = Raw::to(world.port).await;
        client.say(request).await;
        let answer = client.rest().await;
        assert!(answer.starts_with(status), "{request:?}: {answer}");
    }
    assert_eq!(backend.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_request_that_could_be_read_in_two_ways_is_refused_and_its_connection_closed() {
    let backend = Backend::new("v1").await;
    let world = world(backend.address, |_| {});
    let ours = "POST / HTTP/1.1\r\nhost: reviews\r\n";
    for framing in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n\r\nabcde",
        "content-length: -1\r\n\r\n",
        "transfer-encoding: gzip\r\n\r\n",
        "transfer-encoding: chunked, gzip\r\n\r\n",
    ] {
        let mut client = Raw::to(world.port).await;
        // What follows it would be the smuggled one: it must not be answered.
        client.say(format!("{ours}{framing}GET /smuggled HTTP/1.1\r\nhost: reviews\r\n\r\n")).await;
        let answer = client.rest().await.to_lowercase();
        assert!(answer.starts_with("http/1.1 400 ") && answer.contains("\r\nconnection: close\r\n"), "{framing:?}: {answer}");
        assert_eq!(answer.matches("http/1.1 ").count(), 1, "{framing:?}: {answer}");
    }
    // Chunks of something else are no body of ours to pass on.
    for coding in ["gzip, chunked", "chunked\r\ntransfer-encoding: chunked"] {
        let mut client = Raw::to(world.port).await;
        client.say(format!("{ours}transfer-encoding: {coding}\r\n\r\n0\r\n\r\n")).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 501 ") && answer.ends_with("\r\n\r\nNot Implemented"), "{coding}: {answer}");
    }
    assert_eq!(backend.connections.load(Ordering::SeqCst), 0);
    // Later on a connection it is found as well.
    let mut client = Raw::to(world.port).await;
    client.say(format!("{ours}content-length: 5\r\n\r\nabcde")).await;
    assert!(client.answer().await.0.starts_with("http/1.1 200 "));
    client.say(format!("{ours}transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n")).await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("\r\n\r\nBad Request"), "{answer}");
}

#[tokio::test]
async fn a_body_that_is_none_is_the_clients_fault() {
    let (stage, address) = Stage::new().await;
    let world = world(address, |_| {});
    let mut client = Raw::to(world.port).await;
    client.say("POST / HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let mut endpoint = stage.next().await;
    endpoint.head().await;
    client.say("xyz\r\n").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let rest = endpoint.rest().await;
    assert!(!rest.ends_with("0\r\n\r\n"), "the endpoint must not take it for whole: {rest:?}");
}

#[tokio::test]
async fn requests_that_come_at_once_are_answered_in_turn() {
    let backend = Backend::new("v1").await;
    let world = world(backend.address, |_| {});
    let mut client = Raw::to(world.port).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: reviews\r\n\r\n");
    let post = "POST /body HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    client.say(format!("{}{post}{}", get("/slow"), get("/last"))).await;
    for expected in ["v1 GET /slow host=reviews x=- body=0", "v1 POST /body host=reviews x=- body=5"] {
        assert_eq!(client.answer().await.1, expected);
    }
    assert_eq!(client.answer().await.1, "v1 GET /last host=reviews x=- body=0");
}

#[tokio::test]
async fn the_target_names_the_host_if_it_is_a_whole_url() {
    let backend = Backend::new("v1").await;
    let world = world(backend.address, |_| {});
    let mut client = Raw::to(world.port).await;
    client.say("GET http://ratings:9080/x?y HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    assert_eq!(client.answer().await.1, "v1 GET /x?y host=ratings:9080 x=- body=0");
}

#[tokio::test]
async fn an_answer_that_is_cut_is_not_made_whole() {
    let (stage, address) = Stage::new().await;
    let world = world(address, |_| {});
    for (head, body) in [
        ("content-length: 10", "abc"),
        ("transfer-encoding: chunked", "3\r\nabc\r\n"),
        ("transfer-encoding: chunked", "5\r\nabc"),
    ] {
        let mut client = Raw::to(world.port).await;
        client.say("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
        let mut endpoint = stage.next().await;
        endpoint.head().await;
        endpoint.say(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}")).await;
        assert!(client.head().await.starts_with("http/1.1 200 "));
        drop(endpoint);
        let rest = client.rest().await;
        assert!(rest.contains("abc") && !rest.ends_with("0\r\n\r\n"), "{head}: {rest:?}");
    }
    // Without either the end of the connection is the end of the body.
    let mut client = Raw::to(world.port).await;
    client.say("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    let mut endpoint = stage.next().await;
    endpoint.head().await;
    endpoint.say("HTTP/1.1 200 OK\r\n\r\nabc").await;
    drop(endpoint);
    assert!(client.head().await.contains("\r\ntransfer-encoding: chunked\r\n"));
    assert_eq!(client.bytes(13).await, b"3\r\nabc\r\n0\r\n\r\n");
}

#[tokio::test]
async fn heads_have_limits() {
    let ok = |change: &dyn Fn(&mut HttpConnectionManager)| {
        let mut world = World::new("0.0.0.0:0");
        world.nothing();
        let respond = route::DirectResponseAction { status: 200, ..Default::default() };
        let answer = Some(route::route::Action::DirectResponse(respond));
        world.routes_with(vec![route::Route { action: answer, ..to("/", action(V1)) }], change);
        world
    };
    let many = |count: usize| (0..count).map(|index| format!("x-{index}: 1\r\n")).collect::<String>();
    let default = ok(&|_| {});
    let more = ok(&|manager| {
        common(manager).max_headers_count = Some(UInt32Value { value: 150 });
        manager.max_request_headers_kb = Some(UInt32Value { value: 80 });
    });
    let fewer = ok(&|manager| common(manager).max_headers_count = Some(UInt32Value { value: 10 }));
    let long = |length: usize| format!("x: {}\r\n", "y".repeat(length));
    for (world, path, headers, status) in [
        (&default, 1, many(90), 200),
        (&default, 1, many(101), 431),
        (&default, 1, long(50_000), 200),
        (&default, 1, long(62_000), 431),
        (&default, 62_000, String::new(), 431),
        (&more, 1, many(140), 200),
        (&more, 1, many(151), 431),
        (&more, 1, long(70_000), 200),
        (&fewer, 1, many(5), 200),
        (&fewer, 1, many(11), 431),
    ] {
        let mut client = Raw::to(world.port).await;
        let path = "a".repeat(path);
        let request = format!("GET /{path} HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n{headers}\r\n");
        // It may be answered and closed before all of it is sent.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.0, request.as_bytes()).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{} bytes: {head}", request.len());
    }
    for (count, length, status) in [(90, 10, 200), (101, 10, 431), (1, 62_000, 431)] {
        let (mut sender, _connection) = http2_client(&default).await;
        let mut request = get("/");
        for index in 0..count {
            let name = http::HeaderName::try_from(format!("x-{index}")).expect("a name");
            request.headers_mut().insert(name, "y".repeat(length).parse().expect("a value"));
        }
        assert_eq!(sender.send_request(request).await.expect("answered").status(), status, "{count} {length}");
    }
}

#[tokio::test]
async fn a_request_that_does_not_come_is_not_waited_for() {
    let backend = Backend::new("v1").await;
    let world = world(backend.address, |manager| {
        manager.request_headers_timeout = time();
        manager.request_timeout = time();
    });
    // Silence before a request is nobody's fault; from its first byte on the time runs.
    for begun in ["G", "GET / HTTP/1.1\r\nhost: reviews\r\n", "GET / HTTP/1.1\r\nhost: rev"] {
        let mut client = Raw::to(world.port).await;
        client.say("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
        assert!(client.answer().await.0.starts_with("http/1.1 200 "));
        let began = Instant::now();
        client.say(begun).await;
        let answer = client.rest().await;
        assert!(began.elapsed() >= TIME, "{:?}", began.elapsed());
        assert!(answer.starts_with("HTTP/1.1 408 ") && answer.ends_with("\r\n\r\nrequest header timeout"), "{answer}");
    }
    // A head that is begun while another request is being answered has its time when that is done: its 408 must not get into the answer.
    let mut client = Raw::to(world.port).await;
    client.say("GET /slow HTTP/1.1\r\nhost: reviews\r\n\r\nGE").await;
    let (head, body) = client.answer().await;
    assert!(head.starts_with("http/1.1 200 ") && body.starts_with("v1 GET /slow "), "{head}");
    assert!(client.rest().await.starts_with("HTTP/1.1 408 "));
    world.counted("connections_refused_total{reason=\"request_headers_timeout\"} 4").await;
    let mut client = Raw::to(world.port).await;
    let began = Instant::now();
    client.say("POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 5\r\n\r\nab").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.ends_with("\r\n\r\nrequest timeout"), "{answer}");
    assert!(began.elapsed() >= TIME);
    // A request that has come may take longer to be answered.
    let answer = world.client().await.get("/slow", &[]).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_stream_over_which_nothing_passes_is_ended_and_whose_turn_it_was_is_told() {
    let backend = Backend::new("v1").await;
    let world = world(backend.address, |manager| manager.stream_idle_timeout = time());
    let began = Instant::now();
    let answer = world.client().await.get("/never", &[]).await;
    assert_eq!((answer.status, &*answer.body), (504, "stream timeout"));
    let mut client = Raw::to(world.port).await;
    client.say("POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: 5\r\n\r\nab").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.ends_with("\r\n\r\nstream timeout"), "{answer}");
    let (mut sender, _connection) = http2_client(&world).await;
    assert_eq!(sender.send_request(get("/never")).await.expect("answered").status(), 504);
    assert!(began.elapsed() >= 3 * TIME);
}

#[tokio::test]
async fn idle_connections_are_closed_and_busy_ones_are_not() {
    let backend = Backend::new("v1").await;
    let second = Some(ProtoDuration { seconds: 1, nanos: 0 });
    let world = world(backend.address, |manager| common(manager).idle_timeout = second);
    let (mut silent, mut used) = (Raw::to(world.port).await, Raw::to(world.port).await);
    used.say("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    assert!(used.answer().await.0.starts_with("http/1.1 200 "));
    let (mut sender, connection) = http2_client(&world).await;
    let began = Instant::now();
    assert_eq!(sender.send_request(get("/")).await.expect("answered").status(), 200);
    assert_eq!((silent.rest().await, used.rest().await), (String::new(), String::new()));
    let ended = tokio::time::timeout(LONG, connection).await.expect("closed in time").expect("no panic");
    assert!(ended.is_ok(), "in good order: {ended:?}");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    // While a request is under way the connection is not idle: the endpoint answers after twice the time.
    let (stage, address) = Stage::new().await;
    let world = super::connection::world(address, |manager| common(manager).idle_timeout = second);
    let (mut sender, _connection) = http2_client(&world).await;
    let mut client = Raw::to(world.port).await;
    client.say("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    let mut first = stage.next().await;
    let asked = tokio::spawn(sender.send_request(get("/")));
    let mut other = stage.next().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for endpoint in [&mut first, &mut other] {
        endpoint.head().await;
        endpoint.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    }
    assert_eq!(client.answer().await.1, "ok");
    assert_eq!(asked.await.expect("no panic").expect("answered").status(), 200);
}

#[tokio::test]
async fn old_and_worn_connections_end_after_an_answer_that_says_so() {
    let backend = Backend::new("v1").await;
    let old = world(backend.address, |manager| {
        common(manager).max_connection_duration = time();
        manager.drain_timeout = Some(ProtoDuration { seconds: 20, nanos: 0 });
    });
    let (mut asking, mut client) = (Raw::to(old.port).await, Raw::to(old.port).await);
    let (_sender, connection) = http2_client(&old).await;
    asking.say("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    asking.answer().await;
    tokio::time::timeout(LONG, connection).await.expect("HTTP/2 is told to go").expect("no panic").expect("in good order");
    // Whoever asks after the time is answered, and told that it was the last time.
    let began = Instant::now();
    loop {
        client.say("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
        let (head, _body) = client.answer().await;
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        if head.contains("\r\nconnection: close\r\n") {
            break;
        }
        assert!(began.elapsed() < LONG, "it never ends");
    }
    assert_eq!(client.rest().await, "");

    let idle = world(backend.address, |manager| {
        common(manager).max_connection_duration = time();
        manager.drain_timeout = time();
    });
    let mut late = Raw::to(idle.port).await;
    late.say("GET / HTTP/1.1\r\n").await;
    let mut client = Raw::to(idle.port).await;
    client.say("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    client.answer().await;
    assert_eq!(client.rest().await, "", "idle: closed");
    // What had begun by then is served.
    for part in ["host: ", "reviews\r\n", "x: 1\r\n"] {
        late.say(part).await;
        tokio::task::yield_now().await;
    }
    late.say("\r\n").await;
    assert!(late.answer().await.0.contains("\r\nconnection: close\r\n"));
    assert_eq!(late.rest().await, "");

    let worn = world(backend.address, |manager| common(manager).max_requests_per_connection = Some(UInt32Value { value: 2 }));
    let mut client = Raw::to(worn.port).await;
    client.say("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    assert!(!client.answer().await.0.contains("connection: close"));
    client.say("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    assert!(client.answer().await.0.contains("\r\nconnection: close\r\n"));
    assert_eq!(client.rest().await, "");
    let (mut sender, connection) = http2_client(&worn).await;
    for _ in 0..2 {
        assert_eq!(sender.send_request(get("/")).await.expect("answered").status(), 200);
    }
    tokio::time::timeout(LONG, connection).await.expect("closed in time").expect("no panic").expect("in good order");
    let metrics = worn.shared.metrics.encode(&worn.shared.telemetry);
    assert!(!metrics.contains("client_gone"), "all ended in good order: {metrics}");
}
