//! Network namespaces, held by descriptors and by nothing else: no bind mount, no name under /run/netns, so none outlives its processes.

use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// A handle on a namespace; clones share the descriptor.
#[derive(Debug, Clone)]
pub(crate) struct NetNs(Arc<OwnedFd>);

impl NetNs {
    /// A new namespace with `lo` up.
    pub(crate) fn create() -> Result<Self> {
        let fd = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare a network namespace")?;
            Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
        })?;
        let netns = Self(Arc::new(fd));
        netns.ip("link set lo up\n")?;
        Ok(netns)
    }

    /// An existing one, by any of its names.
    pub(crate) fn open(path: &str) -> Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("open the namespace {path}"))?;
        Ok(Self(Arc::new(file.into())))
    }

    /// Opens from any process of this machine while the stand-in runs.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `work` on a thread of its own inside the namespace. What it opens stays there: sockets can be handed to tokio.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_thread(|| {
            setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).context("enter a network namespace")?;
            work()
        })
    }

    /// `ip -batch`, inside.
    pub(crate) fn ip(&self, batch: &str) -> Result<()> {
        self.feed("ip", &["-batch", "-"], "iproute2", batch)
    }

    /// `nft -f`, inside: all of the text or nothing of it.
    pub(crate) fn nft(&self, text: &str) -> Result<()> {
        self.feed("nft", &["-f", "-"], "nftables", text)
    }

    fn feed(&self, program: &str, arguments: &[&str], package: &str, text: &str) -> Result<()> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        self.enter_on_exec(&mut command);
        let mut child = command.spawn().with_context(|| format!("run {program} ({package})"))?;
        child.stdin.take().context("stdin")?.write_all(text.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("{program} {} failed: {}\n{text}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Lets `command` start inside.
    pub(crate) fn enter_on_exec(&self, command: &mut Command) {
        let fd = Arc::clone(&self.0);
        // SAFETY: setns is a bare system call; the descriptor is kept open by the closure.
        unsafe {
            command.pre_exec(move || setns(fd.as_fd(), CloneFlags::CLONE_NEWNET).map_err(Into::into));
        }
    }

    pub(crate) fn tcp_listener(&self, address: SocketAddr) -> Result<tokio::net::TcpListener> {
        let listener = self.run(|| std::net::TcpListener::bind(address).with_context(|| format!("listen on {address}")))?;
        listener.set_nonblocking(true)?;
        Ok(tokio::net::TcpListener::from_std(listener)?)
    }

    pub(crate) fn udp_socket(&self, address: SocketAddr) -> Result<tokio::net::UdpSocket> {
        let socket = self.run(|| std::net::UdpSocket::bind(address).with_context(|| format!("bind {address}")))?;
        socket.set_nonblocking(true)?;
        Ok(tokio::net::UdpSocket::from_std(socket)?)
    }

    /// A TCP connection made from inside.
    pub(crate) async fn connect(&self, address: SocketAddr) -> Result<tokio::net::TcpStream> {
        let new = move || {
            let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
            Ok(socket?)
        };
        let netns = self.clone();
        let socket = tokio::task::spawn_blocking(move || netns.run(new)).await??;
        Ok(socket.connect(address).await?)
    }
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join().map_err(|_panic| anyhow!("a namespace thread panicked"))?)
}
