use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

#[derive(Clone, Debug, Default)]
struct World {
    services: HashMap<Dest, Service>,
    protected: HashSet<Dest>,
    workloads: HashSet<Addr>,
    endpoints: HashSet<Dest>,
    egress: HashMap<(u32, Dest), u32>,
}

impl Tables for World {
    fn service(&self, dest: &Dest) -> Option<Service> {
        self.services.get(dest).copied()
    }
    fn is_protected(&self, dest: &Dest) -> bool {
        self.protected.contains(dest)
    }
    fn is_endpoint(&self, dest: &Dest) -> bool {
        self.endpoints.contains(dest)
    }
    fn is_workload(&self, addr: &Addr) -> bool {
        self.workloads.contains(addr)
    }
    fn egress(&self, policy: u32, dest: &Dest) -> Option<u32> {
        stricter(policy, |policy| self.egress.get(&(policy, *dest)).copied(), |_| None)
    }
}

const POD: Pod = Pod { slot: 3, policy: 0, addr4: Addr::v4([9, 0, 1, 2]), addr6: Addr([0; 16]), outbound: 0 };
const NODE: Addr = Addr::v4([192, 0, 2, 11]);
const VIP: [u8; 4] = [11, 15, 94, 83];

fn config() -> Config {
    Config { vip4: [11, 0, 0, 0], vip4_bits: 8, node: NODE, ready: 1, ..Config::default() }
}

fn to(addr: [u8; 4], port: u16) -> Dest {
    Dest { addr: Addr::v4(addr), port, proto: TCP, pad: 0 }
}

fn world(mode: u8, backends: u32) -> World {
    World {
        services: [(to(VIP, 9080), Service { id: 1, backends, mode, ..Service::default() })].into(),
        protected: [to([192, 0, 2, 11], 32443)].into(),
        workloads: [Addr::v4([9, 0, 2, 7])].into(),
        endpoints: [to([192, 0, 2, 12], 31_000)].into(),
        egress: [
            ((0, to([198, 51, 100, 7], 443)), way::PASS),
            ((1, to([198, 51, 100, 7], 80)), way::PASS),
            ((0, to([198, 51, 100, 7], 8080)), way::PROXY),
            ((0, Dest { proto: UDP, ..to([198, 51, 100, 7], 8080) }), way::PROXY),
            // What no rule can open: what an earlier step has decided.
            ((0, to([192, 0, 2, 11], 32443)), way::PASS),
            ((0, to([11, 1, 1, 1], 9080)), way::PROXY),
            ((0, to([127, 0, 0, 1], 15001)), way::PROXY),
        ]
        .into(),
    }
}

fn ask(dest: Dest, pod: Option<&Pod>, brokered: bool, world: &World) -> Verdict {
    decide(&Flow { dest, pod, brokered }, &config(), world)
}

#[test]
fn the_gateway_reaches_the_mesh_and_what_rules_allow_and_nothing_of_its_node() {
    let gateway = Pod { slot: GATEWAY_SLOT, ..Pod::default() };
    let world = world(mode::PROXY, 2);
    let verdict = |addr, port| ask(to(addr, port), Some(&gateway), true, &world);
    assert_eq!(verdict([9, 0, 2, 7], 9080), Verdict::Pass(Passed::Brokered));
    assert_eq!(verdict([198, 51, 100, 7], 443), Verdict::Pass(Passed::Egress));
    assert!(matches!(verdict(VIP, 9080), Verdict::Backend(_)));
    for (addr, port) in [([203, 0, 113, 5], 80), ([127, 0, 0, 1], 8080), ([0; 4], 8080), ([192, 0, 2, 11], ports::MESOS_AGENT)] {
        assert_eq!(verdict(addr, port), Verdict::Deny(Reason::EgressDenied), "{addr:?}:{port}");
    }
    assert_eq!(verdict([192, 0, 2, 11], 32443), Verdict::Deny(Reason::ControlPlane));
}

#[test]
fn each_step_in_order() {
    let proxy = world(mode::PROXY, 2);
    let kernel = world(mode::KERNEL, 2);
    let pod = Some(&POD);
    let udp53 = Dest { proto: UDP, ..to([8, 8, 8, 8], 53) };
    let backend = |w: &World| Verdict::Backend(w.services[&to(VIP, 9080)]);
    for (what, dest, pod, brokered, world, want) in [
        ("dns at any address", udp53, pod, false, &proxy, Verdict::Dns),
        ("dns at Docker's resolver", to([127, 0, 0, 11], 53), pod, false, &proxy, Verdict::Dns),
        ("dns of a stranger", udp53, None, false, &proxy, Verdict::Pass(Passed::NotEnrolled)),
        ("loopback", to([127, 0, 0, 1], 8080), pod, false, &proxy, Verdict::Pass(Passed::Loopback)),
        ("own address", to([9, 0, 1, 2], 8080), pod, false, &proxy, Verdict::Pass(Passed::OwnAddress)),
        ("the capture listener", to([127, 0, 0, 1], 15001), pod, false, &proxy, Verdict::Deny(Reason::MeshListener)),
        ("the DNS listener", to([127, 9, 9, 9], 15053), pod, false, &proxy, Verdict::Deny(Reason::MeshListener)),
        ("0.0.0.0 is loopback too", to([0, 0, 0, 0], 15001), pod, false, &proxy, Verdict::Deny(Reason::MeshListener)),
        ("own node's Mesos agent", to([192, 0, 2, 11], 5051), pod, false, &proxy, Verdict::Pass(Passed::MesosAgent)),
        ("another node's Mesos agent", to([192, 0, 2, 12], 5051), pod, false, &proxy, Verdict::Deny(Reason::EgressDenied)),
        ("a backend at its node's address", to([192, 0, 2, 12], 31_000), pod, true, &proxy, Verdict::Pass(Passed::Brokered)),
        ("the same, by the pod itself", to([192, 0, 2, 12], 31_000), pod, false, &proxy, Verdict::Deny(Reason::EgressDenied)),
        ("its neighbour's port", to([192, 0, 2, 12], 31_001), pod, true, &proxy, Verdict::Deny(Reason::EgressDenied)),
        ("the control plane", to([192, 0, 2, 11], 32443), pod, false, &proxy, Verdict::Deny(Reason::ControlPlane)),
        (
            "the control plane, by a process of the node",
            to([192, 0, 2, 11], 32443),
            None,
            false,
            &proxy,
            Verdict::Pass(Passed::NotEnrolled),
        ),
        ("a ruled service", to(VIP, 9080), pod, false, &proxy, Verdict::Proxy),
        ("a ruled service, dialled by the proxy", to(VIP, 9080), pod, true, &proxy, backend(&proxy)),
        ("a ruled service, by a stranger", to(VIP, 9080), None, false, &proxy, backend(&proxy)),
        ("kernel mode", to(VIP, 9080), pod, false, &kernel, backend(&kernel)),
        ("kernel mode is for every process", to(VIP, 9080), None, false, &kernel, backend(&kernel)),
        ("direct", to(VIP, 9080), pod, false, &world(mode::DIRECT, 0), Verdict::Pass(Passed::Direct)),
        ("no backend", to(VIP, 9080), pod, false, &world(mode::KERNEL, 0), Verdict::Deny(Reason::NoBackend)),
        ("no backend: the proxy answers 503", to(VIP, 9080), pod, false, &world(mode::PROXY, 0), Verdict::Proxy),
        ("unknown mode denies", to(VIP, 9080), pod, false, &world(9, 2), Verdict::Deny(Reason::Internal)),
        ("a VIP's unknown port", to(VIP, 81), pod, false, &proxy, Verdict::Deny(Reason::UnknownVip)),
        ("an unknown VIP", to([11, 1, 1, 1], 9080), None, false, &proxy, Verdict::Deny(Reason::UnknownVip)),
        ("another pod", to([9, 0, 2, 7], 9080), pod, false, &proxy, Verdict::Pass(Passed::Workload)),
        ("another pod, dialled by the proxy", to([9, 0, 2, 7], 9080), pod, true, &proxy, Verdict::Pass(Passed::Brokered)),
        ("outside", to([203, 0, 113, 5], 80), pod, false, &proxy, Verdict::Deny(Reason::EgressDenied)),
        ("outside, dialled by the proxy", to([203, 0, 113, 5], 80), pod, true, &proxy, Verdict::Deny(Reason::EgressDenied)),
        ("outside, allowed", to([198, 51, 100, 7], 443), pod, false, &proxy, Verdict::Pass(Passed::Egress)),
        ("outside, allowed, dialled by the proxy", to([198, 51, 100, 7], 443), pod, true, &proxy, Verdict::Pass(Passed::Egress)),
        ("outside, ruled", to([198, 51, 100, 7], 8080), pod, false, &proxy, Verdict::Proxy),
        ("outside, ruled, dialled by the proxy", to([198, 51, 100, 7], 8080), pod, true, &proxy, Verdict::Pass(Passed::Egress)),
        (
            "outside, ruled, by UDP, which the proxy does not carry",
            Dest { proto: UDP, ..to([198, 51, 100, 7], 8080) },
            pod,
            false,
            &proxy,
            Verdict::Pass(Passed::Egress),
        ),
        ("outside, ruled, by a stranger", to([198, 51, 100, 7], 8080), None, false, &proxy, Verdict::Pass(Passed::NotEnrolled)),
        ("another policy's port", to([198, 51, 100, 7], 80), pod, false, &proxy, Verdict::Deny(Reason::EgressDenied)),
        (
            "another protocol",
            Dest { proto: UDP, ..to([198, 51, 100, 7], 443) },
            pod,
            false,
            &proxy,
            Verdict::Deny(Reason::EgressDenied),
        ),
        ("outside, by a stranger", to([203, 0, 113, 5], 80), None, false, &proxy, Verdict::Pass(Passed::NotEnrolled)),
    ] {
        assert_eq!(ask(dest, pod, brokered, world), want, "{what}");
    }
}

#[test]
fn allow_any_lets_outside_pass_but_not_the_control_plane() {
    let config = Config { egress: egress::ALLOW, ..config() };
    let world = world(mode::PROXY, 1);
    let ask = |dest| decide(&Flow { dest, pod: Some(&POD), brokered: false }, &config, &world);
    assert_eq!(ask(to([203, 0, 113, 5], 80)), Verdict::Pass(Passed::Egress));
    assert_eq!(ask(to([198, 51, 100, 7], 8080)), Verdict::Proxy, "a rule on a host holds although all hosts are allowed");
    assert_eq!(ask(to([192, 0, 2, 11], 32443)), Verdict::Deny(Reason::ControlPlane));
    assert_eq!(ask(to([11, 9, 9, 9], 80)), Verdict::Deny(Reason::UnknownVip));
}

#[test]
fn a_namespace_may_what_it_may_beside_what_everybody_may() {
    let mine = Pod { policy: 1, ..POD };
    let (mine, pod, mut world) = (Some(&mine), Some(&POD), world(mode::KERNEL, 1));
    let (both, own) = (to([198, 51, 100, 7], 443), to([198, 51, 100, 7], 80));
    assert_eq!(ask(own, mine, false, &world), Verdict::Pass(Passed::Egress));
    assert_eq!(ask(own, pod, false, &world), Verdict::Deny(Reason::EgressDenied));
    assert_eq!(ask(both, mine, false, &world), Verdict::Pass(Passed::Egress), "what everybody may");
    // What is for the proxy by one does not get past it by the other.
    world.egress.insert((1, to([198, 51, 100, 7], 8080)), way::PASS);
    assert_eq!(ask(to([198, 51, 100, 7], 8080), mine, false, &world), Verdict::Proxy);
    world.egress.insert((1, both), way::PROXY);
    assert_eq!(ask(both, mine, false, &world), Verdict::Proxy);
    assert_eq!(ask(both, pod, false, &world), Verdict::Pass(Passed::Egress));

    // A VIP that is for some: the others are refused, also by a brokered socket; who is no workload is not asked.
    let vip = to(VIP, 9080);
    world.services.values_mut().for_each(|service| service.scoped = 1);
    world.egress.insert((1, vip), way::PASS);
    assert!(matches!(ask(vip, mine, false, &world), Verdict::Backend(_)));
    for brokered in [false, true] {
        assert_eq!(ask(vip, pod, brokered, &world), Verdict::Deny(Reason::EgressDenied));
    }
    assert!(matches!(ask(vip, None, false, &world), Verdict::Backend(_)));
}

#[test]
fn an_address_goes_before_ranges_whoever_has_it() {
    let of = |own: Option<u32>, all: Option<u32>| move |policy| if policy == 0 { all } else { own };
    let (pass, proxy) = (Some(way::PASS), Some(way::PROXY));
    assert_eq!(stricter(1, of(None, pass), of(proxy, None)), pass);
    assert_eq!(stricter(1, of(pass, None), of(None, proxy)), pass);
    assert_eq!(stricter(1, of(None, None), of(pass, proxy)), proxy);
    assert_eq!(stricter(0, of(proxy, None), of(proxy, pass)), pass);
    assert_eq!(stricter(1, of(None, None), of(None, None)), None);
}

fn dest() -> impl Strategy<Value = Dest> {
    let known = prop::sample::select(vec![
        VIP,
        [9, 0, 1, 2],
        [9, 0, 2, 7],
        [192, 0, 2, 11],
        [127, 0, 0, 1],
        [0, 0, 0, 0],
        [203, 0, 113, 5],
        [198, 51, 100, 7],
    ]);
    let v4 = prop_oneof![known, any::<[u8; 4]>()].prop_map(Addr::v4);
    let addr = prop_oneof![4 => v4, 1 => any::<[u8; 16]>().prop_map(Addr)];
    let port = prop_oneof![prop::sample::select(vec![53u16, 80, 443, 5051, 8080, 9080, 15001, 15053, 32443]), any::<u16>()];
    (addr, port, prop::sample::select(vec![TCP, UDP])).prop_map(|(addr, port, proto)| Dest { addr, port, proto, pad: 0 })
}

proptest! {
    /// A brokered socket never gets what its pod could not get through the proxy: a taken-over proxy gains no egress.
    #[test]
    fn brokered_sockets_gain_nothing(dest in dest(), m in 0u8..3, n in 0u32..3) {
        let world = world(m, n);
        let proxied = ask(dest, Some(&POD), false, &world);
        let brokered = ask(dest, Some(&POD), true, &world);
        if let Verdict::Deny(reason) = proxied {
            prop_assert_eq!(brokered, Verdict::Deny(reason));
        }
        prop_assert_ne!(brokered, Verdict::Proxy, "a hand-over of the proxy's own connection would loop");
    }

    /// Enrolment never widens: what a workload may dial outside the mesh, a process that is not enrolled may dial too.
    #[test]
    fn strangers_are_never_handed_over(dest in dest(), m in 0u8..3, n in 0u32..3) {
        let verdict = ask(dest, None, false, &world(m, n));
        prop_assert!(!matches!(verdict, Verdict::Proxy | Verdict::Dns));
    }

    /// With no service, workload or permission known, a pod gets nowhere but to itself, its agent and DNS.
    #[test]
    fn unknown_denies(dest in dest()) {
        match ask(dest, Some(&POD), false, &World::default()) {
            Verdict::Deny(_) | Verdict::Dns => {}
            Verdict::Pass(Passed::Loopback) => prop_assert!(dest.addr.is_loopback() || dest.addr.is_unspecified()),
            Verdict::Pass(Passed::OwnAddress) => prop_assert!(dest.addr == POD.addr4 || dest.addr == POD.addr6),
            Verdict::Pass(Passed::MesosAgent) => prop_assert_eq!(dest.port, 5051),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn a_backend_is_only_promised_where_there_is_one(dest in dest(), m in any::<u8>(), n in 0u32..2, enrolled: bool) {
        if let Verdict::Backend(service) = ask(dest, enrolled.then_some(&POD), false, &world(m, n)) {
            prop_assert!(service.backends > 0);
        }
    }
}
