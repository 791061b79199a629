//! The source alone, and behind the real server with a real client.

use super::*;
use crate::core::compile::tests::{compiled, node, reviews};

fn publisher() -> Publisher {
    Publisher::new(Tokens::default(), Arc::new(Metrics::default()))
}

#[test]
fn a_client_is_woken_only_by_what_is_new_to_it() {
    let publisher = publisher();
    publisher.publish(Arc::new(compiled(&reviews(&["v1"]), &[])));
    let mut agent = publisher.watch(&node("agent~10.0.0.1~a~mesh"));
    let dns = publisher.watch(&node("dns~10.0.0.1~a~mesh"));
    let before = agent.borrow_and_update().clone();
    publisher.publish(Arc::new(compiled(&reviews(&["v1"]), &[])));
    assert!(!agent.has_changed().expect("open") && !dns.has_changed().expect("open"), "the same again");
    publisher.publish(Arc::new(compiled(&reviews(&["v1", "v2"]), &[])));
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
fn without_a_known_token_nobody_is_served() {
    let publisher = publisher();
    let node = node("node~10.0.0.1~a~mesh");
    assert!(publisher.authorize(&node, None).is_err());
    assert_eq!(publisher.authorize(&node, Some("guess")), Err("the token is unknown".to_owned()));
}

/// The whole wire: TLS, token, delta ADS, subscriptions by name, answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_its_snapshot_over_tls_and_its_answers_are_seen() {
    use mesh_xds::names::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
    use mesh_xds::stream::{Connection, start};
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
    publisher.publish(Arc::new(compiled(&reviews(&["v1"]), &[])));
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
    let mut names = std::collections::BTreeSet::new();
    let mut got = BTreeMap::new();
    while got.len() < 4 {
        let delivery = tokio::time::timeout(std::time::Duration::from_secs(20), updates.next()).await.expect("in time");
        if delivery.type_url == CLUSTER {
            names.extend(delivery.resources.iter().map(|resource| resource.name.clone()));
            updates.subscribe(ENDPOINT, names.clone()).await;
        } else if delivery.type_url == LISTENER {
            updates.subscribe(ROUTE, std::collections::BTreeSet::from(["9080".to_owned()])).await;
        }
        updates.ack(&delivery).await;
        got.insert(delivery.type_url.clone(), delivery.resources.len());
    }
    assert_eq!(got.into_values().collect::<Vec<_>>(), [2, 2, 1, 1], "clusters, endpoints, listener, routes");
    publisher.publish(Arc::new(compiled(&reviews(&["v1", "v2"]), &[])));
    let delivery = tokio::time::timeout(std::time::Duration::from_secs(20), updates.next()).await.expect("in time");
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
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the refusal was not seen: {:?}", publisher.clients());
}
