//! The source alone, and behind the real server with a real client.

use super::*;
use crate::core::compile::tests::{compiled, compiled_with, node, reviews};
use mesh_xds::agent::{Mode, Transport};
use mesh_xds::stream::{Connection, Updates, start};
use prost::Message;
use std::time::Duration;

fn publisher() -> Publisher {
    Publisher::new(Tokens::default(), Arc::new(Metrics::default()))
}

#[test]
fn a_client_is_woken_only_by_what_is_new_to_it() {
    let publisher = publisher();
    assert!(publisher.publish(&Arc::new(compiled(&reviews(&["v1"]), &[]))));
    let mut agent = publisher.watch(&node("agent~10.0.0.1~a~mesh"));
    let dns = publisher.watch(&node("dns~10.0.0.1~a~mesh"));
    let before = agent.borrow_and_update().clone();
    assert!(publisher.publish(&Arc::new(compiled(&reviews(&["v1"]), &[]))));
    assert!(!agent.has_changed().expect("open") && !dns.has_changed().expect("open"), "the same again");
    assert!(publisher.publish(&Arc::new(compiled(&reviews(&["v1", "v2"]), &[]))));
    assert!(agent.has_changed().expect("open"), "a new backend");
    assert!(!dns.has_changed().expect("open"), "is nothing to DNS");
    let after = agent.borrow_and_update().clone();
    let mesh = mesh_xds::agent::MESH;
    assert!(Arc::ptr_eq(&before.types[mesh], &after.types[mesh]), "what is equal stays the same memory");
}

#[test]
fn answers_are_remembered_as_long_as_a_stream_lives() {
    let publisher = publisher();
    let node = node("node~10.0.0.1~a~mesh");
    let (_first, _second) = (publisher.watch(&node), publisher.watch(&node));
    publisher.answered(&node, Answer { type_url: "t", error: Some("bad field"), in_sync: false });
    publisher.disconnected(&node);
    let status = publisher.clients();
    assert_eq!(status[0].types["t"].last_nack.as_deref(), Some("bad field"));
    publisher.answered(&node, Answer { type_url: "t", error: None, in_sync: true });
    let answered = &publisher.clients()[0].types["t"];
    assert!(answered.in_sync && answered.last_nack.is_none() && (answered.acks, answered.nacks) == (1, 1));
    publisher.disconnected(&node);
    assert!(publisher.clients().is_empty());
}

#[test]
fn what_an_agent_says_of_its_node_is_known_while_it_is_there() {
    let publisher = publisher();
    let agent = node("agent~10.0.0.1~a~mesh");
    let report = Report { enrolled: ["a.instance-1".to_owned()].into(), ..Report::default() };
    publisher.reported(&agent, report.clone());
    assert!(publisher.enrolment().0.is_empty(), "nobody of that name is connected");
    let _snapshots = publisher.watch(&agent);
    publisher.reported(&agent, report.clone());
    publisher.answered(&agent, Answer { type_url: "a.b.Service", error: Some("bad field"), in_sync: false });
    let (clients, _) = publisher.enrolment();
    assert_eq!((clients[0].report.as_deref(), clients[0].refusal.as_deref()), (Some(&report), Some("Service: bad field")));
    publisher.disconnected(&agent);
    assert!(publisher.enrolment().0.is_empty());
}

#[test]
fn without_a_known_token_nobody_is_served() {
    let publisher = publisher();
    let node = node("node~10.0.0.1~a~mesh");
    assert!(publisher.authorize(&node, None).is_err());
    assert_eq!(publisher.authorize(&node, Some("guess")), Err("the token is unknown".to_owned()));
}

const REVIEWS: &str = "reviews.marathon.l4lb.thisdcos.directory";

/// The registry of `reviews` with the modes of their only port.
fn in_mode(mode: Mode) -> crate::core::registry::Registry {
    let mut registry = reviews(&["v1"]);
    let port = registry.services.get_mut(REVIEWS).and_then(|service| service.ports.get_mut(&(9080, Transport::Tcp)));
    let port = port.expect("reviews");
    (port.mode, port.protocol) = (mode, crate::core::registry::Protocol::Tcp);
    registry
}

fn told(agent: &watch::Receiver<Arc<Snapshot>>) -> Option<Mode> {
    let body = agent.borrow().types[SERVICE].get(REVIEWS)?.body.clone();
    let service = mesh_xds::agent::Service::decode(body).expect("service");
    service.ports.first().map(mesh_xds::agent::ServicePort::mode)
}

/// As the control plane's loop: again and again until it may be published.
fn put(publisher: &Publisher, registry: &crate::core::registry::Registry) {
    loop {
        let linger = publisher.linger().borrow().clone();
        let before = publisher.state.lock().compiled.clone();
        if publisher.publish(&Arc::new(compiled_with(registry, &linger, &before))) {
            return;
        }
    }
}

#[test]
fn a_mode_flips_in_the_safe_order() {
    let publisher = publisher();
    let (agent, proxy) = (node("agent~10.0.0.1~a~mesh"), node("node~10.0.0.1~a~mesh"));
    let ack = |who: &Node, type_url| publisher.answered(who, Answer { type_url, error: None, in_sync: true });
    let ack_all = || [CLUSTER, LISTENER, ROUTE].into_iter().for_each(|type_url| ack(&proxy, type_url));
    put(&publisher, &in_mode(Mode::Kernel));
    let (kernel, proxied) = (publisher.watch(&agent), publisher.watch(&proxy));
    let listens = || proxied.borrow().types[LISTENER].keys().any(|name| name.ends_with(".83_9080"));
    ack(&agent, SERVICE);
    ack(&agent, EGRESS);
    ack_all();
    assert!(!listens() && told(&kernel) == Some(Mode::Kernel));

    put(&publisher, &in_mode(Mode::Proxy));
    assert!(listens(), "the proxy first");
    assert_eq!(told(&kernel), Some(Mode::Kernel), "which has not answered");
    publisher.answered(&proxy, Answer { type_url: LISTENER, error: Some("no"), in_sync: false });
    ack(&proxy, CLUSTER);
    assert_eq!(told(&kernel), Some(Mode::Kernel), "nor for a refusal");
    ack(&proxy, LISTENER);
    assert_eq!(told(&kernel), Some(Mode::Proxy));

    put(&publisher, &in_mode(Mode::Kernel));
    assert_eq!(told(&kernel), Some(Mode::Kernel), "back: the kernel first");
    assert!(listens(), "it has not answered, so the proxy serves on");
    ack(&agent, SERVICE);
    assert!(publisher.linger().borrow().is_empty());
    put(&publisher, &in_mode(Mode::Kernel));
    assert!(listens(), "on standby, for what was handed over before");

    put(&publisher, &in_mode(Mode::Proxy));
    assert_eq!(told(&kernel), Some(Mode::Proxy), "nothing is new to the proxy, so no answer of it is waited for");
    ack(&agent, SERVICE);
    put(&publisher, &reviews(&[]));
    assert!(listens() && told(&kernel).is_none(), "a service that is gone is served until the kernel knows");
    ack(&agent, SERVICE);
    put(&publisher, &reviews(&[]));
    assert!(!listens());
}

#[test]
fn a_change_that_was_taken_back_unsent_needs_no_answer() {
    let publisher = publisher();
    let (agent, proxy) = (node("agent~10.0.0.1~a~mesh"), node("node~10.0.0.1~a~mesh"));
    let ack = |who: &Node, type_url| publisher.answered(who, Answer { type_url, error: None, in_sync: true });
    put(&publisher, &in_mode(Mode::Proxy));
    let (kernel, _proxied) = (publisher.watch(&agent), publisher.watch(&proxy));
    [CLUSTER, LISTENER, ROUTE].into_iter().for_each(|type_url| ack(&proxy, type_url));
    [SERVICE, EGRESS].into_iter().for_each(|type_url| ack(&agent, type_url));
    put(&publisher, &in_mode(Mode::Kernel));
    ack(&agent, SERVICE);
    // The service goes and comes again before the proxy has heard of either: it holds what it should, and nothing is sent.
    put(&publisher, &reviews(&[]));
    ack(&agent, SERVICE);
    put(&publisher, &in_mode(Mode::Proxy));
    assert_eq!(told(&kernel), None, "it could be on its way");
    publisher.holds(&proxy, CLUSTER);
    assert_eq!(told(&kernel), None);
    publisher.holds(&proxy, LISTENER);
    assert_eq!(told(&kernel), Some(Mode::Proxy));
}

/// An answer that the server judged by a snapshot which was replaced a moment before we hear of it must not count for the new one. The
/// publisher relies on the server's task holding that snapshot meanwhile.
struct Racing {
    publisher: Publisher,
    next: Mutex<Option<Arc<Compiled>>>,
}

impl Source for Racing {
    fn authorize(&self, _node: &Node, _token: Option<&str>) -> Result<(), String> {
        Ok(())
    }

    fn watch(&self, node: &Node) -> watch::Receiver<Arc<Snapshot>> {
        self.publisher.watch(node)
    }

    fn answered(&self, node: &Node, answer: Answer<'_>) {
        if answer.type_url == LISTENER
            && let Some(next) = self.next.lock().take()
        {
            assert!(answer.in_sync && self.publisher.publish(&next));
        }
        self.publisher.answered(node, answer);
    }

    fn holds(&self, node: &Node, type_url: &'static str) {
        self.publisher.holds(node, type_url);
    }

    fn settled(&self, node: &Node, snapshot: &Arc<Snapshot>) {
        self.publisher.settled(node, snapshot);
    }

    fn disconnected(&self, node: &Node) {
        self.publisher.disconnected(node);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_to_what_was_replaced_does_not_count() {
    let publisher = publisher();
    put(&publisher, &in_mode(Mode::Kernel));
    let agent = publisher.watch(&node("agent~10.0.0.1~a~mesh"));
    publisher.answered(&node("agent~10.0.0.1~a~mesh"), Answer { type_url: SERVICE, error: None, in_sync: true });
    let next = Arc::new(compiled(&in_mode(Mode::Proxy), &[]));
    let source = Arc::new(Racing { publisher, next: Mutex::new(Some(next)) });
    let (mut updates, server) = serve(source.clone()).await;
    let mut heard = 0;
    // Without the new listener's own answer the kernel is never told, however often the old one was answered.
    while heard < 2 {
        let delivery = tokio::time::timeout(Duration::from_secs(20), updates.next()).await.expect("in time");
        heard += usize::from(delivery.type_url == LISTENER);
        assert_ne!(told(&agent), Some(Mode::Proxy));
        updates.ack(&delivery).await;
    }
    for _ in 0..2000 {
        if told(&agent) == Some(Mode::Proxy) {
            return server.abort();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the flip never came");
}

/// As a proxy does: subscribes to what deliveries mention, with the clusters that it knows, and acknowledges this one.
async fn take(updates: &mut Updates, clusters: &mut BTreeSet<String>, delivery: &mesh_xds::client::Delivery) {
    if delivery.type_url == CLUSTER {
        clusters.extend(delivery.resources.iter().map(|resource| resource.name.clone()));
        updates.subscribe(mesh_xds::names::ENDPOINT, clusters.clone()).await;
    } else if delivery.type_url == LISTENER {
        updates.subscribe(ROUTE, BTreeSet::from(["9080".to_owned()])).await;
    }
    updates.ack(delivery).await;
}

/// Serves a source to a proxy over the whole wire.
async fn serve(source: Arc<dyn Source>) -> (Updates, tokio::task::JoinHandle<Result<(), tonic::transport::Error>>) {
    let dir = tempfile::tempdir().expect("dir");
    let args = crate::pki::InitArgs {
        out: dir.path().to_owned(),
        api_server: "https://127.0.0.1:1".to_owned(),
        san: vec!["127.0.0.1".to_owned()],
    };
    crate::pki::init(&args).expect("init");
    let control = dir.path().join("control");
    let mut tls = crate::api::load_tls(&control.join("server.crt"), &control.join("server.key")).expect("tls");
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let endpoint = listener.local_addr().expect("address").to_string();
    let server = tokio::spawn(mesh_xds::serve::run(listener, Arc::new(tls), source));
    let ca_pem = std::fs::read(dir.path().join("ca.crt")).expect("authority");
    let connection = Connection { endpoint, ca_pem, token: "any".to_owned(), node: node("node~10.0.0.1~n~mesh") };
    (start(connection, &[LISTENER, CLUSTER]), server)
}

/// The whole wire: TLS, token, delta ADS, subscriptions by name, answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_its_snapshot_over_tls_and_its_answers_are_seen() {
    use mesh_xds::names::ENDPOINT;
    let dir = tempfile::tempdir().expect("dir");
    let args = crate::pki::InitArgs {
        out: dir.path().to_owned(),
        api_server: "https://127.0.0.1:1".to_owned(),
        san: vec!["127.0.0.1".to_owned()],
    };
    crate::pki::init(&args).expect("init");
    let control = dir.path().join("control");
    let tokens = Tokens::load(&control.join("tokens.csv")).expect("tokens");
    let mut tls = crate::api::load_tls(&control.join("server.crt"), &control.join("server.key")).expect("tls");
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let publisher = Arc::new(Publisher::new(tokens, Arc::new(Metrics::default())));
    assert!(publisher.publish(&Arc::new(compiled(&reviews(&["v1"]), &[]))));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let endpoint = listener.local_addr().expect("address").to_string();
    let server = tokio::spawn(mesh_xds::serve::run(listener, Arc::new(tls), publisher.clone()));
    let connection = Connection {
        endpoint,
        ca_pem: std::fs::read(dir.path().join("ca.crt")).expect("authority"),
        token: std::fs::read_to_string(dir.path().join("node.token")).expect("token").trim().to_owned(),
        node: node("node~10.0.0.1~n~mesh"),
    };
    let mut updates = start(connection, &[LISTENER, CLUSTER]);
    let (mut got, mut clusters) = (BTreeMap::new(), BTreeSet::new());
    while got.len() < 4 {
        let delivery = tokio::time::timeout(Duration::from_secs(20), updates.next()).await.expect("in time");
        take(&mut updates, &mut clusters, &delivery).await;
        got.insert(delivery.type_url, delivery.resources.len());
    }
    assert_eq!(got.into_values().collect::<Vec<_>>(), [2, 2, 1, 1], "clusters, endpoints, listener, routes");
    assert!(publisher.publish(&Arc::new(compiled(&reviews(&["v1", "v2"]), &[]))));
    let delivery = tokio::time::timeout(Duration::from_secs(20), updates.next()).await.expect("in time");
    assert_eq!((delivery.type_url.as_str(), delivery.resources.len()), (ENDPOINT, 1), "only what changed");
    updates.nack(&delivery, "endpoints[0]: no").await;
    for _ in 0..500 {
        let clients = publisher.clients();
        let answered = clients.first().and_then(|client| client.types.get(ENDPOINT));
        if answered.is_some_and(|answered| answered.nacks == 1) {
            assert!(clients[0].types[CLUSTER].in_sync && clients[0].types[ROUTE].in_sync);
            server.abort();
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the refusal was not seen: {:?}", publisher.clients());
}

async fn eventually(publisher: &Publisher, holds: u64, refusal: Option<&str>) {
    let address = IpAddr::from([10, 0, 0, 1]);
    let want = vec![programmed::Node { address, holds, refusal: refusal.map(str::to_owned) }];
    for _ in 0..2000 {
        if publisher.standing() == want {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{:?}, wanted is {want:?}", publisher.standing());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_holds_and_what_it_refuses_is_known() {
    let source = Arc::new(Racing { publisher: publisher(), next: Mutex::new(None) });
    let publisher = &source.publisher;
    let publish = |versions: &[&str], version| {
        let mut compiled = compiled(&reviews(versions), &[]);
        compiled.version = version;
        assert!(publisher.publish(&Arc::new(compiled)));
    };
    publish(&["v1"], 7);
    let (mut updates, server) = serve(source.clone()).await;
    let (mut answered, mut clusters) = (BTreeSet::new(), BTreeSet::new());
    while answered.len() < 4 {
        let delivery = tokio::time::timeout(Duration::from_secs(20), updates.next()).await.expect("in time");
        assert!(publisher.standing().is_empty(), "it does not hold all yet");
        take(&mut updates, &mut clusters, &delivery).await;
        answered.insert(delivery.type_url);
    }
    eventually(publisher, 7, None).await;
    publish(&["v1"], 8);
    eventually(publisher, 8, None).await;
    publish(&["v1", "v2"], 9);
    let delivery = tokio::time::timeout(Duration::from_secs(20), updates.next()).await.expect("in time");
    assert_eq!(publisher.standing()[0].holds, 8, "it has not answered");
    updates.nack(&delivery, "endpoints[0]: no").await;
    eventually(publisher, 8, Some("ClusterLoadAssignment: endpoints[0]: no")).await;
    publish(&["v1"], 10);
    let delivery = tokio::time::timeout(Duration::from_secs(20), updates.next()).await.expect("in time");
    updates.ack(&delivery).await;
    eventually(publisher, 10, None).await;
    server.abort();
}

/// Acknowledges whatever comes until it is done.
async fn answer_until(updates: &mut Updates, done: impl Fn() -> bool) {
    let mut clusters = BTreeSet::new();
    for _ in 0..4000 {
        if done() {
            return;
        }
        let Ok(delivery) = tokio::time::timeout(Duration::from_millis(5), updates.next()).await else { continue };
        take(updates, &mut clusters, &delivery).await;
    }
    panic!("never done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_after_a_settled_snapshot_speak_of_the_next() {
    let source = Arc::new(Racing { publisher: publisher(), next: Mutex::new(None) });
    let publisher = &source.publisher;
    put(publisher, &in_mode(Mode::Kernel));
    let agent = publisher.watch(&node("agent~10.0.0.1~a~mesh"));
    publisher.answered(&node("agent~10.0.0.1~a~mesh"), Answer { type_url: SERVICE, error: None, in_sync: true });
    let (mut updates, server) = serve(source.clone()).await;
    answer_until(&mut updates, || !publisher.standing().is_empty()).await;
    put(publisher, &in_mode(Mode::Proxy));
    answer_until(&mut updates, || told(&agent) == Some(Mode::Proxy)).await;
    server.abort();
}
