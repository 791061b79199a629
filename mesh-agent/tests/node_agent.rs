//! The real binary on a node in miniature: a control plane over TLS, a Mesos runtime directory, a proxy's end of the broker.

mod common;

use common::control::{Control, TOKEN};
use common::{Node, Pair, answer, ask, at};
use mesh_common::broker::{Family, Listener, Role, ToAgent, ToProxy, VERSION, decode, encode};
use mesh_xds::agent as wire;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROXY_UID: u32 = 65_534;
const NODE: &str = "192.0.2.11";

/// Everything around one agent.
struct Scene {
    agent: Option<Child>,
    tasks: Vec<Child>,
    control: Control,
    dir: tempfile::TempDir,
    pair: Pair,
    node: Node,
}

impl Scene {
    fn new() -> Self {
        let (node, pair, control) = (Node::new(), Pair::new(), Control::new());
        let dir = tempfile::tempdir().expect("a directory");
        // The proxy's user must get to its socket.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
        fs::write(dir.path().join("ca.crt"), &control.ca_pem).expect("written");
        fs::write(dir.path().join("token"), format!("{TOKEN}\n")).expect("written");
        Self { agent: None, tasks: Vec::new(), control, dir, pair, node }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&mut self, more: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-agent"));
        command.arg("run").args(["--node-address", NODE, "--control", &self.control.endpoint]);
        for (flag, path) in [
            ("--token-file", self.path("token")),
            ("--ca-file", self.path("ca.crt")),
            ("--cgroup-root", self.node.cgroup.clone()),
            ("--bpffs", self.node.bpffs.clone()),
            ("--mesos-runtime-dir", self.path("mesos")),
            ("--socket", self.path("agent.sock")),
            ("--admin-socket", self.path("admin.sock")),
        ] {
            command.arg(flag).arg(path);
        }
        let agent = command.args(more).stdin(Stdio::null()).spawn().expect("starts");
        self.agent = Some(agent);
    }

    /// Ends the agent with this signal and returns its exit status.
    fn stop(&mut self, signal: nix::sys::signal::Signal) -> std::process::ExitStatus {
        let mut agent = self.agent.take().expect("runs");
        let pid = nix::unistd::Pid::from_raw(agent.id().cast_signed());
        nix::sys::signal::kill(pid, signal).expect("still there");
        agent.wait().expect("waited for")
    }

    /// As Mesos does: a process in the pod's namespace, its number in the runtime directory.
    fn run_container(&mut self, id: &str) {
        let child = Command::new("ip").args(["netns", "exec", &self.pair.pod.name, "sleep", "1000"]).spawn().expect("starts");
        // Until `ip` has entered the namespace, the process is still in the machine's own.
        let inside = mesh_agent::netns::identity(&PathBuf::from("/run/netns").join(&self.pair.pod.name)).expect("exists");
        let path = PathBuf::from(format!("/proc/{}/ns/net", child.id()));
        wait("the container's process", || mesh_agent::netns::identity(&path).is_ok_and(|id| id == inside));
        let container = self.path("mesos/containers").join(id);
        fs::create_dir_all(&container).expect("made");
        fs::write(container.join("pid"), child.id().to_string()).expect("written");
        self.tasks.push(child);
    }

    fn get(&self, path: &str) -> (u16, String) {
        let Ok(mut stream) = UnixStream::connect(self.path("admin.sock")) else { return (0, String::new()) };
        write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").expect("sent");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        let status = text.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    fn wait_ready(&self) {
        let mut last = (0, String::new());
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            last = self.get("/ready");
            if last.0 == 200 {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("not ready: {last:?}");
    }

    fn broker(&self, uid: u32) -> Proxy {
        let path = self.path("agent.sock");
        let socket = std::thread::spawn(move || {
            // The raw call changes this thread only, and SO_PEERCRED is taken at connect().
            // SAFETY: changes the credentials of a thread that ends right after.
            assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }, 0);
            let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("made");
            socket.connect(&SockAddr::unix(path).expect("short")).expect("connects");
            socket
        });
        let socket = socket.join().expect("connected");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
        Proxy(socket)
    }

    fn workload(&self) -> wire::Workload {
        wire::Workload {
            id: "a.instance-1".to_owned(),
            app: "/a".to_owned(),
            namespace: "default".to_owned(),
            node: NODE.to_owned(),
            addresses: vec!["9.0.1.2".to_owned()],
            labels: [("version".to_owned(), "v1".to_owned())].into(),
            enrol: true,
            host_network: false,
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for mut child in self.agent.take().into_iter().chain(self.tasks.drain(..)) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn service(name: &str, vip: &str, mode: wire::Mode, backend: &str) -> wire::Service {
    let to = at(backend);
    let backend = wire::Backend { address: to.ip().to_string(), port: to.port().into(), weight: 1, workload: String::new() };
    let port = wire::ServicePort { port: 80, transport: 0, mode: mode.into(), protocol: String::new(), backends: vec![backend] };
    wire::Service { name: name.to_owned(), names: vec![name.to_owned()], addresses: vec![vip.to_owned()], ports: vec![port] }
}

/// The proxy's end of the broker.
struct Proxy(Socket);

impl Proxy {
    fn say(&self, message: &ToAgent) {
        self.raw(&encode(message).expect("fits"));
    }

    fn raw(&self, bytes: &[u8]) {
        self.0.send(bytes).expect("sent");
    }

    fn hello(&self, role: Role) {
        self.say(&ToAgent::Hello { version: VERSION, role });
    }

    /// The next message; `None` if the agent has closed.
    fn hear(&self) -> Option<(ToProxy, Vec<OwnedFd>)> {
        let mut buffer = vec![0; 65_536];
        let mut space = nix::cmsg_space!([std::os::fd::RawFd; 64]);
        let mut iov = [IoSliceMut::new(&mut buffer)];
        let got = match recvmsg::<()>(self.0.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(nix::errno::Errno::ECONNRESET) => return None,
            other => other.expect("within five seconds"),
        };
        let mut fds = Vec::new();
        for control in got.cmsgs().expect("whole") {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel has just given us these.
                fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        let length = got.bytes;
        (length > 0).then(|| (decode(&buffer[..length]).expect("a message"), fds))
    }

    fn pod(&self) -> (u32, mesh_common::broker::Workload, Vec<(Listener, OwnedFd)>) {
        match self.hear() {
            Some((ToProxy::Pod { slot, workload, listeners }, fds)) => {
                assert_eq!(listeners.len(), fds.len());
                (slot, workload, listeners.into_iter().zip(fds).collect())
            }
            other => panic!("{other:?}"),
        }
    }
}

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
    for type_url in [wire::MESH, wire::WORKLOAD, wire::SERVICE] {
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
    let dump = Command::new(env!("CARGO_BIN_EXE_mesh-agent")).arg("dump").arg("--bpffs").arg(&scene.node.bpffs).output();
    let dump: serde_json::Value = serde_json::from_slice(&dump.expect("runs").stdout).expect("JSON");
    assert_eq!(dump["pods"][0]["addresses"][0], "9.0.1.2");
    assert_eq!(dump["services"][1]["backends"][0], "9.0.1.1:8080");

    scene.start(&["--detach-on-exit"]);
    scene.wait_ready();
    assert!(scene.stop(SIGTERM).success());
    assert!(!scene.node.bpffs.join("mesh").exists());
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
    let hello = encode(&ToAgent::Hello { version: VERSION, role: Role::Proxy }).expect("fits");
    let old = encode(&ToAgent::Hello { version: VERSION + 1, role: Role::Proxy }).expect("fits");
    for (what, messages) in [
        ("no JSON", vec![b"hello".to_vec()]),
        ("too long", vec![vec![b' '; 70_000]]),
        ("another version", vec![old]),
        ("refill first", vec![refill(1)]),
        ("too many", vec![hello.clone(), refill(33)]),
        ("none", vec![hello.clone(), refill(0)]),
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
    assert!(metrics.contains(r#"mesh_agent_broker_connections_ended_total{reason="Malformed"} 7"#), "{metrics}");
    assert!(metrics.contains(r#"mesh_agent_broker_connections_ended_total{reason="WrongUser"} 1"#), "{metrics}");
}
