//! The real binary on a node in miniature: a control plane over TLS, a Mesos runtime directory, a proxy's end of the broker.

mod common;

use common::scene::{PROXY_UID, Scene, service, wait};
use common::{answer, ask, at};
use mesh_common::broker::{Family, Listener, Role, ToAgent, ToProxy, VERSION, encode};
use mesh_xds::agent as wire;
use socket2::{SockAddr, Socket};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn from_first_snapshot_to_the_last_pod() {
    let mut scene = Scene::new();
    scene.run_container("c1");
    scene.start(&[]);
    wait("the admin socket", || scene.get("/ready").0 != 0);
    let (code, reason) = scene.get("/ready");
    assert_eq!(code, 503);
    assert!(reason.contains("no first snapshot"), "{reason}");

    let ruled = service("ruled", "11.1.2.3", wire::Mode::Proxy, "9.0.1.1:8080");
    let plain = service("plain", "11.1.2.4", wire::Mode::Kernel, "9.0.1.1:8080");
    scene.control.publish("1", &[scene.workload()], &[ruled.clone(), plain.clone()]);
    scene.wait_ready();
    for type_url in [wire::MESH, wire::WORKLOAD, wire::SERVICE, wire::EGRESS] {
        scene.control.answered(type_url, |error| error.is_none());
    }
    let status: serde_json::Value = serde_json::from_str(&scene.get("/status").1).expect("JSON");
    assert_eq!(status["pods"][0]["id"], "a.instance-1");
    assert_eq!(status["pods"][0]["enrolled"], true);
    assert_eq!((&status["wanted"], &status["enrolled"]), (&1.into(), &1.into()));

    // The proxy's end.
    let proxy = scene.broker(PROXY_UID);
    proxy.hello(Role::Proxy);
    let (slot, workload, mut listeners) = proxy.pod();
    assert_eq!((workload.id.as_str(), workload.app.as_str()), ("a.instance-1", "/a"));
    assert_eq!(listeners.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [Listener::OutboundV4, Listener::OutboundV6]);
    assert!(matches!(proxy.hear(), Some((ToProxy::Ready, _))));
    answer(TcpListener::from(listeners.remove(0).1), "proxy");
    answer(scene.pair.world.run(|| TcpListener::bind("9.0.1.1:8080").expect("bound")), "backend");
    let pod = |to: &str| scene.pair.pod.run(|| ask(at(to)));
    assert!(pod("11.1.2.3:80").expect("captured").0.starts_with("proxy 11.1.2.3:80 9.0.1.2:"));
    assert!(pod("11.1.2.4:80").expect("balanced").0.starts_with("backend 9.0.1.1:8080 9.0.1.2:"));
    assert_eq!(pod("203.0.113.5:80").expect_err("outside").raw_os_error(), Some(libc::EHOSTUNREACH));

    // Its stock: 32 at once, each in the pod, non-blocking, and known to the kernel as the pod's.
    proxy.say(&ToAgent::Refill { slot, family: Family::V4, count: 32 });
    let Some((ToProxy::Sockets { count: 32, .. }, sockets)) = proxy.hear() else { panic!("no sockets") };
    for socket in sockets.into_iter().take(3) {
        let socket = Socket::from(socket);
        assert!(socket.nonblocking().expect("readable"));
        socket.set_nonblocking(false).expect("set");
        // The VIP is in mode proxy: an untagged socket would be handed over again.
        socket.connect(&SockAddr::from(at("11.1.2.3:80"))).expect("reaches the backend");
        let mut text = String::new();
        TcpStream::from(socket).read_to_string(&mut text).expect("answered");
        assert!(text.starts_with("backend 9.0.1.1:8080 9.0.1.2:"), "{text}");
    }

    // A resource that does not parse: refused by name, the rest in force.
    scene.control.forget_answers();
    let mut bad = plain.clone();
    bad.ports[0].backends[0].address = "nowhere".to_owned();
    scene.control.publish("2", &[scene.workload()], &[ruled, bad]);
    scene.control.answered(wire::SERVICE, |error| {
        error.is_some_and(|e| e.contains(r#"Service "plain": ports[0].backends[0].address: "nowhere" is no IP address"#))
    });
    assert!(pod("11.1.2.4:80").expect("the former version").0.starts_with("backend "));

    let metrics = scene.get("/metrics").1;
    assert!(metrics.contains(r#"mesh_agent_refusals_total{reason="egress_denied"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"mesh_agent_flows_total{verdict="proxy"} 1"#), "{metrics}");
    assert!(metrics.contains("mesh_agent_brokered_sockets_total 32"), "{metrics}");

    // Whoever holds a duplicate of a listener can shut it down for all; the agent revives it.
    let again = scene.broker(PROXY_UID);
    again.hello(Role::Proxy);
    let (_, _, spoilt) = again.pod();
    Socket::from(spoilt.into_iter().next().expect("a listener").1).shutdown(std::net::Shutdown::Both).expect("shut down");
    wait("captured connections to be queued again", || {
        scene.pair.pod.run(|| TcpStream::connect_timeout(&at("11.1.2.3:80"), Duration::from_secs(1))).is_ok()
    });

    // The container ends.
    fs::remove_dir_all(scene.path("mesos/containers/c1")).expect("removed");
    assert!(matches!(proxy.hear(), Some((ToProxy::PodGone { slot: gone }, _)) if gone == slot));
    wait("the pod to be judged no more", || pod("203.0.113.5:80").is_err_and(|e| e.raw_os_error() != Some(libc::EHOSTUNREACH)));
    assert_eq!(scene.get("/ready").0, 503, "wanted, and nowhere");
}

#[test]
fn the_kernel_half_survives_its_agent() {
    use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
    let mut scene = Scene::new();
    scene.run_container("c1");
    let ruled = service("ruled", "11.1.2.3", wire::Mode::Proxy, "9.0.1.1:8080");
    let plain = service("plain", "11.1.2.4", wire::Mode::Kernel, "9.0.1.1:8080");
    scene.control.publish("1", &[scene.workload()], &[ruled, plain]);
    scene.start(&[]);
    scene.wait_ready();
    let proxy = scene.broker(PROXY_UID);
    proxy.hello(Role::Proxy);
    let (slot, _, mut listeners) = proxy.pod();
    answer(TcpListener::from(listeners.remove(0).1), "first");
    answer(scene.pair.world.run(|| TcpListener::bind("9.0.1.1:8080").expect("bound")), "backend");

    scene.stop(SIGKILL);
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        assert!(scene.pair.pod.run(|| ask(at("11.1.2.3:80"))).expect("captured").0.starts_with("first "));
        assert!(scene.pair.pod.run(|| ask(at("11.1.2.4:80"))).expect("balanced").0.starts_with("backend "));
    }

    scene.start(&[]);
    scene.wait_ready();
    let proxy = scene.broker(PROXY_UID);
    proxy.hello(Role::Proxy);
    let (again, _, mut listeners) = proxy.pod();
    assert_eq!(again, slot, "the pod keeps its number");
    answer(TcpListener::from(listeners.remove(0).1), "second");
    assert!(scene.pair.pod.run(|| ask(at("11.1.2.3:80"))).expect("captured").0.starts_with("second "));

    assert!(scene.stop(SIGTERM).success());
    assert!(scene.pair.pod.run(|| ask(at("11.1.2.3:80"))).expect("captured").0.starts_with("second "));
    let dump = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-agent"));
        command.arg("dump").args(more).arg("--bpffs").arg(&scene.node.bpffs).output().expect("runs").stdout
    };
    let text = String::from_utf8(dump(&[])).expect("text");
    for row in ["SERVICES (2)", "  tcp://11.1.2.4:80  kernel  least-connections  9.0.1.1:8080", "EGRESS (0)", "COUNTERS ("] {
        assert!(text.contains(row), "{row}: {text}");
    }
    let dump: serde_json::Value = serde_json::from_slice(&dump(&["--json"])).expect("JSON");
    assert!(dump["counters"].as_array().is_some_and(|all| all.iter().any(|c| c["why"] == "backend" && c["count"] != 0)));
    assert_eq!(dump["pods"][0]["addresses"][0], "9.0.1.2");
    assert_eq!(dump["services"][1]["backends"][0], "9.0.1.1:8080");

    scene.start(&["--detach-on-exit"]);
    scene.wait_ready();
    assert!(scene.stop(SIGTERM).success());
    assert!(!scene.node.bpffs.join("mesh").exists());
}

/// A connection of a pod, and its other end.
struct Held {
    inside: TcpStream,
    outside: TcpStream,
}

impl Held {
    fn new(scene: &Scene, to: &str) -> Self {
        let backend = scene.pair.world.run(|| TcpListener::bind(to).expect("bound"));
        let inside = scene.pair.pod.run(|| TcpStream::connect(to).expect("reached"));
        let (outside, _) = backend.accept().expect("connected");
        outside.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        Self { inside, outside }
    }

    fn goes_on(&mut self) -> bool {
        self.inside.write_all(b"x").is_ok() && self.outside.read_exact(&mut [0]).is_ok()
    }
}

#[test]
fn what_a_pod_did_before_it_was_in_the_mesh_does_not_go_on_around_it() {
    let mut scene = Scene::new();
    scene.run_container("c1");
    let ruled = service("ruled", "11.1.2.3", wire::Mode::Proxy, "9.0.1.1:8080");
    let plain = service("plain", "11.1.2.4", wire::Mode::Kernel, "9.0.1.1:8081");
    scene.control.publish("1", &[scene.workload()], &[ruled, plain]);
    let (mut to_ruled, mut to_plain) = (Held::new(&scene, "9.0.1.1:8080"), Held::new(&scene, "9.0.1.1:8081"));
    assert!(to_ruled.goes_on() && to_plain.goes_on());
    scene.start(&[]);
    scene.wait_ready();
    assert!(!to_ruled.goes_on(), "the proxy is to carry it");
    assert!(to_plain.goes_on(), "no proxy is to carry it");
    let metrics = scene.get("/metrics").1;
    assert!(metrics.contains("mesh_agent_former_connections_ended_total 1\n"), "{metrics}");
}

#[test]
fn a_bad_client_harms_only_itself() {
    let mut scene = Scene::new();
    scene.run_container("c1");
    scene.control.publish("1", &[scene.workload()], &[]);
    scene.start(&[]);
    scene.wait_ready();
    let good = scene.broker(PROXY_UID);
    good.hello(Role::Dns);
    let (slot, _, listeners) = good.pod();
    assert_eq!(listeners.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [Listener::DnsUdp, Listener::DnsTcpV4]);
    assert!(matches!(good.hear(), Some((ToProxy::Ready, _))));

    let root = scene.broker(0);
    assert!(root.hear().is_none(), "only the proxy's user is served");
    let refill = |count| encode(&ToAgent::Refill { slot, family: Family::V4, count }).expect("fits");
    let learned = ToAgent::Learned { id: 1, name: "a.example".to_owned(), addresses: Vec::new(), ttl_seconds: 1 };
    let learned = encode(&learned).expect("fits");
    let hello = encode(&ToAgent::Hello { version: VERSION, role: Role::Proxy }).expect("fits");
    let old = encode(&ToAgent::Hello { version: VERSION + 1, role: Role::Proxy }).expect("fits");
    for (what, messages) in [
        ("no JSON", vec![b"hello".to_vec()]),
        ("too long", vec![vec![b' '; 70_000]]),
        ("another version", vec![old]),
        ("refill first", vec![refill(1)]),
        ("too many", vec![hello.clone(), refill(33)]),
        ("none", vec![hello.clone(), refill(0)]),
        ("an answer from the proxy", vec![hello.clone(), learned.clone()]),
        ("an answer first", vec![learned]),
        ("hello twice", vec![hello.clone(), hello.clone()]),
    ] {
        let bad = scene.broker(PROXY_UID);
        for message in &messages {
            bad.raw(message);
        }
        wait(what, || bad.hear().is_none());
    }
    let nobody = scene.broker(PROXY_UID);
    nobody.hello(Role::Proxy);
    nobody.pod();
    assert!(matches!(nobody.hear(), Some((ToProxy::Ready, _))));
    nobody.say(&ToAgent::Refill { slot: 999, family: Family::V6, count: 4 });
    assert!(matches!(nobody.hear(), Some((ToProxy::Sockets { slot: 999, count: 0, .. }, fds)) if fds.is_empty()));

    // The good one still hears of everything: here, of a new label.
    let mut changed = scene.workload();
    changed.labels.insert("version".to_owned(), "v2".to_owned());
    scene.control.publish("2", &[changed], &[]);
    assert_eq!(good.pod().1.labels["version"], "v2");
    let metrics = scene.get("/metrics").1;
    assert!(metrics.contains(r#"mesh_agent_broker_connections_ended_total{reason="Malformed"} 9"#), "{metrics}");
    assert!(metrics.contains(r#"mesh_agent_broker_connections_ended_total{reason="WrongUser"} 1"#), "{metrics}");
}
