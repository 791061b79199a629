//! A real client against a real server over TLS on loopback: delivery, answers, refusal, and a control plane that comes back.

use bytes::Bytes;
use mesh_xds::agent::SERVICE;
use mesh_xds::node::{Node, Role};
use mesh_xds::report::Report;
use mesh_xds::serve::{Answer, Source};
use mesh_xds::server::{Snapshot, Versioned};
use mesh_xds::stream::{Connection, start};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

struct TestSource {
    snapshots: watch::Sender<Arc<Snapshot>>,
    answers: mpsc::UnboundedSender<(String, Option<String>, bool)>,
    reports: mpsc::UnboundedSender<Report>,
}

impl Source for TestSource {
    fn authorize(&self, node: &Node, token: Option<&str>) -> Result<(), String> {
        if token == Some("good") { Ok(()) } else { Err(format!("{node} has no valid token")) }
    }
    fn watch(&self, _node: &Node) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }
    fn answered(&self, _node: &Node, answer: Answer<'_>) {
        let _ = self.answers.send((answer.type_url.to_owned(), answer.error.map(str::to_owned), answer.in_sync));
    }
    fn reported(&self, _node: &Node, report: Report) {
        let _ = self.reports.send(report);
    }
    fn disconnected(&self, _node: &Node) {}
}

struct World {
    source: Arc<TestSource>,
    answers: mpsc::UnboundedReceiver<(String, Option<String>, bool)>,
    reports: mpsc::UnboundedReceiver<Report>,
    tls: Arc<rustls::ServerConfig>,
    ca_pem: Vec<u8>,
    address: SocketAddr,
    server: Runtime,
}

fn snapshot(services: &[(&str, &str)]) -> Arc<Snapshot> {
    let resource = |v: &str| Versioned { version: v.to_owned(), body: Bytes::from(v.to_owned()) };
    let services = services.iter().map(|(name, v)| ((*name).to_owned(), resource(v))).collect();
    Arc::new(Snapshot { types: [(SERVICE, Arc::new(services))].into() })
}

impl World {
    async fn new() -> Self {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let mut tls = builder.with_no_client_auth().with_single_cert(vec![certified.cert.der().clone()], key).expect("valid");
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let tls = Arc::new(tls);
        let ((sender, answers), (said, reports)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let snapshots = watch::channel(snapshot(&[("a", "1")])).0;
        let source = Arc::new(TestSource { snapshots, answers: sender, reports: said });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let server = serve(listener, &tls, &source);
        Self { source, answers, reports, tls, ca_pem: certified.cert.pem().into_bytes(), address, server }
    }

    /// A runtime must not be dropped inside another one.
    fn stop(self) {
        self.server.shutdown_background();
    }

    fn connection(&self, token: &str) -> Connection {
        let node =
            Node { role: Role::Agent, address: [192, 0, 2, 11].into(), name: "test".to_owned(), labels: Default::default() };
        let endpoint = format!("localhost:{}", self.address.port());
        Connection { endpoint, ca_pem: self.ca_pem.clone(), token: token.to_owned(), node }
    }
}

/// A control plane in a runtime of its own, so that it can die with all its connections, as a process does.
fn serve(listener: std::net::TcpListener, tls: &Arc<rustls::ServerConfig>, source: &Arc<TestSource>) -> Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (tls, source) = (Arc::clone(tls), Arc::clone(source));
    listener.set_nonblocking(true).expect("a socket");
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).expect("a listener");
        mesh_xds::serve::run(listener, tls, source).await.expect("serves");
    });
    runtime
}

#[tokio::test]
async fn deliveries_arrive_and_answers_come_back() {
    let mut world = World::new().await;
    let mut updates = start(world.connection("good"), &[SERVICE]);
    let first = updates.next().await;
    assert_eq!(first.resources.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["a"]);
    updates.ack(&first).await;
    assert_eq!(world.answers.recv().await, Some((SERVICE.to_owned(), None, true)));
    world.source.snapshots.send_replace(snapshot(&[("a", "1"), ("b", "1")]));
    let second = updates.next().await;
    assert_eq!(second.resources.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["b"]);
    updates.nack(&second, "b: ports[0].port: 0 is no port").await;
    let refused = (SERVICE.to_owned(), Some("b: ports[0].port: 0 is no port".to_owned()), false);
    assert_eq!(world.answers.recv().await, Some(refused));
    world.stop();
}

#[tokio::test]
async fn a_wrong_token_gets_nothing() {
    let world = World::new().await;
    let mut updates = start(world.connection("bad"), &[SERVICE]);
    let mut good = start(world.connection("good"), &[SERVICE]);
    // The good client, started later, is served; the bad one still has nothing and is still trying.
    tokio::select! {
        biased;
        delivery = updates.next() => panic!("delivered {delivery:?} to a client without a valid token"),
        delivery = good.next() => assert_eq!(delivery.resources.len(), 1),
    }
    world.stop();
}

#[tokio::test]
async fn the_stream_survives_its_server() {
    let mut world = World::new().await;
    let mut updates = start(world.connection("good"), &[SERVICE]);
    let first = updates.next().await;
    updates.ack(&first).await;
    world.answers.recv().await.expect("an ACK");
    let fresh = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    std::mem::replace(&mut world.server, fresh).shutdown_background();
    world.source.snapshots.send_replace(snapshot(&[("c", "1")]));
    let listener = loop {
        match std::net::TcpListener::bind(world.address) {
            Ok(listener) => break listener,
            Err(_still_in_use) => tokio::task::yield_now().await,
        }
    };
    std::mem::replace(&mut world.server, serve(listener, &world.tls, &world.source)).shutdown_background();
    // Sets: the dying server may still have delivered what its successor, which never saw an answer, delivers again.
    let (mut added, mut removed) = (BTreeSet::new(), BTreeSet::new());
    while added.is_empty() || removed.is_empty() {
        let delivery = updates.next().await;
        added.extend(delivery.resources.iter().map(|r| r.name.clone()));
        removed.extend(delivery.removed.clone());
        updates.ack(&delivery).await;
    }
    assert_eq!((added, removed), (BTreeSet::from(["c".to_owned()]), BTreeSet::from(["a".to_owned()])));
    world.stop();
}

#[tokio::test]
async fn reports_reach_the_server_at_once_and_again_with_each_stream() {
    let mut world = World::new().await;
    let mut updates = start(world.connection("good"), &[SERVICE]);
    let report = |id: &str| Report { enrolled: BTreeSet::from([id.to_owned()]), ..Report::default() };
    // Before anything was said, and in the midst of a stream.
    updates.report(report("a")).await;
    assert_eq!(world.reports.recv().await, Some(report("a")));
    let first = updates.next().await;
    updates.report(report("b")).await;
    assert_eq!(world.reports.recv().await, Some(report("b")));
    updates.ack(&first).await;
    assert_eq!(world.answers.recv().await, Some((SERVICE.to_owned(), None, true)), "it is no answer to a delivery");
    // Whoever takes the server's place hears it too.
    let fresh = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    std::mem::replace(&mut world.server, fresh).shutdown_background();
    let listener = loop {
        match std::net::TcpListener::bind(world.address) {
            Ok(listener) => break listener,
            Err(_still_in_use) => tokio::task::yield_now().await,
        }
    };
    std::mem::replace(&mut world.server, serve(listener, &world.tls, &world.source)).shutdown_background();
    assert_eq!(world.reports.recv().await, Some(report("b")));
    world.stop();
}
