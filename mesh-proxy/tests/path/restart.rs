//! Stops and starts of the proxy: nothing that a client asked is lost.

use super::V1;
use super::world::{Backend, Client, World, action, to};
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const LONG: Duration = Duration::from_secs(20);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n";

async fn serving(backend: &Backend) -> World {
    let mut world = World::new("0.0.0.0:0");
    configure(&mut world, backend);
    world
}

fn configure(world: &mut World, backend: &Backend) {
    world.cluster(V1, &[backend.address]);
    world.routes(vec![to("/", action(V1))]);
}

/// Until the proxy has closed its listener, so that what connects now waits.
async fn stopped(world: &World) {
    assert_eq!(world.shared.unready().as_deref(), Some("draining"));
    // The threads have no way to tell; a connection that is not answered is the sign.
    loop {
        let mut stream = connect(world).await;
        stream.write_all(REQUEST).await.expect("sent");
        let answered = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut [0; 512])).await;
        if answered.is_err() {
            return;
        }
    }
}

async fn connect(world: &World) -> tokio::net::TcpStream {
    tokio::net::TcpStream::connect(("127.0.0.1", world.port)).await.expect("the listener lives on")
}

async fn read_all(mut stream: tokio::net::TcpStream) -> String {
    let mut text = String::new();
    let read = tokio::time::timeout(LONG, stream.read_to_string(&mut text)).await;
    read.expect("closed in time").expect("read");
    text
}

#[tokio::test]
async fn a_stop_answers_what_is_asked_and_what_comes_after_it_waits_for_the_next_proxy() {
    let backend = Backend::new("v1").await;
    let mut world = serving(&backend).await;
    let (mut idle, mut busy, mut silent) = (world.client().await, world.client().await, connect(&world).await);
    assert!(!idle.get("/", &[]).await.headers.contains_key("connection"));
    let in_flight = tokio::spawn(async move { busy.get("/slow", &[]).await });
    while world.shared.metrics.open.get() < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.shared.drain.begin(LONG);
    let answer = in_flight.await.expect("answered");
    assert_eq!((answer.status, &answer.headers["connection"]), (200, &http::HeaderValue::from_static("close")));
    // While others are open a new connection is served too: the next proxy may not start before this one ends.
    let mut new = connect(&world).await;
    new.write_all(REQUEST).await.expect("sent");
    let text = read_all(new).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("connection: close"), "{text}");
    let answer = idle.get("/", &[]).await;
    assert_eq!((answer.status, &answer.headers["connection"]), (200, &http::HeaderValue::from_static("close")));
    silent.write_all(REQUEST).await.expect("sent");
    let text = read_all(silent).await;
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("connection: close"), "{text}");
    let began = Instant::now();
    world.ended().await;
    assert!(began.elapsed() < LONG / 2, "nothing was left to wait for");

    let mut new = connect(&world).await;
    new.write_all(REQUEST).await.expect("sent");
    let mut next = world.beside();
    configure(&mut next, &backend);
    let mut buffer = vec![0; 4096];
    let length = tokio::time::timeout(LONG, new.read(&mut buffer)).await.expect("in time").expect("read");
    let text = String::from_utf8_lossy(&buffer[..length]);
    assert!(text.starts_with("HTTP/1.1 200") && !text.contains("connection: close"), "{text}");
}

#[tokio::test]
async fn idle_connections_are_closed_when_the_time_is_nearly_over() {
    let backend = Backend::new("v1").await;
    let mut world = serving(&backend).await;
    let (mut idle, silent) = (connect(&world).await, connect(&world).await);
    idle.write_all(REQUEST).await.expect("sent");
    assert!(idle.read(&mut [0; 4096]).await.expect("read") > 0);
    let (limit, began) = (Duration::from_millis(600), Instant::now());
    world.shared.drain.begin(limit);
    assert_eq!((read_all(idle).await, read_all(silent).await), (String::new(), String::new()));
    assert!(began.elapsed() >= limit / 2, "{:?}", began.elapsed());
    world.ended().await;
    // What never ends is cut.
    let mut world = serving(&backend).await;
    let mut never = connect(&world).await;
    never.write_all(b"GET /never HTTP/1.1\r\nhost: reviews\r\n\r\n").await.expect("sent");
    while world.shared.metrics.open.get() < 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let began = Instant::now();
    world.shared.drain.begin(limit);
    world.ended().await;
    assert!(began.elapsed() >= limit && began.elapsed() < LONG);
}

#[tokio::test]
async fn http2_is_told_to_go_and_its_streams_finish() {
    let backend = Backend::new("v1").await;
    let mut world = serving(&backend).await;
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(connect(&world).await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.expect("handshake");
    let connection = tokio::spawn(connection);
    let request = Request::get("http://reviews:9080/slow").body(Full::<Bytes>::default()).expect("valid");
    let response = sender.send_request(request);
    while backend.connections.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.shared.drain.begin(LONG);
    let began = Instant::now();
    assert_eq!(response.await.expect("finished").status(), 200);
    connection.await.expect("no panic").expect("ended in good order");
    assert!(began.elapsed() < LONG / 2, "told at once");
    world.ended().await;
}

#[tokio::test]
async fn nothing_is_accepted_before_the_first_configuration_is_complete() {
    let backend = Backend::new("v1").await;
    let mut world = World::new("0.0.0.0:0");
    let mut early = connect(&world).await;
    early.write_all(REQUEST).await.expect("sent");
    world.cluster(V1, &[backend.address]);
    let answered = tokio::time::timeout(Duration::from_millis(200), early.read(&mut [0; 1])).await;
    assert!(answered.is_err(), "no listeners yet: it waits");
    assert_eq!(world.shared.metrics.connections.get(), 0);
    world.routes(vec![to("/", action(V1))]);
    let mut start = [0; 12];
    tokio::time::timeout(LONG, early.read_exact(&mut start)).await.expect("in time").expect("read");
    assert_eq!(&start, b"HTTP/1.1 200");
}

/// Asks again and again, as a client that honours `connection: close`.
async fn asking(port: u16, until: Arc<AtomicUsize>, total: usize) -> usize {
    let mut client = Client::to(port).await;
    let mut failed = 0;
    while until.fetch_add(1, Ordering::SeqCst) < total {
        let answer = client.try_get("/").await;
        failed += usize::from(answer.as_ref().is_none_or(|answer| answer.status != 200));
        if answer.is_none_or(|answer| answer.headers.contains_key("connection")) {
            client = Client::to(port).await;
        }
    }
    failed
}

#[tokio::test]
async fn proxies_follow_each_other_under_load_without_a_failed_request() {
    const TOTAL: usize = 6000;
    let backend = Backend::new("v1").await;
    let mut world = serving(&backend).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..16).map(|_| tokio::spawn(asking(world.port, Arc::clone(&asked), TOTAL))).collect();
    let mut changes = 0;
    for quarter in 1..4 {
        while asked.load(Ordering::SeqCst) < TOTAL * quarter / 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Once the new one comes first and both accept, once the old one has ended before: then connections wait.
        let mut next = world.beside();
        if quarter % 2 == 0 {
            configure(&mut next, &backend);
        }
        // A quarter of it is what a client has to ask over a connection that was accepted at the last moment, on the busiest machine.
        world.shared.drain.begin(Duration::from_secs(4));
        if quarter % 2 == 1 {
            stopped(&world).await;
            configure(&mut next, &backend);
        }
        world.ended().await;
        world = next;
        changes += 1;
    }
    let mut failed = 0;
    for client in clients {
        failed += client.await.expect("no panic");
    }
    assert_eq!((changes, failed), (3, 0));
}

/// The stock of a pod that was never seen busy carries 34 new connections a second for a minute ([`mesh_proxy::core::stock`]): each
/// connection of a TCP service takes a socket.
#[tokio::test]
async fn without_the_agent_a_minutes_worth_of_new_connections_is_served() {
    const WORTH: usize = 33 * 60;
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut world = World::new("0.0.0.0:0");
    super::tcp_service(&mut world, echo.local_addr().expect("address"));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = echo.accept().await.expect("accept");
            stream.write_all(b"here").await.expect("write");
        }
    });
    let began = Instant::now();
    while world.shared.metrics.stock.get() < 2000 {
        assert!(began.elapsed() < LONG, "{} in stock", world.shared.metrics.stock.get());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.generous.store(false, Ordering::SeqCst);
    for _ in 0..WORTH {
        assert_eq!(read_all(connect(&world).await).await, "here");
    }
    assert!(world.shared.progress.lock().broker_lost.is_some(), "the agent was gone");
    assert_eq!(world.shared.metrics.stock_empty.get(), 0);
}
