use super::*;
use crate::agent::{MESH, SERVICE};
use crate::client::Client;
use crate::names::{LISTENER, ROUTE};
use crate::node::{Node, Role};
use proptest::prelude::*;

type Content = BTreeMap<String, String>;

fn snapshot(types: &[(&'static str, &[(&str, &str)])]) -> Snapshot {
    let resource = |version: &str| Versioned { version: version.to_owned(), body: Bytes::from(version.to_owned()) };
    let all = |content: &[(&str, &str)]| Arc::new(content.iter().map(|(name, v)| ((*name).to_owned(), resource(v))).collect());
    Snapshot { types: types.iter().map(|(url, content)| (*url, all(content))).collect() }
}

fn client(wildcard: &[&'static str]) -> Client {
    let node = Node { role: Role::Node, address: [192, 0, 2, 11].into(), name: "test".to_owned(), labels: Default::default() };
    let mut client = Client::new(node, wildcard);
    client.handle_connected();
    client
}

/// What an owner of the client would hold.
#[derive(Default)]
struct Held(BTreeMap<String, Content>);

impl Held {
    fn get(&self, type_url: &str) -> Content {
        self.0.get(type_url).cloned().unwrap_or_default()
    }
}

/// Runs client and server against each other until both are silent; returns the types in the order of their responses.
fn settle(client: &mut Client, session: &mut Session, snapshot: &Snapshot, held: &mut Held, refuse: Option<&str>) -> Vec<String> {
    let mut order = Vec::new();
    for _ in 0..10_000 {
        let mut silent = true;
        while let Some(request) = client.poll_request() {
            silent = false;
            session.handle_request(&request).expect("our own client keeps to the protocol");
        }
        while let Some(response) = session.poll_response(snapshot) {
            silent = false;
            let delivery = client.handle_response(response).expect("our own server keeps to the protocol");
            order.push(delivery.type_url.clone());
            if delivery.resources.iter().any(|r| Some(r.name.as_str()) == refuse) {
                client.nack(&delivery.type_url, &delivery.nonce, "no");
                continue;
            }
            let content = held.0.entry(delivery.type_url.clone()).or_default();
            for resource in &delivery.resources {
                content.insert(resource.name.clone(), resource.version.clone());
            }
            for name in &delivery.removed {
                content.remove(name);
            }
            client.ack(&delivery.type_url, &delivery.nonce);
        }
        if silent {
            return order;
        }
    }
    panic!("client and server never fell silent");
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

#[test]
fn endpoints_do_not_wait_for_clusters_to_be_answered_nor_go_with_them() {
    let mut session = Session::default();
    let ask = |session: &mut Session, type_url: &str, names: &[&str], nonce: &str| {
        let resource_names_subscribe = names.iter().map(|name| (*name).to_owned()).collect();
        let (type_url, response_nonce) = (type_url.to_owned(), nonce.to_owned());
        let request = pb::DeltaDiscoveryRequest { type_url, resource_names_subscribe, response_nonce, ..Default::default() };
        session.handle_request(&request).expect("to the protocol")
    };
    let one = snapshot(&[(CLUSTER, &[("a", "1")]), (ENDPOINT, &[("a", "1")]), (LISTENER, &[("l", "1")])]);
    ask(&mut session, CLUSTER, &[], "");
    ask(&mut session, LISTENER, &[], "");
    let clusters = session.poll_response(&one).expect("clusters");
    ask(&mut session, ENDPOINT, &["a"], "");
    // Meanwhile the cluster goes. Envoy answers clusters when they are warm, and is told nothing by the removal of endpoints.
    let two = snapshot(&[(LISTENER, &[("l", "1")])]);
    let endpoints = session.poll_response(&two).expect("endpoints, with the clusters in flight");
    assert_eq!((endpoints.resources.len(), endpoints.removed_resources.len()), (1, 0));
    assert!(session.poll_response(&two).is_none(), "listeners wait for clusters");
    assert_eq!(ask(&mut session, ENDPOINT, &[], &endpoints.nonce), Request::Ack(ENDPOINT));
    assert_eq!(ask(&mut session, CLUSTER, &[], &clusters.nonce), Request::Ack(CLUSTER));
    assert_eq!(session.poll_response(&two).expect("listeners").type_url, LISTENER);
}

#[test]
fn additions_go_in_order_and_removals_in_reverse() {
    let mut client = client(&[LISTENER, CLUSTER]);
    client.subscribe(ENDPOINT, names(&["c1"]));
    let (mut session, mut held) = (Session::default(), Held::default());
    let before = snapshot(&[(CLUSTER, &[("c1", "1")]), (ENDPOINT, &[("c1", "1")]), (LISTENER, &[("l", "1")])]);
    let order = settle(&mut client, &mut session, &before, &mut held, None);
    assert_eq!(order, [CLUSTER, ENDPOINT, LISTENER]);
    let after = snapshot(&[(CLUSTER, &[]), (ENDPOINT, &[]), (LISTENER, &[])]);
    let order = settle(&mut client, &mut session, &after, &mut held, None);
    assert_eq!(order, [LISTENER, ENDPOINT, CLUSTER], "nobody may refer to what is gone already");
    assert!(held.get(CLUSTER).is_empty() && held.get(LISTENER).is_empty());
}

#[test]
fn an_empty_wildcard_is_answered_once() {
    let mut client = client(&[MESH, SERVICE]);
    let (mut session, mut held) = (Session::default(), Held::default());
    let order = settle(&mut client, &mut session, &Snapshot::default(), &mut held, None);
    assert_eq!(order, [MESH, SERVICE]);
    assert!(session.in_sync(SERVICE, &Snapshot::default()));
    assert!(settle(&mut client, &mut session, &Snapshot::default(), &mut held, None).is_empty());
}

#[test]
fn a_name_that_does_not_exist_is_answered_and_comes_later() {
    let mut client = client(&[]);
    client.subscribe(ROUTE, names(&["9080"]));
    let (mut session, mut held) = (Session::default(), Held::default());
    assert_eq!(settle(&mut client, &mut session, &Snapshot::default(), &mut held, None), [ROUTE]);
    let now = snapshot(&[(ROUTE, &[("9080", "1"), ("80", "1")])]);
    settle(&mut client, &mut session, &now, &mut held, None);
    assert_eq!(held.get(ROUTE).keys().collect::<Vec<_>>(), ["9080"]);
    client.subscribe(ROUTE, names(&["80"]));
    settle(&mut client, &mut session, &now, &mut held, None);
    assert!(held.get(ROUTE).contains_key("80"));
}

#[test]
fn a_changed_cluster_has_its_endpoints_answered_again() {
    let mut client = client(&[CLUSTER]);
    client.subscribe(ENDPOINT, names(&["c"]));
    let (mut session, mut held) = (Session::default(), Held::default());
    settle(&mut client, &mut session, &snapshot(&[(CLUSTER, &[("c", "1")]), (ENDPOINT, &[("c", "1")])]), &mut held, None);
    let changed = snapshot(&[(CLUSTER, &[("c", "2")]), (ENDPOINT, &[("c", "1")])]);
    assert_eq!(settle(&mut client, &mut session, &changed, &mut held, None), [CLUSTER, ENDPOINT]);
}

#[test]
fn what_was_refused_is_sent_again_only_when_it_changes() {
    let mut client = client(&[LISTENER]);
    let (mut session, mut held) = (Session::default(), Held::default());
    let bad = snapshot(&[(LISTENER, &[("l", "1")])]);
    assert_eq!(settle(&mut client, &mut session, &bad, &mut held, Some("l")), [LISTENER]);
    assert!(!session.in_sync(LISTENER, &bad), "a refusal is not sync");
    let fixed = snapshot(&[(LISTENER, &[("l", "2")])]);
    assert_eq!(settle(&mut client, &mut session, &fixed, &mut held, None), [LISTENER]);
    assert!(session.in_sync(LISTENER, &fixed));
}

#[test]
fn a_reconnect_fetches_only_what_changed_and_drops_what_is_gone() {
    let mut client = client(&[LISTENER]);
    let (mut session, mut held) = (Session::default(), Held::default());
    settle(&mut client, &mut session, &snapshot(&[(LISTENER, &[("a", "1"), ("b", "1"), ("c", "1")])]), &mut held, None);
    client.handle_disconnected();
    client.handle_connected();
    let mut session = Session::default();
    let request = client.poll_request().expect("the first request");
    assert!(request.node.is_some(), "each stream says who it is");
    session.handle_request(&request).expect("valid");
    let now = snapshot(&[(LISTENER, &[("a", "1"), ("b", "2")])]);
    let response = session.poll_response(&now).expect("b changed");
    assert_eq!(response.resources.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["b"]);
    let delivery = client.handle_response(response).expect("valid");
    client.ack(&delivery.type_url, &delivery.nonce);
    settle(&mut client, &mut session, &now, &mut held, None);
    assert!(!held.get(LISTENER).contains_key("c"));
}

#[test]
fn stale_answers_and_foreign_types_are_told_apart() {
    let mut session = Session::default();
    let request = |type_url: &str, nonce: &str| pb::DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        response_nonce: nonce.to_owned(),
        ..pb::DeltaDiscoveryRequest::default()
    };
    assert_eq!(session.handle_request(&request(LISTENER, "")), Ok(Request::Subscribed));
    assert_eq!(session.handle_request(&request(LISTENER, "77")), Ok(Request::Stale));
    assert_eq!(session.handle_request(&request("nope", "")), Err(InvalidRequest::UnknownType("nope".to_owned())));
}

#[test]
fn a_response_that_breaks_the_protocol_is_refused_by_name() {
    let mut client = client(&[LISTENER]);
    while client.poll_request().is_some() {}
    let resource = encode(LISTENER, "l", &Versioned { version: "1".to_owned(), body: Bytes::new() });
    let response = pb::DeltaDiscoveryResponse {
        type_url: LISTENER.to_owned(),
        nonce: "9".to_owned(),
        resources: vec![resource.clone(), resource],
        ..pb::DeltaDiscoveryResponse::default()
    };
    client.handle_response(response).expect_err("twice");
    let answer = client.poll_request().expect("a NACK");
    assert_eq!(answer.response_nonce, "9");
    assert!(answer.error_detail.is_some_and(|s| s.message.contains("\"l\"")));
}

fn content() -> impl Strategy<Value = BTreeMap<u8, u8>> {
    prop::collection::btree_map(0u8..6, 0u8..3, 0..6)
}

proptest! {
    /// Whatever the history of snapshots, subscriptions, refusals and reconnects: at rest the client holds exactly what the last
    /// snapshot has for its subscription.
    #[test]
    fn client_and_server_converge(history in prop::collection::vec((content(), content(), prop::collection::btree_set(0u8..6, 0..6), any::<bool>()), 1..8)) {
        let mut client = client(&[CLUSTER]);
        let (mut session, mut held) = (Session::default(), Held::default());
        let mut last = None;
        for (clusters, endpoints, subscribed, reconnect) in history {
            let to = |content: &BTreeMap<u8, u8>| -> Arc<BTreeMap<String, Versioned>> {
                let resource = |v: &u8| Versioned { version: v.to_string(), body: Bytes::from(v.to_string()) };
                Arc::new(content.iter().map(|(n, v)| (n.to_string(), resource(v))).collect())
            };
            let now = Snapshot { types: [(CLUSTER, to(&clusters)), (ENDPOINT, to(&endpoints))].into() };
            if reconnect {
                client.handle_disconnected();
                client.handle_connected();
                session = Session::default();
            }
            let wanted: BTreeSet<String> = subscribed.iter().map(ToString::to_string).collect();
            client.subscribe(ENDPOINT, wanted.clone());
            // The owner forgets what it does not want any more.
            held.0.entry(ENDPOINT.to_owned()).or_default().retain(|name, _| wanted.contains(name));
            settle(&mut client, &mut session, &now, &mut held, None);
            last = Some((clusters, endpoints, wanted));
        }
        let (clusters, endpoints, wanted) = last.expect("at least one");
        let text = |c: BTreeMap<u8, u8>| c.into_iter().map(|(n, v)| (n.to_string(), v.to_string())).collect::<Content>();
        prop_assert_eq!(held.get(CLUSTER), text(clusters));
        let mut expected = text(endpoints);
        expected.retain(|name, _| wanted.contains(name));
        prop_assert_eq!(held.get(ENDPOINT), expected);
    }
}
