//! Every way out of a pod that docs/egress.md names and that is no other test's: sockets that a hook must refuse, packets that only the guard sees,
//! devices and namespaces that the pod makes for itself. As in `node_guard`, each is tried without what stops it, or it is no attack.

mod common;

use common::guarded::*;
use common::scene::PROXY_UID;
use common::{Ns, at, sh};
use mesh_agent::netns::sockets::unconnected;
use mesh_common::broker::Family;
use mesh_common::decide::l4::{TCP, UDP};
use mesh_common::decide::packet::{ICMPV6, icmp};
use mesh_common::reason::Reason;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// What is tried to be reached, in both families.
const TARGETS: [&str; 2] = ["203.0.113.66:443", "[2001:db8:2::66]:443"];
/// Long enough for a machine that is busy; what is not refused would wait for two minutes.
const AT_ONCE: Duration = Duration::from_secs(5);

fn stream(to: SocketAddr) -> Socket {
    Socket::new(Domain::for_address(to), Type::STREAM, None).expect("made")
}

fn connects(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    // A SYN that nobody answers is sent again after one, two and four seconds.
    socket.set_write_timeout(Some(AT_ONCE * 2)).expect("set");
    socket.connect(&SockAddr::from(to))
}

/// `sendto()` on a socket that is not connected, with these flags.
fn sends(socket: &Socket, flags: i32, to: SocketAddr) -> io::Result<()> {
    socket.set_write_timeout(Some(AT_ONCE * 2)).expect("set");
    socket.send_to_with_flags(MARK, &SockAddr::from(to), flags).map(drop)
}

fn option(socket: &Socket, level: i32, name: i32, value: &[u8]) {
    // SAFETY: the value outlives the call, and its length is given.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), value.len() as u32) };
    assert_eq!(done, 0, "{}", io::Error::last_os_error());
}

/// Tries to get there.
type Way = fn(SocketAddr) -> io::Result<()>;

/// As the system calls of an application may say where to.
fn socket_ways() -> Vec<(&'static str, Way)> {
    vec![
        ("connect()", |to| connects(&stream(to), to)),
        ("TCP fast open: data in the SYN, by sendto()", |to| sends(&stream(to), libc::MSG_FASTOPEN, to)),
        ("MPTCP", |to| {
            let mptcp = Protocol::from(libc::IPPROTO_MPTCP);
            connects(&Socket::new(Domain::for_address(to), Type::STREAM, Some(mptcp)).expect("CONFIG_MPTCP"), to)
        }),
        ("a mark of its own before connect()", |to| {
            let socket = stream(to);
            option(&socket, libc::SOL_SOCKET, libc::SO_MARK, &7_u32.to_ne_bytes());
            connects(&socket, to)
        }),
        ("bound to its device", |to| {
            let socket = stream(to);
            option(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"eth0\0");
            connects(&socket, to)
        }),
        ("connected to an allowed host before", |to| {
            let socket = stream(to);
            socket.set_nonblocking(true).expect("set");
            let allowed = if to.is_ipv4() { at(ALLOWED) } else { SocketAddr::new(ALLOWED6.parse().expect("literal"), 443) };
            let _ = socket.connect(&SockAddr::from(allowed));
            // SAFETY: an address of family AF_UNSPEC (0), which ends the association; it outlives the call.
            unsafe { libc::connect(socket.as_raw_fd(), [0_u8; 16].as_ptr().cast(), 16) };
            socket.set_nonblocking(false).expect("set");
            connects(&socket, to)
        }),
        ("as mesh-proxy's user", |to| {
            // The raw call changes this thread only, which ends with the attack.
            // SAFETY: changes the credentials of this thread.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, PROXY_UID, PROXY_UID, PROXY_UID) }, 0);
            connects(&stream(to), to)
        }),
        ("a datagram", |to| sends(&Socket::new(Domain::for_address(to), Type::DGRAM, None).expect("made"), 0, to)),
        ("a connected datagram socket", |to| {
            let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None).expect("made");
            connects(&socket, to).and_then(|()| socket.send(MARK).map(drop))
        }),
        ("v4-mapped", |to| {
            let SocketAddr::V4(v4) = to else { return connects(&stream(to), to) };
            let mapped = SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()));
            connects(&stream(mapped), mapped)
        }),
        ("v4-mapped, a datagram", |to| {
            let SocketAddr::V4(v4) = to else { return connects(&stream(to), to) };
            let mapped = SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()));
            sends(&Socket::new(Domain::IPV6, Type::DGRAM, None).expect("made"), 0, mapped)
        }),
    ]
}

/// In a thread of its own in the pod's namespace: the error, and whether it came at once.
fn tried(scene: &Scene, way: Way, to: SocketAddr) -> (Option<i32>, bool) {
    let start = Instant::now();
    let result = std::thread::scope(|s| s.spawn(|| scene.mesh.pair.pod.run(|| way(to))).join().expect("no panic"));
    let code = result.err().map(|error| error.raw_os_error().unwrap_or(-1));
    (code, start.elapsed() < AT_ONCE)
}

#[test]
fn no_system_call_reaches_what_no_rule_names_and_none_hangs() {
    let scene = Scene::new();
    let _servers = TARGETS.map(|to| scene.outside.run(|| TcpListener::bind(at(to)).expect("bound")));
    let packets = scene.captured(|| {
        for (what, way) in socket_ways() {
            for to in TARGETS {
                let (code, at_once) = tried(&scene, way, at(to));
                let refused = [libc::EHOSTUNREACH, libc::ECONNREFUSED];
                assert!(code.is_some_and(|code| refused.contains(&code)) && at_once, "{what} to {to}: {code:?}, {at_once}");
            }
        }
    });
    assert!(!packets.iter().any(|packet| leaks(packet)), "a packet got out");
    // Each of them is a way out for a pod that is not in the mesh.
    scene.leave();
    for (what, way) in socket_ways() {
        for to in TARGETS {
            let packets = scene.captured(|| {
                let _ = tried(&scene, way, at(to));
            });
            assert!(packets.iter().any(|packet| leaks(packet)), "{what} to {to} is no way out");
        }
    }
}

/// Clouds keep secrets there; the node's own ports and what is beside it are outside as well.
#[test]
fn neither_metadata_nor_the_node_are_reached() {
    let scene = Scene::new();
    let (pod, node) = (&scene.mesh.pair.pod, &scene.mesh.pair.world);
    node.owns(&["169.254.169.254/32", "192.0.2.11/32"]);
    let reach = |to: &str| pod.run(|| TcpStream::connect_timeout(&at(to), AT_ONCE)).map_err(|error| error.raw_os_error());
    let places = ["169.254.169.254:80", "192.0.2.11:22", "198.51.100.1:22", "[2001:db8:1::1]:22"];
    let _listeners = places.map(|place| node.run(|| TcpListener::bind(at(place)).expect("bound")));
    for place in places {
        assert_eq!(reach(place).err(), Some(Some(libc::EHOSTUNREACH)), "{place}");
    }
    // What the executor needs.
    let _mesos = node.run(|| TcpListener::bind("192.0.2.11:5051").expect("bound"));
    assert!(reach("192.0.2.11:5051").is_ok());
    scene.leave();
    for place in places {
        assert_eq!(reach(place).map(|_| ()), Ok(()), "{place} is there");
    }
}

fn icmp6_echo() -> Vec<u8> {
    let mut body = vec![icmp::ECHO_V6, 0, 0, 0, 0, 7, 0, 1];
    body.extend_from_slice(MARK);
    body
}

/// A header of eight bytes before a datagram.
fn before_udp(header: &[u8]) -> Vec<u8> {
    let mut body = header.to_vec();
    body.extend(udp_datagram(443));
    body
}

/// IPv4 with the loose source route option: to `via`, which sends it on.
fn source_routed(via: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let plain = ipv4(OWN, via, UDP, 0, &udp_datagram(443));
    let mut packet = plain[..20].to_vec();
    packet[0] = 0x47;
    packet.extend([131, 7, 4]);
    packet.extend(to);
    // End of options.
    packet.push(0);
    packet.extend_from_slice(&plain[20..]);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum(&packet[..28]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

/// IPv6 with a segment routing header: to `via`, which sends it on.
fn segment_routed(via: &str, to: &str) -> Vec<u8> {
    let mut body = vec![UDP, 4, 4, 1, 1, 0, 0, 0];
    for text in [to, via] {
        body.extend_from_slice(&text.parse::<std::net::Ipv6Addr>().expect("literal").octets());
    }
    body.extend(udp_datagram(443));
    ipv6(OWN6, via, 43, &body)
}

/// What leaves a pod as a packet, made by the pod itself or by a device of its own.
fn packet_ways(gateway: [u8; 6]) -> Vec<(String, Reason, Attack)> {
    let v4 = move |packet: Vec<u8>| -> Attack { Box::new(move || frame(0x0800, &packet, gateway)) };
    let v6 = move |packet: Vec<u8>| -> Attack { Box::new(move || frame(0x86dd, &packet, gateway)) };
    let mut ways: Vec<(String, Reason, Attack)> = Vec::new();
    let mut add = |what: &str, attack: Attack| ways.push((what.to_owned(), Reason::Bypass, attack));
    let host = [203, 0, 113, 20];
    for (name, proto) in
        [("IPIP", 4), ("6in4", 41), ("GRE", 47), ("ESP", 50), ("AH", 51), ("SCTP", 132), ("DCCP", 33), ("UDP-Lite", 136)]
    {
        add(&format!("{name}, to an allowed host"), v4(ipv4(OWN, host, proto, 0, MARK)));
        add(&format!("{name} over IPv6, to an allowed host"), v6(ipv6(OWN6, ALLOWED6, proto, MARK)));
    }
    add("a late fragment, to an allowed host", v4(ipv4(OWN, host, UDP, 8, MARK)));
    add("a first fragment, to a port that is not allowed", v4(ipv4(OWN, host, UDP, 0x2000, &udp_datagram(80))));
    add("IPv4 source routing, by a workload", v4(source_routed([9, 0, 1, 1], DENIED)));
    add("ICMPv6 echo", v6(ipv6(OWN6, DENIED6, ICMPV6, &icmp6_echo())));
    add("an IPv6 SYN", v6(ipv6(OWN6, DENIED6, TCP, &tcp_segment(443, 0x02))));
    add("IPv6 data", v6(ipv6(OWN6, DENIED6, TCP, &tcp_segment(443, 0x18))));
    add("IPv6, another port of an allowed host", v6(ipv6(OWN6, ALLOWED6, UDP, &udp_datagram(80))));
    add("IPv6, past the proxy, to a host with rules", v6(ipv6(OWN6, ALLOWED6, TCP, &tcp_segment(80, 0x02))));
    add("IPv6, a protocol without ports", v6(ipv6(OWN6, DENIED6, 253, MARK)));
    let late = [UDP, 0, 0, 8, 0, 0, 0, 1];
    let first = [UDP, 0, 0, 1, 0, 0, 0, 1];
    for (name, next, header) in [
        ("a late IPv6 fragment", 44, late),
        ("a first IPv6 fragment, to a port that is not allowed", 44, first),
        ("IPv6 destination options", 60, [UDP, 0, 1, 4, 0, 0, 0, 0]),
        ("IPv6 hop-by-hop options", 0, [UDP, 0, 1, 4, 0, 0, 0, 0]),
        ("IPv6 mobility header", 135, [59, 0, 0, 0, 0, 0, 0, 0]),
    ] {
        let to = if next == 44 { DENIED6 } else { ALLOWED6 };
        add(name, v6(ipv6(OWN6, to, next, &before_udp(&header))));
    }
    add("IPv6 segment routing, by a workload", v6(segment_routed(NODE6, DENIED6)));
    add("a macvlan of its own", {
        let packet = ipv4(OWN, DENIED, UDP, 0, &udp_datagram(443));
        Box::new(move || frame_by("mv0", 0x0800, &packet, gateway))
    });
    let other = ipv6("fd01:9::77", ALLOWED6, UDP, &udp_datagram(443));
    ways.push(("another's IPv6 address, to an allowed host".to_owned(), Reason::Spoofed, v6(other)));
    ways
}

/// Every node on the way does what packets ask for: what Linux does by default, and more.
fn obliging(ns: &Ns) {
    ns.run(|| {
        for (name, value) in [
            ("ipv4/conf/all/accept_source_route", "1"),
            ("ipv4/conf/hv0/accept_source_route", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/hv0/rp_filter", "0"),
            ("ipv6/conf/all/seg6_enabled", "1"),
            ("ipv6/conf/hv0/seg6_enabled", "1"),
        ] {
            std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    });
}

#[test]
fn no_packet_gets_out_whatever_it_is_made_of() {
    let scene = Scene::new();
    obliging(&scene.mesh.pair.world);
    scene.mesh.pair.pod.ip(&["link", "add", "mv0", "link", "eth0", "type", "macvlan", "mode", "bridge"]);
    scene.mesh.pair.pod.ip(&["link", "set", "mv0", "up"]);
    let ways = packet_ways(scene.gateway());
    let packets = scene.captured(|| {
        for (what, reason, attack) in &ways {
            let (_, counted) = scene.mesh.counted(|| scene.inside(attack));
            assert!(counted.iter().any(|(code, _)| *code == reason.code()), "{what}: {counted:?}");
        }
    });
    let out: Vec<_> = packets.iter().filter(|packet| leaks(packet)).collect();
    assert!(out.is_empty(), "got out: {out:x?}");
    scene.unguard();
    for (what, _, attack) in &ways {
        assert!(scene.leaks(attack), "{what} is no attack: nothing arrives without the guard either");
    }
}

/// A connection that was handed over, after its mark has been taken off.
fn cleared_mark() {
    let socket = stream(at(RULED));
    socket.connect(&SockAddr::from(at(RULED))).expect("the pod's listener has room");
    option(&socket, libc::SOL_SOCKET, libc::SO_MARK, &0_u32.to_ne_bytes());
    let _ = socket.send(MARK);
    std::thread::sleep(Duration::from_millis(50));
}

/// To a destination that the proxy carries, by a device that its listener is not behind.
fn bound_to_device() {
    let socket = stream(at(RULED));
    option(&socket, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"eth0\0");
    socket.set_nonblocking(true).expect("set");
    let _ = socket.connect(&SockAddr::from(at(RULED)));
    std::thread::sleep(Duration::from_millis(50));
}

#[test]
fn what_the_proxy_carries_does_not_get_around_it() {
    let scene = Scene::new();
    let to_ruled = |packets: Vec<Vec<u8>>| packets.iter().any(|packet| packet.get(16..20) == Some(&[203, 0, 113, 20][..]));
    let pod = &scene.mesh.pair.pod;
    for (what, way) in [("a cleared mark", cleared_mark as fn()), ("a bound device", bound_to_device)] {
        let packets = scene.captured(|| pod.run(way));
        assert!(!to_ruled(packets), "{what}: a packet got past the proxy");
    }
    scene.unguard();
    for (what, way) in [("a cleared mark", cleared_mark as fn()), ("a bound device", bound_to_device)] {
        let packets = scene.captured(|| pod.run(way));
        assert!(to_ruled(packets), "{what} is no way around the proxy");
    }
}

/// With NET_ADMIN the pod makes a namespace behind its own, and translates what comes from there to its own address; and translates an allowed
/// destination to another.
#[test]
fn neither_a_namespace_behind_the_pods_nor_its_own_translation_gets_out() {
    let scene = Scene::new();
    let (pod, inner) = (&scene.mesh.pair.pod, Ns::new());
    pod.ip(&["link", "add", "in0", "type", "veth", "peer", "name", "eth0", "netns", &inner.name]);
    for (ns, device, v4, v6) in [(pod, "in0", "10.9.9.1/24", "fd99::1/64"), (&inner, "eth0", "10.9.9.2/24", "fd99::2/64")] {
        ns.ip(&["addr", "add", v4, "dev", device]);
        ns.ip(&["addr", "add", v6, "dev", device, "nodad"]);
        ns.ip(&["link", "set", device, "up"]);
        detected(ns);
    }
    inner.ip(&["route", "add", "default", "via", "10.9.9.1"]);
    inner.ip(&["-6", "route", "add", "default", "via", "fd99::1"]);
    pod.run(|| {
        for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{name}"), "1").expect("forwards");
        }
    });
    // Turning forwarding on takes away what the kernel had routed by default as a host.
    pod.ip(&["-6", "route", "replace", "default", "via", NODE6]);
    let rules = "table inet way {
        chain out {
            type nat hook output priority -100
            ip daddr 203.0.113.20 tcp dport 443 dnat ip to 203.0.113.66:443
            ip6 daddr 2001:db8:2::20 tcp dport 443 dnat ip6 to [2001:db8:2::66]:443
        }
        chain post {
            type nat hook postrouting priority 100
            oifname \"eth0\" masquerade
        }
    }
    ";
    let file = tempfile::NamedTempFile::new().expect("made");
    std::fs::write(file.path(), rules).expect("written");
    sh("ip", &["netns", "exec", &pod.name, "nft", "-f", file.path().to_str().expect("text")]);
    let dials = |ns: &Ns, to: &str| {
        let to = at(to);
        let packets = scene.captured(|| {
            ns.run(|| {
                let socket = stream(to);
                socket.set_nonblocking(true).expect("set");
                let _ = socket.connect(&SockAddr::from(to));
                std::thread::sleep(Duration::from_millis(50));
            });
        });
        packets.iter().any(|packet| leaks(packet))
    };
    let ways = [
        (&inner, TARGETS[0], "from a namespace behind"),
        (&inner, TARGETS[1], "from a namespace behind"),
        (pod, ALLOWED, "translated"),
        (pod, "[2001:db8:2::20]:443", "translated"),
    ];
    for (ns, to, what) in ways {
        assert!(!dials(ns, to), "{what}, {to}: got out");
    }
    scene.unguard();
    for (ns, to, what) in ways {
        assert!(dials(ns, to), "{what}, {to}: is no attack");
    }
}

/// A brokered socket that its receiver passes on: to a process of another namespace, by SCM_RIGHTS.
#[test]
fn a_brokered_socket_gains_nothing_wherever_it_is_passed() {
    let scene = Scene::new();
    let (pod, node) = (&scene.mesh.pair.pod, &scene.mesh.pair.world);
    let _servers = TARGETS.map(|to| scene.outside.run(|| TcpListener::bind(at(to)).expect("bound")));
    let allowed = scene.outside.run(|| TcpListener::bind(ALLOWED).expect("bound"));
    let brokered = |family| {
        let socket = pod.run(|| unconnected(family, 1)).expect("made").remove(0);
        scene.mesh.kernel.maps().tag(&socket, scene.mesh.pod.slot).expect("tagged");
        passed(socket)
    };
    for (ns, where_to) in [(node, "the node"), (&scene.outside, "another namespace"), (pod, "the pod")] {
        for (family, to) in [(Family::V4, TARGETS[0]), (Family::V6, TARGETS[1])] {
            let socket = brokered(family);
            let packets = scene.captured(|| {
                let result = ns.run(|| connects(&socket, at(to)));
                assert_eq!(result.map_err(|e| e.raw_os_error()), Err(Some(libc::EHOSTUNREACH)), "{to}, passed to {where_to}");
            });
            assert!(!packets.iter().any(|packet| leaks(packet)), "{to}, passed to {where_to}");
        }
        let socket = brokered(Family::V4);
        ns.run(|| connects(&socket, at(ALLOWED))).expect("what the pod may it may, whoever holds it");
        assert_eq!(allowed.accept().expect("accepted").1.ip(), at("9.0.1.2:0").ip(), "as the pod");
    }
}

/// Through a unix socket and back.
fn passed(socket: OwnedFd) -> Socket {
    let (from, to) = std::os::unix::net::UnixDatagram::pair().expect("made");
    let descriptors = [socket.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(from.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::empty(), None).expect("sent");
    let (mut byte, mut space) = ([0], nix::cmsg_space!([RawFd; 1]));
    let mut iov = [IoSliceMut::new(&mut byte)];
    let got = recvmsg::<()>(to.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::empty()).expect("received");
    let Some(ControlMessageOwned::ScmRights(descriptors)) = got.cmsgs().expect("whole").next() else { panic!("no socket") };
    // SAFETY: the kernel has just given it to us.
    let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(descriptors[0]) });
    socket.set_nonblocking(false).expect("set");
    socket
}
