//! A node whose pod is guarded, with a network behind it that captures what gets out; and packets made by hand.

use super::{Mesh, Ns, ip, tcp};
use mesh_agent::core::egress::Rule;
use mesh_common::abi::{mode, way};
use mesh_common::decide::l4::{TCP, UDP};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

pub const MARK: &[u8] = b"MESH-LEAK";
pub const DENIED: [u8; 4] = [203, 0, 113, 66];
pub const ALLOWED: &str = "203.0.113.20:443";
pub const RULED: &str = "203.0.113.20:80";
pub const VIP: [u8; 4] = [11, 1, 2, 3];
/// The same over IPv6.
pub const DENIED6: &str = "2001:db8:2::66";
pub const ALLOWED6: &str = "2001:db8:2::20";
/// The pod, and the node as it sees it, which is the address of a workload too.
pub const OWN6: &str = "fd01:9::2";
pub const NODE6: &str = "fd01:9::1";

/// A node whose pod is guarded, and a network behind it that takes whatever comes.
pub struct Scene {
    pub mesh: Mesh,
    pub outside: Ns,
}

impl Scene {
    pub fn new() -> Self {
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
        outside.owns(&["203.0.113.20/32", "203.0.113.66/32", "2001:db8:2::20/128", "2001:db8:2::66/128"]);
        outside.ip(&["route", "add", "default", "via", "198.51.100.1"]);
        outside.ip(&["-6", "route", "add", "default", "via", "2001:db8:1::1"]);
        node.ip(&["route", "add", "default", "via", "198.51.100.2"]);
        node.ip(&["-6", "route", "add", "default", "via", "2001:db8:1::2"]);
        node.run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwards");
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").expect("forwards");
        });
        let scene = Self { mesh, outside };
        scene.mesh.fill(&[(tcp("11.1.2.3:80"), mode::PROXY, &["9.0.1.1:80"])], &["9.0.1.1", NODE6], &[]);
        scene.mesh.allow(&[allowed()]);
        scene.guard();
        scene
    }

    pub fn guard(&self) {
        let Mesh { kernel, cookie, pod, pair, .. } = &self.mesh;
        let guarded = pair.world.run(|| kernel.guard(*cookie, pod, &pair.pod.handle)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(guarded, 1);
        assert!(kernel.is_guarded(*cookie));
    }

    /// From the node, where the guards are.
    pub fn leave(&self) {
        let Mesh { kernel, cookie, pod, pair, .. } = &self.mesh;
        pair.world.run(|| mesh_agent::pod::leave(kernel, *cookie, pod)).expect("leaves");
        self.until_open();
    }

    pub fn unguard(&self) {
        self.mesh.pair.world.run(|| self.mesh.kernel.unguard(self.mesh.cookie)).expect("removed");
        assert!(!self.mesh.kernel.is_guarded(self.mesh.cookie));
        self.until_open();
    }

    /// The kernel takes a program off a device a little after the last hold of it is gone.
    pub fn until_open(&self) {
        let start = Instant::now();
        while !self.leaks(&ping) {
            assert!(start.elapsed() < Duration::from_secs(10), "a pod that is not guarded is not judged");
        }
    }

    /// Packets that came in behind the node while `work` ran, and a little longer.
    pub fn captured(&self, work: impl FnOnce()) -> Vec<Vec<u8>> {
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

    /// In the pod's namespace.
    pub fn inside(&self, attack: &dyn Fn()) {
        self.mesh.pair.pod.run(AsSend(attack).call());
    }

    pub fn leaks(&self, attack: &dyn Fn()) -> bool {
        let packets = self.captured(|| self.inside(attack));
        packets.iter().any(|packet| leaks(packet))
    }

    /// The link address of the node's end of the veth.
    pub fn gateway(&self) -> [u8; 6] {
        let text = mac(&self.mesh.pair.world, "hv0");
        let bytes: Vec<u8> = text.trim().split(':').map(|b| u8::from_str_radix(b, 16).expect("hex")).collect();
        bytes.try_into().expect("six bytes")
    }
}

/// Carries the mark, or goes to what nobody may reach, or to a VIP, which nobody has.
pub fn leaks(packet: &[u8]) -> bool {
    if packet.windows(MARK.len()).any(|window| window == MARK) {
        return true;
    }
    let denied: Ipv6Addr = DENIED6.parse().expect("literal");
    match packet.first().map(|first| first >> 4) {
        Some(4) => packet.get(16..20).is_some_and(|to| to == VIP || to == DENIED),
        Some(6) => packet.get(24..40) == Some(&denied.octets()[..]),
        _ => false,
    }
}

pub type Attack = Box<dyn Fn()>;

/// The attacks own nothing, so they may run on any thread.
pub struct AsSend<'a>(&'a dyn Fn());
// SAFETY: used by one thread at a time, while the other waits for it.
unsafe impl Send for AsSend<'_> {}
impl<'a> AsSend<'a> {
    pub fn call(self) -> impl FnOnce() + Send + 'a {
        move || {
            let whole = self;
            (whole.0)();
        }
    }
}

/// Waits until the kernel has seen that nobody else has the namespace's IPv6 addresses: before, it does not answer for them.
pub fn detected(ns: &Ns) {
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

pub fn allowed() -> Rule {
    let ports = [((TCP, 443), way::PASS), ((UDP, 443), way::PASS), ((TCP, 80), way::PROXY)];
    Rule { ranges: [(ip("203.0.113.20"), 32), (ip(ALLOWED6), 128)].into(), ports: ports.into(), ..Rule::default() }
}

pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub fn ipv4(src: [u8; 4], dst: [u8; 4], proto: u8, fragment: u16, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0x12, 0x34, 0, 0, 64, proto, 0, 0];
    packet[2..4].copy_from_slice(&(20 + body.len() as u16).to_be_bytes());
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet.extend(src.iter().chain(&dst));
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend_from_slice(body);
    packet
}

pub fn tcp_segment(port: u16, flags: u8) -> Vec<u8> {
    let mut body = 40_000u16.to_be_bytes().to_vec();
    body.extend_from_slice(&port.to_be_bytes());
    body.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    body.extend_from_slice(MARK);
    body
}

pub fn udp_datagram(port: u16) -> Vec<u8> {
    let mut body = 40_000u16.to_be_bytes().to_vec();
    body.extend_from_slice(&port.to_be_bytes());
    body.extend_from_slice(&(8 + MARK.len() as u16).to_be_bytes());
    body.extend_from_slice(&[0, 0]);
    body.extend_from_slice(MARK);
    body
}

pub const OWN: [u8; 4] = [9, 0, 1, 2];

pub fn raw(packet: &[u8]) {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).expect("NET_RAW");
    let dst = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
    let _ = socket.send_to(packet, &SockAddr::from(SocketAddr::from((dst, 0))));
}

pub fn ping() {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).expect("NET_RAW");
    let mut echo = vec![8, 0, 0, 0, 0, 7, 0, 1];
    echo.extend_from_slice(MARK);
    let sum = checksum(&echo).to_be_bytes();
    echo[2..4].copy_from_slice(&sum);
    let _ = socket.send_to(&echo, &SockAddr::from(SocketAddr::from((DENIED, 0))));
}

/// A whole frame to the node's end of the veth.
pub fn frame(ethertype: u16, packet: &[u8], gateway: [u8; 6]) {
    frame_by("eth0", ethertype, packet, gateway);
}

/// The same, by this device of the pod.
pub fn frame_by(device: &str, ethertype: u16, packet: &[u8], gateway: [u8; 6]) {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).expect("NET_RAW");
    let mut bytes = gateway.to_vec();
    bytes.extend_from_slice(&[2, 0, 0, 0, 0, 1]);
    bytes.extend_from_slice(&ethertype.to_be_bytes());
    bytes.extend_from_slice(packet);
    let index = nix::net::if_::if_nametoindex(device).expect("the pod's device");
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

pub fn ipv6(src: &str, dst: &str, next: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, body.len() as u8, next, 64];
    for text in [src, dst] {
        packet.extend_from_slice(&text.parse::<Ipv6Addr>().expect("literal").octets());
    }
    packet.extend_from_slice(body);
    packet
}

pub fn mac(ns: &Ns, device: &str) -> String {
    let output = std::process::Command::new("ip").args(["-n", &ns.name, "-o", "link", "show", device]).output().expect("ip");
    let text = String::from_utf8(output.stdout).expect("text");
    text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address").to_owned()
}
