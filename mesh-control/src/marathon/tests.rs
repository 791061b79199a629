//! The client against a server with real framing.

mod auth;
pub(crate) mod fake;

use super::auth::Auth;
use super::client::{Client, no_tls};
use super::follow::{Follower, Progress, Times};
use super::types::View;
use fake::Fake;
use parking_lot::Mutex;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

type Views = watch::Receiver<Option<Arc<View>>>;

fn times() -> Times {
    Times {
        debounce: Duration::from_millis(1),
        resync: Duration::from_secs(60),
        silence: Duration::from_secs(10),
        readiness: Duration::from_secs(60),
        attach: Duration::from_secs(5),
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(20),
    }
}

fn follow(urls: &[String], times: Times) -> (Views, Arc<Mutex<Progress>>, tokio::task::JoinHandle<std::convert::Infallible>) {
    let (view, views) = watch::channel(None);
    let progress = Arc::new(Mutex::new(Progress::default()));
    let follower =
        Follower { client: Client::new(urls, no_tls(), Auth::NONE).expect("urls"), times, view, progress: progress.clone() };
    (views, progress, tokio::spawn(follower.run()))
}

/// The view's apps with the ports of their tasks, as soon as they are as wanted.
async fn wait_for(views: &mut Views, want: &[(&str, u16)]) {
    let apps = |view: &View| view.apps.values().map(|app| (app.id.clone(), app.tasks[0].ports[0])).collect::<Vec<_>>();
    let want: Vec<_> = want.iter().map(|(id, port)| ((*id).to_owned(), *port)).collect();
    let seen =
        tokio::time::timeout(Duration::from_secs(20), views.wait_for(|view| view.as_deref().map(apps).as_ref() == Some(&want)));
    seen.await.expect("in time").expect("open");
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not in time: {what}");
}

#[tokio::test]
async fn a_standby_sends_us_to_the_leader_and_an_event_asks_for_one_app() {
    let (standby, leader) = (Fake::start().await, Fake::start().await);
    standby.state.lock().redirect = Some(leader.address.clone());
    standby.apps(&[("/a", 1), ("/b", 1)]);
    let (mut views, progress, task) = follow(&[standby.url(), leader.url()], times());
    wait_for(&mut views, &[("/a", 1), ("/b", 1)]).await;
    assert_eq!(leader.take_asked(), ["/v2/events"]);
    assert_eq!(standby.take_asked(), ["/v2/events", "/v2/info", "/v2/apps", "/v2/pods/::status"], "attached first, then asked");
    // A heartbeat in two segments, then an event in three.
    leader.stream.send(b"\r".to_vec()).expect("open");
    leader.stream.send(b"\n".to_vec()).expect("open");
    standby.apps(&[("/a", 1), ("/b", 2)]);
    for part in ["event: status_upda", "te_event\r\ndata: {\"appId\":\"/b\",\"taskStatus\":\"TASK_RUNNING\"}\r", "\n\r\n"] {
        leader.stream.send(part.as_bytes().to_vec()).expect("open");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    wait_for(&mut views, &[("/a", 1), ("/b", 2)]).await;
    assert_eq!(standby.take_asked(), ["/v2/apps/b"]);
    assert!(progress.lock().connected);
    task.abort();
}

#[tokio::test]
async fn after_a_dropped_stream_everything_is_asked_again() {
    let marathon = Fake::start().await;
    marathon.apps(&[("/a", 1)]);
    let (mut views, progress, task) = follow(&[marathon.url()], times());
    wait_for(&mut views, &[("/a", 1)]).await;
    marathon.apps(&[("/a", 2), ("/new", 3)]);
    marathon.stream.send(Vec::new()).expect("open");
    wait_for(&mut views, &[("/a", 2), ("/new", 3)]).await;
    assert!(progress.lock().reconnects >= 1);
    task.abort();
}

#[tokio::test]
async fn a_silent_stream_is_given_up_and_a_marathon_that_is_away_leaves_the_last_view() {
    let marathon = Fake::start().await;
    marathon.apps(&[("/a", 1)]);
    let (mut views, progress, task) = follow(&[marathon.url()], Times { silence: Duration::from_millis(50), ..times() });
    wait_for(&mut views, &[("/a", 1)]).await;
    until("a reconnection", || progress.lock().reconnects >= 2).await;
    marathon.server.abort();
    until("the error", || progress.lock().error.as_deref().is_some_and(|error| error.contains("refused"))).await;
    assert!(views.borrow().as_ref().expect("the last view").apps.contains_key("/a"));
    assert!(!progress.lock().connected);
    task.abort();
}

#[tokio::test]
async fn a_redirect_to_a_stranger_is_not_followed() {
    let (marathon, stranger) = (Fake::start().await, Fake::start().await);
    marathon.state.lock().redirect = Some(stranger.address.clone());
    let (views, progress, task) = follow(&[marathon.url()], times());
    until("the error", || progress.lock().error.as_deref().is_some_and(|error| error.contains("redirects to"))).await;
    assert!(stranger.take_asked().is_empty() && views.borrow().is_none());
    task.abort();
}

#[tokio::test]
async fn an_old_version_is_asked_for_once_and_a_deleted_pod_goes() {
    let marathon = Fake::start().await;
    let instance = |reference: &str| json!({"id": "p.i", "agentHostname": "localhost", "specReference": reference});
    let old = "/v2/pods/p::versions/2026-01-01t00:00:00.000z";
    let pod = json!({"id": "/p", "spec": {"id": "/p", "version": "2026-02-02t00:00:00.000z"}, "instances": [instance(old)]});
    marathon.put("/v2/pods/::status", json!([pod, {"id": ["malformed"]}]));
    marathon.put("/v2/pods/p::status", pod);
    marathon.put(old, json!({"id": "/p", "labels": {"version": "v1"}}));
    let (mut views, _, task) = follow(&[marathon.url()], times());
    let view = views.wait_for(Option::is_some).await.expect("open").clone().expect("some");
    assert_eq!(view.versions[old].labels["version"], "v1");
    assert!(view.hosts["localhost"].is_loopback(), "host names of agents are resolved");
    marathon.take_asked();
    marathon.event("instance_changed_event", &json!({"runSpecId": "/p", "condition": "Running"}));
    until("the question", || marathon.state.lock().asked.len() == 1).await;
    assert_eq!(marathon.take_asked(), ["/v2/pods/p::status"], "the version is known");
    marathon.state.lock().documents.remove("/v2/pods/p::status");
    marathon.event("pod_deleted_event", &json!({"uri": "/v2/pods/p"}));
    let gone = tokio::time::timeout(Duration::from_secs(20), views.wait_for(|v| v.as_ref().is_some_and(|v| v.pods.is_empty())));
    gone.await.expect("in time").expect("open");
    task.abort();
}
