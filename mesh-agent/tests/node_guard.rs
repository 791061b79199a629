//! A pod with every capability in its namespace does not get out around the hooks: what it sends is captured behind its node, in `outside`,
//! with the guard (nothing may arrive) and without (it must, or the attack is none).

mod common;

use common::{Mesh, Ns, answer, ask, at, ip, refusal, tcp};
use mesh_agent::core::desired::addr;
use mesh_agent::core::egress::Rule;
use mesh_agent::netns::sockets::unconnected;
use mesh_agent::netns::veth::host_ends;
use mesh_common::abi::{Dest, mode, way};
use mesh_common::broker::Family;
use mesh_common::decide::l4::{TCP, UDP};
use mesh_common::reason::Reason;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const MARK: &[u8] = b"MESH-LEAK";
const DENIED: [u8; 4] = [203, 0, 113, 66];
const ALLOWED: &str = "203.0.113.20:443";
const RULED: &str = "203.0.113.20:80";
const VIP: [u8; 4] = [11, 1, 2, 3];

/// A node whose pod is guarded, and a network behind it that takes whatever comes.
struct Scene {
    mesh: Mesh,
    outside: Ns,
}

impl Scene {
    fn new() -> Self {
        let (mesh, outside) = (Mesh::new(), Ns::new());
        let node = &mesh.pair.world;
        node.ip(&["link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", &outside.name]);
        for (ns, device, v4, v6) in
            [(node, "up0", "198.51.100.1/24", "2001:db8:1::1/64"), (&outside, "eth0", "198.51.100.2/24", "2001:db8:1::2/64")]
        {
            ns.ip(&["addr", "add", v4, "dev", device]);
            ns.ip(&["addr", "add", v6, "dev", device, "nodad"]);
            ns.ip(&["link", "set", device, "up"]);
        }
        for ns in [&mesh.pair.pod, node, &outside] {
            detected(ns);
        }
        outside.owns(&["203.0.113.20/32", "203.0.113.66/32"]);
        outside.ip(&["route", "add", "default", "via", "198.51.100.1"]);
        outside.ip(&["-6", "route", "add", "default", "via", "2001:db8:1::1"]);
        node.ip(&["route", "add", "default", "via", "198.51.100.2"]);
        node.ip(&["-6", "route", "add", "default", "via", "2001:db8:1::2"]);
        node.run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwards");
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("forwards");
        });
        let scene = Self { mesh, outside };
        scene.mesh.fill(&[(tcp("11.1.2.3:80"), mode::PROXY, &["9.0.1.1:80"])], &["9.0.1.1"], &[]);
        scene.mesh.allow(&[allowed()]);
        scene.guard();
        scene
    }

    fn guard(&self) {
        let Mesh { kernel, cookie, pod, pair, .. } = &self.mesh;
        let guarded = pair.world.run(|| kernel.guard(*cookie, pod, &pair.pod.handle)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(guarded, 1);
        assert!(kernel.is_guarded(*cookie));
    }

    /// From the node, where the guards are.
    fn leave(&self) {
        let Mesh { kernel, cookie, pod, pair, .. } = &self.mesh;
        pair.world.run(|| mesh_agent::pod::leave(kernel, *cookie, pod)).expect("leaves");
    }

    fn unguard(&self) {
        self.mesh.pair.world.run(|| self.mesh.kernel.unguard(self.mesh.cookie)).expect("removed");
        assert!(!self.mesh.kernel.is_guarded(self.mesh.cookie));
    }

    /// Packets that came in behind the node while `work` ran, and a little longer.
    fn captured(&self, work: impl FnOnce()) -> Vec<Vec<u8>> {
        let all = i32::from((libc::ETH_P_ALL as u16).to_be());
        let sniffer =
            self.outside.run(|| Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(all))).expect("a sniffer"));
        sniffer.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
        work();
        let (mut found, mut sniffer) = (Vec::new(), sniffer);
        let mut buffer = [0; 2048];
        while let Ok(length) = sniffer.read(&mut buffer) {
            found.push(buffer[..length].to_vec());
        }
        found
    }

    fn leaks(&self, attack: &dyn Fn()) -> bool {
        let packets = self.captured(|| self.mesh.pair.pod.run(AsSend(attack).call()));
        let to_vip = |packet: &Vec<u8>| packet.first() == Some(&0x45) && packet.get(16..20) == Some(&VIP[..]);
        packets.iter().any(|packet| packet.windows(MARK.len()).any(|window| window == MARK) || to_vip(packet))
    }
}

type Attack = Box<dyn Fn()>;

/// The attacks own nothing, so they may run on any thread.
struct AsSend<'a>(&'a dyn Fn());
// SAFETY: used by one thread at a time, while the other waits for it.
unsafe impl Send for AsSend<'_> {}
impl<'a> AsSend<'a> {
    fn call(self) -> impl FnOnce() + Send + 'a {
        move || {
            let whole = self;
            (whole.0)();
        }
    }
}

/// Waits until the kernel has seen that nobody else has the namespace's IPv6 addresses: before, it does not answer for them.
fn detected(ns: &Ns) {
    let start = Instant::now();
    let tentative = || {
        let output = std::process::Command::new("ip").args(["-n", &ns.name, "-6", "addr", "show", "tentative"]).output();
        !output.expect("ip").stdout.is_empty()
    };
    while tentative() {
        assert!(start.elapsed() < Duration::from_secs(10), "duplicate address detection ends");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn allowed() -> Rule {
    let ports = [((TCP, 443), way::PASS), ((UDP, 443), way::PASS), ((TCP, 80), way::PROXY)];
    Rule { ranges: [(ip("203.0.113.20"), 32)].into(), ports: ports.into(), ..Rule::default() }
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn ipv4(src: [u8; 4], dst: [u8; 4], proto: u8, fragment: u16, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, proto, 0, 0];
    packet[2..4].copy_from_slice(&(20 + body.len() as u16).to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet.extend(src.iter().chain(&dst));
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend_from_slice(body);
    packet
}

fn tcp_segment(port: u16, flags: u8) -> Vec<u8> {
    let mut body = 40_000u16.to_be_bytes().to_vec();
    body.extend_from_slice(&port.to_be_bytes());
    body.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    body.extend_from_slice(MARK);
    body
}

fn udp_datagram(port: u16) -> Vec<u8> {
    let mut body = 40_000u16.to_be_bytes().to_vec();
    body.extend_from_slice(&port.to_be_bytes());
    body.extend_from_slice(&(8 + MARK.len() as u16).to_be_bytes());
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(MARK);
    body
}

const OWN: [u8; 4] = [9, 0, 1, 2];

fn raw(packet: &[u8]) {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).expect("NET_RAW");
    let dst = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
    let _ = socket.send_to(packet, &SockAddr::from(SocketAddr::from((dst, 0))));
}

fn ping() {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).expect("NET_RAW");
    let mut echo = vec![8, 0, 0, 0, 0, 7, 0, 1];
    echo.extend_from_slice(MARK);
    let sum = checksum(&echo).to_be_bytes();
    echo[2..4].copy_from_slice(&sum);
    let _ = socket.send_to(&echo, &SockAddr::from(SocketAddr::from((DENIED, 0))));
}

/// A whole frame to the node's end of the veth.
fn frame(ethertype: u16, packet: &[u8], gateway: [u8; 6]) {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).expect("NET_RAW");
    let mut bytes = gateway.to_vec();
    bytes.extend_from_slice(&[2, 0, 0, 0, 0, 1]);
    bytes.extend_from_slice(&ethertype.to_be_bytes());
    bytes.extend_from_slice(packet);
    let index = nix::net::if_::if_nametoindex("eth0").expect("the pod's device");
    // SAFETY: all zero is a valid address, the fields that matter follow.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = index.cast_signed();
    // SAFETY: buffer and address outlive the call, and their lengths are given.
    let sent = unsafe {
        let length = size_of::<libc::sockaddr_ll>() as u32;
        libc::sendto(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0, (&raw const to).cast(), length)
    };
    assert_eq!(sent, bytes.len().cast_signed());
}

fn ipv6_udp() -> Vec<u8> {
    let datagram = udp_datagram(443);
    let mut packet = vec![0x60, 0, 0, 0, 0, datagram.len() as u8, UDP, 64];
    for text in ["fd01:9::2", "2001:db8:1::2"] {
        packet.extend_from_slice(&text.parse::<std::net::Ipv6Addr>().expect("literal").octets());
    }
    packet.extend_from_slice(&datagram);
    packet
}

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
    let gateway = scene.mesh.pair.world.run(|| std::fs::read_to_string("/sys/class/net/hv0/address").ok());
    let gateway = gateway.filter(|text| !text.is_empty()).unwrap_or_else(|| mac(&scene.mesh.pair.world, "hv0"));
    let gateway: Vec<u8> = gateway.trim().split(':').map(|b| u8::from_str_radix(b, 16).expect("hex")).collect();
    let gateway: [u8; 6] = gateway.try_into().expect("six bytes");
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
        ("an IPv6 frame", Reason::Bypass, Box::new(move || frame(0x86dd, &ipv6_udp(), gateway))),
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

fn mac(ns: &Ns, device: &str) -> String {
    let output = std::process::Command::new("ip").args(["-n", &ns.name, "-o", "link", "show", device]).output().expect("ip");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address").to_owned()
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
    let start = Instant::now();
    while !scene.leaks(&ping) {
        assert!(start.elapsed() < Duration::from_secs(5), "a pod that has left is not judged");
    }
}
