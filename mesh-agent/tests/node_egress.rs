//! What is outside the mesh: refused by default, allowed by a rule for as long as there is one, by name or by range. The real binary.

mod common;

use common::outside::{UNREACHABLE, apply, dns, explain, learn, publish, reach, rule, scene};
use common::scene::{PROXY_UID, service, wait};
use common::{answer, ask, at, ip};
use mesh_agent::kernel::Maps;
use mesh_common::broker::{Family, Role, ToAgent, ToProxy};
use mesh_xds::agent as wire;
use nix::sys::signal::Signal::SIGKILL;
use socket2::{SockAddr, Socket};
use std::io::Read;
use std::net::{TcpListener, TcpStream};

#[test]
fn a_host_is_reached_by_its_name_on_its_port_while_there_is_a_rule() {
    let (allowed, other_port, other) = ("203.0.113.20:443", "203.0.113.20:80", "203.0.113.21:443");
    let mut scene = scene(&[allowed, other_port, other]);
    // By default: refused at once, with a line and a counter that say who, where and why.
    assert_eq!(reach(&scene, allowed), Err(UNREACHABLE));
    wait("the log line", || {
        let log = scene.log();
        let line = log.lines().find(|line| line.contains("events: refused")).map(str::to_owned);
        line.is_some_and(|line| {
            ["pod=\"a.instance-1\"", "destination=203.0.113.20:443", "reason=\"egress_denied\""].iter().all(|w| line.contains(w))
        })
    });
    assert!(scene.get("/metrics").1.contains(r#"mesh_agent_refusals_total{reason="egress_denied"} 1"#));

    let dns = dns(&scene);
    learn(&dns, 1, "httpbin.test", &["203.0.113.20"], 30);
    assert_eq!(reach(&scene, allowed), Err(UNREACHABLE), "no rule asks for the name");
    apply(&scene, "2", &[rule("default/httpbin", &["httpbin.test"], &[], &[443])]);
    assert_eq!(reach(&scene, allowed), Err(UNREACHABLE), "nobody has asked for the name since");
    learn(&dns, 2, "httpbin.test", &["203.0.113.20"], 30);
    assert!(reach(&scene, allowed).is_ok_and(|text| text.starts_with(allowed)));
    assert_eq!(reach(&scene, other_port), Err(UNREACHABLE), "that port only");
    assert_eq!(reach(&scene, other), Err(UNREACHABLE), "that host only");

    // What a name must never open: the node, workloads, VIPs, loopback, link-local.
    let inside = ["192.0.2.11", "9.0.1.2", "11.1.2.3", "11.9.9.9", "127.0.0.1", "169.254.169.254", "fe80::1"];
    learn(&dns, 3, "httpbin.test", &inside, 30);
    assert_eq!(reach(&scene, "192.0.2.11:443"), Err(UNREACHABLE));
    let metrics = scene.get("/metrics").1;
    for (result, count) in
        [("learned", 1), ("unwanted", 1), ("node", 1), ("workload", 1), ("vip", 2), ("loopback", 1), ("link_local", 2)]
    {
        assert!(
            metrics.contains(&format!("mesh_agent_dns_lessons_total{{result=\"{result}\"}} {count}\n")),
            "{result}: {metrics}"
        );
    }
    assert!(scene.log().contains("reason=\"node\""));

    for (to, outcome, decided_by) in [
        ("httpbin.test:443", "passes", "ServiceEntry default/httpbin"),
        (
            "203.0.113.21:443",
            "is refused",
            "outboundTrafficPolicy REGISTRY_ONLY, and no ServiceEntry allows it; one with addresses [203.0.113.21] and resolution NONE and port \
             443 TCP would",
        ),
        (
            "203.0.113.20:80",
            "is refused",
            "outboundTrafficPolicy REGISTRY_ONLY, and no ServiceEntry allows it; one with hosts [httpbin.test] and port 80 TCP would \
             (ServiceEntry default/httpbin allows other ports of it)",
        ),
        ("s:80", "goes to a backend", "s, port 80, mode kernel"),
        ("11.9.9.9", "is refused", "the VIP range, in which no service owns this address and port"),
        ("8.8.8.8:53", "is answered by the mesh's DNS", "the mesh itself"),
    ] {
        let answer: serde_json::Value = serde_json::from_str(&explain(&scene, "a", to, &["--json"])).expect("JSON");
        assert_eq!((&answer["outcome"], &answer["decided_by"]), (&outcome.into(), &decided_by.into()), "{to}");
    }
    let text = explain(&scene, "9.0.1.2", "203.0.113.20:443", &["--udp"]);
    assert!(text.contains("udp 203.0.113.20:443") && text.contains("is refused (egress_denied)"), "{text}");

    // Without an agent, and with the next one, which nobody has taught anything.
    scene.stop(SIGKILL);
    assert!(reach(&scene, allowed).is_ok());
    assert_eq!(reach(&scene, other), Err(UNREACHABLE));
    scene.start(&[]);
    scene.wait_ready();
    assert!(reach(&scene, allowed).is_ok());

    apply(&scene, "3", &[]);
    assert_eq!(reach(&scene, allowed), Err(UNREACHABLE), "the rule is gone");
    apply(&scene, "4", &[rule("default/httpbin", &["httpbin.test"], &[], &[443])]);
    assert_eq!(reach(&scene, allowed), Err(UNREACHABLE), "what it had learned is gone with it");
}

#[test]
fn a_port_with_rules_goes_to_the_proxy_and_nowhere_past_it() {
    let (ruled, plain) = ("203.0.113.20:80", "203.0.113.20:443");
    let scene = scene(&[ruled, plain]);
    let proxy = scene.broker(PROXY_UID);
    proxy.hello(Role::Proxy);
    let (slot, _, mut listeners) = proxy.pod();
    assert!(matches!(proxy.hear(), Some((ToProxy::Ready, _))));
    answer(TcpListener::from(listeners.remove(0).1), "proxy");
    let way = |version: &str, mode: wire::Mode| {
        let mut rule = rule("default/httpbin", &["httpbin.test"], &[], &[80, 443]);
        rule.ports[0].mode = mode.into();
        apply(&scene, version, &[rule]);
    };
    way("2", wire::Mode::Proxy);
    learn(&dns(&scene), 1, "httpbin.test", &["203.0.113.20"], 300);
    assert!(reach(&scene, ruled).is_ok_and(|text| text.starts_with("proxy 203.0.113.20:80 9.0.1.2:")));
    assert!(reach(&scene, plain).is_ok_and(|text| text.starts_with(plain)), "the other port is the kernel's");
    let said: serde_json::Value = serde_json::from_str(&explain(&scene, "a", ruled, &["--json"])).expect("JSON");
    assert_eq!(
        (&said["outcome"], &said["decided_by"]),
        (&"is handed to the proxy".into(), &"ServiceEntry default/httpbin, and the proxy looks at the host".into())
    );

    // The proxy dials the very address; by this name the pod may be there, and nowhere else.
    proxy.say(&ToAgent::Refill { slot, family: Family::V4, count: 2 });
    let Some((ToProxy::Sockets { count: 2, .. }, sockets)) = proxy.hear() else { panic!("no sockets") };
    let mut dialled = sockets.into_iter().zip([ruled, "203.0.113.21:80"]).map(|(socket, to)| {
        let socket = Socket::from(socket);
        socket.set_nonblocking(false).expect("set");
        socket.connect(&SockAddr::from(at(to))).map(|()| {
            let mut text = String::new();
            TcpStream::from(socket).read_to_string(&mut text).expect("read");
            text
        })
    });
    assert!(dialled.next().expect("one").is_ok_and(|text| text.starts_with("203.0.113.20:80 203.0.113.20:80 9.0.1.2:")));
    assert_eq!(dialled.next().expect("two").map_err(|error| error.raw_os_error()), Err(UNREACHABLE));

    way("3", wire::Mode::Direct);
    assert!(reach(&scene, ruled).is_ok_and(|text| text.starts_with(ruled)), "without rules it is the kernel's again");
    way("4", wire::Mode::Proxy);
    assert!(reach(&scene, ruled).is_ok_and(|text| text.starts_with("proxy ")), "what was learned stays learned");
}

#[test]
fn ranges_wildcards_and_bad_rules() {
    let (range, wild) = ("203.0.113.20:443", "198.51.100.9:443");
    let scene = scene(&[range, wild]);
    apply(
        &scene,
        "2",
        &[rule("default/net", &[], &["203.0.113.16/29"], &[443]), rule("default/wild", &["*.example.test"], &[], &[443])],
    );
    assert!(reach(&scene, range).is_ok());
    assert_eq!(reach(&scene, "203.0.113.24:443"), Err(UNREACHABLE));
    let dns = dns(&scene);
    learn(&dns, 1, "example.test", &["198.51.100.9"], 30);
    assert_eq!(reach(&scene, wild), Err(UNREACHABLE));
    learn(&dns, 2, "a.b.example.test", &["198.51.100.9"], 30);
    assert!(reach(&scene, wild).is_ok());

    publish(
        &scene,
        "3",
        &[rule("default/net", &[], &["203.0.113.16/33"], &[443]), rule("default/wild", &["*.example.test"], &[], &[80])],
    );
    scene.control.answered(wire::EGRESS, |error| {
        error.is_some_and(|e| e.contains(r#"Egress "default/net": addresses[0]: "203.0.113.16/33" is no address range"#))
    });
    assert!(reach(&scene, range).is_ok(), "the former version stays in force");
    assert_eq!(reach(&scene, wild), Err(UNREACHABLE), "what was valid is in force");
}

/// The pod is of the namespace `default`.
#[test]
fn an_entry_that_is_not_exported_to_the_pods_namespace_opens_nothing_to_it() {
    for (by_name, by_range, vip, vip_port) in [
        ("203.0.113.20:443", "203.0.113.30:443", "11.1.2.3", "11.1.2.3:80"),
        ("[2001:db8::20]:443", "[2001:db8::30]:443", "fd01:c::3", "[fd01:c::3]:80"),
    ] {
        let scene = scene(&[by_name, by_range]);
        let dns = dns(&scene);
        let (host, range) = (at(by_name).ip().to_string(), at(by_range).ip().to_string());
        let backend = if host.contains(':') { "[2001:db8::20]:443" } else { "203.0.113.20:443" };
        let publish = |version: &str, namespaces: &[&str]| {
            let namespaces: Vec<String> = namespaces.iter().map(|name| (*name).to_owned()).collect();
            let mut rules = [rule("shop/name", &["httpbin.test"], &[], &[443]), rule("shop/range", &[], &[&range], &[443])];
            rules.iter_mut().for_each(|rule| rule.namespaces.clone_from(&namespaces));
            let mut service = service("s", vip, wire::Mode::Kernel, backend);
            service.ports[0].namespaces = namespaces;
            scene.control.forget_answers();
            scene.control.publish_with(version, &[scene.workload()], &[service], &rules);
            for kind in [wire::SERVICE, wire::EGRESS] {
                scene.control.answered(kind, |error| error.is_none());
            }
            learn(&dns, 1, "httpbin.test", &[&host], 300);
        };
        for (version, namespaces, open) in
            [("2", &["shop"][..], false), ("3", &["shop", "default"], true), ("4", &["other"], false), ("5", &[], true)]
        {
            publish(version, namespaces);
            for to in [by_name, by_range, vip_port] {
                // How long it may take is another test's: the first IPv6 packet of a new link may wait for its neighbour.
                let got = scene.pair.pod.run(|| ask(at(to))).map(|(text, ..)| text).map_err(|error| error.raw_os_error());
                assert_eq!(got.as_ref().err(), (!open).then_some(&UNREACHABLE), "{to} for {namespaces:?}: {got:?}");
            }
        }
        publish("6", &["shop"]);
        for (to, says) in
            [(by_name, "ServiceEntry shop/name is not exported to the pod's namespace"), (vip_port, "s, which is not exported")]
        {
            let text = explain(&scene, "a", to, &[]);
            assert!(text.contains(says) && text.contains("is refused (egress_denied)"), "{text}");
        }
    }
}

#[test]
fn an_address_is_forgotten_when_its_time_is_over() {
    let allowed = "203.0.113.20:443";
    let mut scene = scene(&[allowed]);
    apply(&scene, "2", &[rule("default/httpbin", &["httpbin.test"], &[], &[443])]);
    learn(&dns(&scene), 1, "httpbin.test", &["203.0.113.20"], 0);
    assert!(reach(&scene, allowed).is_ok());
    // Two minutes of grace are long for a test: the memory between two agents is where the time can be put forward.
    scene.stop(SIGKILL);
    let mut maps = Maps::pinned(&scene.node.bpffs).expect("pinned");
    let before = maps.learned().expect("readable");
    assert_eq!((before.len(), before[0].0.as_str(), before[0].1), (1, "httpbin.test", ip("203.0.113.20")));
    maps.remember("httpbin.test", ip("203.0.113.20"), 1).expect("written");
    assert!(reach(&scene, allowed).is_ok(), "the kernel half goes on as it is");
    scene.start(&[]);
    scene.wait_ready();
    wait("the address to be forgotten", || reach(&scene, allowed) == Err(UNREACHABLE));
    assert_eq!(maps.learned().expect("readable"), []);
}
