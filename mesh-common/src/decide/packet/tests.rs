use super::*;
use crate::abi::{Service, egress, mode};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

#[derive(Clone, Debug, Default)]
struct World {
    workloads: HashSet<Addr>,
    egress: HashMap<Dest, u32>,
    judged: bool,
    known: bool,
}

impl Tables for World {
    fn service(&self, dest: &Dest) -> Option<Service> {
        let mode = match dest.addr.to_v4()? {
            [11, 0, 0, 1] => mode::PROXY,
            [11, 0, 0, 2] => mode::KERNEL,
            [11, 0, 0, 3] => mode::DIRECT,
            _ => return None,
        };
        Some(Service { mode, backends: 1, ..Service::default() })
    }
    fn is_protected(&self, dest: &Dest) -> bool {
        dest.port == 32443
    }
    fn is_endpoint(&self, _: &Dest) -> bool {
        false
    }

    fn is_workload(&self, addr: &Addr) -> bool {
        self.workloads.contains(addr)
    }
    fn egress(&self, _policy: u32, dest: &Dest) -> Option<u32> {
        self.egress.get(dest).copied()
    }
}

impl Flows for World {
    fn is_judged(&self, _packet: &Packet) -> bool {
        self.judged
    }
    fn is_known(&self, _packet: &Packet) -> bool {
        self.known
    }
}

const OWN: Addr = Addr::v4([9, 0, 1, 2]);
const OWN6: Addr = Addr([0xfd, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
const POD: Pod = Pod { slot: 3, policy: 0, addr4: OWN, addr6: OWN6, outbound: 0 };
const NODE: [u8; 4] = [192, 0, 2, 11];
const FRIEND: [u8; 4] = [9, 0, 2, 7];
const SHOP: [u8; 4] = [203, 0, 113, 20];

fn config() -> Config {
    Config { vip4: [11, 0, 0, 0], vip4_bits: 8, node: Addr::v4(NODE), ready: 1, ..Config::default() }
}

fn world() -> World {
    let shop = |port| Dest { addr: Addr::v4(SHOP), port, proto: TCP, pad: 0 };
    let egress = [(shop(443), way::PASS), (shop(8080), way::PROXY)];
    World { workloads: [Addr::v4(FRIEND)].into(), egress: egress.into(), ..World::default() }
}

fn to(dst: [u8; 4], proto: u8, dst_port: u16) -> Packet {
    Packet { src: OWN, dst: Addr::v4(dst), src_port: 40_000, dst_port, proto, ..Packet::default() }
}

fn ask(packet: &Packet, world: &World) -> Outcome {
    leaving(packet, &POD, &config(), world)
}

#[test]
fn a_packet_gets_where_a_connect_gets_and_nowhere_else() {
    let world = world();
    let (drop, spoofed) = (Outcome::Drop(Reason::Bypass), Outcome::Drop(Reason::Spoofed));
    for (what, packet, want) in [
        ("another pod", to(FRIEND, TCP, 80), Outcome::Pass),
        ("another pod, any protocol", to(FRIEND, 136, 80), Outcome::Pass),
        ("a fragment to another pod", Packet { fragment: true, ..to(FRIEND, UDP, 0) }, Outcome::Pass),
        ("allowed outside", to(SHOP, TCP, 443), Outcome::Pass),
        ("a port where the proxy looks at the host", to(SHOP, TCP, 8080), drop),
        ("another port", to(SHOP, TCP, 80), drop),
        ("another protocol", to(SHOP, UDP, 443), drop),
        ("UDP-Lite", to(SHOP, 136, 443), drop),
        ("ping", Packet { icmp: icmp::ECHO, ..to(SHOP, ICMP, 443) }, drop),
        ("a fragment, which has no port", Packet { fragment: true, ..to(SHOP, TCP, 0) }, drop),
        ("DNS to a foreign server", to([8, 8, 8, 8], UDP, 53), drop),
        ("the own node's Mesos agent", to(NODE, TCP, 5051), Outcome::Pass),
        ("ping to the own node", Packet { icmp: icmp::ECHO, ..to(NODE, ICMP, 0) }, Outcome::Pass),
        ("another port of the node", to(NODE, TCP, 22), drop),
        ("the control plane", to(FRIEND, TCP, 32443), drop),
        ("a ruled VIP", to([11, 0, 0, 1], TCP, 80), drop),
        ("a balanced VIP", to([11, 0, 0, 2], TCP, 80), drop),
        ("a VIP that is somebody else's business", to([11, 0, 0, 3], TCP, 80), Outcome::Pass),
        ("a VIP that nobody owns", to([11, 9, 9, 9], TCP, 80), drop),
        ("loopback on the wire", to([127, 0, 0, 1], TCP, 80), drop),
        ("another's source", Packet { src: Addr::v4(FRIEND), ..to(SHOP, TCP, 443) }, spoofed),
        ("no source", Packet { src: Addr::v4([0; 4]), ..to(FRIEND, TCP, 80) }, spoofed),
        ("DHCP", Packet { src: Addr::v4([0; 4]), src_port: 68, ..to([255; 4], UDP, 67) }, Outcome::Pass),
        ("DHCP to somebody", Packet { src_port: 68, ..to(SHOP, UDP, 67) }, drop),
    ] {
        assert_eq!(ask(&packet, &world), want, "{what}");
    }
}

#[test]
fn neighbours_are_found_and_no_router_is_passed() {
    let addr = |text: &str| Addr(text.parse::<std::net::Ipv6Addr>().expect("literal").octets());
    let nd = |src: &str, dst: &str, icmp| Packet { src: addr(src), dst: addr(dst), proto: ICMPV6, icmp, ..Packet::default() };
    let (drop, spoofed) = (Outcome::Drop(Reason::Bypass), Outcome::Drop(Reason::Spoofed));
    for (packet, want) in [
        (nd("::", "ff02::1:ff00:2", icmp::NEIGHBOUR_SOLICITATION), Outcome::Pass),
        (nd("fe80::2", "fe80::1", icmp::NEIGHBOUR_ADVERTISEMENT), Outcome::Pass),
        (nd("fd01:9::2", "fd01:9::1", icmp::NEIGHBOUR_SOLICITATION), Outcome::Pass),
        (nd("fe80::2", "ff02::2", icmp::ROUTER_SOLICITATION), Outcome::Pass),
        (nd("fe80::2", "ff02::16", icmp::MLD_V2), Outcome::Pass),
        (nd("fd01:9::2", "2001:db8::1", icmp::NEIGHBOUR_SOLICITATION), drop),
        (nd("fd01:9::2", "2001:db8::1", icmp::ECHO_V6), drop),
        (nd("fd01:9::2", "ff02::1", icmp::ECHO_V6), drop),
        (nd("fd01:9::3", "ff02::1:ff00:2", icmp::NEIGHBOUR_SOLICITATION), spoofed),
        (nd("fe80::2", "fe80::1", icmp::ECHO_V6), spoofed),
    ] {
        assert_eq!(ask(&packet, &world()), want, "{packet:?}");
    }
}

#[test]
fn what_came_in_may_be_answered_but_a_syn_is_no_answer() {
    let known = World { known: true, ..world() };
    let answer = to([198, 51, 100, 9], TCP, 50_000);
    assert_eq!(ask(&answer, &known), Outcome::Known);
    assert_eq!(ask(&Packet { opens: true, ..answer }, &known), Outcome::Drop(Reason::Bypass));
    assert_eq!(ask(&Packet { fragment: true, ..answer }, &known), Outcome::Drop(Reason::Bypass));
    let judged = World { judged: true, ..world() };
    assert_eq!(ask(&Packet { opens: true, ..answer }, &judged), Outcome::Judged);
    assert_eq!(ask(&Packet { opens: true, ..to(SHOP, TCP, 8080) }, &judged), Outcome::Judged, "the proxy's own");
    let middle = Packet { carries: true, ..answer };
    assert_eq!(ask(&middle, &judged), Outcome::Pass, "nothing new to remember");
    assert_eq!(ask(&answer, &judged), Outcome::Judged, "the end is remembered: what follows it has no socket");
    assert_eq!(ask(&middle, &world()), Outcome::Drop(Reason::Bypass));
    assert_eq!(ask(&Packet { src: Addr::v4(FRIEND), ..middle }, &judged), Outcome::Drop(Reason::Spoofed));

    let opens = |packet: &Packet| opens_answer(packet, &POD, &config(), &world());
    let from =
        |src: [u8; 4], proto| Packet { src: Addr::v4(src), dst: OWN, src_port: 9, dst_port: 80, proto, ..Packet::default() };
    assert!(opens(&Packet { opens: true, ..from(SHOP, TCP) }));
    assert!(!opens(&Packet { opens: true, ..from(FRIEND, TCP) }));
    assert!(!opens(&from(SHOP, TCP)), "an old connection's data");
    assert!(opens(&from(SHOP, UDP)));
    assert!(!opens(&from(FRIEND, UDP)));
    assert!(opens(&Packet { icmp: icmp::ECHO, ..from(SHOP, ICMP) }));
    assert!(!opens(&Packet { icmp: icmp::ECHO_REPLY, ..from(SHOP, ICMP) }));
}

fn packet() -> impl Strategy<Value = Packet> {
    let known = prop::sample::select(vec![
        [9, 0, 1, 2],
        NODE,
        FRIEND,
        SHOP,
        [11, 0, 0, 1],
        [11, 0, 0, 2],
        [127, 0, 0, 1],
        [0; 4],
        [255; 4],
    ]);
    let addr = prop_oneof![
        4 => known.prop_map(Addr::v4),
        1 => any::<[u8; 4]>().prop_map(Addr::v4),
        1 => Just(OWN6),
        1 => any::<[u8; 16]>().prop_map(Addr)
    ];
    let src = prop_oneof![3 => Just(OWN), 1 => Just(OWN6), 1 => addr.clone()];
    let port = || prop_oneof![prop::sample::select(vec![53u16, 67, 68, 80, 443, 5051, 8080, 32443]), any::<u16>()];
    let proto = prop_oneof![prop::sample::select(vec![TCP, UDP, ICMP, ICMPV6, 136]), any::<u8>()];
    (src, addr, port(), port(), proto, any::<u8>(), (any::<bool>(), any::<bool>()), any::<bool>()).prop_map(
        |(src, dst, src_port, dst_port, proto, icmp, (opens, carries), fragment)| Packet {
            src,
            dst,
            src_port,
            dst_port,
            proto,
            icmp,
            opens,
            carries: carries && !opens && proto == TCP,
            fragment,
        },
    )
}

proptest! {
    /// With no flow known, a packet gets nowhere that a brokered connect() of the pod would not get, nor past the proxy where the pod's own
    /// connect() is handed to it; and DHCP, ND and pings of the node.
    #[test]
    fn packets_gain_nothing(packet in packet(), any_allowed: bool) {
        let config = Config { egress: if any_allowed { egress::ALLOW } else { egress::DENY }, ..config() };
        let world = world();
        if leaving(&packet, &POD, &config, &world) == Outcome::Pass {
            let verdict = l4::decide(&Flow { dest: packet.dest(), pod: Some(&POD), brokered: true }, &config, &world);
            let on_link = matches!(packet.proto, UDP | ICMP | ICMPV6) && (packet.proto != UDP || packet.dst == Addr::v4([255; 4]));
            prop_assert!(matches!(verdict, Verdict::Pass(_)) || on_link, "{:?}", packet);
            let own = l4::decide(&Flow { dest: packet.dest(), pod: Some(&POD), brokered: false }, &config, &world);
            prop_assert_ne!(own, Verdict::Proxy, "{:?}", packet);
        }
    }

    /// A foreign source never gets out, whatever is known of the flow; but the unspecified one may look for an address.
    #[test]
    fn nobody_is_impersonated(packet in packet(), judged: bool, known: bool) {
        let world = World { judged, known, ..world() };
        let own = packet.src == OWN || packet.src == OWN6 || packet.src.is_unspecified() || is_link_local(&packet.src);
        if !own {
            prop_assert_eq!(ask(&packet, &world), Outcome::Drop(Reason::Spoofed));
        }
    }

    #[test]
    fn a_served_vip_is_never_on_the_wire(src_port in any::<u16>(), dst_port in any::<u16>(), last in 1u8..3, proto in any::<u8>()) {
        let packet = Packet { src_port, ..to([11, 0, 0, last], proto, dst_port) };
        prop_assert!(matches!(ask(&packet, &world()), Outcome::Drop(_)));
    }
}
