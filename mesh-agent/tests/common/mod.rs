//! A node in miniature: a cgroup, a directory on bpffs, and pods with a "host" beside them. Everything vanishes with its guard.
//!
//! Every namespace here is cut off from the machine's network: `host` and `pod` know each other by a veth, and nothing else.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of the harness")]

pub mod control;
pub mod guarded;
pub mod mesos;
pub mod outside;
pub mod scene;

use mesh_agent::core::desired::{Desired, Port, addr};
use mesh_agent::core::egress::{self, Rule, Rules};
use mesh_agent::core::policies::Policies;
use mesh_agent::core::reconcile::reconcile;
use mesh_agent::kernel::{Events, Kernel};
use mesh_agent::netns::{Namespace, PodSockets};
use mesh_common::abi::{ABI_VERSION, Config, Dest, Pod, policy};
use mesh_common::decide::l4::{TCP, UDP};
use mesh_common::reason::Reason;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

static NEXT: AtomicU32 = AtomicU32::new(0);
/// A process is in one cgroup at a time.
static ONE: Mutex<()> = Mutex::new(());

fn unique(what: &str) -> String {
    format!("mesh-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn sh(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A cgroup and a directory on bpffs of this test's own; this process moves into the cgroup and back.
pub struct Node {
    pub cgroup: PathBuf,
    pub bpffs: PathBuf,
    former: PathBuf,
    _alone: MutexGuard<'static, ()>,
}

impl Node {
    pub fn new() -> Self {
        let alone = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        assert!(nix::unistd::geteuid().is_root(), "the feature `node` needs root");
        let root = mesh_agent::cgroup::detect().expect("cgroup2 is mounted");
        let own = fs::read_to_string("/proc/self/cgroup").expect("readable");
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a cgroup2 line");
        let former = root.join(own);
        let cgroup = root.join(unique("cg"));
        fs::create_dir(&cgroup).expect("cgroup");
        fs::write(cgroup.join("cgroup.procs"), "0").expect("moves into the cgroup");
        let bpffs = Path::new("/sys/fs/bpf").join(unique("pins"));
        fs::create_dir(&bpffs).expect("bpffs");
        Self { cgroup, bpffs, former, _alone: alone }
    }

    /// The cgroup that this process was in before.
    pub fn former(&self) -> &Path {
        &self.former
    }

    pub fn kernel(&self) -> Kernel {
        Kernel::open(&self.bpffs, &self.cgroup).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.bpffs);
        let _ = fs::write(self.former.join("cgroup.procs"), "0");
        wait_gone(&self.cgroup);
    }
}

/// Removes a cgroup, as soon as its last process has ended.
pub fn wait_gone(cgroup: &Path) {
    for _ in 0..50 {
        if fs::remove_dir(cgroup).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    eprintln!("left behind: {}", cgroup.display());
}

/// A named network namespace with `lo` up.
pub struct Ns {
    pub name: String,
    pub handle: Namespace,
}

impl Ns {
    pub fn new() -> Self {
        let name = unique("ns");
        sh("ip", &["netns", "add", &name]);
        let handle = Namespace::open(&Path::new("/run/netns").join(&name)).expect("just made");
        let ns = Self { name, handle };
        ns.ip(&["link", "set", "lo", "up"]);
        ns
    }

    pub fn ip(&self, args: &[&str]) {
        let all: Vec<&str> = ["-n", &self.name].iter().chain(args).copied().collect();
        sh("ip", &all);
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.handle.visit(work).expect("enters")
    }

    /// Adds addresses to `lo`, so that something may listen there.
    pub fn owns(&self, addresses: &[&str]) {
        for address in addresses {
            // Nobody else has it: an IPv6 address that is still looked for cannot be bound.
            let known: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            self.ip(&[&["addr", "replace", address, "dev", "lo"], known].concat());
        }
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A pod at 9.0.1.2 (and fd01:9::2), and the rest of the world behind its default route.
pub struct Pair {
    pub pod: Ns,
    pub world: Ns,
}

impl Pair {
    pub fn new() -> Self {
        let (pod, world) = (Ns::new(), Ns::new());
        pod.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "hv0", "netns", &world.name]);
        for (ns, device, v4, v6) in [(&pod, "eth0", "9.0.1.2/24", "fd01:9::2/64"), (&world, "hv0", "9.0.1.1/24", "fd01:9::1/64")]
        {
            ns.ip(&["addr", "add", v4, "dev", device]);
            ns.ip(&["addr", "add", v6, "dev", device, "nodad"]);
            ns.ip(&["link", "set", device, "up"]);
        }
        pod.ip(&["route", "add", "default", "via", "9.0.1.1"]);
        pod.ip(&["-6", "route", "add", "default", "via", "fd01:9::1"]);
        Self { pod, world }
    }
}

/// Accepts for ever, answering each connection with `name` and one line on what it saw: "name local peer".
pub fn answer(listener: TcpListener, name: &str) {
    let name = name.to_owned();
    listener.set_nonblocking(false).expect("blocking");
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let local = stream.local_addr().expect("connected");
            let _ = stream.write_all(format!("{name} {local} {peer}").as_bytes());
        }
    });
}

/// Bytes that a pinned map takes of the kernel's memory, as the kernel says.
pub fn map_bytes(bpffs: &Path, name: &str) -> u64 {
    use std::os::fd::{AsFd, AsRawFd};
    let map = aya::maps::MapData::from_pin(bpffs.join("mesh").join(name)).expect("pinned");
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd())).expect("readable");
    let line = info.lines().find_map(|line| line.strip_prefix("memlock:")).expect("the kernel says");
    line.trim().parse().expect("a number")
}

/// Connects and reads what the other side says.
pub fn ask(to: SocketAddr) -> io::Result<(String, SocketAddr, SocketAddr)> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok((text, local, peer))
}

/// One datagram out, one back: content and who it seems to come from.
pub fn ask_udp(socket: &UdpSocket, to: SocketAddr) -> io::Result<(String, SocketAddr)> {
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.send_to(b"?", to)?;
    let mut buffer = [0; 256];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().expect("address and port")
}

pub fn tcp(text: &str) -> Dest {
    let to = at(text);
    Dest { addr: addr(to.ip()), port: to.port(), proto: TCP, pad: 0 }
}

pub fn udp(text: &str) -> Dest {
    Dest { proto: UDP, ..tcp(text) }
}

/// Backends of equal weight.
pub fn port(mode: u8, proto: u8, backends: &[&str]) -> Port {
    let backends = backends.iter().map(|text| (Dest { proto, ..tcp(text) }, 1)).collect();
    Port { mode, backends, ..Port::default() }
}

/// A mesh with the VIP range 11.0.0.0/8 that refuses what it does not know.
pub fn config() -> Config {
    let node = addr(ip("192.0.2.11"));
    let vip6 = addr(ip("fd01:c::"));
    Config { abi: ABI_VERSION, egress: 0, ready: 1, vip4: [11, 0, 0, 0], vip4_bits: 8, vip6_bits: 64, vip6, node }
}

/// The namespace of the pod, and another one.
pub const MINE: &str = "mine";
pub const OTHER: &str = "other";

/// A node with one pod in the mesh.
pub struct Mesh {
    pub sockets: Option<PodSockets>,
    pub pod: Pod,
    pub cookie: u64,
    pub kernel: Kernel,
    pub pair: Pair,
    // Last: what hangs on the node's cgroup and pins goes before it.
    pub node: Node,
}

impl Mesh {
    pub fn new() -> Self {
        let (node, pair) = (Node::new(), Pair::new());
        let kernel = node.kernel();
        let cookie = pair.pod.handle.cookie().expect("a cookie");
        let pod =
            Pod { slot: 7, policy: policy::of(MINE), addr4: addr(ip("9.0.1.2")), addr6: addr(ip("fd01:9::2")), outbound: 0 };
        let sockets = mesh_agent::pod::enrol(&kernel, cookie, &pod, &pair.pod.handle).unwrap_or_else(|error| panic!("{error}"));
        let mesh = Self { sockets: Some(sockets), pod, cookie, kernel, pair, node };
        mesh.fill(&[], &[], &[]);
        mesh
    }

    pub fn sockets(&self) -> &PodSockets {
        self.sockets.as_ref().expect("not dropped yet")
    }

    /// Makes these the tables' whole contents.
    pub fn fill(&self, services: &[(Dest, u8, &[&str])], workloads: &[&str], protected: &[Dest]) {
        self.write(&Desired {
            config: config(),
            services: services.iter().map(|(dest, mode, backends)| (*dest, port(*mode, dest.proto, backends))).collect(),
            workloads: workloads.iter().map(|w| addr(ip(w))).collect(),
            protected: protected.iter().copied().collect(),
            ..Desired::default()
        });
    }

    pub fn write(&self, desired: &Desired) {
        let mut maps = self.kernel.maps();
        let ops = reconcile(desired, &maps.read().expect("readable"));
        maps.write(&ops).expect("written");
        assert_eq!(reconcile(desired, &maps.read().expect("readable")), [], "a second run has nothing to do");
    }

    /// Makes these rules the allowlist's whole contents.
    pub fn allow(&self, rules: &[Rule]) {
        let policies = Policies::of_names([MINE, OTHER].into_iter());
        let rules = rules.iter().enumerate().map(|(i, rule)| (i.to_string(), rule.clone())).collect();
        let rules = Rules { rules, policies };
        let desired = egress::allowed(&rules, std::iter::empty()).expect("fits");
        let mut maps = self.kernel.maps();
        let ops = egress::reconcile(&desired, &maps.allowed().expect("readable"));
        maps.allow(&ops).expect("written");
        assert_eq!(maps.allowed().expect("readable"), desired, "the tables hold what was written");
    }

    pub fn counters(&self) -> Vec<u64> {
        self.kernel.maps().counters().expect("readable")
    }

    /// The codes that were counted while `work` ran.
    pub fn counted<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<(u8, u64)>) {
        let before = self.counters();
        let done = work();
        let after = self.counters().into_iter().zip(before).enumerate();
        (done, after.filter(|(_, (a, b))| a > b).map(|(code, (a, b))| (code as u8, a - b)).collect())
    }

    /// Connects from inside the pod.
    pub fn ask(&self, to: &str) -> io::Result<(String, SocketAddr, SocketAddr)> {
        let to = at(to);
        self.pair.pod.run(|| ask(to))
    }
}

/// The next refusal to this destination.
pub fn refusal(events: &mut Events, dest: Dest) -> Option<(Reason, u32, u32)> {
    for _ in 0..200 {
        while let Some(event) = events.next() {
            if event.dest == dest {
                return Some((Reason::from_code(event.reason)?, event.slot, event.pid));
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// The DNS process: answers every question with `name`, from the address that was asked.
pub fn answer_udp(socket: UdpSocket, name: &str) {
    use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg};
    use std::os::fd::AsRawFd;
    socket.set_nonblocking(false).expect("blocking");
    let name = name.to_owned();
    std::thread::spawn(move || {
        loop {
            let mut buffer = [0; 64];
            let mut iov = [io::IoSliceMut::new(&mut buffer)];
            let mut space = nix::cmsg_space!(libc::in_pktinfo);
            let Ok(got) = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::empty()) else {
                return;
            };
            let Some(ControlMessageOwned::Ipv4PacketInfo(info)) = got.cmsgs().expect("whole").next() else { return };
            let from = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: info.ipi_addr, ipi_addr: libc::in_addr { s_addr: 0 } };
            let iov = [io::IoSlice::new(name.as_bytes())];
            let control = [ControlMessage::Ipv4PacketInfo(&from)];
            sendmsg(socket.as_raw_fd(), &iov, &control, MsgFlags::empty(), got.address.as_ref()).expect("sends");
        }
    });
}
