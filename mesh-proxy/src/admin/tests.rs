use super::*;
use crate::xds::state::State;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// The log lives as long as its layer.
fn admin(shared: &Arc<Shared>) -> (reload::Layer<EnvFilter, Registry>, Admin) {
    let report = Report {
        uid: vec![65534; 4],
        gid: vec![65534; 4],
        groups: Vec::new(),
        capabilities: [0; 4],
        bounding: 0,
        no_new_privs: true,
        seccomp: 0,
    };
    let (layer, log) = LogLevel::new(EnvFilter::new("info"));
    (layer, Admin { shared: Arc::clone(shared), report, drain: Duration::from_secs(10), log })
}

async fn ask(admin: &Admin, method: Method, path: &str) -> (u16, String) {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let (status, _, body) = admin.answer(&method, path, query).await;
    (status.as_u16(), body)
}

async fn get(shared: &Arc<Shared>, path: &str) -> (u16, String) {
    let (_log, admin) = admin(shared);
    ask(&admin, Method::GET, path).await
}

#[tokio::test]
async fn ready_says_what_is_missing_and_every_page_answers() {
    let shared = Arc::new(Shared::default());
    assert_eq!(get(&shared, "/ready").await, (503, "the agent has not listed its pods yet\n".to_owned()));
    shared.progress.lock().broker_ready = true;
    assert_eq!(get(&shared, "/ready").await, (503, "nothing from mesh-control yet\n".to_owned()));
    shared.publish(&mut State::default());
    assert_eq!(get(&shared, "/ready").await, (503, "no clusters from mesh-control yet\n".to_owned()));
    shared.progress.lock().config_missing = None;
    assert_eq!(get(&shared, "/ready").await.0, 200);
    shared.progress.lock().broker_lost = Some("closed by the agent".to_owned());
    assert_eq!(get(&shared, "/ready").await.0, 200, "an absent agent does not unmake readiness");
    let status: Value = serde_json::from_str(&get(&shared, "/status").await.1).expect("JSON");
    assert_eq!((&status["privilege"]["no_new_privs"], &status["broker"]["lost"]), (&json!(true), &json!("closed by the agent")));
    assert!(get(&shared, "/metrics").await.1.contains("mesh_proxy_stock 0"));
    assert_eq!(get(&shared, "/clusters").await, (200, String::new()));
    assert!(get(&shared, "/stats").await.1.contains("server.state: 0\n"));
    assert_eq!(get(&shared, "/stats?filter=%5Eserver.live").await, (200, "server.live: 1\n".to_owned()));
    assert!(!get(&shared, "/stats?usedonly").await.1.contains(": 0\n"));
    assert_eq!(get(&shared, "/config_dump").await.0, 200);
    assert_eq!((get(&shared, "/else").await.0, get(&shared, "/clusters?filter=(").await.0), (404, 400));
}

#[tokio::test]
async fn the_logs_level_is_read_and_set() {
    let (_log, admin) = admin(&Arc::new(Shared::default()));
    assert_eq!(ask(&admin, Method::GET, "/logging").await, (200, "info\n".to_owned()));
    assert_eq!(ask(&admin, Method::POST, "/logging?level=mesh_proxy%3Ddebug").await, (200, "mesh_proxy=debug\n".to_owned()));
    let (status, why) = ask(&admin, Method::POST, "/logging?level=dbug").await;
    assert!(status == 400 && why.contains("\"dbug\" is no level"), "{status} {why}");
    assert_eq!(ask(&admin, Method::POST, "/logging").await.0, 400);
    assert_eq!(ask(&admin, Method::GET, "/logging").await, (200, "mesh_proxy=debug\n".to_owned()));
}

#[tokio::test]
async fn a_drain_unmakes_readiness_and_takes_a_time() {
    let shared = Arc::default();
    let (_log, admin) = admin(&shared);
    for (path, status) in [("/drain_listeners?time=3601", 400), ("/drain_listeners?time=soon", 400)] {
        assert_eq!(ask(&admin, Method::POST, path).await.0, status, "{path}");
    }
    assert_eq!(ask(&admin, Method::GET, "/drain_listeners").await.0, 405, "a page that is looked at ends nothing");
    assert!(!shared.drain.is_begun());
    let (status, said) = ask(&admin, Method::POST, "/drain_listeners?time=7").await;
    assert!(status == 200 && said.contains("after 7s at the latest"), "{said}");
    assert!(shared.drain.is_begun());
    assert_eq!(ask(&admin, Method::GET, "/ready").await, (503, "draining\n".to_owned()));
    assert!(ask(&admin, Method::GET, "/stats").await.1.contains("server.state: 1\n"));
    assert!(ask(&admin, Method::POST, "/drain_listeners").await.1.starts_with("draining since before"));
}
