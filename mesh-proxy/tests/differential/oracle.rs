//! Envoy 1.40 with the same resources: a bootstrap of static resources, in protobuf, so that nothing is translated.

use super::client::Client;
use super::generate::Ask;
use crate::world::socket_address;
use envoy_types::pb::envoy::config::bootstrap::v3::{Admin, Bootstrap, bootstrap::StaticResources};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::Listener;
use prost::Message;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A running Envoy; ended when dropped.
pub struct Envoy {
    child: Child,
    port: u16,
    admin: u16,
    _directory: tempfile::TempDir,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> PathBuf {
    let named = std::env::var_os("MESH_ENVOY").map(PathBuf::from);
    named.expect("MESH_ENVOY names no Envoy: run this by `cargo xtask test --only envoy`")
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr()).expect("loopback has ports").port()
}

impl Envoy {
    /// Starts it with one worker and waits until the listener at `port` answers.
    pub fn start(listeners: Vec<Listener>, clusters: Vec<Cluster>, port: u16) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let resources = StaticResources { listeners, clusters, ..Default::default() };
        let admin = free_port();
        let of_admin = Admin { address: socket_address("127.0.0.1", admin), ..Default::default() };
        let bootstrap = Bootstrap { static_resources: Some(resources), admin: Some(of_admin), ..Default::default() };
        let file = directory.path().join("bootstrap.pb");
        std::fs::write(&file, bootstrap.encode_to_vec()).expect("a file");
        let log = directory.path().join("envoy.log");
        let mut command = Command::new(program());
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--log-path"]).arg(&log);
        let child = command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut envoy = Self { child: child.expect("Envoy starts"), port, admin, _directory: directory };
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = envoy.child.try_wait().expect("a child");
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none(), "Envoy ended: {}", said());
            assert!(began.elapsed() < Duration::from_secs(60), "Envoy does not listen: {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        envoy
    }

    /// What a response has led to is in force: Envoy's worker tells its main thread to eject an endpoint, which tells the worker that it has. One
    /// request to each shows that both have done what came before it.
    pub async fn settled(&self) {
        let ask = Ask { target: "/ready".to_owned(), host: "nobody.test".to_owned(), ..Ask::get("200") };
        for (port, status) in [(self.admin, 200), (self.port, 404)] {
            let answer = Client::new(port).send(&ask, "settled").await;
            assert_eq!(answer.status, status, "{answer:?}");
        }
    }
}
