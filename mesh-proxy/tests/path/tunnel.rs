//! Connections that become something else: WebSockets, other upgrades, CONNECT by both versions of HTTP; and a 403 for what may not.

use super::V1;
use super::raw::{LONG, Raw, Stage};
use super::world::{World, action, to};
use bytes::Bytes;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::UpgradeConfig;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn head(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut byte)).await;
        read.expect("in time").expect("a whole head");
        text.extend(byte);
    }
    String::from_utf8(text).expect("text").to_lowercase()
}

#[tokio::test]
async fn a_websocket_passes_in_both_directions_and_other_upgrades_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[listener.local_addr().expect("address")]);
    world.routes(vec![to("/", action(V1))]);
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let asked = head(&mut stream).await;
        assert!(asked.contains("\r\nupgrade: websocket\r\n") && asked.contains("\r\nconnection: upgrade\r\n"), "{asked}");
        // The first frame comes with the answer.
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: x\r\n\r\nhello";
        stream.write_all(answer).await.expect("write");
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.expect("read");
        stream.write_all(&echo).await.expect("write");
        assert_eq!(stream.read(&mut [0; 1]).await.expect("read"), 0, "the client's end");
    });
    let mut client = TcpStream::connect(("127.0.0.1", world.port)).await.expect("connect");
    let request = b"GET /chat HTTP/1.1\r\nhost: reviews\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-key: k\r\n\r\n";
    client.write_all(request).await.expect("write");
    let answer = head(&mut client).await;
    assert!(answer.starts_with("http/1.1 101 ") && answer.contains("sec-websocket-accept: x"), "{answer}");
    let mut hello = [0; 5];
    client.read_exact(&mut hello).await.expect("read");
    client.write_all(b"echo").await.expect("write");
    let mut echo = [0; 4];
    client.read_exact(&mut echo).await.expect("read");
    assert_eq!((&hello, &echo), (b"hello", b"echo"));
    drop(client);
    server.await.expect("server");

    let mut client = TcpStream::connect(("127.0.0.1", world.port)).await.expect("connect");
    let request = b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n";
    client.write_all(request).await.expect("write");
    assert!(head(&mut client).await.starts_with("http/1.1 403 "));
}

fn allow(manager: &mut HttpConnectionManager, kind: &str) {
    manager.upgrade_configs.push(UpgradeConfig { upgrade_type: kind.to_owned(), ..Default::default() });
}

#[tokio::test]
async fn any_protocol_passes_that_is_allowed_and_an_endpoint_may_decline() {
    let (stage, address) = Stage::new().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[address]);
    world.routes_with(vec![to("/", action(V1))], |manager| allow(manager, "my-protocol"));
    let request = "GET / HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: My-Protocol\r\n\r\n";
    let mut client = Raw::to(world.port).await;
    client.say(request).await;
    let mut server = stage.next().await;
    assert!(server.head().await.contains("\r\nupgrade: my-protocol\r\n"));
    server.say("HTTP/1.1 101 Switching Protocols\r\nupgrade: my-protocol\r\nconnection: upgrade\r\n\r\n").await;
    assert!(client.head().await.starts_with("http/1.1 101 "));
    // Bytes that would be two requests in one, if they were a request.
    let bytes = "POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
    client.say(bytes).await;
    assert_eq!(server.bytes(bytes.len()).await, bytes.as_bytes());
    server.say("bye").await;
    drop(server);
    assert_eq!(client.rest().await, "bye");

    let mut client = Raw::to(world.port).await;
    client.say(request).await;
    let mut server = stage.next().await;
    server.head().await;
    server.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").await;
    let (head, body) = client.answer().await;
    assert!(head.starts_with("http/1.1 200 ") && body == "no", "{head}");
}

#[tokio::test]
async fn without_a_route_there_is_nothing_to_refuse() {
    let mut world = World::new("0.0.0.0:0");
    world.nothing();
    world.routes(Vec::new());
    let upgrade = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: other\r\n\r\n";
    for request in [upgrade, "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\nconnection: close\r\n\r\n"] {
        let mut client = Raw::to(world.port).await;
        client.say(request).await;
        assert!(client.head().await.starts_with("http/1.1 404 "), "{request}");
    }
}

fn connects(endpoint: std::net::SocketAddr) -> World {
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[endpoint]);
    let upgrade = route::route_action::UpgradeConfig {
        upgrade_type: "CONNECT".to_owned(),
        connect_config: Some(Default::default()),
        ..Default::default()
    };
    let action = route::RouteAction { upgrade_configs: vec![upgrade], ..action(V1) };
    let path_specifier = Some(route::route_match::PathSpecifier::ConnectMatcher(Default::default()));
    let mut connect = to("/", action);
    connect.r#match = Some(route::RouteMatch { path_specifier, ..Default::default() });
    world.routes_with(vec![connect], |manager| allow(manager, "CONNECT"));
    world
}

#[tokio::test]
async fn connect_ends_here_and_its_bytes_go_to_an_endpoint() {
    let (stage, address) = Stage::new().await;
    let world = connects(address);
    let mut client = Raw::to(world.port).await;
    client.say("CONNECT reviews:9080 HTTP/1.1\r\nhost: reviews:9080\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 200 ") && !head.contains("content-length") && !head.contains("chunked"), "{head}");
    let mut server = stage.next().await;
    client.say("ping").await;
    assert_eq!(server.bytes(4).await, b"ping");
    server.say("pong").await;
    assert_eq!(client.bytes(4).await, b"pong");
    // Half closed: the answer to the last question still comes.
    client.0.shutdown().await.expect("half close");
    assert_eq!(server.rest().await, "");
    server.say("last").await;
    drop(server);
    assert_eq!(client.rest().await, "last");
    // Nobody there.
    let world = connects(super::refusing());
    let mut client = Raw::to(world.port).await;
    client.say("CONNECT reviews:9080 HTTP/1.1\r\nhost: reviews:9080\r\nconnection: close\r\n\r\n").await;
    assert!(client.head().await.starts_with("http/1.1 503 "));
}

#[tokio::test]
async fn connect_by_http2_is_one_stream_of_its_connection() {
    let (stage, address) = Stage::new().await;
    let world = connects(address);
    let stream = TcpStream::connect(("127.0.0.1", world.port)).await.expect("connect");
    let (mut sender, connection) = h2::client::handshake(stream).await.expect("handshake");
    tokio::spawn(async move {
        let _ = connection.await;
    });
    let mut tunnels = Vec::new();
    for _ in 0..2 {
        sender = sender.ready().await.expect("ready");
        let request = http::Request::connect("reviews:9080").body(()).expect("valid");
        let (response, to_server) = sender.send_request(request, false).expect("sent");
        let response = tokio::time::timeout(LONG, response).await.expect("in time").expect("answered");
        assert_eq!(response.status(), 200);
        tunnels.push((to_server, response.into_body(), stage.next().await));
    }
    for (to_server, from_server, server) in &mut tunnels {
        to_server.send_data(Bytes::from_static(b"ping"), false).expect("sent");
        assert_eq!(server.bytes(4).await, b"ping");
        server.say("pong").await;
        assert_eq!(from_server.data().await.expect("more").expect("data"), "pong");
    }
    let (mut to_server, mut from_server, mut server) = tunnels.remove(0);
    to_server.send_data(Bytes::new(), true).expect("ended");
    assert_eq!(server.rest().await, "");
    server.say("last").await;
    drop(server);
    assert_eq!(from_server.data().await.expect("more").expect("data"), "last");
    assert!(from_server.data().await.is_none_or(|data| data.expect("no reset").is_empty()) && from_server.is_end_stream());
}
