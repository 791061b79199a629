//! The loaded programs on a node in miniature: what a workload, the proxy and the DNS process see of each kind of flow.

mod common;

use common::{Mesh, Ns, Pair, answer, answer_udp, ask, ask_udp, at, ip, refusal, tcp, udp};
use mesh_agent::core::desired::addr;
use mesh_agent::netns::sockets::unconnected;
use mesh_common::abi::mode;
use mesh_common::broker::Family;
use mesh_common::ports;
use mesh_common::reason::{Passed, Reason, Steered};
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::BTreeSet;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const REFUSED: i32 = libc::ECONNREFUSED;
const UNREACHABLE: i32 = libc::EHOSTUNREACH;

fn listener(socket: &std::os::fd::OwnedFd) -> TcpListener {
    TcpListener::from(socket.try_clone().expect("duplicates"))
}

#[test]
fn the_connect_hook_fires_and_its_absence_is_loud() {
    let mesh = Mesh::new();
    mesh_agent::kernel::fires(&mesh.node.cgroup).expect("attached there");
    let elsewhere = mesh_agent::cgroup::detect().expect("cgroup2");
    let error = mesh_agent::kernel::fires(&elsewhere).expect_err("not attached there").to_string();
    assert!(error.contains("cgroup namespace") && error.contains("net_cls"), "{error}");
}

#[test]
fn captured_connections_keep_their_addresses() {
    let mesh = Mesh::new();
    mesh.fill(&[(tcp("11.1.2.3:80"), mode::PROXY, &[]), (tcp("[fd01:c::1]:80"), mode::PROXY, &[])], &[], &[]);
    answer(listener(&mesh.sockets().outbound_v4), "proxy4");
    answer(listener(mesh.sockets().outbound_v6.as_ref().expect("the pod has IPv6")), "proxy6");

    for (to, name, own) in [("11.1.2.3:80", "proxy4", "9.0.1.2"), ("[fd01:c::1]:80", "proxy6", "fd01:9::2")] {
        let ((text, local, peer), counted) = mesh.counted(|| mesh.ask(to).unwrap_or_else(|error| panic!("{to}: {error}")));
        assert_eq!(peer, at(to), "getpeername shows what was asked");
        assert_eq!(local.ip(), ip(own));
        assert_eq!(text, format!("{name} {to} {local}"), "the proxy sees the original destination and the pod");
        assert_eq!(counted, [(Steered::Proxy.code(), 1)]);
    }

    // An AF_INET6 socket and a v4-mapped address: connect6 runs, the packet is IPv4.
    let (text, _, peer) = mesh.ask("[::ffff:11.1.2.3]:80").expect("captured");
    assert_eq!(peer, at("[::ffff:11.1.2.3]:80"));
    assert!(text.starts_with("proxy4 11.1.2.3:80 9.0.1.2:"), "{text}");
}

#[test]
fn without_a_listener_captured_connections_are_refused_at_once() {
    let mut mesh = Mesh::new();
    mesh.fill(&[(tcp("11.1.2.3:80"), mode::PROXY, &["9.0.1.1:80"])], &[], &[]);
    mesh.sockets = None;
    let mut events = mesh.kernel.events().expect("events");
    let start = Instant::now();
    let (error, counted) = mesh.counted(|| mesh.ask("11.1.2.3:80").expect_err("nobody there"));
    assert_eq!(error.raw_os_error(), Some(REFUSED));
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(counted, [(Reason::ProxyGone.code(), 1)]);
    assert_eq!(refusal(&mut events, tcp("11.1.2.3:80")), Some((Reason::ProxyGone, 7, std::process::id())));
}

#[test]
fn dns_reaches_the_mesh_whatever_server_is_asked() {
    let mesh = Mesh::new();
    answer_udp(UdpSocket::from(mesh.sockets().dns_udp.try_clone().expect("dup")), "dns");
    answer(listener(&mesh.sockets().dns_tcp), "dns");
    mesh.pair.pod.run(|| {
        // musl asks all its servers from one unconnected socket and compares who answers.
        for bound in ["0.0.0.0:0", "9.0.1.2:0"] {
            let socket = UdpSocket::bind(bound).expect("bound");
            for server in ["8.8.8.8:53", "127.0.0.11:53", "198.51.100.1:53", "127.0.0.53:53"] {
                if bound.starts_with('9') && server.starts_with("127") {
                    continue;
                }
                let (text, from) = ask_udp(&socket, at(server)).unwrap_or_else(|error| panic!("{bound} {server}: {error}"));
                assert_eq!((text.as_str(), from), ("dns", at(server)));
            }
        }
        // An AF_INET6 socket: sendmsg4 out, recvmsg6 back.
        let socket = UdpSocket::bind("[::]:0").expect("bound");
        let (text, from) = ask_udp(&socket, at("[::ffff:8.8.4.4]:53")).expect("answered");
        assert_eq!((text.as_str(), from), ("dns", at("[::ffff:8.8.4.4]:53")));
        // glibc connects.
        for (own, server) in [("0.0.0.0:0", "8.8.8.8:53"), ("0.0.0.0:0", "127.0.0.11:53"), ("[::]:0", "[::ffff:8.8.8.8]:53")] {
            let socket = UdpSocket::bind(own).expect("bound");
            socket.connect(at(server)).expect("connects");
            assert_eq!(socket.peer_addr().expect("connected"), at(server));
            socket.set_read_timeout(Some(Duration::from_secs(2))).expect("set");
            socket.send(b"?").unwrap_or_else(|error| panic!("{own} {server}: {error}"));
            let mut buffer = [0; 8];
            let (length, from) = socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("{server}: {error}"));
            assert_eq!((&buffer[..length], from), (&b"dns"[..], at(server)));
        }
        for server in ["8.8.8.8:53", "127.0.0.11:53"] {
            let (text, _, peer) = ask(at(server)).unwrap_or_else(|error| panic!("{server}: {error}"));
            assert!(text.starts_with(&format!("dns {server} ")), "{text}");
            assert_eq!(peer, at(server));
        }
    });
}

#[test]
fn a_pods_own_dns_server_can_still_serve_others() {
    let mesh = Mesh::new();
    let server = mesh.pair.pod.run(|| TcpListener::bind("0.0.0.0:53").expect("port 53 is free in the pod"));
    answer(server, "own");
    let (text, _, _) = mesh.pair.world.run(|| ask(at("9.0.1.2:53"))).expect("inbound is untouched");
    assert!(text.starts_with("own 9.0.1.2:53 9.0.1.1:"), "{text}");
}

#[test]
fn refusals_are_immediate_and_named() {
    let mesh = Mesh::new();
    mesh.fill(
        &[(tcp("11.1.2.3:80"), mode::KERNEL, &[]), (udp("11.1.2.3:80"), mode::KERNEL, &[])],
        &[],
        &[tcp("192.0.2.11:32443")],
    );
    let mut events = mesh.kernel.events().expect("events");
    for (to, errno, reason) in [
        ("11.1.2.3:80", REFUSED, Reason::NoBackend),
        ("11.9.9.9:80", UNREACHABLE, Reason::UnknownVip),
        ("127.0.0.1:15001", REFUSED, Reason::MeshListener),
        ("127.0.0.1:15053", REFUSED, Reason::MeshListener),
        ("[::1]:15001", REFUSED, Reason::MeshListener),
        // connect() takes the unspecified address for loopback, and a v4-mapped one for what it maps.
        ("0.0.0.0:15001", REFUSED, Reason::MeshListener),
        ("[::]:15001", REFUSED, Reason::MeshListener),
        ("[::ffff:127.0.0.1]:15001", REFUSED, Reason::MeshListener),
        ("127.9.9.9:15001", REFUSED, Reason::MeshListener),
        ("192.0.2.11:32443", REFUSED, Reason::ControlPlane),
        ("203.0.113.5:443", UNREACHABLE, Reason::EgressDenied),
        ("9.0.1.1:8080", UNREACHABLE, Reason::EgressDenied),
        ("[2001:db8::1]:443", UNREACHABLE, Reason::EgressDenied),
        ("[2001:4860:4860::8888]:53", REFUSED, Reason::Ipv6Dns),
    ] {
        let start = Instant::now();
        let (error, counted) = mesh.counted(|| mesh.ask(to).expect_err(to));
        assert_eq!(error.raw_os_error(), Some(errno), "{to}: {error}");
        assert!(start.elapsed() < Duration::from_millis(500), "{to}: {:?}", start.elapsed());
        assert_eq!(counted, [(reason.code(), 1)], "{to}");
        assert_eq!(refusal(&mut events, tcp(to)), Some((reason, 7, std::process::id())), "{to}");
    }
    // At the pod's own addresses nobody listens: the capture listeners are on loopback alone.
    for to in ["9.0.1.2:15001", "[fd01:9::2]:15001"] {
        let start = Instant::now();
        assert_eq!(mesh.ask(to).expect_err(to).raw_os_error(), Some(REFUSED), "{to}");
        assert!(start.elapsed() < Duration::from_millis(500), "{to}: {:?}", start.elapsed());
    }
    mesh.pair.pod.run(|| {
        for (own, to, errno) in [
            ("0.0.0.0:0", "203.0.113.5:443", UNREACHABLE),
            ("0.0.0.0:0", "11.1.2.3:80", REFUSED),
            ("0.0.0.0:0", "127.0.0.1:15053", REFUSED),
            ("[::]:0", "[2001:4860:4860::8888]:53", REFUSED),
        ] {
            let error = UdpSocket::bind(own).expect("bound").send_to(b"?", at(to)).expect_err(to);
            assert_eq!(error.raw_os_error(), Some(errno), "UDP {to}: {error}");
        }
    });
}

#[test]
fn a_brokered_socket_reaches_the_backend_from_inside_the_pod() {
    let mesh = Mesh::new();
    mesh.fill(&[(tcp("11.1.2.3:80"), mode::PROXY, &["9.0.1.1:8080"])], &["9.0.1.1"], &[]);
    answer(listener(&mesh.sockets().outbound_v4), "proxy");
    answer(mesh.pair.world.run(|| TcpListener::bind("9.0.1.1:8080").expect("bound")), "backend");
    let dial = |to: &str| {
        let socket = mesh.pair.pod.run(|| unconnected(Family::V4, 1)).expect("made").remove(0);
        mesh.kernel.maps().tag(&socket, mesh.pod.slot).expect("tagged");
        let socket = Socket::from(socket);
        socket.set_nonblocking(false).expect("blocking");
        // From here, the machine's own namespace: the socket brings the pod's along.
        socket.connect_timeout(&SockAddr::from(at(to)), Duration::from_secs(3))?;
        let mut text = String::new();
        TcpStream::from(socket).read_to_string(&mut text)?;
        Ok::<String, std::io::Error>(text)
    };
    let (text, counted) = mesh.counted(|| dial("9.0.1.1:8080").expect("reaches"));
    assert!(text.starts_with("backend 9.0.1.1:8080 9.0.1.2:"), "{text}");
    assert_eq!(counted, [(Passed::Brokered.code(), 1)]);
    let text = dial("11.1.2.3:80").expect("a VIP is balanced, not handed over again");
    assert!(text.starts_with("backend 9.0.1.1:8080 9.0.1.2:"), "{text}");
    let error = dial("203.0.113.5:80").expect_err("the tag skips the hand-over, never the verdict");
    assert_eq!(error.raw_os_error(), Some(UNREACHABLE));

    // A stale stock: the slot of the tag is not that of the namespace's pod.
    let socket = mesh.pair.pod.run(|| unconnected(Family::V4, 1)).expect("made").remove(0);
    mesh.kernel.maps().tag(&socket, 8).expect("tagged");
    let error = Socket::from(socket).connect(&SockAddr::from(at("9.0.1.1:8080"))).expect_err("not pod 8's namespace");
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
}

#[test]
fn what_is_not_enrolled_is_left_alone() {
    let mesh = Mesh::new();
    let stranger = Pair::new();
    answer(stranger.world.run(|| TcpListener::bind("9.0.1.1:8080").expect("bound")), "outside");
    let dns = stranger.world.run(|| UdpSocket::bind("9.0.1.1:53").expect("bound"));
    std::thread::spawn(move || {
        let mut buffer = [0; 8];
        let (_, from) = dns.recv_from(&mut buffer).expect("asked");
        dns.send_to(b"own", from).expect("answers");
    });
    stranger.pod.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("made");
        socket.set_mark(77).expect("root may");
        let (result, counted) = mesh.counted(|| socket.connect(&SockAddr::from(at("9.0.1.1:8080"))));
        result.expect("passes");
        assert_eq!(socket.mark().expect("readable"), 77, "its mark is its own business");
        assert_eq!(counted, [(Passed::NotEnrolled.code(), 1)]);
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
        assert_eq!(ask_udp(&socket, at("9.0.1.1:53")).expect("answered"), ("own".to_owned(), at("9.0.1.1:53")));
    });
}

#[test]
fn kernel_mode_uses_every_backend_and_shows_the_vip() {
    let mesh = Mesh::new();
    mesh.pair.world.owns(&["9.0.2.1/32", "9.0.2.2/32", "9.0.2.3/32"]);
    let backends = ["9.0.2.1:8080", "9.0.2.2:8080", "9.0.2.3:8080"];
    for backend in backends {
        let (stream, datagram) = mesh
            .pair
            .world
            .run(|| (TcpListener::bind(at(backend)).expect("bound"), UdpSocket::bind(at(backend)).expect("bound")));
        answer(stream, backend);
        std::thread::spawn(move || {
            let mut buffer = [0; 8];
            while let Ok((_, from)) = datagram.recv_from(&mut buffer) {
                let _ = datagram.send_to(backend.as_bytes(), from);
            }
        });
    }
    mesh.fill(&[(tcp("11.1.2.3:80"), mode::KERNEL, &backends), (udp("11.1.2.3:80"), mode::KERNEL, &backends)], &[], &[]);
    let mut met = BTreeSet::new();
    for _ in 0..60 {
        let (text, local, peer) = mesh.ask("11.1.2.3:80").expect("served");
        let backend = text.split(' ').next().expect("a name").to_owned();
        assert_eq!(text, format!("{backend} {backend} {local}"), "app to app: no proxy, no NAT");
        assert_eq!(peer, at("11.1.2.3:80"));
        met.insert(backend);
    }
    assert_eq!(met, backends.iter().map(|b| (*b).to_owned()).collect());
    let (_, _, peer) = mesh.ask("[::ffff:11.1.2.3]:80").expect("served");
    assert_eq!(peer, at("[::ffff:11.1.2.3]:80"));

    // UDP: a socket stays with its backend, sockets spread.
    let mut met = BTreeSet::new();
    mesh.pair.pod.run(|| {
        for _ in 0..40 {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bound");
            let (first, from) = ask_udp(&socket, at("11.1.2.3:80")).expect("served");
            assert_eq!(from, at("11.1.2.3:80"));
            assert_eq!(ask_udp(&socket, at("11.1.2.3:80")).expect("served").0, first);
            met.insert(first);
        }
    });
    assert_eq!(met, backends.iter().map(|b| (*b).to_owned()).collect());
}

#[test]
fn a_socket_that_is_connected_again_is_judged_anew() {
    let mesh = Mesh::new();
    mesh.fill(&[(udp("11.1.2.3:80"), mode::KERNEL, &["9.0.1.1:8080"])], &["9.0.1.1"], &[]);
    mesh.pair.pod.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bound");
        socket.connect(at("11.1.2.3:80")).expect("connects");
        assert_eq!(socket.peer_addr().expect("connected"), at("11.1.2.3:80"));
        socket.connect(at("9.0.1.1:9")).expect("connects");
        assert_eq!(socket.peer_addr().expect("connected"), at("9.0.1.1:9"), "the VIP is forgotten");

        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("made");
        socket.set_mark(ports::CAPTURE_MARK).expect("root may");
        let _ = socket.connect(&SockAddr::from(at("9.0.1.1:9")));
        assert_eq!(socket.mark().expect("readable"), 0, "a workload cannot hand itself over");
    });
}

#[test]
fn loopback_and_own_address_stay_inside() {
    let mesh = Mesh::new();
    answer(mesh.pair.pod.run(|| TcpListener::bind("0.0.0.0:8080").expect("bound")), "self");
    for to in ["127.0.0.1:8080", "9.0.1.2:8080"] {
        assert!(mesh.ask(to).expect("reaches itself").0.starts_with(&format!("self {to} ")));
    }
}

#[test]
fn a_new_agent_takes_over_and_a_pod_can_leave() {
    let mut mesh = Mesh::new();
    mesh.fill(&[(tcp("11.1.2.3:80"), mode::PROXY, &[])], &[], &[]);
    answer(listener(&mesh.sockets().outbound_v4), "old");
    assert!(mesh.ask("11.1.2.3:80").expect("captured").0.starts_with("old "));

    // The agent is gone; its maps, links and the proxy's duplicates of the listeners are not.
    mesh.sockets = None;
    mesh.kernel = mesh.node.kernel();
    assert!(mesh.ask("11.1.2.3:80").expect("captured without an agent").0.starts_with("old "));
    assert_eq!(mesh.kernel.maps().pods().expect("readable").get(&mesh.cookie), Some(&mesh.pod), "the pod is still known");
    let opened = mesh_agent::pod::enrol(&mesh.kernel, mesh.cookie, &mesh.pod, &mesh.pair.pod.handle).expect("enrols in place");
    answer(listener(&opened.outbound_v4), "new");
    for _ in 0..20 {
        assert!(mesh.ask("11.1.2.3:80").expect("captured").0.starts_with("new "), "the exact listener, not the port's group");
    }

    mesh_agent::pod::leave(&mesh.kernel, mesh.cookie, &mesh.pod).expect("leaves");
    mesh_agent::pod::leave(&mesh.kernel, mesh.cookie, &mesh.pod).expect("twice");
    answer(mesh.pair.world.run(|| TcpListener::bind("9.0.1.1:8080").expect("bound")), "world");
    assert!(mesh.ask("9.0.1.1:8080").expect("no longer judged").0.starts_with("world "));
    mesh.kernel.detach().expect("detaches");
    // The kernel destroys a link some time after its last reference.
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        mesh_agent::kernel::fires(&mesh.node.cgroup).is_err()
    });
    assert!(gone, "nothing is left");
}

#[test]
fn two_pods_with_one_address_are_told_apart() {
    let mesh = Mesh::new();
    mesh.fill(&[(tcp("11.1.2.3:80"), mode::PROXY, &[])], &[], &[]);
    let twin = Ns::new();
    twin.owns(&["9.0.1.2/32"]);
    let pod = mesh_common::abi::Pod { slot: 8, policy: 0, addr4: addr(ip("9.0.1.2")), ..Default::default() };
    let cookie = twin.handle.cookie().expect("cookie");
    assert_ne!(cookie, mesh.cookie);
    let sockets = mesh_agent::pod::enrol(&mesh.kernel, cookie, &pod, &twin.handle).expect("enrols");
    answer(listener(&mesh.sockets().outbound_v4), "first");
    answer(listener(&sockets.outbound_v4), "second");
    assert!(mesh.ask("11.1.2.3:80").expect("captured").0.starts_with("first 11.1.2.3:80 9.0.1.2:"));
    assert!(twin.run(|| ask(at("11.1.2.3:80"))).expect("captured").0.starts_with("second 11.1.2.3:80 9.0.1.2:"));
}
