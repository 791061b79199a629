use super::*;
use crate::names::ROUTE;
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::Arc;

type Content = BTreeMap<String, String>;

fn snapshot(types: &[(&'static str, &[(&str, &str)])]) -> Snapshot {
    let resource = |body: &str| Versioned { version: body.to_owned(), body: Bytes::from(body.to_owned()) };
    let all =
        |content: &[(&str, &str)]| Arc::new(content.iter().map(|(name, body)| ((*name).to_owned(), resource(body))).collect());
    Snapshot { types: types.iter().map(|(url, content)| (*url, all(content))).collect() }
}

/// A client as Envoy is one: everything of listeners and clusters, and by name what these refer to. A resource's body is `NAME:REFERS`.
#[derive(Default)]
struct Client {
    held: BTreeMap<&'static str, Content>,
    asked: BTreeMap<&'static str, (BTreeSet<String>, String)>,
    sent: Vec<String>,
    /// Clusters that wait for their endpoints.
    warming: BTreeSet<String>,
}

const REFERRED: [(&str, &str); 2] = [(CLUSTER, ENDPOINT), (LISTENER, ROUTE)];

impl Client {
    fn request(
        &mut self,
        session: &mut Session,
        type_url: &'static str,
        names: &BTreeSet<String>,
        refusal: Option<&str>,
    ) -> Request {
        let nonce = self.asked.get(type_url).map(|(_, nonce)| nonce.clone()).unwrap_or_default();
        self.asked.insert(type_url, (names.clone(), nonce.clone()));
        let error_detail =
            refusal.map(|words| envoy_types::pb::google::rpc::Status { message: words.to_owned(), ..Default::default() });
        let (resource_names, type_url) = (names.iter().cloned().collect(), type_url.to_owned());
        let request =
            pb::DiscoveryRequest { resource_names, type_url, response_nonce: nonce, error_detail, ..Default::default() };
        session.handle_request(&request).expect("to the protocol")
    }

    fn start(&mut self, session: &mut Session) {
        for type_url in [CLUSTER, LISTENER] {
            self.request(session, type_url, &BTreeSet::new(), None);
        }
    }

    /// Until nothing is due.
    fn settle(&mut self, session: &mut Session, snapshot: &Snapshot) {
        for _ in 0..10_000 {
            if !self.step(session, snapshot) {
                return;
            }
        }
        panic!("it never ends");
    }

    /// Takes one response, if one is due.
    fn step(&mut self, session: &mut Session, snapshot: &Snapshot) -> bool {
        let Some(response) = session.poll_response(snapshot) else { return false };
        let type_url = *PUSH_ORDER.iter().find(|url| **url == response.type_url).expect("known");
        self.sent.push(type_url.rsplit('.').next().unwrap_or_default().to_owned());
        let resources = response.resources.iter().map(|any| String::from_utf8(any.value.clone()).expect("text"));
        let resources: Content = resources.map(|body| (body.split(':').next().unwrap_or_default().to_owned(), body)).collect();
        let held = self.held.entry(type_url).or_default();
        if type_url == CLUSTER {
            let changed = resources.iter().filter(|(name, body)| held.get(*name) != Some(*body));
            self.warming.extend(changed.map(|(name, _)| name.clone()));
            self.warming.retain(|name| resources.contains_key(name));
        }
        if type_url == ENDPOINT {
            self.warming.retain(|name| !resources.contains_key(name));
        }
        if is_whole(type_url) {
            *held = resources;
        } else {
            held.extend(resources);
        }
        if let Some(asked) = self.asked.get_mut(type_url) {
            asked.1 = response.nonce;
        }
        let names = self.asked.get(type_url).map(|(names, _)| names.clone()).unwrap_or_default();
        self.request(session, type_url, &names, None);
        self.refer(session);
        true
    }

    /// Asks for what is referred to, if that is another set than before.
    fn refer(&mut self, session: &mut Session) {
        for (from, to) in REFERRED {
            let held = self.held.get(from).into_iter().flatten();
            let names: BTreeSet<String> = held.filter_map(|(_, body)| Some(body.split(':').nth(1)?.to_owned())).collect();
            if self.asked.get(to).map_or(!names.is_empty(), |(asked, _)| *asked != names) {
                self.request(session, to, &names, None);
                if let Some(held) = self.held.get_mut(to) {
                    held.retain(|name, _| names.contains(name));
                }
            }
        }
    }

    fn holds(&self, type_url: &str) -> Vec<&str> {
        self.held.get(type_url).into_iter().flatten().map(|(_, body)| body.as_str()).collect()
    }
}

#[test]
fn what_goes_is_sent_along_until_nothing_refers_to_it() {
    let (mut session, mut client) = (Session::default(), Client::default());
    client.start(&mut session);
    let one = snapshot(&[
        (CLUSTER, &[("a", "a:a")]),
        (ENDPOINT, &[("a", "a")]),
        (LISTENER, &[("l", "l:r")]),
        (ROUTE, &[("r", "r to a")]),
    ]);
    client.settle(&mut session, &one);
    assert_eq!(client.sent, ["Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration"]);
    assert!(session.settled(&one));
    client.sent.clear();
    let two = snapshot(&[
        (CLUSTER, &[("b", "b:b")]),
        (ENDPOINT, &[("b", "b")]),
        (LISTENER, &[("l", "l:r")]),
        (ROUTE, &[("r", "r to b")]),
    ]);
    let response = session.poll_response(&two).expect("clusters");
    assert_eq!(response.resources.len(), 2, "the old one with the new one, as long as the route leads to it");
    assert!(session.poll_response(&two).is_none(), "one at a time");
    client.asked.get_mut(CLUSTER).expect("asked").1 = response.nonce;
    assert_eq!(client.request(&mut session, CLUSTER, &BTreeSet::new(), None), Request::Ack(CLUSTER));
    client.held.insert(CLUSTER, [("a", "a:a"), ("b", "b:b")].map(|(n, b)| (n.to_owned(), b.to_owned())).into());
    client.refer(&mut session);
    client.settle(&mut session, &two);
    assert_eq!(client.sent, ["ClusterLoadAssignment", "RouteConfiguration", "Cluster"], "the removal comes last");
    assert_eq!((client.holds(CLUSTER), client.holds(ENDPOINT)), (vec!["b:b"], vec!["b"]));
    assert!(session.settled(&two));
}

#[test]
fn a_refusal_is_told_and_not_repeated_and_an_old_nonce_is_nothing() {
    let (mut session, mut client) = (Session::default(), Client::default());
    client.start(&mut session);
    let bad = snapshot(&[(CLUSTER, &[("a", "bad")])]);
    let response = session.poll_response(&bad).expect("clusters");
    assert_eq!(client.request(&mut session, CLUSTER, &BTreeSet::new(), None), Request::Stale, "it has not seen the response");
    client.asked.get_mut(CLUSTER).expect("asked").1 = response.nonce;
    assert_eq!(client.request(&mut session, CLUSTER, &BTreeSet::new(), Some("no")), Request::Nack(CLUSTER, "no".to_owned()));
    assert!(!session.in_sync(CLUSTER, &bad));
    // Listeners, which owed an answer although there are none.
    client.settle(&mut session, &bad);
    assert!(session.poll_response(&bad).is_none() && client.sent == ["Listener"], "{:?}", client.sent);
    let good = snapshot(&[(CLUSTER, &[("a", "a:a")])]);
    client.settle(&mut session, &good);
    assert!(session.in_sync(CLUSTER, &good));
    assert_eq!(
        session.handle_request(&pb::DiscoveryRequest { type_url: "x".to_owned(), ..Default::default() }),
        Err(InvalidRequest::UnknownType("x".to_owned()))
    );
}

/// Envoy answers clusters when all of them are warm; this one does so too.
#[test]
fn endpoints_do_not_wait_for_clusters_to_be_answered_nor_go_with_them() {
    let (mut session, mut client) = (Session::default(), Client::default());
    client.start(&mut session);
    let one = snapshot(&[(CLUSTER, &[("a", "a:a")]), (ENDPOINT, &[("a", "a")]), (LISTENER, &[])]);
    let clusters = session.poll_response(&one).expect("clusters");
    client.request(&mut session, ENDPOINT, &["a".to_owned()].into(), None);
    // Meanwhile the cluster goes.
    let two = snapshot(&[(CLUSTER, &[]), (ENDPOINT, &[]), (LISTENER, &[])]);
    let endpoints = session.poll_response(&two).expect("endpoints, with the clusters in flight");
    assert_eq!((endpoints.type_url.as_str(), endpoints.resources.len()), (ENDPOINT, 1), "or Envoy would wait for them in vain");
    assert!(session.poll_response(&two).is_none(), "listeners wait for clusters");
    for (type_url, response) in [(ENDPOINT, endpoints), (CLUSTER, clusters)] {
        client.asked.entry(type_url).or_default().1 = response.nonce;
        let names = client.asked[type_url].0.clone();
        assert_eq!(client.request(&mut session, type_url, &names, None), Request::Ack(type_url));
    }
    client.settle(&mut session, &two);
    assert!(client.holds(CLUSTER).is_empty() && session.settled(&two));
}

#[test]
fn a_cluster_that_changes_gets_its_endpoints_again() {
    let (mut session, mut client) = (Session::default(), Client::default());
    client.start(&mut session);
    client.settle(&mut session, &snapshot(&[(CLUSTER, &[("a", "a:a")]), (ENDPOINT, &[("a", "a")])]));
    client.sent.clear();
    client.settle(&mut session, &snapshot(&[(CLUSTER, &[("a", "a:a:changed")]), (ENDPOINT, &[("a", "a")])]));
    assert_eq!(client.sent, ["Cluster", "ClusterLoadAssignment"]);
}

proptest! {
    /// Whatever is published, and whenever, the client ends with exactly the last snapshot, and no cluster waits for its endpoints.
    #[test]
    fn a_client_ends_with_the_last_snapshot(
        steps in proptest::collection::vec((proptest::collection::btree_map(0u8..5, 0u8..3, 0..5), 0usize..4), 1..12)
    ) {
        let (mut session, mut client) = (Session::default(), Client::default());
        client.start(&mut session);
        let mut last = Snapshot::default();
        for (content, responses) in steps {
            let of = |body: &dyn Fn(&u8, &u8) -> String| -> BTreeMap<String, Versioned> {
                let resource = |(name, version): (&u8, &u8)| {
                    let body = body(name, version);
                    (format!("c{name}"), Versioned { version: body.clone(), body: Bytes::from(body) })
                };
                content.iter().map(resource).collect()
            };
            let clusters = of(&|name, version| format!("c{name}:c{name}:{version}"));
            let endpoints = of(&|name, _| format!("c{name}"));
            last = Snapshot { types: [(CLUSTER, Arc::new(clusters)), (ENDPOINT, Arc::new(endpoints))].into() };
            for _ in 0..responses {
                client.step(&mut session, &last);
            }
        }
        client.settle(&mut session, &last);
        let text = |resource: &Versioned| String::from_utf8(resource.body.to_vec()).expect("text");
        prop_assert_eq!(client.holds(CLUSTER), last.types[CLUSTER].values().map(text).collect::<Vec<_>>());
        prop_assert!(session.settled(&last) && client.warming.is_empty(), "{:?}", client.warming);
        for name in last.types[CLUSTER].keys() {
            prop_assert!(client.held[ENDPOINT].contains_key(name));
        }
    }
}
