//! Backends that stop under load, in every way that a backend can: no GET fails.

use super::V1;
use super::world::{Client, World, action, to};
use envoy_types::pb::envoy::config::route::v3 as route;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How a backend stops.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Connections are closed in good order, whatever is in flight; new ones are refused.
    Fin,
    /// Connections are reset; new ones are refused.
    Rst,
    /// The listener lives on for a while, and resets what it accepts.
    AcceptAndReset,
}

/// Serves until it is told how to end.
struct Mortal {
    address: SocketAddr,
    end: watch::Sender<Option<End>>,
    served: Arc<AtomicUsize>,
}

impl Mortal {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let (end, served) = (watch::Sender::new(None), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(accept(listener, end.subscribe(), Arc::clone(&served)));
        Self { address, end, served }
    }
}

async fn accept(listener: TcpListener, end: watch::Receiver<Option<End>>, served: Arc<AtomicUsize>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("accept");
                tokio::spawn(serve(stream, end.clone(), Arc::clone(&served)));
            }
            ended = told(&end) => match ended {
                End::Fin | End::Rst => return,
                End::AcceptAndReset => break,
            },
        }
    }
    let reset_all = async {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let _ = stream.read(&mut [0; 16]).await;
            reset(stream);
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(200), reset_all).await;
}

async fn told(end: &watch::Receiver<Option<End>>) -> End {
    let mut end = end.clone();
    let told = end.wait_for(Option::is_some).await.map(|end| *end);
    match told {
        Ok(Some(end)) => end,
        // The test is over.
        _ => std::future::pending().await,
    }
}

fn reset(stream: TcpStream) {
    let socket = socket2::Socket::from(stream.into_std().expect("std"));
    socket.set_linger(Some(Duration::ZERO)).expect("linger");
}

async fn serve(mut stream: TcpStream, end: watch::Receiver<Option<End>>, served: Arc<AtomicUsize>) {
    let mut buffer = [0; 4096];
    let ended = loop {
        tokio::select! {
            biased;
            ended = told(&end) => break ended,
            read = stream.read(&mut buffer) => if read.unwrap_or(0) == 0 { return },
        }
        // A request in flight, which the end may hit.
        tokio::select! {
            biased;
            ended = told(&end) => break ended,
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
        served.fetch_add(1, Ordering::SeqCst);
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    };
    match ended {
        End::Fin => drop(stream),
        End::Rst | End::AcceptAndReset => reset(stream),
    }
}

/// The mesh's default policy, as mesh-control writes it.
fn default_retries() -> Option<route::RetryPolicy> {
    let on = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
    let name = "envoy.retry_host_predicates.previous_hosts".to_owned();
    Some(route::RetryPolicy {
        retry_host_predicate: vec![route::retry_policy::RetryHostPredicate { name, config_type: None }],
        host_selection_retry_max_attempts: 5,
        ..super::retries(on).expect("some")
    })
}

async fn asking(port: u16, asked: Arc<AtomicUsize>, total: usize) -> Vec<(u16, String)> {
    let mut client = Client::to(port).await;
    let mut failed = Vec::new();
    while asked.fetch_add(1, Ordering::SeqCst) < total {
        match client.try_get("/").await {
            Some(answer) if answer.status == 200 => {}
            Some(answer) => failed.push((answer.status, answer.body)),
            None => {
                failed.push((0, String::new()));
                client = Client::to(port).await;
            }
        }
    }
    failed
}

#[tokio::test]
async fn backends_that_are_replaced_one_by_one_fail_no_get() {
    const TOTAL: usize = 8000;
    const CHANGES: usize = 12;
    let mut world = World::new("0.0.0.0:0");
    let mut backends = vec![Mortal::new().await, Mortal::new().await, Mortal::new().await];
    let addresses = |backends: &[Mortal]| backends.iter().map(|backend| backend.address).collect::<Vec<_>>();
    world.cluster(V1, &addresses(&backends));
    world.routes(vec![to("/", route::RouteAction { retry_policy: default_retries(), ..action(V1) })]);
    let asked = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..32).map(|_| tokio::spawn(asking(world.port, Arc::clone(&asked), TOTAL))).collect();
    for change in 0..CHANGES {
        while asked.load(Ordering::SeqCst) < TOTAL * (change + 1) / (CHANGES + 1) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let end = [End::Fin, End::Rst, End::AcceptAndReset][change % 3];
        let old = backends.remove(0);
        assert!(old.served.load(Ordering::SeqCst) > 0);
        old.end.send_replace(Some(end));
        // The mesh hears of it a little later.
        tokio::time::sleep(Duration::from_millis(20)).await;
        backends.push(Mortal::new().await);
        world.cluster(V1, &addresses(&backends));
    }
    let mut failed = Vec::new();
    for client in clients {
        failed.extend(client.await.expect("no panic"));
    }
    let metrics = &world.shared.metrics;
    assert!(failed.is_empty(), "{}: {:?}", failed.len(), failed.first());
    assert!(metrics.stale.get() > 0 && metrics.retries.get() > 0, "{} {}", metrics.stale.get(), metrics.retries.get());
}

#[tokio::test]
async fn a_draining_endpoint_gets_no_new_request_and_its_idle_connections_are_closed() {
    let mut world = World::new("0.0.0.0:0");
    let (old, new) = (Mortal::new().await, Mortal::new().await);
    world.cluster(V1, &[old.address]);
    world.routes(vec![to("/", action(V1))]);
    let mut client = world.client().await;
    assert_eq!(client.get("/", &[]).await.status, 200);
    world.draining(V1, &[new.address], &[old.address]);
    for _ in 0..10 {
        assert_eq!(client.get("/", &[]).await.status, 200);
    }
    assert_eq!((old.served.load(Ordering::SeqCst), new.served.load(Ordering::SeqCst)), (1, 10));
    // The test, the backend's listener, and one for each of its connections.
    tokio::time::timeout(Duration::from_secs(3), async {
        while Arc::strong_count(&old.served) > 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("closed at once, not at the next sweep");
}
