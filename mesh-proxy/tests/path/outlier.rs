//! Endpoints that fail are avoided, and come back.

use super::world::{Backend, World, action, to};
use super::{V1, refusing, retries, tcp_service};
use envoy_types::pb::envoy::config::cluster::v3 as cds;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{Duration as ProtoDuration, UInt32Value};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

/// As Istio writes it, but for the times.
fn detection(failures: u32, max_percent: u32) -> cds::OutlierDetection {
    let millis = |millis: i32| Some(ProtoDuration { seconds: 0, nanos: millis * 1_000_000 });
    cds::OutlierDetection {
        consecutive_5xx: number(failures),
        enforcing_consecutive_5xx: number(100),
        enforcing_success_rate: number(0),
        interval: millis(100),
        base_ejection_time: millis(300),
        max_ejection_percent: number(max_percent),
        ..Default::default()
    }
}

/// Without panic, as Istio has it unless `minHealthPercent` is set.
fn detecting(cluster: &mut cds::Cluster, detection: cds::OutlierDetection) {
    cluster.outlier_detection = Some(detection);
    panics_below(cluster, 0.0);
}

fn panics_below(cluster: &mut cds::Cluster, percent: f64) {
    let healthy_panic_threshold = Some(Percent { value: percent });
    cluster.common_lb_config = Some(cds::cluster::CommonLbConfig { healthy_panic_threshold, ..Default::default() });
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone_and_comes_back() {
    let (bad, good) = (Backend::new("bad").await, Backend::new("good").await);
    let mut world = World::new("0.0.0.0:0");
    world.cluster_with(V1, &[bad.address, good.address], |cluster| detecting(cluster, detection(2, 50)));
    world.routes(vec![to("/", action(V1))]);
    let mut client = world.client().await;
    let began = Instant::now();
    // Every answer is a 503 in turn; who is ejected first is by chance, and the other must not be at 50 %.
    for _ in 0..8 {
        client.get("/busy", &[]).await;
    }
    let name = |body: &str| body.split(' ').next().unwrap_or_default().to_owned();
    let only = name(&client.get("/", &[]).await.body);
    let other = loop {
        let answer = client.get("/", &[]).await;
        assert_eq!(answer.status, 200);
        let found = name(&answer.body);
        if found != only {
            break found;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "it comes back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(other == "bad" || other == "good");
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());
}

#[tokio::test]
async fn with_all_ejected_there_is_nobody_and_backends_are_not_touched() {
    let backends = [Backend::new("a").await, Backend::new("b").await, Backend::new("c").await];
    let addresses = backends.each_ref().map(|backend| backend.address);
    let mut world = World::new("0.0.0.0:0");
    let slow = |mut detection: cds::OutlierDetection| {
        detection.base_ejection_time = Some(ProtoDuration { seconds: 60, nanos: 0 });
        detection
    };
    world.cluster_with(V1, &addresses, |cluster| detecting(cluster, slow(detection(2, 100))));
    // As the old circuit breaker of the walkthroughs: 30 retries, three endpoints, two errors each.
    let policy = route::RetryPolicy { num_retries: number(30), ..retries("gateway-error").expect("policy") };
    world.routes(vec![to("/", route::RouteAction { retry_policy: Some(policy), ..action(V1) })]);
    let mut client = world.client().await;
    let answer = client.get("/busy", &[]).await;
    assert_eq!((answer.status, &*answer.body), (503, "no healthy upstream"));
    assert_eq!(world.shared.metrics.retries.get(), 6, "the seventh attempt found nobody");
    let answer = client.get("/", &[]).await;
    assert_eq!((answer.status, &*answer.body), (503, "no healthy upstream"));
    // Another meaning of failure is another cluster: nothing is known of it.
    world.cluster_with(V1, &addresses, |cluster| detecting(cluster, slow(detection(3, 100))));
    assert_eq!(client.get("/", &[]).await.status, 200);
    assert_eq!(client.get("/busy", &[]).await.body, "no healthy upstream");
    // With fewer than half in good health all are used.
    world.cluster_with(V1, &addresses, |cluster| {
        detecting(cluster, slow(detection(3, 100)));
        panics_below(cluster, 50.0);
    });
    assert_eq!(client.get("/", &[]).await.status, 200);
}

#[tokio::test]
async fn refused_connections_count_as_failures() {
    let good = Backend::new("good").await;
    let mut world = World::new("0.0.0.0:0");
    let mut detection = detection(1, 50);
    detection.base_ejection_time = Some(ProtoDuration { seconds: 60, nanos: 0 });
    world.cluster_with(V1, &[refusing(), good.address], |cluster| detecting(cluster, detection));
    world.routes(vec![to("/", action(V1))]);
    let mut client = world.client().await;
    let mut failed = 0;
    for _ in 0..20 {
        failed += usize::from(client.get("/", &[]).await.status == 503);
    }
    assert_eq!(failed, 1, "once, and never asked again");
}

#[tokio::test]
async fn connections_without_http_count_too() {
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = echo.local_addr().expect("address");
    let mut world = World::new("0.0.0.0:0");
    tcp_service(&mut world, address);
    let mut detection = detection(1, 50);
    detection.base_ejection_time = Some(ProtoDuration { seconds: 60, nanos: 0 });
    world.cluster_with("outbound|9999||echo", &[refusing(), address], |cluster| detecting(cluster, detection));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = echo.accept().await.expect("accept");
            stream.write_all(b"here").await.expect("write");
        }
    });
    let mut failed = 0;
    for _ in 0..20 {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", world.port)).await.expect("connect");
        failed += usize::from(stream.read(&mut [0; 4]).await.unwrap_or(0) == 0);
    }
    assert_eq!(failed, 1, "once, and never dialled again");
}
