use super::*;
use crate::core::resources::World;
use bytes::Bytes;
use mesh_common::decide::l4::{TCP, UDP};
use mesh_xds::client::{Delivery, Resource};
use proptest::prelude::*;
use prost::Message;

fn entry(hosts: &[&str], addresses: &[&str], ports: &[(u32, i32)]) -> wire::Egress {
    let own = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
    let ports =
        ports.iter().map(|(port, transport)| wire::EgressPort { port: *port, transport: *transport, ..Default::default() });
    wire::Egress {
        name: "default/e".to_owned(),
        hosts: own(hosts),
        addresses: own(addresses),
        ports: ports.collect(),
        learn: true,
        namespaces: Vec::new(),
        terminate_on_revoke: false,
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn rules(entries: &[wire::Egress]) -> Rules {
    let rules = entries.iter().enumerate().map(|(i, e)| (i.to_string(), rule(e.clone()).expect("valid")));
    Rules { rules: rules.collect(), policies: Policies::of_names(["mine", "other"].into_iter()) }
}

fn key(address: &str, port: u16, proto: u8) -> EgressKey {
    EgressKey { policy: 0, dest: Dest { addr: addr(ip(address)), port, proto, pad: 0 } }
}

#[test]
fn refusals_name_resource_and_field() {
    let refusal = |entry: wire::Egress| {
        let resource =
            Resource { name: "default/e".to_owned(), version: "1".to_owned(), body: Bytes::from(entry.encode_to_vec()) };
        let delivery =
            Delivery { type_url: wire::EGRESS.to_owned(), nonce: "n".to_owned(), resources: vec![resource], removed: Vec::new() };
        let refused = World::default().apply(&delivery);
        refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(refusal(entry(&["a.example", "*.b.example"], &["203.0.113.0/24", "::/0"], &[(443, 0)])), "");
    for (entry, want) in [
        (entry(&["*"], &[], &[]), r#"hosts[0]: "*" is no host name, nor one behind "*.""#),
        (entry(&["a.example", "A.example"], &[], &[]), r#"hosts[1]: "A.example" must be in lower case, without a trailing dot"#),
        (entry(&[], &["203.0.113.0/33"], &[]), r#"addresses[0]: "203.0.113.0/33" is no address range"#),
        (entry(&[], &["203.0.113"], &[]), r#"addresses[0]: "203.0.113" is no IP address"#),
        (entry(&[], &[], &[(80, 0), (0, 0)]), "ports[1].port: 0 is no port (1 to 65535)"),
    ] {
        assert_eq!(refusal(entry), format!(r#"Egress "default/e": {want}"#));
    }
    assert!(refusal(entry(&[], &[], &[(80, 9)])).starts_with(r#"Egress "default/e": ports[0].transport:"#));
}

#[test]
fn names_match_whole_or_behind_an_asterisk() {
    let rule = rule(entry(&["httpbin.org", "*.example.com"], &[], &[])).expect("valid");
    for (name, wanted) in [
        ("httpbin.org", true),
        ("www.httpbin.org", false),
        ("xhttpbin.org", false),
        ("a.example.com", true),
        ("a.b.example.com", true),
        ("example.com", false),
        (".example.com", false),
        ("notexample.com", false),
        ("a.example.com.evil.org", false),
    ] {
        assert_eq!(rule.wants(name), wanted, "{name}");
    }
    assert!(!Rule { learn: false, ..rule }.wants("httpbin.org"), "STATIC never learns");
}

#[test]
fn each_rule_opens_its_own_ports_only() {
    let rules = rules(&[
        entry(&["a.example"], &["203.0.113.20", "2001:db8::/32"], &[(443, 0), (443, 1)]),
        entry(&["*.example"], &["203.0.113.77/24"], &[(80, 0)]),
    ]);
    let learned = [("a.example", ip("198.51.100.1")), ("b.example", ip("198.51.100.2")), ("c.test", ip("198.51.100.3"))];
    let allowed = allowed(&rules, learned.into_iter()).expect("fits");
    let exact = [
        key("203.0.113.20", 443, TCP),
        key("203.0.113.20", 443, UDP),
        key("198.51.100.1", 443, TCP),
        key("198.51.100.1", 443, UDP),
        key("198.51.100.1", 80, TCP),
        key("198.51.100.2", 80, TCP),
    ];
    assert_eq!(allowed.exact, exact.map(|key| (key, way::PASS)).into());
    let range = |address, port, proto, family| EgressNet { policy: 0, port, proto, family, addr: addr(ip(address)) };
    let nets = [
        (64 + 96 + 24, range("203.0.113.0", 80, TCP, 4)),
        (64 + 32, range("2001:db8::", 443, TCP, 6)),
        (64 + 32, range("2001:db8::", 443, UDP, 6)),
    ];
    assert_eq!(allowed.nets, nets.map(|net| (net, way::PASS)).into());
}

#[test]
fn an_entry_that_is_for_some_namespaces_opens_nothing_to_others() {
    let mine = wire::Egress {
        namespaces: vec!["mine".to_owned(), "nobody's".to_owned()],
        ..entry(&["a.example"], &["203.0.113.0/24"], &[(80, 0)])
    };
    let rules = rules(&[mine, entry(&["a.example"], &[], &[(443, 0)])]);
    let allowed = allowed(&rules, [("a.example", ip("198.51.100.1"))].into_iter()).expect("fits");
    let policy = mesh_common::abi::policy::of("mine");
    let own = EgressKey { policy, ..key("198.51.100.1", 80, TCP) };
    assert_eq!(allowed.exact.into_keys().collect::<BTreeSet<_>>(), [own, key("198.51.100.1", 443, TCP)].into());
    assert_eq!(allowed.nets.into_keys().map(|(_, net)| net.policy).collect::<Vec<_>>(), [policy]);

    let mut world = World::default();
    let open = ServicePort { port: 443, proto: TCP, ..Default::default() };
    let port = ServicePort { port: 80, namespaces: vec!["mine".to_owned()], ..open.clone() };
    let service = Service { addresses: vec![ip("11.0.0.1")], ports: vec![port, open], ..Service::default() };
    world.services.insert("s".to_owned(), service);
    let allowed = super::allowed(&Rules::of(&world), std::iter::empty()).expect("fits");
    assert_eq!(allowed.exact, [(EgressKey { policy, ..key("11.0.0.1", 80, TCP) }, way::PASS)].into(), "its VIP");
}

#[test]
fn what_does_not_fit_is_refused_not_cut() {
    let ports: Vec<(u32, i32)> = (1..=maps::EGRESS_CIDR_MAX + 1).map(|port| (port, 0)).collect();
    let rules = rules(&[entry(&[], &["203.0.113.0/24"], &ports)]);
    let error = allowed(&rules, std::iter::empty()).expect_err("too many");
    assert_eq!(error.to_string(), "16385 entries do not fit into the kernel's table EGRESS_CIDR, which holds 16384");
}

#[test]
fn what_is_for_the_proxy_by_one_rule_does_not_get_past_it_by_another() {
    let by = |hosts: &[&str], addresses: &[&str], mode: wire::Mode| {
        let mut entry = entry(hosts, addresses, &[(80, 0)]);
        entry.ports.iter_mut().for_each(|port| port.mode = mode.into());
        entry
    };
    let (proxy, direct) = (wire::Mode::Proxy, wire::Mode::Direct);
    for order in [[proxy, direct], [direct, proxy]] {
        let rules = rules(&[
            by(&["a.example"], &["203.0.113.0/24"], order[0]),
            by(&["b.example"], &["203.0.113.0/24"], order[1]),
            by(&["c.example"], &["203.0.113.0/28"], direct),
        ]);
        let shared = ip("198.51.100.1");
        let learned = [("a.example", shared), ("b.example", shared), ("c.example", ip("198.51.100.2"))];
        let allowed = allowed(&rules, learned.into_iter()).expect("fits");
        let exact = [(key("198.51.100.1", 80, TCP), way::PROXY), (key("198.51.100.2", 80, TCP), way::PASS)];
        assert_eq!(allowed.exact, exact.into());
        assert_eq!(allowed.nets.values().collect::<Vec<_>>(), [&way::PROXY, &way::PASS], "the range, and a longer one in it");
        let alone = if order[1] == proxy { way::PROXY } else { way::PASS };
        assert_eq!(cells(&rules, "b.example", shared), [(key("198.51.100.1", 80, TCP), alone)].into());
    }
    let error = rule(by(&[], &[], wire::Mode::Kernel)).expect_err("no mode of this");
    assert_eq!(error.0, "ports[0].mode");
}

fn tables() -> impl Strategy<Value = Allowed> {
    let way = || prop::sample::select(vec![way::PASS, way::PROXY]);
    let exact = prop::collection::btree_map((0u16..5).prop_map(|port| key("203.0.113.1", port, TCP)), way(), 0..5);
    let net = (0u16..4).prop_map(|port| (184, EgressNet { port, proto: TCP, family: 4, ..EgressNet::default() }));
    (exact, prop::collection::btree_map(net, way(), 0..4)).prop_map(|(exact, nets)| Allowed { exact, nets })
}

proptest! {
    /// The agent may die between any two writes: what stays allowed is allowed all the time, and nothing is allowed that neither wants.
    #[test]
    fn any_prefix_is_safe(first in tables(), second in tables()) {
        let mut actual = first.clone();
        for op in reconcile(&second, &first) {
            actual.apply(&op);
            prop_assert!(first.exact.keys().all(|key| !second.exact.contains_key(key) || actual.exact.contains_key(key)));
            prop_assert!(first.nets.keys().all(|net| !second.nets.contains_key(net) || actual.nets.contains_key(net)));
            let is = |(key, way): (&EgressKey, &u32)| first.exact.get(key) == Some(way) || second.exact.get(key) == Some(way);
            prop_assert!(actual.exact.iter().all(is));
        }
        prop_assert_eq!(&actual, &second);
        prop_assert_eq!(reconcile(&second, &actual), vec![]);
    }

    /// The first address of a range is in it, and the last bit behind the prefix is not set.
    #[test]
    fn one_range_has_one_key(bytes in any::<[u8; 4]>(), bits in 0u8..=32, flip in 0u32..32) {
        let a = std::net::Ipv4Addr::from(bytes).to_bits();
        let same = range(IpAddr::from(bytes), bits) == range(IpAddr::from((a ^ (1 << flip)).to_be_bytes()), bits);
        prop_assert_eq!(same, flip < 32 - u32::from(bits));
    }
}

#[test]
fn what_ends_with_its_rule_is_what_no_rule_allows_any_more() {
    let rule = |ranges: &[(&str, u8)], terminate: bool| Rule {
        ports: [((TCP, 443), way::PASS)].into(),
        ranges: ranges.iter().map(|(ip, bits)| (ip.parse().expect("literal"), *bits)).collect(),
        terminate,
        ..Rule::default()
    };
    let rules = |all: &[(&str, Rule)]| Rules {
        rules: all.iter().map(|(name, rule)| ((*name).to_owned(), rule.clone())).collect(),
        policies: Policies::default(),
    };
    let ends = rule(&[("203.0.113.20", 32), ("2001:db8::", 64), ("198.51.100.0", 24)], true);
    let before = rules(&[("ends", ends), ("stays", rule(&[("203.0.113.21", 32)], false))]);
    let ending = before.ending(std::iter::empty());
    let now = allowed(&rules(&[("other", rule(&[("203.0.113.0", 24)], false))]), std::iter::empty()).expect("fits");
    let gone = ending.without(&now);
    let dest = |ip: &str, port: u16| Dest { addr: addr(ip.parse().expect("literal")), port, proto: TCP, pad: 0 };
    for (ip, port, was, is) in [
        ("203.0.113.20", 443, true, true),
        ("203.0.113.21", 443, false, true),
        ("2001:db8::7", 443, true, false),
        ("2001:db8:1::7", 443, false, false),
        ("198.51.100.255", 443, true, false),
        ("198.51.100.255", 80, false, false),
        ("198.51.101.0", 443, false, false),
    ] {
        assert_eq!((gone.covers(0, &dest(ip, port)), now.covers(0, &dest(ip, port))), (was, is), "{ip}:{port}");
        assert!(!gone.covers(1, &dest(ip, port)), "another policy");
    }
    assert!(before.ending(std::iter::empty()).without(&ending).is_empty());
}
