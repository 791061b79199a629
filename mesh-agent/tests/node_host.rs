//! Workloads on the node's own network: told apart by their cgroups, balanced, handed over and policed like pods. Each asks by processes
//! of its own, since a process is in one cgroup at a time.

mod common;

use common::{Node, Ns, answer, answer_udp, at, config, port, refusal, tcp};
use mesh_agent::core::desired::Desired;
use mesh_agent::core::enrol::host::Mark;
use mesh_agent::core::reconcile::reconcile;
use mesh_agent::kernel::Kernel;
use mesh_agent::netns::PodSockets;
use mesh_agent::{cgroup, host};
use mesh_common::abi::{Dest, Pod, mode};
use mesh_common::decide::l4::TCP;
use mesh_common::reason::Reason;
use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const RULED: &str = "11.1.2.3:80";
const RULED6: &str = "[fd01:c::3]:80";
const PLAIN: &str = "11.1.2.4:80";
const OUTSIDE: &str = "203.0.113.5:80";
const SERVER: &str = "9.9.1.1:8080";

/// A node whose own network has a server, an address outside the mesh, and no pods.
struct Host {
    kernel: Kernel,
    ns: Ns,
    workloads: Vec<(u32, PathBuf, PodSockets)>,
    // Last: what hangs on its cgroup and pins goes before it.
    node: Node,
}

fn pod(slot: u32) -> Pod {
    Pod { slot, ..Pod::default() }
}

impl Host {
    fn new() -> Self {
        let (node, ns) = (Node::new(), Ns::new());
        ns.owns(&["192.0.2.11/32", "9.9.1.1/32", "203.0.113.5/32", "fd01:9::1/128"]);
        for server in [SERVER, OUTSIDE] {
            answer(ns.run(|| TcpListener::bind(server).expect("bound")), "server");
        }
        let kernel = node.kernel();
        let host = Self { kernel, ns, workloads: Vec::new(), node };
        let services = [(RULED, mode::PROXY), (RULED6, mode::PROXY), (PLAIN, mode::KERNEL)];
        let desired = Desired {
            config: config(),
            services: services.into_iter().map(|(vip, mode)| (tcp(vip), port(mode, TCP, &[SERVER]))).collect(),
            ..Desired::default()
        };
        let mut maps = host.kernel.maps();
        let ops = reconcile(&desired, &maps.read().expect("readable"));
        maps.write(&ops).expect("written");
        drop(maps);
        host
    }

    /// A container's cgroup as Mesos makes it, two below the root, with the processes one deeper.
    fn cgroup(&self, name: &str) -> PathBuf {
        let container = self.node.cgroup.join("mesos").join(name);
        fs::create_dir_all(container.join("leaf")).expect("made");
        container
    }

    fn mark(&self, container: &Path) -> Mark {
        let level = self.kernel.depth_of(&self.node.cgroup).expect("fires") + 2;
        Mark::Cgroup { id: cgroup::id(container).expect("there"), level }
    }

    fn enrol(&mut self, slot: u32, name: &str) -> PathBuf {
        let container = self.cgroup(name);
        let marks = BTreeSet::from([self.mark(&container)]);
        let opened = host::enrol(&self.kernel, &pod(slot), &marks, &self.ns.handle).unwrap_or_else(|error| panic!("{error}"));
        // What the proxy and the DNS process do with their duplicates.
        answer(TcpListener::from(opened.outbound_v4.try_clone().expect("dup")), &format!("proxy{slot}"));
        answer(TcpListener::from(opened.outbound_v6.as_ref().expect("IPv6").try_clone().expect("dup")), &format!("proxy{slot}"));
        answer(TcpListener::from(opened.dns_tcp.try_clone().expect("dup")), &format!("dns{slot}"));
        answer_udp(UdpSocket::from(opened.dns_udp.try_clone().expect("dup")), &format!("dns{slot}"));
        self.workloads.push((slot, container.clone(), opened));
        container
    }

    /// A process of this container, in its leaf, on the node's own network.
    fn shell(&self, container: &Path, script: &str) -> Result<String, String> {
        let procs = fs::File::options().write(true).open(container.join("leaf/cgroup.procs")).expect("a cgroup");
        let netns = fs::File::open(PathBuf::from("/run/netns").join(&self.ns.name)).expect("a namespace");
        let mut command = Command::new("bash");
        command.args(["-c", script]);
        // SAFETY: write and setns are async-signal-safe; both descriptors are open before the fork.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::write(&procs, b"0")?;
                Ok(nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET)?)
            });
        }
        let output = command.output().expect("runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// What a server says to a process of this container: "name local peer".
    fn ask(&self, container: &Path, to: &str) -> Result<String, String> {
        let to = at(to);
        self.shell(container, &format!("exec 3<>/dev/tcp/{}/{} && timeout 5 cat <&3", to.ip(), to.port()))
    }
}

impl Host {
    /// Makes a socket in a process of this container that has all capabilities.
    fn socket(&self, container: &Path, domain: i32, kind: i32, proto: i32) -> std::io::Result<()> {
        let procs = fs::File::options().write(true).open(container.join("leaf/cgroup.procs")).expect("a cgroup");
        let mut command = Command::new("true");
        // SAFETY: write and socket are async-signal-safe; the descriptor is open before the fork.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::write(&procs, b"0")?;
                if libc::socket(domain, kind, proto) < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
            });
        }
        command.output().map(drop)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let mesos = self.node.cgroup.join("mesos");
        for container in fs::read_dir(&mesos).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(container.path().join("leaf"));
            let _ = fs::remove_dir(container.path());
        }
        let _ = fs::remove_dir(mesos);
    }
}

#[test]
fn workloads_of_one_namespace_are_told_apart_by_their_cgroups() {
    let mut host = Host::new();
    let (a, b) = (host.enrol(3, "a"), host.enrol(1023, "b"));
    let stranger = host.cgroup("stranger");

    // Ruled ports: to the workload's own listener, which sees what was asked for.
    for (container, name) in [(&a, "proxy3"), (&b, "proxy1023")] {
        let said = host.ask(container, RULED).expect("handed over");
        assert!(said.starts_with(&format!("{name} {RULED} 127.0.0.1:")), "{said}");
        let said = host.ask(container, RULED6).expect("handed over");
        assert!(said.starts_with(&format!("{name} {RULED6} [::ffff:127.0.0.1]:")), "{said}");
    }
    // Java connects so.
    let mapped = host.shell(&a, "exec 3<>/dev/tcp/::ffff:11.1.2.3/80 && timeout 5 cat <&3").expect("handed over");
    assert!(mapped.starts_with(&format!("proxy3 {RULED} ")), "{mapped}");
    // Everybody's VIPs, and the ruled port of who is not in the mesh.
    for container in [&a, &b, &stranger] {
        let said = host.ask(container, PLAIN).expect("balanced");
        assert!(said.starts_with(&format!("server {SERVER} ")), "{said}");
    }
    assert!(host.ask(&stranger, RULED).expect("balanced").starts_with("server "));
    // Egress.
    assert!(host.ask(&a, OUTSIDE).expect_err("refused").contains("No route to host"));
    assert!(host.ask(&stranger, OUTSIDE).expect("none of the mesh's business").starts_with("server "));
    // The mesh's listeners are nobody's to dial, whoever owns the address.
    let [x, y, z, w] = mesh_common::abi::host::listener(3, false);
    for (container, who) in [(&stranger, "a stranger"), (&a, "itself"), (&b, "another")] {
        for port in [15_001, 15_053] {
            let refused = host.ask(container, &format!("{x}.{y}.{z}.{w}:{port}")).expect_err(who);
            assert!(refused.contains("Connection refused"), "{who}: {refused}");
        }
    }
}

#[test]
fn dns_of_a_workload_on_the_nodes_network_is_the_meshs() {
    let mut host = Host::new();
    let (a, b) = (host.enrol(0, "a"), host.enrol(1, "b"));
    let stranger = host.cgroup("stranger");
    let resolver = host.ns.run(|| UdpSocket::bind("192.0.2.11:53").expect("bound"));
    answer_plain(resolver);
    let udp = |server: &str| format!("exec 3<>/dev/udp/{server}/53 && echo q >&3 && timeout 5 head -c 4 <&3");
    for server in ["192.0.2.11", "127.0.0.53", "127.0.0.11", "198.51.100.1"] {
        assert_eq!(host.shell(&a, &udp(server)).as_deref(), Ok("dns0"), "{server}");
        assert_eq!(host.shell(&b, &udp(server)).as_deref(), Ok("dns1"), "{server}");
        let said = host.shell(&a, &format!("exec 3<>/dev/tcp/{server}/53 && timeout 5 cat <&3")).expect("handed over");
        assert!(said.starts_with(&format!("dns0 {server}:53 ")), "{said}");
    }
    assert_eq!(host.shell(&stranger, &udp("192.0.2.11")).as_deref(), Ok("real"));
}

#[test]
fn whoever_leaves_is_judged_no_more_and_a_new_agent_finds_the_rest() {
    let mut host = Host::new();
    let (a, b) = (host.enrol(5, "a"), host.enrol(6, "b"));
    host::leave(&host.kernel, 5).expect("left");
    assert!(host.ask(&a, OUTSIDE).expect("outside the mesh").starts_with("server "));
    assert!(host.ask(&a, RULED).expect("balanced").starts_with("server "));
    assert!(host.ask(&b, OUTSIDE).is_err() && host.ask(&b, RULED).expect("handed over").starts_with("proxy6 "));
    let known = host.kernel.maps().host_pods().expect("readable");
    assert_eq!(known.keys().copied().collect::<Vec<_>>(), [6]);

    // The kernel half of an agent that has died goes on, and another one takes over in place: listeners, programs and table.
    host.kernel = host.node.kernel();
    assert!(host.ask(&b, RULED).expect("handed over").starts_with("proxy6 "));
    let opened = {
        let marks = BTreeSet::from([host.mark(&b)]);
        host::enrol(&host.kernel, &pod(6), &marks, &host.ns.handle).unwrap_or_else(|error| panic!("{error}"))
    };
    answer(TcpListener::from(opened.outbound_v4.try_clone().expect("dup")), "second");
    assert!(host.ask(&b, RULED).expect("handed over").starts_with("second "));
    // A proxy that is gone refuses at once.
    host.workloads.clear();
    drop(opened);
    host.kernel.maps().remove_listener(&mesh_common::abi::ListenerKey { slot: 6, kind: 0 }).expect("removed");
    assert!(host.ask(&b, RULED).expect_err("refused").contains("Connection refused"));
    assert!(host.ask(&b, PLAIN).expect("balanced").starts_with("server "));
}

#[test]
fn a_brokered_socket_is_its_workloads_whoever_dials() {
    let mut host = Host::new();
    host.enrol(9, "a");
    // This process is in no workload's cgroup, as the proxy.
    let dial = |host: &Host, to: &str| {
        let made = mesh_agent::netns::sockets::unconnected(mesh_common::broker::Family::V4, 1)?.remove(0);
        host.kernel.maps().tag(&made, 9).map_err(std::io::Error::other)?;
        let socket = socket2::Socket::from(made);
        socket.set_nonblocking(false)?;
        socket.connect(&at(to).into())?;
        let mut text = String::new();
        std::io::Read::read_to_string(&mut std::net::TcpStream::from(socket), &mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    // Past the hand-over, never past the verdict.
    assert!(host.ns.run(|| dial(&host, RULED)).expect("balanced").starts_with("server "));
    assert_eq!(host.ns.run(|| dial(&host, OUTSIDE)).expect_err("refused").raw_os_error(), Some(libc::EHOSTUNREACH));
    // The backend itself, at an address that it shares with others.
    assert!(host.ns.run(|| dial(&host, SERVER)).expect("a backend").starts_with("server "));
    host::leave(&host.kernel, 9).expect("left");
    assert!(host.ns.run(|| dial(&host, SERVER)).is_err(), "its tag is nobody's any more");
}

/// A net_cls hierarchy of cgroup v1 beside cgroup2, as on Mesos 1.x' hybrid hosts.
struct NetCls {
    path: PathBuf,
    /// Where this test has mounted it, because nobody else had.
    own: Option<tempfile::TempDir>,
}

impl NetCls {
    fn mount() -> Self {
        let mounts = fs::read_to_string("/proc/mounts").expect("readable");
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let has =
            |f: &Vec<&str>| matches!(f.as_slice(), [_, _, "cgroup", options, ..] if options.split(',').any(|o| o == "net_cls"));
        if let Some(there) = fields.into_iter().find(has) {
            return Self { path: PathBuf::from(there[1]), own: None };
        }
        let own = tempfile::tempdir().expect("a directory");
        common::sh("mount", &["-t", "cgroup", "-o", "net_cls", "none", &own.path().to_string_lossy()]);
        Self { path: own.path().to_owned(), own: Some(own) }
    }

    fn class(&self, name: &str, id: u32) -> PathBuf {
        let directory = self.path.join(format!("mesh-{}-{name}", std::process::id()));
        fs::create_dir(&directory).expect("made");
        fs::write(directory.join("net_cls.classid"), id.to_string()).expect("written");
        directory
    }
}

impl Drop for NetCls {
    fn drop(&mut self) {
        let own = format!("mesh-{}-", std::process::id());
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own)) {
            common::wait_gone(&entry.path());
        }
        if self.own.is_some() {
            common::sh("umount", &[&self.path.to_string_lossy()]);
        }
    }
}

#[test]
fn where_cgroups_are_shared_the_class_id_tells_workloads_apart() {
    let classes = NetCls::mount();
    assert!(cgroup::has_classes());
    let mut host = Host::new();
    // As on a Mesos 1.x host: one cgroup2 for everybody, a class id for each container.
    let shared = host.cgroup("shared");
    let (a, b) = (classes.class("a", 0x0010_0001), classes.class("b", 0x0010_0002));
    let opened = host::enrol(&host.kernel, &pod(4), &BTreeSet::from([Mark::Class(0x0010_0001)]), &host.ns.handle);
    let opened = opened.unwrap_or_else(|error| panic!("{error}"));
    answer(TcpListener::from(opened.outbound_v4.try_clone().expect("dup")), "proxy4");
    let ask = |class: &Path, to: &str| {
        let enter = format!("echo $$ > {}/cgroup.procs && ", class.display());
        let to = at(to);
        host.shell(&shared, &format!("{enter} exec 3<>/dev/tcp/{}/{} && timeout 5 cat <&3", to.ip(), to.port()))
    };
    assert!(ask(&a, RULED).expect("handed over").starts_with(&format!("proxy4 {RULED} ")));
    assert!(ask(&a, OUTSIDE).expect_err("refused").contains("No route to host"));
    assert!(ask(&b, RULED).expect("balanced").starts_with("server "));
    assert!(ask(&b, OUTSIDE).expect("not in the mesh").starts_with("server "));
    host.workloads.push((4, shared.clone(), opened));
}

/// The node's own resolver.
fn answer_plain(socket: UdpSocket) {
    socket.set_nonblocking(false).expect("blocking");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(b"real", from);
        }
    });
}

#[test]
fn workloads_of_the_nodes_network_make_no_raw_sockets_and_others_do() {
    let mut host = Host::new();
    let (a, stranger) = (host.enrol(3, "a"), host.cgroup("stranger"));
    let mut events = host.kernel.events().expect("events");
    for (domain, proto) in
        [(libc::AF_INET, libc::IPPROTO_ICMP), (libc::AF_INET6, libc::IPPROTO_ICMPV6), (libc::AF_INET, libc::IPPROTO_RAW)]
    {
        let error = host.socket(&a, domain, libc::SOCK_RAW, proto).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
        let dest = Dest { proto: proto as u8, ..Dest::default() };
        assert_eq!(refusal(&mut events, dest).map(|(reason, slot, _)| (reason, slot)), Some((Reason::Bypass, 3)));
        host.socket(&stranger, domain, libc::SOCK_RAW, proto).expect("not in the mesh");
    }
    host.socket(&a, libc::AF_INET, libc::SOCK_STREAM, 0).expect("what others use");
    host.socket(&a, libc::AF_INET6, libc::SOCK_DGRAM, 0).expect("what others use");
}
