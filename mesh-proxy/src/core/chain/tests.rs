//! Envoy's precedence, step by step.

use super::*;

fn range(text: &str) -> Range {
    let (address, bits) = text.split_once('/').expect("a range");
    Range { address: address.parse().expect("an address"), bits: bits.parse().expect("bits") }
}

fn exact(name: &str) -> ServerName {
    ServerName::Exact(name.to_owned())
}

fn suffix(name: &str) -> ServerName {
    ServerName::Suffix(name.to_owned())
}

fn tls(name: Option<&str>, protocols: &[&str]) -> Hello {
    let protocols = protocols.iter().map(|protocol| (*protocol).to_owned()).collect();
    Hello { transport: Transport::Tls, server_name: name.map(str::to_owned), protocols }
}

fn chosen(chains: &[Match], hello: &Hello) -> Option<usize> {
    chosen_at(chains, hello, "11.0.0.1", &BTreeMap::new())
}

fn chosen_at(chains: &[Match], hello: &Hello, destination: &str, labels: &BTreeMap<String, String>) -> Option<usize> {
    let destination = (destination.parse().expect("an address"), 443);
    let source = ("9.0.1.4".parse().expect("an address"), 40_000);
    select(chains, &Ask { destination, source, hello, workload: (labels, "default") })
}

#[test]
fn server_names_go_from_exact_over_the_longest_suffix_to_none() {
    let chains = [
        Match::default(),
        Match { server_names: vec![suffix(".com")], ..Match::default() },
        Match { server_names: vec![suffix(".example.com"), exact("b.org")], ..Match::default() },
        Match { server_names: vec![exact("www.example.com")], ..Match::default() },
    ];
    for (name, expected) in [
        (Some("www.example.com"), 3),
        (Some("api.example.com"), 2),
        (Some("a.b.example.com"), 2),
        (Some("example.com"), 1),
        (Some("b.org"), 2),
        (Some("a.b.org"), 0),
        (None, 0),
    ] {
        assert_eq!(chosen(&chains, &tls(name, &[])), Some(expected), "{name:?}");
    }
    assert_eq!(chosen(&chains[1..], &tls(Some(".com"), &[])), None, "a suffix wants something in front of it");
}

#[test]
fn there_is_no_way_back_from_a_more_exact_chain() {
    // The exact name wants h2; a client that offers only http/1.1 does not fall back to the suffix, as in Envoy.
    let chains = [
        Match { server_names: vec![exact("a.example")], protocols: vec!["h2".to_owned()], ..Match::default() },
        Match { server_names: vec![suffix(".example")], ..Match::default() },
    ];
    assert_eq!(chosen(&chains, &tls(Some("a.example"), &["h2"])), Some(0));
    assert_eq!(chosen(&chains, &tls(Some("a.example"), &["http/1.1"])), None);
    assert_eq!(chosen(&chains, &tls(Some("b.example"), &["http/1.1"])), Some(1));
}

#[test]
fn the_order_of_steps_is_envoys() {
    let port = Match { destination_port: Some(443), ..Match::default() };
    let net = Match { destinations: vec![range("11.0.0.0/8")], ..Match::default() };
    let name = Match { server_names: vec![exact("a.example")], ..Match::default() };
    let secure = Match { transport: Some(Transport::Tls), ..Match::default() };
    let h2 = Match { protocols: vec!["h2".to_owned()], ..Match::default() };
    let source = Match { sources: vec![range("9.0.0.0/8")], ..Match::default() };
    let source_port = Match { source_ports: vec![40_000], ..Match::default() };
    let order = [source_port, source, h2, secure, name, net, port];
    for last in 1..order.len() {
        // Of all that match, the one whose condition is asked first.
        assert_eq!(chosen(&order[..=last], &tls(Some("a.example"), &["h2"])), Some(last));
    }
}

#[test]
fn ranges_go_by_length_and_family() {
    let chains = [
        Match { destinations: vec![range("11.0.0.0/8"), range("fd00::/8")], ..Match::default() },
        Match { destinations: vec![range("11.1.0.0/16")], ..Match::default() },
        Match { destinations: vec![range("0.0.0.0/0")], ..Match::default() },
    ];
    let at = |destination: &str| chosen_at(&chains, &Hello::default(), destination, &BTreeMap::new());
    assert_eq!(
        [at("11.1.2.3"), at("11.2.2.3"), at("::ffff:11.1.2.3"), at("203.0.113.1"), at("fd01::1"), at("2001:db8::1")],
        [Some(1), Some(0), Some(1), Some(2), Some(0), None]
    );
    assert!(range("203.0.113.5/32").contains("203.0.113.5".parse().expect("an address")));
    assert!(!range("203.0.113.5/32").contains("203.0.113.4".parse().expect("an address")));
}

#[test]
fn the_clients_preference_decides_between_protocols() {
    let chains = [
        Match { protocols: vec!["http/1.1".to_owned()], ..Match::default() },
        Match { protocols: vec!["h2".to_owned()], ..Match::default() },
    ];
    assert_eq!(chosen(&chains, &tls(None, &["h2", "http/1.1"])), Some(1));
    assert_eq!(chosen(&chains, &tls(None, &["http/1.1", "h2"])), Some(0));
    assert_eq!(chosen(&chains, &tls(None, &["acme"])), None);
}

#[test]
fn a_chain_for_other_workloads_is_not_there() {
    let labels = |version: &str| BTreeMap::from([("version".to_owned(), version.to_owned())]);
    let chains = [
        Match { labels: vec![("version".to_owned(), "v1".to_owned())], ..Match::default() },
        Match { namespace: Some("other".to_owned()), server_names: vec![exact("a.example")], ..Match::default() },
        Match::default(),
    ];
    let from = |version: &str| chosen_at(&chains, &tls(Some("a.example"), &[]), "11.0.0.1", &labels(version));
    // Of equal conditions, the first in the list.
    assert_eq!((from("v1"), from("v2")), (Some(0), Some(2)));
    assert_eq!(chosen(&chains[..1], &Hello::default()), None);
}
