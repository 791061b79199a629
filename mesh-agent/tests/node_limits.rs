//! Each table that may be full, full: what comes next is refused by the table's name, what is there goes on, and a connect() that would have
//! needed the rest fails with its reason. Tables that forget by themselves (LRU) refuse nothing. Services, backends, endpoints and protected
//! ports are in `node_vips` and `node_failures`.

mod common;

use common::{Mesh, Ns, answer, at, ip, tcp};
use mesh_agent::cgroup;
use mesh_agent::core::desired::{Desired, addr};
use mesh_agent::core::egress::EgressOp;
use mesh_agent::core::enrol::host::Mark;
use mesh_agent::core::reconcile::Op;
use mesh_common::abi::{Dest, EgressKey, EgressNet, ListenerKey, Pod, listener, maps, mode, way};
use mesh_common::decide::l4::TCP;
use mesh_common::reason::Reason;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, TcpListener};

const FRIEND: &str = "9.0.1.1:8080";

/// A pod whose one known workload answers.
fn scene() -> Mesh {
    let mesh = Mesh::new();
    answer(mesh.pair.world.run(|| TcpListener::bind(at(FRIEND)).expect("bound")), "friend");
    mesh.fill(&[], &["9.0.1.1"], &[]);
    mesh
}

/// The n-th address of 100.0.0.0/8, where nobody lives.
fn nth(n: u32) -> IpAddr {
    Ipv4Addr::from(0x6400_0000 + n).into()
}

fn refused(mesh: &Mesh, to: &str, reason: Reason) {
    let (error, counted) = mesh.counted(|| mesh.ask(to).expect_err(to));
    assert_eq!(error.raw_os_error(), Some(reason.errno()), "{to}: {error}");
    assert_eq!(counted, [(reason.code(), 1)], "{to}");
}

fn names(error: impl std::fmt::Display, map: &str) {
    let text = error.to_string();
    assert!(text.starts_with(&format!("eBPF map {map}: ")), "{text}");
}

#[test]
fn workloads() {
    let mesh = scene();
    let others = (1..maps::WORKLOADS_MAX).map(nth).chain([ip("9.0.1.1")]);
    mesh.write(&Desired { config: common::config(), workloads: others.map(addr).collect(), ..Desired::default() });
    let next = addr(ip("9.0.1.9"));
    names(mesh.kernel.maps().write(&[Op::AddWorkload(next)]).expect_err("full"), maps::WORKLOADS);
    assert!(mesh.ask(FRIEND).is_ok());
    refused(&mesh, "9.0.1.9:8080", Reason::EgressDenied);
}

#[test]
fn destinations_outside() {
    let mesh = scene();
    let key = |address: IpAddr| EgressKey { policy: 0, dest: Dest { addr: addr(address), port: 8080, proto: TCP, pad: 0 } };
    mesh.fill(&[], &[], &[]);
    let mut all: Vec<EgressOp> = (1..maps::EGRESS_EXACT_MAX).map(|n| EgressOp::Add(key(nth(n)), way::PASS)).collect();
    all.push(EgressOp::Add(key(ip("9.0.1.1")), way::PASS));
    mesh.kernel.maps().allow(&all).expect("fits");
    let next = EgressOp::Add(key(ip("203.0.113.9")), way::PASS);
    names(mesh.kernel.maps().allow(&[next]).expect_err("full"), maps::EGRESS_EXACT);
    assert!(mesh.ask(FRIEND).is_ok());
    refused(&mesh, "203.0.113.9:8080", Reason::EgressDenied);
}

#[test]
fn ranges_outside() {
    let mesh = scene();
    mesh.fill(&[], &[], &[]);
    let net = |address: IpAddr| {
        let dest = Dest { addr: addr(address), port: 8080, proto: TCP, pad: 0 };
        EgressOp::AddNet(EgressNet::BITS, EgressNet::question(0, &dest), way::PASS)
    };
    let mut all: Vec<EgressOp> = (1..maps::EGRESS_CIDR_MAX).map(|n| net(nth(n))).collect();
    all.push(net(ip("9.0.1.1")));
    mesh.kernel.maps().allow(&all).expect("fits");
    names(mesh.kernel.maps().allow(&[net(ip("203.0.113.9"))]).expect_err("full"), maps::EGRESS_CIDR);
    assert!(mesh.ask(FRIEND).is_ok());
    refused(&mesh, "203.0.113.9:8080", Reason::EgressDenied);
}

#[test]
fn names_learned() {
    let mesh = scene();
    let mut tables = mesh.kernel.maps();
    for n in 0..maps::LEARNED_MAX {
        tables.remember("example.com", nth(n), 1).expect("fits");
    }
    names(tables.remember("example.com", ip("203.0.113.9"), 1).expect_err("full"), maps::LEARNED);
    assert_eq!(tables.learned().expect("readable").len(), maps::LEARNED_MAX as usize);
    tables.forget("example.com", nth(0)).expect("forgotten");
    tables.remember("example.com", ip("203.0.113.9"), 1).expect("there is room again");
}

#[test]
fn pods() {
    let mesh = scene();
    // Cookies of namespaces that are not there: the kernel counts upwards, from one.
    for cookie in (1..maps::PODS_MAX).map(|n| u64::MAX - u64::from(n)) {
        mesh.kernel.maps().set_pod(cookie, &Pod::default()).expect("fits");
    }
    let late = Ns::new();
    late.owns(&["9.0.1.2/32"]);
    let cookie = late.handle.cookie().expect("a cookie");
    let pod = Pod { slot: 9, addr4: mesh.pod.addr4, ..Pod::default() };
    let error = mesh_agent::pod::enrol(&mesh.kernel, cookie, &pod, &late.handle).map(drop).expect_err("full");
    names(error, maps::PODS_BY_NETNS);
    assert!(mesh.ask(FRIEND).is_ok());
    refused(&mesh, "203.0.113.9:8080", Reason::EgressDenied);
}

#[test]
fn workloads_on_the_nodes_network() {
    let mesh = scene();
    let level = mesh.kernel.depth_of(&mesh.node.cgroup).expect("fires");
    let netns = mesh.pair.world.handle.cookie().expect("a cookie");
    let mark = |id| Mark::Cgroup { id, level };
    let set = |slot, marks: &BTreeSet<Mark>| mesh.kernel.maps().set_host_pod(netns, &Pod { slot, ..Pod::default() }, marks);
    // This process is one of them; the rest of the table are cgroups that are not there, of one workload with very many.
    set(1, &BTreeSet::from([mark(cgroup::id(&mesh.node.cgroup).expect("there"))])).expect("fits");
    let others = (0..u64::from(maps::HOST_PODS_MAX) - 3).map(|n| mark(u64::MAX - n)).collect();
    set(2, &others).expect("fits");
    names(set(3, &BTreeSet::from([mark(7)])).expect_err("full"), maps::HOST_PODS);
    assert!(!mesh.kernel.maps().host_pods().expect("readable").contains_key(&3), "nothing is left of what did not fit");
    // Who is known is judged as before, also in a namespace that is no pod's.
    let ask = |to: &str| mesh.pair.world.run(|| common::ask(at(to)));
    assert!(ask(FRIEND).is_ok());
    let (error, counted) = mesh.counted(|| ask("203.0.113.9:8080").expect_err("outside"));
    assert_eq!((error.raw_os_error(), counted), (Some(Reason::EgressDenied.errno()), vec![(Reason::EgressDenied.code(), 1)]));
    // There is room again.
    mesh.kernel.maps().remove_host_pod(2).expect("removed");
    set(3, &BTreeSet::from([mark(7)])).expect("fits");
}

#[test]
fn captured_ports() {
    let mesh = scene();
    let ports: BTreeSet<u16> = (1..=16).collect();
    for slot in 0..maps::INBOUND_MAX / 16 {
        mesh.kernel.maps().capture(slot, &ports).expect("fits");
    }
    names(mesh.kernel.maps().capture(maps::PODS_MAX, &BTreeSet::from([80])).expect_err("full"), maps::LISTENS);
    assert!(mesh.ask(FRIEND).is_ok());
    // The pod's own are captured as before: nobody took the listener's place.
    let opened = mesh_agent::pod::capture(&mesh.kernel, &mesh.pod, &BTreeSet::from([1]), &mesh.pair.pod.handle).expect("its own");
    let app = mesh.pair.pod.run(|| TcpListener::bind("0.0.0.0:1").expect("bound"));
    let proxy = TcpListener::from(opened.v4.expect("open"));
    proxy.set_nonblocking(false).expect("blocking");
    let client = mesh.pair.world.run(|| std::net::TcpStream::connect(at("9.0.1.2:1")).expect("accepted"));
    assert_eq!(proxy.accept().expect("captured").1, client.local_addr().expect("connected"));
    drop(app);
}

#[test]
fn listeners() {
    let mesh = scene();
    mesh.fill(&[(tcp("11.1.2.3:80"), mode::PROXY, &[FRIEND])], &[], &[]);
    let own = &mesh.sockets().outbound_v4;
    let mut tables = mesh.kernel.maps();
    let keys = (100..100 + maps::PODS_MAX).flat_map(|slot| (0..listener::KINDS).map(move |kind| ListenerKey { slot, kind }));
    let refused = keys.into_iter().find_map(|key| tables.set_listener(key, own).err());
    names(refused.expect("the pod's own are there too"), maps::LISTENERS);
    drop(tables);
    answer(TcpListener::from(own.try_clone().expect("duplicates")), "proxy");
    assert!(mesh.ask("11.1.2.3:80").expect("captured").0.starts_with("proxy "));
}

#[test]
fn events_that_nobody_reads() {
    let mesh = scene();
    let many = 2 * maps::EVENTS_BYTES / 48;
    let ((), counted) = mesh.counted(|| {
        mesh.pair.pod.run(|| {
            for _ in 0..many {
                assert!(std::net::TcpStream::connect(at("203.0.113.9:8080")).is_err());
            }
        });
    });
    assert_eq!(
        counted,
        [(Reason::EgressDenied.code(), u64::from(many))],
        "refused and counted, whether there is room to tell or not"
    );
}
