//! What clients say by HTTP/1, as bytes: how a request ends, what is no request, and when a connection carries another one.

use super::V1;
use super::raw::{Raw, Stage};
use super::world::{Backend, World, action, to};
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::UpgradeConfig;

const GET: &str = "GET / HTTP/1.1\r\nhost: reviews\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn world() -> (World, Stage) {
    let (stage, address) = Stage::new().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[address]);
    world.routes(vec![to("/", action(V1))]);
    (world, stage)
}

/// Every request is answered here.
fn local() -> World {
    let mut world = World::new("0.0.0.0:0");
    world.nothing();
    let respond = route::DirectResponseAction { status: 200, ..Default::default() };
    let answer = Some(route::route::Action::DirectResponse(respond));
    world.routes(vec![route::Route { action: answer, ..to("/", action(V1)) }]);
    world
}

#[tokio::test]
async fn requests_that_come_byte_by_byte_are_the_same() {
    let backend = Backend::new("v1").await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[backend.address]);
    world.routes(vec![to("/", action(V1))]);
    let mut client = Raw::to(world.port).await;
    client.0.set_nodelay(true).expect("nodelay");
    let requests = [
        ("\r\nGET /a HTTP/1.1\r\nhost: reviews\r\nx: 1\r\n\r\n", "v1 GET /a host=reviews x=1 body=0"),
        ("POST /b HTTP/1.1\nhost: reviews\ncontent-length: 3\n\nabc", "v1 POST /b host=reviews x=- body=3"),
        (
            "POST /c HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n2;x\r\nab\r\n3\r\ncde\r\n0\r\nx: y\r\n\r\n",
            "v1 POST /c host=reviews x=- body=5",
        ),
    ];
    for (request, _) in requests {
        for byte in request.bytes() {
            client.say([byte]).await;
            tokio::task::yield_now().await;
        }
    }
    for (_, expected) in requests {
        assert_eq!(client.answer().await.1, expected);
    }
    // And all at once.
    client.say(requests.map(|(request, _)| request).concat()).await;
    for (_, expected) in requests {
        assert_eq!(client.answer().await.1, expected);
    }
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_counted_by_its_name() {
    let world = local();
    for (request, status, name) in [
        ("SSH-2.0-OpenSSH_9\r\n".to_owned(), 400, "request_head"),
        ("GET / HTTP/1.1\r\nno header\r\n\r\n".to_owned(), 400, "request_head"),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n".to_owned(), 400, "request_length"),
        ("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n".to_owned(), 400, "request_coding"),
        (format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(101)), 431, "request_headers_too_many"),
        (format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(60 * 1024)), 431, "request_head_too_large"),
    ] {
        let mut client = Raw::to(world.port).await;
        // After an answer, too.
        client.say(GET).await;
        assert!(client.head().await.starts_with("http/1.1 200 "));
        // The answer is heard, whatever else is sent.
        client.say(format!("{request}and more of the same\r\n\r\n")).await;
        let (head, body) = client.answer().await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")) && head.contains("\r\nconnection: close\r\n"), "{name}: {head}");
        assert!(head.contains("\r\ndate: ") && ["Bad Request", "Request Header Fields Too Large"].contains(&&*body), "{body}");
        assert_eq!(client.rest().await, "", "{name}");
        world.counted(&format!("mesh_proxy_connections_refused_total{{reason=\"{name}\"}}")).await;
    }
    world.counted("mesh_proxy_connections_refused_total{reason=\"request_head\"} 2").await;
}

#[tokio::test]
async fn a_body_that_nobody_reads_is_thrown_away_or_ends_the_connection() {
    let world = local();
    let mut client = Raw::to(world.port).await;
    // It came with the head: no reason to part.
    for body in ["content-length: 5\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
        client.say(format!("POST / HTTP/1.1\r\nhost: a\r\n{body}{GET}")).await;
        for _ in 0..2 {
            let head = client.head().await;
            assert!(head.starts_with("http/1.1 200 ") && !head.contains("connection:"), "{head}");
        }
    }
    // It has not come, and may never: nothing behind it could be told from it.
    for head in ["content-length: 1000000\r\n", "transfer-encoding: chunked\r\n", "content-length: 5\r\nexpect: 100-continue\r\n"]
    {
        let mut client = Raw::to(world.port).await;
        client.say(format!("POST / HTTP/1.1\r\nhost: a\r\n{head}\r\n")).await;
        let answer = client.head().await;
        assert!(answer.starts_with("http/1.1 200 ") && answer.contains("\r\nconnection: close\r\n"), "{head}: {answer}");
        // Who sends on is not reset before it has read.
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client.0, &[b'x'; 100_000]).await;
        assert_eq!(client.rest().await, "");
    }
}

#[tokio::test]
async fn an_answer_that_comes_before_its_request_has_ended_is_the_connections_last() {
    let (world, stage) = world().await;
    let mut client = Raw::to(world.port).await;
    client.say("POST / HTTP/1.1\r\nhost: reviews\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let mut endpoint = stage.next().await;
    endpoint.head().await;
    assert_eq!(endpoint.bytes(8).await, b"3\r\nabc\r\n");
    endpoint.say("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 200 ") && head.contains("\r\nconnection: close\r\n"), "{head}");
    assert_eq!(client.bytes(7).await, b"2\r\nok\r\n");
    // Both go on meanwhile.
    client.say("3\r\ndef\r\n").await;
    assert_eq!(endpoint.bytes(8).await, b"3\r\ndef\r\n");
    endpoint.say("0\r\n\r\n").await;
    assert_eq!(client.rest().await, "0\r\n\r\n");
    let rest = endpoint.rest().await;
    assert!(!rest.ends_with("0\r\n\r\n"), "the endpoint must not take it for whole: {rest:?}");
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_request_along() {
    let (world, stage) = world().await;
    for begun in [false, true] {
        let mut client = Raw::to(world.port).await;
        client.say(GET).await;
        let mut endpoint = stage.next().await;
        endpoint.head().await;
        if begun {
            endpoint.say("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab").await;
            client.head().await;
        }
        drop(client);
        assert_eq!(endpoint.rest().await, "", "{begun}");
    }
    world.counted("mesh_proxy_connections_refused_total{reason=\"client_gone\"} 2").await;
}

#[tokio::test]
async fn what_has_no_body_has_none_and_its_connection_stays() {
    let (world, stage) = world().await;
    let mut client = Raw::to(world.port).await;
    client.say("HEAD / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    let mut endpoint = stage.next().await;
    for (answer, lines) in [
        ("200 OK\r\ncontent-length: 5", "\r\ncontent-length: 5\r\n"),
        ("204 No Content", ""),
        ("304 Not Modified\r\ncontent-length: 7\r\netag: x", "\r\ncontent-length: 7\r\n"),
    ] {
        endpoint.head().await;
        endpoint.say(format!("HTTP/1.1 {answer}\r\n\r\n")).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("http/1.1 {}", &answer[..3])) && head.contains(lines), "{head}");
        assert_eq!(head.contains("content-length"), !lines.is_empty(), "{head}");
        assert!(!head.contains("transfer-encoding") && !head.contains("connection:"), "{head}");
        client.say(GET).await;
    }
    endpoint.head().await;
    endpoint.say(OK).await;
    assert_eq!(client.answer().await.1, "ok");
}

#[tokio::test]
async fn what_is_sent_ahead_of_an_upgrade_is_part_of_it() {
    let (stage, address) = Stage::new().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[address]);
    world.routes_with(vec![to("/", action(V1))], |manager| {
        manager.upgrade_configs = vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), ..Default::default() }];
    });
    let mut client = Raw::to(world.port).await;
    let asks = "connection: upgrade\r\nupgrade: websocket\r\n\r\n";
    client.say(format!("GET / HTTP/1.1\r\nhost: reviews\r\n{asks}first")).await;
    let mut endpoint = stage.next().await;
    endpoint.head().await;
    endpoint.say(format!("HTTP/1.1 101 Switching Protocols\r\n{asks}hello")).await;
    assert!(client.head().await.starts_with("http/1.1 101 "));
    assert_eq!(client.bytes(5).await, b"hello");
    assert_eq!(endpoint.bytes(5).await, b"first");
    client.say("second").await;
    assert_eq!(endpoint.bytes(6).await, b"second");
    drop(client);
    assert_eq!(endpoint.rest().await, "");
}
