//! The real binary with everything around it: a control plane over TLS, a Mesos runtime directory, a proxy's end of the broker.

use super::control::{Control, TOKEN};
use super::{Node, Pair, at};
use mesh_common::broker::{Listener, Role, ToAgent, ToProxy, VERSION, decode, encode};
use mesh_xds::agent as wire;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const PROXY_UID: u32 = 65_534;
pub const NODE: &str = "192.0.2.11";

/// Only tests have one: `examples/kernel`, which shares this harness, has no use for it.
pub const AGENT: Option<&str> = option_env!("CARGO_BIN_EXE_mesh-agent");

/// Everything around one agent.
pub struct Scene {
    agent: Option<Child>,
    tasks: Vec<Child>,
    pub control: Control,
    /// URL of a Mesos agent.
    pub mesos: Option<String>,
    dir: tempfile::TempDir,
    pub pair: Pair,
    pub node: Node,
}

impl Scene {
    pub fn new() -> Self {
        let (node, pair, control) = (Node::new(), Pair::new(), Control::new());
        let dir = tempfile::tempdir().expect("a directory");
        // The proxy's user must get to its socket.
        fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
        fs::write(dir.path().join("ca.crt"), &control.ca_pem).expect("written");
        fs::write(dir.path().join("token"), format!("{TOKEN}\n")).expect("written");
        Self { agent: None, tasks: Vec::new(), control, mesos: None, dir, pair, node }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn start(&mut self, more: &[&str]) {
        self.agent = Some(self.command(&[]).args(more).spawn().expect("starts"));
    }

    /// An agent, run by another command if one is named.
    pub fn command(&self, by: &[&str]) -> Command {
        let all = [by, &[AGENT.expect("cargo names it to tests, of which this is one")]].concat();
        let mut command = Command::new(all[0]);
        command.args(&all[1..]).arg("run").args(["--node-address", NODE, "--control", &self.control.endpoint]);
        // Nobody listens on the discard port: a test that wants a Mesos agent names its own.
        command.args(["--mesos-agent", self.mesos.as_deref().unwrap_or("http://127.0.0.1:9")]);
        for (flag, path) in [
            ("--token-file", self.path("token")),
            ("--ca-file", self.path("ca.crt")),
            ("--cgroup-root", self.node.cgroup.clone()),
            ("--bpffs", self.node.bpffs.clone()),
            ("--mesos-runtime-dir", self.path("mesos")),
            ("--socket", self.path("agent.sock")),
            ("--admin-socket", self.path("admin.sock")),
            ("--cni-socket", self.path("cni.sock")),
            ("--bypass-file", self.path("bypass")),
        ] {
            command.arg(flag).arg(path);
        }
        let log = fs::File::options().create(true).append(true).open(self.path("agent.log")).expect("a log");
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stderr(log);
        command
    }

    /// Ends the agent with this signal and returns its exit status.
    pub fn stop(&mut self, signal: nix::sys::signal::Signal) -> std::process::ExitStatus {
        let mut agent = self.agent.take().expect("runs");
        let pid = nix::unistd::Pid::from_raw(agent.id().cast_signed());
        nix::sys::signal::kill(pid, signal).expect("still there");
        agent.wait().expect("waited for")
    }

    /// As Mesos does: a process in the pod's namespace, its number in the runtime directory.
    pub fn run_container(&mut self, id: &str) {
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

    pub fn get(&self, path: &str) -> (u16, String) {
        let Ok(mut stream) = UnixStream::connect(self.path("admin.sock")) else { return (0, String::new()) };
        write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n").expect("sent");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        let status = text.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
        (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    /// What all agents of this scene have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    pub fn wait_ready(&self) {
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

    pub fn broker(&self, uid: u32) -> Proxy {
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

    pub fn workload(&self) -> wire::Workload {
        wire::Workload {
            id: "a.instance-1".to_owned(),
            app: "/a".to_owned(),
            namespace: "default".to_owned(),
            node: NODE.to_owned(),
            addresses: vec!["9.0.1.2".to_owned()],
            labels: [("version".to_owned(), "v1".to_owned())].into(),
            enrol: true,
            host_network: false,
            inbound_ports: Vec::new(),
            outbound_policy: None,
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        for mut child in self.agent.take().into_iter().chain(self.tasks.drain(..)) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn service(name: &str, vip: &str, mode: wire::Mode, backend: &str) -> wire::Service {
    let to = at(backend);
    let backend = wire::Backend { address: to.ip().to_string(), port: to.port().into(), weight: 1, ..wire::Backend::default() };
    let port =
        wire::ServicePort { port: 80, transport: 0, mode: mode.into(), backends: vec![backend], ..wire::ServicePort::default() };
    wire::Service { name: name.to_owned(), names: vec![name.to_owned()], addresses: vec![vip.to_owned()], ports: vec![port] }
}

/// The proxy's end of the broker.
pub struct Proxy(Socket);

impl Proxy {
    pub fn say(&self, message: &ToAgent) {
        self.raw(&encode(message).expect("fits"));
    }

    pub fn raw(&self, bytes: &[u8]) {
        self.0.send(bytes).expect("sent");
    }

    pub fn hello(&self, role: Role) {
        self.say(&ToAgent::Hello { version: VERSION, role });
    }

    /// The next message; `None` if the agent has closed.
    pub fn hear(&self) -> Option<(ToProxy, Vec<OwnedFd>)> {
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

    pub fn pod(&self) -> (u32, mesh_common::broker::Workload, Vec<(Listener, OwnedFd)>) {
        match self.hear() {
            Some((ToProxy::Pod { slot, workload, listeners }, fds)) => {
                assert_eq!(listeners.len(), fds.len());
                (slot, workload, listeners.into_iter().zip(fds).collect())
            }
            other => panic!("{other:?}"),
        }
    }
}
