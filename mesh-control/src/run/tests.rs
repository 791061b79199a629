//! From Marathon's event to what nodes hold, through everything but the wire to the nodes.

use super::*;
use crate::core::compile::tests::{node, settings};
use crate::marathon::auth::Auth;
use crate::marathon::client::{Client, no_tls};
use crate::marathon::follow::{Follower, Progress, Times};
use crate::marathon::tests::fake::Fake;
use envoy_types::pb::envoy::config::core::v3::HealthStatus;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use mesh_xds::agent::SERVICE;
use mesh_xds::names::ENDPOINT;
use mesh_xds::serve::Source;
use mesh_xds::server::Snapshot;
use prost::Message;
use serde_json::{Value, json};
use std::time::Duration;

type Snapshots = watch::Receiver<Arc<Snapshot>>;

const NAME: &str = "a.marathon.l4lb.thisdcos.directory";
const TASKS: usize = 6;

/// An app with tasks on ports 1000 and up.
fn put(marathon: &Fake, health: impl Fn(usize) -> Value) {
    let task = |i| json!({"id": format!("a.instance-{i}._app.1"), "host": "10.0.0.1", "state": "TASK_RUNNING", "ports": [1000 + i], "healthCheckResults": health(i)});
    let app = json!({"id": "/a", "healthChecks": [{"protocol": "HTTP"}], "tasks": (0..TASKS).map(task).collect::<Vec<_>>(),
        "portDefinitions": [{"name": "http", "labels": {"VIP_0": "/a:80"}}]});
    marathon.put("/v2/apps/a", json!({"app": app}));
    marathon.put("/v2/apps", json!({"apps": [app]}));
}

/// The ports of the backends that take connections.
fn live(snapshot: &Snapshot) -> Vec<u32> {
    let Some(service) = snapshot.types.get(SERVICE).and_then(|services| services.get(NAME)) else { return Vec::new() };
    let service = mesh_xds::agent::Service::decode(service.body.clone()).expect("service");
    service.ports[0].backends.iter().filter(|backend| backend.weight > 0).map(|backend| backend.port - 1000).collect()
}

async fn until(snapshots: &mut Snapshots, want: &[u32]) {
    let seen = snapshots.wait_for(|snapshot| live(snapshot) == want);
    tokio::time::timeout(Duration::from_secs(20), seen).await.expect("in time").expect("open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_reaches_the_nodes_before_marathons_rest_knows() {
    let marathon = Fake::start().await;
    put(&marathon, |_| json!([{"alive": true}]));
    let (view, views) = watch::channel(None);
    let progress = Arc::new(Mutex::new(Progress::default()));
    let client = Client::new(&[marathon.url()], no_tls(), Auth::NONE).expect("url");
    let follower = Follower { client, times: Times::default(), view, progress: progress.clone() };
    let views = gather(vec![views]);
    let metrics = Arc::new(Metrics::default());
    let publisher = Arc::new(Publisher::new(Tokens::default(), metrics.clone()));
    let mut agent = publisher.watch(&node("agent~10.0.0.9~a~mesh"));
    // On another node, or the agent would wait for its answers.
    let mut proxy = publisher.watch(&node("node~10.0.0.8~a~mesh"));
    let dir = tempfile::tempdir().expect("dir");
    let store = Store::open(&dir.path().join("state.redb")).expect("store");
    let agents = watch::channel(None).1;
    let admin = Admin { metrics, publisher, store: store.clone(), marathon: vec![progress], agents, world: Mutex::default() };
    let admin = Arc::new(admin);
    let tasks = [
        tokio::spawn(async { match follower.run().await {} }),
        tokio::spawn(compile_always(settings(), views, store.clone(), admin)),
    ];
    until(&mut agent, &[0, 1, 2, 3, 4, 5]).await;

    let vip = IpAddr::from(mesh_common::vip::address_v4("a.marathon"));
    assert_eq!(store.vips().expect("readable"), [(vip, "a.marathon".to_owned())], "a restart would give the same");

    let mut fastest = Duration::MAX;
    for killed in 0..3u32 {
        let started = Instant::now();
        let id = format!("a.instance-{killed}._app.1");
        marathon.event("status_update_event", &json!({"appId": "/a", "taskId": id, "taskStatus": "TASK_KILLING"}));
        until(&mut agent, &((killed + 1)..6).collect::<Vec<_>>()).await;
        fastest = fastest.min(started.elapsed());
    }
    println!("event to snapshot: {fastest:?}");
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
    let draining = |snapshot: &Arc<Snapshot>| {
        let body = snapshot.types[ENDPOINT][&format!("outbound|80||{NAME}")].body.clone();
        let assignment = ClusterLoadAssignment::decode(body).expect("assignment");
        let endpoints = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
        endpoints.filter(|endpoint| endpoint.health_status() == HealthStatus::Draining).count()
    };
    // They are there until they are gone.
    let seen = tokio::time::timeout(Duration::from_secs(20), proxy.wait_for(|snapshot| draining(snapshot) == 3)).await;
    drop(seen.expect("in time").expect("open"));

    let sick = json!({"runSpecId": "/a", "instanceId": "a.instance-3", "healthy": false});
    put(&marathon, |i| json!([{"alive": i != 3}]));
    marathon.event("instance_health_changed_event", &sick);
    until(&mut agent, &[4, 5]).await;
    // Marathon forgets everything: who was healthy serves on, and the sick one is not well by that.
    put(&marathon, |_| json!([]));
    marathon.event("instance_health_changed_event", &json!({"runSpecId": "/a", "instanceId": "a.instance-4", "healthy": null}));
    marathon.event("status_update_event", &json!({"appId": "/a", "taskId": "a.instance-5._app.1", "taskStatus": "TASK_KILLING"}));
    until(&mut agent, &[4]).await;
    // A service is not emptied because every check fails.
    put(&marathon, |_| json!([{"alive": false}]));
    marathon.event("instance_health_changed_event", &json!({"runSpecId": "/a", "instanceId": "a.instance-4", "healthy": true}));
    until(&mut agent, &[3, 4]).await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
}
