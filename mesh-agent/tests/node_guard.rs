//! A pod with every capability in its namespace does not get out around the hooks: what it sends is captured behind its node, in `outside`,
//! with the guard (nothing may arrive) and without (it must, or the attack is none).

mod common;

use common::guarded::*;
use common::{Mesh, answer, ask, at, refusal};
use mesh_agent::core::desired::addr;
use mesh_agent::netns::sockets::unconnected;
use mesh_agent::netns::veth::host_ends;
use mesh_common::abi::Dest;
use mesh_common::broker::Family;
use mesh_common::decide::l4::{TCP, UDP};
use mesh_common::reason::Reason;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

fn udplite(connected: bool) {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::from(libc::IPPROTO_UDPLITE))).expect("UDP-Lite");
    let to = SockAddr::from(SocketAddr::from((DENIED, 443)));
    if connected {
        // First somewhere allowed, so that a verdict on the socket would be there to be misused.
        let _ = socket.send_to(b"hello", &SockAddr::from(at("9.0.1.1:9")));
        socket.connect(&to).expect("no hook runs");
        let _ = socket.send(MARK);
    } else {
        let _ = socket.send_to(MARK, &to);
    }
}

/// A captured connection with its capture rule gone, or its mark.
fn without_rule() {
    let stream = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("made");
    let _ = stream.connect(&SockAddr::from(SocketAddr::from((VIP, 80))));
    std::thread::sleep(Duration::from_millis(50));
}

#[test]
fn nothing_gets_out_around_the_hooks() {
    let scene = Scene::new();
    let gateway = scene.gateway();
    let attacks: Vec<(&str, Reason, Attack)> = vec![
        ("raw ICMP", Reason::Bypass, Box::new(ping)),
        ("raw SYN", Reason::Bypass, Box::new(|| raw(&ipv4(OWN, DENIED, TCP, 0, &tcp_segment(443, 0x02))))),
        ("raw data", Reason::Bypass, Box::new(|| raw(&ipv4(OWN, DENIED, TCP, 0, &tcp_segment(443, 0x18))))),
        ("raw SYN-ACK", Reason::Bypass, Box::new(|| raw(&ipv4(OWN, DENIED, TCP, 0, &tcp_segment(443, 0x12))))),
        (
            "another port of an allowed host",
            Reason::Bypass,
            Box::new(|| raw(&ipv4(OWN, [203, 0, 113, 20], UDP, 0, &udp_datagram(80)))),
        ),
        (
            "past the proxy, to a host with rules",
            Reason::Bypass,
            Box::new(|| raw(&ipv4(OWN, [203, 0, 113, 20], TCP, 0, &tcp_segment(80, 0x02)))),
        ),
        ("a late fragment", Reason::Bypass, Box::new(|| raw(&ipv4(OWN, DENIED, UDP, 8, MARK)))),
        ("a protocol without ports", Reason::Bypass, Box::new(|| raw(&ipv4(OWN, DENIED, 253, 0, MARK)))),
        ("a VIP", Reason::Bypass, Box::new(|| raw(&ipv4(OWN, VIP, UDP, 0, &udp_datagram(80))))),
        ("a frame", Reason::Bypass, Box::new(move || frame(0x0800, &ipv4(OWN, DENIED, UDP, 0, &udp_datagram(443)), gateway))),
        (
            "an IPv6 frame",
            Reason::Bypass,
            Box::new(move || frame(0x86dd, &ipv6(OWN6, "2001:db8:1::2", UDP, &udp_datagram(443)), gateway)),
        ),
        ("UDP-Lite, connected", Reason::Bypass, Box::new(|| udplite(true))),
        (
            "another's address, to an allowed host",
            Reason::Spoofed,
            Box::new(|| raw(&ipv4([9, 0, 1, 77], [203, 0, 113, 20], UDP, 0, &udp_datagram(443)))),
        ),
    ];
    let mut events = scene.mesh.kernel.events().expect("events");
    for (what, reason, attack) in &attacks {
        let (leaked, counted) = scene.mesh.counted(|| scene.leaks(attack));
        assert!(!leaked, "{what} got out");
        assert!(counted.iter().any(|(code, _)| *code == reason.code()), "{what}: {counted:?}");
    }
    let denied = Dest { addr: addr(DENIED.into()), port: 443, proto: TCP, pad: 0 };
    assert_eq!(refusal(&mut events, denied), Some((Reason::Bypass, 7, 0)));
    assert!(!scene.leaks(&|| udplite(false)), "UDP-Lite's sendto() runs through the hook");

    // The pod changes its own routing: what was to be captured stands on the wire with the VIP in it.
    scene.mesh.pair.pod.ip(&["rule", "del", "pref", "15001"]);
    assert!(!scene.leaks(&without_rule), "a VIP got out");

    scene.unguard();
    for (what, _, attack) in &attacks {
        assert!(scene.leaks(attack), "{what} is no attack: nothing arrives without the guard either");
    }
    assert!(scene.leaks(&without_rule), "the changed rule is no attack");
}

#[test]
fn what_is_allowed_goes_on_both_ways() {
    let scene = Scene::new();
    let (pod, outside, node) = (&scene.mesh.pair.pod, &scene.outside, &scene.mesh.pair.world);
    answer(outside.run(|| TcpListener::bind(ALLOWED).expect("bound")), "shop");
    answer(outside.run(|| TcpListener::bind(RULED).expect("bound")), "ruled");
    answer(node.run(|| TcpListener::bind("9.0.1.1:8080").expect("bound")), "friend");
    for ours in ["0.0.0.0:8080", "[fd01:9::2]:8080"] {
        answer(pod.run(|| TcpListener::bind(at(ours)).expect("bound")), "pod");
    }
    let (_, counted) = scene.mesh.counted(|| {
        for _ in 0..3 {
            assert!(scene.mesh.ask(ALLOWED).expect("allowed").0.starts_with("shop "));
            assert!(scene.mesh.ask("9.0.1.1:8080").expect("a workload").0.starts_with("friend "));
            for to in ["9.0.1.2:8080", "[fd01:9::2]:8080"] {
                assert!(outside.run(|| ask(at(to))).expect("inbound").0.starts_with("pod "), "{to}");
            }
        }
        // Brokered sockets leave from the pod as well.
        let socket = pod.run(|| unconnected(Family::V4, 1)).expect("made").remove(0);
        scene.mesh.kernel.maps().tag(&socket, scene.mesh.pod.slot).expect("tagged");
        let socket = Socket::from(socket);
        socket.set_nonblocking(false).expect("blocking");
        socket.connect_timeout(&SockAddr::from(at(ALLOWED)), Duration::from_secs(3)).expect("allowed for the proxy too");
        // To a host with rules only they do.
        let socket = pod.run(|| unconnected(Family::V4, 1)).expect("made").remove(0);
        scene.mesh.kernel.maps().tag(&socket, scene.mesh.pod.slot).expect("tagged");
        let socket = Socket::from(socket);
        socket.set_nonblocking(false).expect("blocking");
        socket.connect_timeout(&SockAddr::from(at(RULED)), Duration::from_secs(3)).expect("a host with rules");
        let mut said = String::new();
        TcpStream::from(socket).read_to_string(&mut said).expect("whole");
        assert!(said.starts_with("ruled "), "{said}");
        // A datagram from outside, and the reply; the same the other way round.
        let server = pod.run(|| UdpSocket::bind("0.0.0.0:7000").expect("bound"));
        let client = outside.run(|| UdpSocket::bind("198.51.100.2:0").expect("bound"));
        for (socket, peer) in [(&client, "9.0.1.2:7000".to_owned()), (&server, client.local_addr().expect("bound").to_string())] {
            socket.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
            let _ = socket.send_to(b"?", at(&peer));
        }
        let mut buffer = [0; 8];
        server.recv_from(&mut buffer).expect("the question");
    });
    let refused = |reason: Reason| counted.iter().any(|(code, _)| *code == reason.code());
    assert!(!refused(Reason::Bypass) && !refused(Reason::Spoofed), "{counted:?}");
}

#[test]
fn an_inbound_datagram_may_be_answered() {
    let scene = Scene::new();
    // A raw reply: sendto() to a client outside is refused by the hook, as before.
    let client = scene.outside.run(|| UdpSocket::bind("198.51.100.2:5555").expect("bound"));
    let _server = scene.mesh.pair.pod.run(|| UdpSocket::bind("0.0.0.0:40000").expect("bound"));
    let reply = || raw(&ipv4(OWN, [198, 51, 100, 2], UDP, 0, &udp_datagram(5555)));
    assert!(!scene.leaks(&reply), "nobody has asked");
    client.send_to(b"?", at("9.0.1.2:40000")).expect("asked");
    assert!(scene.leaks(&reply), "the answer arrives");
}

#[test]
fn a_connection_outlives_its_rule_but_not_the_enrolment() {
    let scene = Scene::new();
    let pod = &scene.mesh.pair.pod;
    let listener = scene.outside.run(|| TcpListener::bind(ALLOWED).expect("bound"));
    let connect = || {
        let client = pod.run(|| TcpStream::connect_timeout(&at(ALLOWED), Duration::from_secs(2))).expect("allowed");
        let (server, _) = listener.accept().expect("accepted");
        server.set_read_timeout(Some(Duration::from_millis(700))).expect("set");
        (client, server)
    };
    let says = |(client, server): &mut (TcpStream, TcpStream)| {
        client.write_all(b"x").expect("queued");
        server.read(&mut [0; 8]).is_ok_and(|length| length > 0)
    };
    let mut ruled = connect();
    scene.mesh.allow(&[]);
    assert_eq!(scene.mesh.ask(ALLOWED).expect_err("the rule is gone").raw_os_error(), Some(libc::EHOSTUNREACH));
    assert!(says(&mut ruled), "its socket was judged");

    // A pod that is not in the mesh yet connects as it likes.
    scene.leave();
    let mut old = connect();
    assert!(says(&mut old));
    let Mesh { kernel, cookie, pod: described, .. } = &scene.mesh;
    let _sockets = mesh_agent::pod::enrol(kernel, *cookie, described, &pod.handle).expect("enrols");
    scene.guard();
    assert!(!says(&mut old), "older than the enrolment, and nobody has judged it");
}

#[test]
fn an_accepted_connection_outlives_its_clients_place_in_the_mesh() {
    let scene = Scene::new();
    let (pod, node) = (&scene.mesh.pair.pod, &scene.mesh.pair.world);
    let listener = pod.run(|| TcpListener::bind("9.0.1.2:8080").expect("bound"));
    let mut client =
        node.run(|| TcpStream::connect_timeout(&at("9.0.1.2:8080"), Duration::from_secs(3))).expect("inbound is free");
    client.set_read_timeout(Some(Duration::from_secs(3))).expect("set");
    let (mut server, _) = listener.accept().expect("accepted");
    let mut says = || {
        server.write_all(b"x").expect("queued");
        client.read(&mut [0; 8]).is_ok_and(|length| length > 0)
    };
    assert!(says(), "to a workload");
    scene.mesh.fill(&[], &[], &[]);
    assert!(says(), "that is none any more: its socket has been judged by its packets");
}

#[test]
fn guards_are_replaced_in_place_and_leave_with_the_pod() {
    let mut scene = Scene::new();
    let ends = scene.mesh.pair.world.run(|| host_ends(&scene.mesh.pair.pod.handle)).expect("asked");
    assert_eq!(ends.iter().map(|end| end.name.as_str()).collect::<Vec<_>>(), ["hv0"]);
    assert_eq!(host_ends(&scene.mesh.pair.pod.handle).expect("asked"), [], "none in this process's own namespace");
    assert!(!scene.leaks(&ping));
    // A new agent: the same pins, another program behind each.
    scene.mesh.kernel = scene.mesh.node.kernel();
    assert!(scene.mesh.kernel.is_guarded(scene.mesh.cookie), "guarded without an agent");
    assert!(!scene.leaks(&ping));
    scene.guard();
    scene.guard();
    assert!(!scene.leaks(&ping));
    scene.leave();
    assert!(!scene.mesh.kernel.is_guarded(scene.mesh.cookie));
}
