//! What an operator asks of a running proxy, by the commands of the real binary.

use super::world::{Backend, World, action, to};
use super::{V1, V2, refusing};
use mesh_proxy::admin::Admin;
use mesh_proxy::logging::LogLevel;
use mesh_proxy::privilege::Report;
use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// A proxy with its admin endpoint.
struct Asked {
    world: World,
    socket: PathBuf,
    _log: reload::Layer<EnvFilter, Registry>,
    _directory: tempfile::TempDir,
}

impl Asked {
    fn new() -> Self {
        let world = World::new("0.0.0.0:0");
        let directory = tempfile::tempdir().expect("directory");
        let socket = directory.path().join("admin.sock");
        let (layer, log) = LogLevel::new(EnvFilter::new("info"));
        let report = Report {
            uid: Vec::new(),
            gid: Vec::new(),
            groups: Vec::new(),
            capabilities: [0; 4],
            bounding: 0,
            no_new_privs: true,
            seccomp: 0,
        };
        let admin = Admin { shared: Arc::clone(&world.shared), report, drain: Duration::from_secs(20), log };
        let listener = tokio::net::UnixListener::bind(&socket).expect("bind");
        tokio::spawn(Arc::new(admin).serve(listener));
        Self { world, socket, _log: layer, _directory: directory }
    }

    async fn command(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mesh-proxy"));
        command.args(arguments).arg("--admin").arg(&self.socket).env_remove("RUST_LOG");
        command.output().await.expect("runs")
    }

    /// What it prints, if it ends well.
    async fn says(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }
}

/// Returns once the command's answer has all of these lines.
async fn shows(asked: &Asked, arguments: &[&str], lines: &[String]) {
    let shown = async {
        loop {
            let page = asked.says(arguments).await;
            let missing: Vec<&String> = lines.iter().filter(|line| !page.lines().any(|found| found == **line)).collect();
            if missing.is_empty() {
                return;
            }
            tracing::debug!(?missing, page, "not yet");
        }
    };
    let last = tokio::time::timeout(Duration::from_secs(30), shown).await;
    assert!(last.is_ok(), "not all of {lines:#?} in\n{}", asked.says(arguments).await);
}

#[tokio::test]
async fn clusters_shows_what_is_under_way_and_what_happened_at_each_endpoint() {
    let (backend, nobody) = (Backend::new("v1").await, refusing());
    let mut asked = Asked::new();
    asked.world.cluster(V1, &[backend.address]);
    asked.world.cluster(V2, &[nobody]);
    asked.world.routes(vec![to("/none", action(V2)), to("/", action(V1))]);
    let (mut client, mut waits) = (asked.world.client().await, asked.world.client().await);
    assert_eq!(client.get("/", &[]).await.status, 200);
    assert_eq!(client.get("/busy", &[]).await.status, 503);
    assert_eq!(client.get("/none", &[]).await.status, 503);
    let waiting = tokio::spawn(async move { waits.try_get("/never").await });
    let at = backend.address;
    let lines = [
        format!("{V1}::default_priority::max_connections::4294967295"),
        format!("{V1}::{at}::cx_active::1"),
        format!("{V1}::{at}::cx_total::1"),
        format!("{V1}::{at}::cx_connect_fail::0"),
        format!("{V1}::{at}::rq_active::1"),
        format!("{V1}::{at}::rq_total::3"),
        format!("{V1}::{at}::rq_success::1"),
        format!("{V1}::{at}::rq_error::1"),
        format!("{V1}::{at}::rq_timeout::0"),
        format!("{V1}::{at}::health_flags::healthy"),
        format!("{V1}::{at}::weight::1"),
        format!("{V2}::{nobody}::cx_connect_fail::1"),
        format!("{V2}::{nobody}::cx_active::0"),
        format!("{V2}::{nobody}::rq_error::1"),
        format!("{V2}::{nobody}::rq_total::0"),
    ];
    shows(&asked, &["clusters"], &lines).await;
    let filtered = asked.says(&["clusters", "--filter", r"\|v1\|.*rq_active"]).await;
    assert_eq!(filtered, format!("{V1}::{at}::rq_active::1\n"));
    waiting.abort();
    shows(&asked, &["clusters"], &[format!("{V1}::{at}::rq_active::0"), format!("{V1}::{at}::cx_active::0")]).await;
    shows(&asked, &["stats"], &[format!("cluster.{V1}.upstream_rq_total: 3"), "cluster_manager.active_clusters: 2".to_owned()])
        .await;
    assert!(asked.says(&["config-dump"]).await.contains(V1));
    assert!(asked.says(&["stats", "--prometheus"]).await.contains("# TYPE istio_requests_total counter\n"));
}

#[tokio::test]
async fn the_log_level_is_changed_while_the_proxy_runs() {
    let asked = Asked::new();
    assert_eq!(asked.says(&["log-level"]).await, "info\n");
    assert_eq!(asked.says(&["log-level", "mesh_proxy::pod=debug,warn"]).await, "mesh_proxy::pod=debug,warn\n");
    let refused = asked.command(&["log-level", "loud"]).await;
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("\"loud\" is no level"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_drain_ends_the_proxy_when_its_connections_have_ended() {
    let backend = Backend::new("v1").await;
    let mut asked = Asked::new();
    asked.world.cluster(V1, &[backend.address]);
    asked.world.routes(vec![to("/", action(V1))]);
    let mut client = asked.world.client().await;
    assert_eq!(client.get("/", &[]).await.status, 200);
    assert!(asked.says(&["drain", "--time", "30"]).await.contains("after 30s at the latest"));
    let unready = asked.command(&["ready"]).await;
    assert!(unready.status.code() == Some(1) && String::from_utf8_lossy(&unready.stderr).contains("draining"), "{unready:?}");
    let last = client.get("/", &[]).await;
    assert_eq!((last.status, last.headers["connection"].as_bytes()), (200, &b"close"[..]));
    asked.world.ended().await;
}

#[tokio::test]
async fn nobody_at_the_socket_is_said_with_its_path() {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_mesh-proxy"));
    let output = command.args(["ready", "--admin", "/nonexistent/admin.sock"]).output().await.expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("/nonexistent/admin.sock") && said.contains("--admin"), "{said}");
}
