//! Limits of connections, waiting requests, requests and retries; how long a connection is used.

use super::V1;
use super::world::{Answer, Client, World, action, any, to};
use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options as options;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Duration as ProtoDuration, UInt32Value};
use http_body_util::Full;
use hyper::Response;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const OVERFLOW: &str = "upstream connect error or disconnect/reset before headers. reset reason: overflow";

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

fn limits(thresholds: cds::circuit_breakers::Thresholds) -> Option<cds::CircuitBreakers> {
    Some(cds::CircuitBreakers { thresholds: vec![thresholds], ..Default::default() })
}

/// Answers no request before it is let; 503 at `/busy`.
struct Gate {
    address: SocketAddr,
    tickets: Arc<Semaphore>,
    connections: Arc<AtomicUsize>,
    here: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Gate {
    async fn new() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let gate = Self {
            address,
            tickets: Arc::new(Semaphore::new(0)),
            connections: Arc::default(),
            here: Arc::default(),
            most: Arc::default(),
        };
        let (tickets, connections) = (Arc::clone(&gate.tickets), Arc::clone(&gate.connections));
        let (here, most) = (Arc::clone(&gate.here), Arc::clone(&gate.most));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                connections.fetch_add(1, Ordering::SeqCst);
                let (tickets, here, most) = (Arc::clone(&tickets), Arc::clone(&here), Arc::clone(&most));
                let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let (tickets, here, most) = (Arc::clone(&tickets), Arc::clone(&here), Arc::clone(&most));
                    async move {
                        most.fetch_max(here.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        tickets.acquire().await.expect("open").forget();
                        here.fetch_sub(1, Ordering::SeqCst);
                        let status = if request.uri().path() == "/busy" { 503 } else { 200 };
                        let response = Response::builder().status(status).body(Full::<Bytes>::from("let"));
                        Ok::<_, Infallible>(response.expect("valid"))
                    }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        gate
    }

    async fn until(&self, here: usize) {
        until(|| self.here.load(Ordering::SeqCst) == here).await;
    }
}

async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("in time");
}

fn ask(port: u16, path: &'static str) -> JoinHandle<Answer> {
    tokio::spawn(async move { Client::to(port).await.get(path, &[]).await })
}

fn codes(answers: &[Answer]) -> Vec<u16> {
    answers.iter().map(|answer| answer.status).collect()
}

/// Those that are answered while the gate is shut, and the rest.
async fn refused(gate: &Gate, asked: Vec<JoinHandle<Answer>>, expected: usize) -> (Vec<Answer>, Vec<JoinHandle<Answer>>) {
    until(|| asked.iter().filter(|asked| asked.is_finished()).count() == expected).await;
    gate.until(1).await;
    let (mut answers, mut rest) = (Vec::new(), Vec::new());
    for asked in asked {
        if asked.is_finished() { answers.push(asked.await.expect("no panic")) } else { rest.push(asked) }
    }
    (answers, rest)
}

#[tokio::test]
async fn of_five_at_once_one_is_served_one_waits_and_three_are_refused() {
    // With a connection per request, as the circuit breaker task of Istio has it, and with one that is kept.
    for per_connection in [Some(1), None] {
        let gate = Gate::new().await;
        let mut world = World::new("0.0.0.0:0");
        world.cluster_with(V1, &[gate.address], |cluster| {
            let (max_connections, max_pending_requests) = (number(1), number(1));
            cluster.circuit_breakers =
                limits(cds::circuit_breakers::Thresholds { max_connections, max_pending_requests, ..Default::default() });
            if let Some(most) = per_connection {
                http_options(cluster, |common| common.max_requests_per_connection = number(most));
            }
        });
        world.routes(vec![to("/", action(V1))]);
        for round in 1..=3 {
            let asked = (0..5).map(|_| ask(world.port, "/")).collect();
            let (answers, rest) = refused(&gate, asked, 3).await;
            assert_eq!(codes(&answers), [503; 3]);
            for answer in &answers {
                assert_eq!(
                    (&*answer.body, &answer.headers["x-envoy-overloaded"]),
                    (OVERFLOW, &http::HeaderValue::from_static("true"))
                );
            }
            gate.tickets.add_permits(2);
            for asked in rest {
                assert_eq!(asked.await.expect("no panic").status, 200);
            }
            assert_eq!(gate.most.load(Ordering::SeqCst), 1, "never two at a time");
            let connections = if per_connection.is_some() { 2 * round } else { 1 };
            assert_eq!(gate.connections.load(Ordering::SeqCst), connections);
        }
        assert!(world.shared.metrics.encode(&world.shared.telemetry).contains("response_flags=\"UO\""));
    }
}

#[tokio::test]
async fn who_waits_and_gives_up_frees_his_place() {
    let gate = Gate::new().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[gate.address], |cluster| {
        let (max_connections, max_pending_requests) = (number(1), number(1));
        cluster.circuit_breakers =
            limits(cds::circuit_breakers::Thresholds { max_connections, max_pending_requests, ..Default::default() });
    });
    let timeout = Some(ProtoDuration { seconds: 0, nanos: 100_000_000 });
    world.routes(vec![to("/short", route::RouteAction { timeout, ..action(V1) }), to("/", action(V1))]);
    let first = ask(world.port, "/");
    gate.until(1).await;
    assert_eq!(ask(world.port, "/short").await.expect("no panic").status, 504, "it waited");
    assert_eq!(ask(world.port, "/short").await.expect("no panic").status, 504, "and was no longer counted");
    let second = ask(world.port, "/");
    gate.tickets.add_permits(2);
    assert_eq!((first.await.expect("no panic").status, second.await.expect("no panic").status), (200, 200));
    assert_eq!(gate.most.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn requests_are_limited_until_their_response_has_ended() {
    let gate = Gate::new().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[gate.address], |cluster| {
        cluster.circuit_breakers = limits(cds::circuit_breakers::Thresholds { max_requests: number(2), ..Default::default() });
    });
    world.routes(vec![to("/", action(V1))]);
    let asked: Vec<_> = (0..2).map(|_| ask(world.port, "/")).collect();
    gate.until(2).await;
    let answer = ask(world.port, "/").await.expect("no panic");
    assert_eq!((answer.status, &*answer.body), (503, OVERFLOW));
    gate.tickets.add_permits(3);
    for asked in asked {
        assert_eq!(asked.await.expect("no panic").status, 200);
    }
    assert_eq!(ask(world.port, "/").await.expect("no panic").status, 200);
}

#[tokio::test]
async fn a_connection_to_each_endpoint_is_always_allowed() {
    let gates = [Gate::new().await, Gate::new().await];
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[gates[0].address, gates[1].address], |cluster| {
        cluster.circuit_breakers = limits(cds::circuit_breakers::Thresholds { max_connections: number(1), ..Default::default() });
    });
    world.routes(vec![to("/", action(V1))]);
    let asked: Vec<_> = (0..2).map(|_| ask(world.port, "/")).collect();
    for gate in &gates {
        gate.until(1).await;
        gate.tickets.add_permits(1);
    }
    for asked in asked {
        assert_eq!(asked.await.expect("no panic").status, 200);
    }
}

/// Requests that fail at once and are repeated ten times: so many reached the endpoint, and the flags of the answer.
async fn tries(thresholds: cds::circuit_breakers::Thresholds) -> (usize, bool) {
    let gate = Gate::new().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[gate.address], |cluster| cluster.circuit_breakers = limits(thresholds));
    let policy = route::RetryPolicy { retry_on: "5xx".to_owned(), num_retries: number(2), ..Default::default() };
    world.routes(vec![to("/", route::RouteAction { retry_policy: Some(policy), ..action(V1) })]);
    gate.tickets.add_permits(100);
    let answer = ask(world.port, "/busy").await.expect("no panic");
    assert_eq!((answer.status, &*answer.body), (503, "let"));
    (
        100 - gate.tickets.available_permits(),
        world.shared.metrics.encode(&world.shared.telemetry).contains("response_flags=\"UO\""),
    )
}

#[tokio::test]
async fn retries_are_limited_by_number_or_budget() {
    use cds::circuit_breakers::{Thresholds, thresholds::RetryBudget};
    let budget = |percent: f64, least| {
        let retry_budget = Some(RetryBudget {
            budget_percent: Some(Percent { value: percent }),
            min_retry_concurrency: number(least),
            ..Default::default()
        });
        Thresholds { retry_budget, ..Default::default() }
    };
    assert_eq!(tries(Thresholds::default()).await, (3, false));
    assert_eq!(tries(Thresholds { max_retries: number(0), ..Default::default() }).await, (1, true));
    assert_eq!(tries(Thresholds { max_retries: number(1), ..Default::default() }).await, (3, false), "one at a time");
    assert_eq!(tries(budget(0.0, 0)).await, (1, true));
    assert_eq!(tries(budget(0.0, 1)).await, (3, false));
    assert_eq!(tries(budget(100.0, 0)).await, (3, false), "the request itself is in flight");
}

#[tokio::test]
async fn a_retry_counts_until_its_attempt_has_ended() {
    let gate = Gate::new().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[gate.address], |cluster| {
        cluster.circuit_breakers = limits(cds::circuit_breakers::Thresholds { max_retries: number(1), ..Default::default() });
    });
    let policy = route::RetryPolicy { retry_on: "5xx".to_owned(), num_retries: number(1), ..Default::default() };
    world.routes(vec![to("/", route::RouteAction { retry_policy: Some(policy), ..action(V1) })]);
    let asked = (0..2).map(|_| ask(world.port, "/busy")).collect();
    gate.until(2).await;
    gate.tickets.add_permits(2);
    // Both failed: one is repeated, and as long as that is in flight the other must not be.
    let (answers, rest) = refused(&gate, asked, 1).await;
    assert_eq!((codes(&answers), rest.len()), (vec![503], 1));
    assert!(world.shared.metrics.encode(&world.shared.telemetry).contains("response_flags=\"UO\""));
    gate.tickets.add_permits(1);
    for asked in rest {
        assert_eq!(asked.await.expect("no panic").status, 503);
    }
    assert_eq!(world.shared.metrics.retries.get(), 1);
    // And afterwards again.
    gate.tickets.add_permits(2);
    assert_eq!(ask(world.port, "/busy").await.expect("no panic").status, 503);
    assert_eq!(world.shared.metrics.retries.get(), 2);
}

pub fn http_options(cluster: &mut cds::Cluster, change: impl FnOnce(&mut core::HttpProtocolOptions)) {
    let mut common = core::HttpProtocolOptions::default();
    change(&mut common);
    let explicit = options::ExplicitHttpConfig {
        protocol_config: Some(options::explicit_http_config::ProtocolConfig::HttpProtocolOptions(Default::default())),
    };
    let message = HttpProtocolOptions {
        common_http_protocol_options: Some(common),
        upstream_protocol_options: Some(options::UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..Default::default()
    };
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    cluster.typed_extension_protocol_options.insert(name.to_owned(), any(&message));
}

#[tokio::test]
async fn a_connection_is_used_so_often_and_so_long() {
    type Change = fn(&mut core::HttpProtocolOptions);
    let cases: [(Change, usize); 4] = [
        (|_| {}, 1),
        (|common| common.max_requests_per_connection = number(2), 2),
        (|common| common.idle_timeout = Some(ProtoDuration { seconds: 0, nanos: 1 }), 4),
        (|common| common.max_connection_duration = Some(ProtoDuration { seconds: 0, nanos: 1 }), 4),
    ];
    for (index, (change, expected)) in cases.into_iter().enumerate() {
        let gate = Gate::new().await;
        gate.tickets.add_permits(4);
        let mut world = World::new("0.0.0.0:0");
        world.cluster_with(V1, &[gate.address], |cluster| http_options(cluster, change));
        world.routes(vec![to("/", action(V1))]);
        let mut client = world.client().await;
        for _ in 0..4 {
            assert_eq!(client.get("/", &[]).await.status, 200);
        }
        assert_eq!(gate.connections.load(Ordering::SeqCst), expected, "case {index}");
    }
}

#[tokio::test]
async fn what_a_burst_has_opened_is_there_for_the_next() {
    const BURST: usize = 100;
    let gate = Gate::new().await;
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[gate.address], |_| {});
    world.routes(vec![to("/", action(V1))]);
    for _ in 0..3 {
        let asked: Vec<_> = (0..BURST).map(|_| ask(world.port, "/")).collect();
        gate.until(BURST).await;
        gate.tickets.add_permits(BURST);
        for asked in asked {
            assert_eq!(asked.await.expect("no panic").status, 200);
        }
    }
    assert_eq!(gate.connections.load(Ordering::SeqCst), BURST, "no burst but the first needs a connection");
}
