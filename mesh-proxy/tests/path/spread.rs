//! A pod, and the gateway, on several threads: each gets connections, has its part of the limits, and stops with the others.

use super::V1;
use super::raw::{LONG, Raw};
use super::world::{Backend, Client, World, action, to};
use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::google::protobuf::UInt32Value;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use std::sync::atomic::Ordering;
use std::time::Duration;

async fn until(mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("in time");
}

fn limited(world: &mut World, backend: &Backend, connections: usize, pending: u32) {
    world.cluster_with(V1, &[backend.address], |message| {
        let value = |value| Some(UInt32Value { value });
        let thresholds = cluster::circuit_breakers::Thresholds {
            max_connections: value(u32::try_from(connections).expect("small")),
            max_pending_requests: value(pending),
            ..Default::default()
        };
        message.circuit_breakers = Some(cluster::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() });
    });
}

#[tokio::test]
async fn connections_go_to_the_threads_in_turn() {
    for (threads, expected) in [(1, 1), (3, 3)] {
        let backend = Backend::new("v1").await;
        let mut world = World::spread(threads);
        limited(&mut world, &backend, threads, 1000);
        world.routes(vec![to("/", action(V1))]);
        // Each thread has its own, and its part of the limit is one.
        let mut clients = Vec::new();
        for _ in 0..6 {
            let mut client = world.client().await;
            assert_eq!(client.get("/", &[]).await.status, 200);
            clients.push(client);
        }
        assert_eq!(backend.connections.load(Ordering::SeqCst), expected, "{threads} threads");
        let pods = world.shared.pods.lock().clone();
        assert_eq!(pods[&3].connections.load(Ordering::SeqCst), 6, "counted together");
    }
}

#[tokio::test]
async fn each_thread_has_its_part_of_a_limit() {
    let backend = Backend::new("v1").await;
    let mut world = World::spread(3);
    limited(&mut world, &backend, 6, 3);
    world.routes(vec![to("/", action(V1))]);
    // Four to each thread: two go, one waits, one is refused.
    let mut clients = Vec::new();
    for expected in 1..=12 {
        clients.push(Raw::to(world.port).await);
        until(|| world.shared.metrics.open.get() == expected).await;
    }
    let mut answers = FuturesUnordered::new();
    for mut client in clients {
        client.say("GET /never HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
        answers.push(async move { client.answer().await.0 });
    }
    for _ in 0..3 {
        let head = answers.next().await.expect("twelve");
        assert!(head.starts_with("http/1.1 503 ") && head.contains("\r\nx-envoy-overloaded: true\r\n"), "{head}");
    }
    until(|| backend.connections.load(Ordering::SeqCst) == 6).await;
    let more = tokio::time::timeout(Duration::from_millis(100), answers.next()).await;
    assert!(more.is_err(), "nobody else is refused: {more:?}");
}

#[tokio::test]
async fn a_stop_ends_all_threads_and_loses_no_request() {
    let backend = Backend::new("v1").await;
    let mut world = World::spread(2);
    world.cluster(V1, &[backend.address]);
    world.routes(vec![to("/", action(V1))]);
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = world.client().await;
        assert_eq!(client.get("/", &[]).await.status, 200);
        clients.push(client);
    }
    let mut late = Raw::to(world.port).await;
    until(|| world.shared.metrics.open.get() == 5).await;
    world.shared.drain.begin(LONG);
    for client in &mut clients {
        let answer = client.get("/", &[]).await;
        assert_eq!((answer.status, &answer.headers["connection"]), (200, &http::HeaderValue::from_static("close")));
    }
    late.say("GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await;
    assert!(late.rest().await.starts_with("HTTP/1.1 200 "));
    world.ended().await;
}

#[tokio::test]
async fn the_gateway_may_be_spread_too() {
    let backend = Backend::new("shop").await;
    let mut world = World::spread(2);
    world.nothing();
    limited(&mut world, &backend, 2, 1000);
    let address = super::gateway::serving(&mut world);
    let mut clients = Vec::new();
    drop(super::gateway::dial(address).await);
    for _ in 0..4 {
        let mut client = Client::to(address.port()).await;
        assert_eq!(client.get("/", &[]).await.status, 200);
        clients.push(client);
    }
    assert_eq!(backend.connections.load(Ordering::SeqCst), 2);
}
