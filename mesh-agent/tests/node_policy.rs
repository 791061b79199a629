//! What is let out without a rule where the outbound policy is AUDIT, what is ended when a rule goes, and what is kept while it is used. The real
//! binary.

mod common;

use common::control::Control;
use common::outside::{UNREACHABLE, apply, dns, explain, learn, publish, reach, rule, scene};
use common::scene::{Scene, wait};
use common::{Mesh, answer, ask, at, ip};
use mesh_agent::audit::Audited;
use mesh_agent::core::egress::Rule;
use mesh_agent::kernel::Maps;
use mesh_common::abi::way;
use mesh_common::decide::l4::TCP;
use mesh_xds::agent as wire;
use nix::sys::signal::Signal::SIGKILL;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Name and address of a host outside, in each family.
const HOSTS: [(&str, &str); 2] = [("four.test", "203.0.113.20:443"), ("six.test", "[2001:db8::20]:443")];

fn audited(scene: &Scene) -> Vec<Audited> {
    serde_json::from_str(&scene.get("/audit").1).expect("JSON")
}

/// As they are shown: destination, name, and how often.
fn rows(scene: &Scene) -> Vec<(String, String, u64)> {
    let all = audited(scene).into_iter().map(|one| {
        assert_eq!((one.namespace.as_str(), one.app.as_str(), one.pod.as_str()), ("default", "/a", "a.instance-1"));
        let to = format!("{} {}", one.transport, std::net::SocketAddr::new(one.address, one.port));
        (to, one.names.join(" "), one.count)
    });
    all.collect()
}

/// Does it get there? How long that may take is another test's: the first IPv6 packet of a new link may wait for its neighbour.
fn passes(scene: &Scene, to: &str) -> bool {
    match scene.pair.pod.run(|| ask(at(to))) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.raw_os_error(), UNREACHABLE, "{to}");
            false
        }
    }
}

fn send(scene: &Scene, to: &str) -> Result<usize, Option<i32>> {
    let to = at(to);
    let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let sent = scene.pair.pod.run(|| UdpSocket::bind(own).expect("bound").send_to(b"?", to));
    sent.map_err(|error| error.raw_os_error())
}

#[test]
fn audit_lets_out_and_counts_what_registry_only_refuses_by_mesh_and_by_workload() {
    let mut scene = scene(&[HOSTS[0].1, HOSTS[1].1]);
    let dns = dns(&scene);
    for (i, (name, to)) in HOSTS.iter().enumerate() {
        assert!(!passes(&scene, to));
        // As the DNS process says what nobody waits for.
        learn(&dns, i as u64, name, &[&at(to).ip().to_string()], 0);
    }
    assert_eq!(rows(&scene), [], "what is refused is no audit");
    let mesh = |policy: wire::OutboundPolicy| wire::Mesh { outbound_policy: policy.into(), ..Control::mesh() };
    let one =
        |policy: Option<wire::OutboundPolicy>| wire::Workload { outbound_policy: policy.map(i32::from), ..scene.workload() };

    // The workload's own word, then the mesh's.
    let told = |version: &str, mesh: wire::Mesh, one: wire::Workload, rules: &[wire::Egress]| {
        scene.control.forget_answers();
        scene.control.publish_mesh(version, mesh, &[one], &[], rules);
        for kind in [wire::MESH, wire::WORKLOAD, wire::EGRESS].into_iter().take(if rules.is_empty() { 2 } else { 3 }) {
            scene.control.answered(kind, |error| error.is_none());
        }
    };
    let (audit, only) = (wire::OutboundPolicy::Audit, wire::OutboundPolicy::RegistryOnly);
    told("2", mesh(only), one(Some(audit)), &[]);
    wait("the workload's policy", || passes(&scene, HOSTS[0].1));
    assert!(passes(&scene, HOSTS[1].1) && send(&scene, "203.0.113.20:9").is_ok());
    let found = rows(&scene);
    let names: Vec<_> = found.iter().map(|(to, name, _)| (to.as_str(), name.as_str())).collect();
    assert_eq!(
        names,
        [("udp 203.0.113.20:9", "four.test"), ("tcp 203.0.113.20:443", "four.test"), ("tcp [2001:db8::20]:443", "six.test")]
    );
    assert!(found.iter().all(|(_, _, count)| *count == 1), "{found:?}");
    assert!(scene.get("/metrics").1.contains(r#"mesh_agent_flows_total{verdict="audited"} 3"#));
    let text = explain(&scene, "a", HOSTS[0].1, &[]);
    assert!(
        text.contains("passes (audited)") && text.contains("REGISTRY_ONLY would refuse it; one with hosts [four.test]"),
        "{text}"
    );

    told("3", mesh(audit), one(Some(only)), &[]);
    wait("the workload's own policy before the mesh's", || !passes(&scene, HOSTS[0].1));
    let counted = rows(&scene)[1].2;
    told("4", mesh(audit), one(None), &[]);
    wait("the mesh's policy", || passes(&scene, HOSTS[0].1));
    assert_eq!(rows(&scene)[1].2, counted + 1);

    // With entries nothing is counted any more; what was counted stays, also for the next agent.
    let ports = |port: u32, udp: bool| wire::EgressPort { port, transport: i32::from(udp), ..wire::EgressPort::default() };
    let entry =
        |name: &str, host: &str| wire::Egress { ports: vec![ports(443, false), ports(9, true)], ..rule(name, &[host], &[], &[]) };
    let before = rows(&scene);
    told("5", mesh(audit), one(None), &[entry("default/four", "four.test"), entry("default/six", "six.test")]);
    for (i, (name, to)) in HOSTS.iter().enumerate() {
        learn(&dns, 10 + i as u64, name, &[&at(to).ip().to_string()], 300);
        assert!(passes(&scene, to));
    }
    assert!(send(&scene, "203.0.113.20:9").is_ok());
    assert_eq!(rows(&scene), before);
    drop(dns);
    scene.stop(SIGKILL);
    scene.start(&[]);
    scene.wait_ready();
    let counts = |rows: Vec<(String, String, u64)>| rows.into_iter().map(|(to, _, count)| (to, count)).collect::<Vec<_>>();
    assert_eq!(counts(rows(&scene)), counts(before), "the next agent has the kernel's counts");
}

/// A connection, and its other end.
fn connected(scene: &Scene, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let to = listener.local_addr().expect("bound");
    let client = scene.pair.pod.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5))).expect("allowed");
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    (client, listener.accept().expect("accepted").0)
}

fn goes_on((client, server): &mut (TcpStream, TcpStream)) -> bool {
    server.write_all(b"x").is_ok() && client.read(&mut [0; 1]).is_ok_and(|read| read == 1)
}

#[test]
fn connections_end_with_the_rule_that_says_so_and_go_on_without_others() {
    let scene = scene(&[]);
    let places = ["203.0.113.20:443", "[2001:db8::20]:443", "203.0.113.20:80", "203.0.113.40:443"];
    let listeners = places.map(|to| {
        scene.pair.world.owns(&[&format!("{}/{}", at(to).ip(), if at(to).is_ipv4() { 32 } else { 128 })]);
        scene.pair.world.run(|| TcpListener::bind(at(to)).expect("bound"))
    });
    let ending =
        |name: &str, addresses: &[&str]| wire::Egress { terminate_on_revoke: true, ..rule(name, &[], addresses, &[443]) };
    let rules = [
        ending("default/ends", &["203.0.113.20", "2001:db8::/64"]),
        ending("default/both", &["203.0.113.40"]),
        rule("default/stays", &[], &["203.0.113.20"], &[80]),
        rule("default/range", &[], &["203.0.113.32/28"], &[443]),
    ];
    apply(&scene, "2", &rules);
    let mut all = listeners.each_ref().map(|listener| connected(&scene, listener));
    assert!(all.iter_mut().all(goes_on));
    apply(&scene, "3", &rules[3..]);
    // Changes come before removals, so the first answer is not the last.
    wait("the connections to be ended", || scene.get("/metrics").1.contains("mesh_agent_egress_connections_revoked_total 2"));
    let went_on = all.each_mut().map(goes_on);
    assert_eq!(
        went_on,
        [false, false, true, true],
        "named by a rule that ends them; by one that does not; by another rule still"
    );
    for to in &places[..3] {
        assert_eq!(reach(&scene, to), Err(UNREACHABLE), "{to}");
    }
}

#[test]
fn an_address_outlives_its_time_while_a_connection_uses_it() {
    let mut scene = scene(&["203.0.113.21:443"]);
    scene.pair.world.owns(&["203.0.113.20/32"]);
    let listener = scene.pair.world.run(|| TcpListener::bind("203.0.113.20:443").expect("bound"));
    let rules = [rule("default/httpbin", &["httpbin.test"], &[], &[443])];
    apply(&scene, "2", &rules);
    learn(&dns(&scene), 1, "httpbin.test", &["203.0.113.20", "203.0.113.21"], 0);
    let mut used = connected(&scene, &listener);
    // Two minutes of grace are long for a test: the memory between two agents is where the time can be put forward.
    let expire = |scene: &mut Scene| {
        scene.stop(SIGKILL);
        let mut maps = Maps::pinned(&scene.node.bpffs).expect("pinned");
        for (name, address, _) in maps.learned().expect("readable") {
            maps.remember(&name, address, 1).expect("written");
        }
        scene.start(&[]);
        scene.wait_ready();
    };
    expire(&mut scene);
    // Asked of the kernel: a connection that is made to find out would be one that uses it.
    let pins = scene.node.bpffs.clone();
    let learned = move || Maps::pinned(&pins).expect("pinned").learned().expect("readable");
    wait("the address that nobody uses to be forgotten", || learned().len() == 1);
    assert_eq!(reach(&scene, "203.0.113.21:443"), Err(UNREACHABLE));
    assert!(goes_on(&mut used));
    drop(connected(&scene, &listener));
    let left = learned();
    assert_eq!(
        left.iter().map(|(name, address, _)| (name.as_str(), *address)).collect::<Vec<_>>(),
        [("httpbin.test", ip("203.0.113.20"))]
    );
    drop(used);
    drop(listener);
    expire(&mut scene);
    wait("the address to be forgotten with its last connection", || learned().is_empty());
    assert_eq!(reach(&scene, "203.0.113.20:443"), Err(UNREACHABLE));
    publish(&scene, "3", &[]);
}

#[test]
fn rules_that_flip_while_connects_hammer_show_the_old_or_the_new() {
    let mesh = Mesh::new();
    let places = ["203.0.113.20:443", "203.0.113.21:443", "203.0.113.22:443"];
    for to in places {
        mesh.pair.world.owns(&[&format!("{}/32", at(to).ip())]);
        answer(mesh.pair.world.run(|| TcpListener::bind(at(to)).expect("bound")), to);
    }
    let allows = |hosts: [&str; 2]| Rule {
        ports: [((TCP, 443), way::PASS)].into(),
        ranges: hosts.iter().map(|host| (ip(host), 32)).collect(),
        ..Rule::default()
    };
    let (old, new) = (allows(["203.0.113.20", "203.0.113.21"]), allows(["203.0.113.21", "203.0.113.22"]));
    mesh.allow(std::slice::from_ref(&old));
    let (done, outcomes) = (AtomicBool::new(false), Mutex::new([[0_u32; 2]; 3]));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                mesh.pair.pod.run(|| {
                    while !done.load(Ordering::Relaxed) {
                        for (i, to) in places.iter().enumerate() {
                            let result = TcpStream::connect_timeout(&at(to), Duration::from_secs(5));
                            let refused = result.err().map(|error| assert_eq!(error.raw_os_error(), UNREACHABLE, "{to}"));
                            outcomes.lock().expect("nobody panicked")[i][usize::from(refused.is_some())] += 1;
                        }
                    }
                });
            });
        }
        // Until both have been seen, and often.
        let mut flips = 0;
        let seen = || outcomes.lock().expect("nobody panicked").iter().flatten().filter(|count| **count > 0).count();
        let start = std::time::Instant::now();
        while (flips < 500 || seen() < 5) && start.elapsed() < Duration::from_secs(30) {
            mesh.allow(std::slice::from_ref(if flips % 2 == 0 { &new } else { &old }));
            flips += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    let [first, both, last] = *outcomes.lock().expect("nobody panicked");
    assert!(first.iter().chain(&last).all(|count| *count > 0), "the old and the new are seen: {first:?} {last:?}");
    assert_eq!(both[1], 0, "what both allow is never refused");
}
