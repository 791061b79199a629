//! `Expect: 100-continue` from end to end.

use super::V1;
use super::h2;
use super::raw::{Raw, Stage};
use super::world::{Backend, World, action, to};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const ASK: &str = "POST /x HTTP/1.1\r\nhost: reviews\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";

fn world(endpoint: SocketAddr, pass: bool) -> World {
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[endpoint]);
    world.routes_with(vec![to("/", action(V1))], |manager| manager.proxy_100_continue = pass);
    world
}

#[tokio::test]
async fn the_endpoint_asks_for_the_body() {
    let (stage, address) = Stage::new().await;
    let world = world(address, true);
    let asked = Arc::new(AtomicBool::new(false));
    let asks = Arc::clone(&asked);
    let endpoint = tokio::spawn(async move {
        let mut connection = stage.next().await;
        for _ in 0..2 {
            let head = connection.head().await;
            assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
            tokio::time::sleep(Duration::from_millis(50)).await;
            asks.store(true, Ordering::SeqCst);
            connection.say("HTTP/1.1 100 Continue\r\n\r\n").await;
            assert_eq!(connection.bytes(5).await, b"hello");
            connection.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        }
    });
    let mut client = Raw::to(world.port).await;
    // The second time over the same two connections.
    for _ in 0..2 {
        asked.store(false, Ordering::SeqCst);
        client.say(ASK).await;
        assert_eq!(client.head().await, "http/1.1 100 continue\r\n\r\n");
        assert!(asked.load(Ordering::SeqCst), "not before the endpoint");
        client.say("hello").await;
        let (head, body) = client.answer().await;
        assert!(head.starts_with("http/1.1 200 ") && body == "ok", "{head}");
    }
    endpoint.await.expect("the endpoint saw what it should");
}

#[tokio::test]
async fn an_endpoint_that_answers_at_once_gets_no_body() {
    let (stage, address) = Stage::new().await;
    let world = world(address, true);
    for answer in ["no", ""] {
        let mut client = Raw::to(world.port).await;
        client.say(ASK).await;
        let mut endpoint = stage.next().await;
        endpoint.head().await;
        endpoint.say(format!("HTTP/1.1 417 Expectation Failed\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())).await;
        let (head, body) = client.answer().await;
        assert!(head.starts_with("http/1.1 417 ") && head.contains("\r\nconnection: close\r\n"), "{head}");
        assert_eq!((&*body, &*client.rest().await), (answer, ""));
        assert_eq!(endpoint.rest().await, "", "no body comes, and no other request");
    }
}

#[tokio::test]
async fn an_endpoint_that_never_asks_gets_the_body_all_the_same() {
    let (stage, address) = Stage::new().await;
    let world = world(address, true);
    let endpoint = tokio::spawn(async move {
        let mut connection = stage.next().await;
        connection.head().await;
        assert_eq!(connection.bytes(5).await, b"hello");
        connection.say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    });
    let mut client = Raw::to(world.port).await;
    client.say(ASK).await;
    assert_eq!(client.head().await, "http/1.1 100 continue\r\n\r\n");
    client.say("hello").await;
    assert_eq!(client.answer().await.1, "ok");
    endpoint.await.expect("the endpoint saw what it should");
}

#[tokio::test]
async fn where_it_is_not_passed_on_it_is_answered_here() {
    let backend = Backend::new("v1").await;
    let world = world(backend.address, false);
    let mut client = Raw::to(world.port).await;
    client.say(ASK).await;
    assert_eq!(client.head().await, "http/1.1 100 continue\r\n\r\n");
    client.say("hello").await;
    assert!(client.answer().await.1.ends_with("body=5"));
}

#[tokio::test]
async fn over_http2_the_client_is_asked_here() {
    let server = h2::echo().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[server], |cluster| h2::http2(cluster, None));
    world.routes_with(vec![to("/", action(V1))], |manager| manager.proxy_100_continue = true);
    let mut client = Raw::to(world.port).await;
    client.say(ASK.replace("/x", "/echo")).await;
    assert_eq!(client.head().await, "http/1.1 100 continue\r\n\r\n");
    client.say("hello").await;
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");
}
