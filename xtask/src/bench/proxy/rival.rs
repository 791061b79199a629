//! The four proxies and their backends as processes. Each ends with this one, however that ends.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::case::Port;
use super::config::{self, Ports};
use crate::cargo;
use crate::ui::{self, Poll};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rival {
    Haproxy,
    Nginx,
    Envoy,
    Ours,
    /// Another build of ours.
    Other,
}

impl Rival {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy 1.40",
            Self::Ours => "mesh-proxy",
            Self::Other => "mesh-proxy, other build",
        }
    }
}

/// Where they are.
pub(super) struct Programs {
    pub(super) haproxy: PathBuf,
    pub(super) nginx: PathBuf,
    pub(super) envoy: PathBuf,
    pub(super) ours: PathBuf,
}

/// All of them, running.
pub(super) struct Stand {
    dir: PathBuf,
    rivals: Vec<(Rival, Ports, Running)>,
    order: Vec<Rival>,
    _backends: [Running; 2],
}

/// A command that is killed when this process ends, also when nobody is left to do it.
pub(super) fn bound(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("cannot start {}", cargo::spell(command)))?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stand {
    pub(super) fn start(programs: &Programs, other: Option<&Path>) -> Result<Self> {
        let dir = cargo::target().join("bench/proxy");
        std::fs::create_dir_all(&dir)?;
        let [http, grpc] = [free()?, free()?];
        std::fs::write(dir.join("1m"), "x".repeat(1 << 20))?;
        // gRPC's prefix (not compressed, 5 bytes), and the bytes.
        std::fs::write(dir.join("message"), b"\0\0\0\0\x05hello")?;
        let file = |name: &str, text: String| -> Result<PathBuf> {
            let path = dir.join(name);
            std::fs::write(&path, text)?;
            Ok(path)
        };
        let nginx = |config: &Path| {
            let mut command = bound(&programs.nginx);
            command.arg("-p").arg(&dir).arg("-c").arg(config);
            Running::start(&mut command)
        };
        let backends = [
            nginx(&file("backend.conf", config::backend(http, &dir))?)?,
            Running::start(bound(&programs.ours).arg("backend").arg(grpc.to_string()))?,
        ];
        let solo = |program: &Path, ports: &Ports| {
            let mut command = bound(program);
            command.arg("proxy").args(["--one", &ports.one.to_string(), "--many", &ports.many.to_string()]);
            command.args(["--grpc", &ports.grpc.to_string(), "--http-backend", &http.to_string()]);
            Running::start(command.args(["--grpc-backend", &grpc.to_string()]).args(["--routes", &config::MANY.to_string()]))
        };
        let mut rivals = Vec::new();
        for rival in [Rival::Haproxy, Rival::Nginx, Rival::Envoy, Rival::Ours, Rival::Other] {
            let ports = ports(rival == Rival::Nginx)?;
            let running = match rival {
                Rival::Haproxy => {
                    let map = file("haproxy.map", config::haproxy_map())?;
                    let config = file("haproxy.cfg", config::haproxy(&ports, http, grpc, &map))?;
                    Running::start(bound(&programs.haproxy).args(["-db", "-q", "-f"]).arg(config))?
                }
                Rival::Nginx => nginx(&file("nginx.conf", config::nginx(&ports, http, grpc, &dir))?)?,
                Rival::Envoy => {
                    let config = file("envoy.json", config::envoy(&ports, http, grpc).to_string())?;
                    let mut command = bound(&programs.envoy);
                    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"]).arg(config);
                    Running::start(&mut command)?
                }
                Rival::Ours => solo(&programs.ours, &ports)?,
                Rival::Other => match other {
                    Some(program) => solo(program, &ports)?,
                    None => continue,
                },
            };
            rivals.push((rival, ports, running));
        }
        let order = rivals.iter().map(|(rival, ..)| *rival).collect();
        let mut stand = Self { dir, rivals, order, _backends: backends };
        stand.wait()?;
        Ok(stand)
    }

    /// Until each listens everywhere.
    fn wait(&mut self) -> Result<()> {
        ui::wait("waiting for the proxies", Duration::from_secs(30), || {
            for (rival, ports, running) in &mut self.rivals {
                if let Some(status) = running.0.try_wait()? {
                    bail!("{} has ended at once ({status}); what it said is above", rival.name());
                }
                if ports.all().into_iter().any(|address| TcpStream::connect(address).is_err()) {
                    return Ok(Poll::Pending(rival.name().to_owned()));
                }
            }
            Ok(Poll::Ready(()))
        })
    }

    pub(super) fn rivals(&self) -> &[Rival] {
        &self.order
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that gRPC requests post.
    pub(super) fn message(&self) -> PathBuf {
        self.dir.join("message")
    }

    pub(super) fn pid(&self, rival: Rival) -> u32 {
        self.find(rival).2.0.id()
    }

    pub(super) fn address(&self, rival: Rival, port: Port) -> SocketAddr {
        let ports = &self.find(rival).1;
        match port {
            Port::One => ports.one,
            Port::Http2 => ports.http2,
            Port::Many => ports.many,
            Port::Grpc => ports.grpc,
        }
    }

    pub(super) fn url(&self, rival: Rival, port: Port, path: &str) -> String {
        format!("http://{}{path}", self.address(rival, port))
    }

    fn find(&self, rival: Rival) -> &(Rival, Ports, Running) {
        // `rivals` hands out only those that were started.
        self.rivals.iter().find(|(found, ..)| *found == rival).unwrap_or(&self.rivals[0])
    }
}

/// An address that is free now: nothing else on this machine is expected to take it within the second.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?)
}

/// `apart`: HTTP/2 has a port of its own.
fn ports(apart: bool) -> Result<Ports> {
    let one = free()?;
    Ok(Ports { one, http2: if apart { free()? } else { one }, many: free()?, grpc: free()? })
}
