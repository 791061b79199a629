//! A Marathon on paper, a control plane that reads it, and hands to ask both.

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::eventually;
use mesh_tests::world::tool;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// For whatever must come in the end, on a machine that has much else to do.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// A program that ends with this test, whatever happens.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?));
        }
        Ok(Self(command.spawn().with_context(|| format!("starting {command:?}"))?))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself, which the test will have noticed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The stand-in's API without nodes.
pub(crate) struct Marathon {
    /// `HOST:PORT`.
    pub(crate) address: String,
    dir: TempDir,
    _program: Program,
}

impl Marathon {
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// With heartbeats often enough that tests need not wait long for their absence.
    pub(crate) fn start_with(options: &[&str]) -> Result<Self> {
        let dir = TempDir::new()?;
        let mut command = Command::new(tool("marathon-sim")?);
        command.args(["api", "--heartbeat-ms", "200", "--die-with-stdin", "--state"]).arg(dir.path()).args(options);
        let log = std::fs::File::create(dir.path().join("log"))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut program = Program::start(&mut command)?;
        let mut line = String::new();
        BufReader::new(program.0.stdout.take().context("stdout")?).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).with_context(|| format!("the stand-in said {line:?}"))?;
        let url = ready["marathon"].as_str().context("no address")?;
        Ok(Self { address: url.trim_start_matches("http://").to_owned(), dir, _program: program })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The whole of what is broken from now on.
    pub(crate) fn faults(&self, faults: &Value) -> Result<()> {
        self.admin("POST", "/faults", &faults.to_string()).map(drop)
    }

    /// What was asked since this was called last.
    pub(crate) fn asked(&self) -> Result<Vec<Value>> {
        match self.admin("GET", "/asked", "")? {
            Value::Array(asked) => Ok(asked),
            other => bail!("{other}"),
        }
    }

    /// So many events that say nothing.
    pub(crate) fn flood(&self, count: u32) -> Result<()> {
        self.admin("POST", "/flood", &count.to_string()).map(drop)
    }

    fn admin(&self, method: &str, path: &str, body: &str) -> Result<Value> {
        let stream = UnixStream::connect(self.dir.path().join("sim.sock"))?;
        let answer = ask(stream, method, path, body)?;
        serde_json::from_str(&answer).with_context(|| format!("not JSON: {answer}"))
    }

    /// A request to Marathon's API, as an operator makes it.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Result<String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        ask(TcpStream::connect(&self.address)?, method, path, &body)
    }

    /// An app on the host network with one port, by name of its VIP.
    pub(crate) fn app(&self, name: &str) -> Result<()> {
        self.create(&app(name))
    }

    /// One that was deleted holds its id until its last task has ended.
    pub(crate) fn create(&self, app: &Value) -> Result<()> {
        eventually("Marathon takes the app", SOON, || self.call("POST", "/v2/apps", app).map(drop))
    }
}

/// One instance, one HTTP port, `VIP_0` its name.
pub(crate) fn app(name: &str) -> Value {
    json!({
        "id": format!("/{name}"), "cmd": "serve", "instances": 1,
        "portDefinitions": [{"port": 0, "name": "http", "protocol": "tcp", "labels": {"VIP_0": format!("/{name}:80")}}],
    })
}

fn ask(mut stream: impl Read + Write, method: &str, path: &str, body: &str) -> Result<String> {
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{method} {path}: no answer but {answer:?}"))?;
    ensure!(head.split(' ').nth(1).is_some_and(|code| code.starts_with('2')), "{method} {path}: {head}\n{body}");
    Ok(body.to_owned())
}

/// Ports of control planes of this test program: each has an address of its own in 127.0.0.0/8.
static NEXT: AtomicU8 = AtomicU8::new(1);

/// A loopback address that nobody has.
pub(crate) fn address() -> String {
    let pid = std::process::id();
    format!("127.{}.{}.{}", 16 + pid / 256 % 224, pid % 256, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// mesh-control.
pub(crate) struct Control {
    dir: TempDir,
    pub(crate) address: String,
    options: Vec<String>,
    program: Option<Program>,
}

impl Control {
    /// Reads these URLs; time-outs are short.
    pub(crate) fn start(marathon: &[&str], options: &[&str]) -> Result<Self> {
        let dir = TempDir::new()?;
        let address = address();
        let made = Command::new(tool("mesh-control")?)
            .args(["init", "--san", &address, "--api-server", &format!("https://{address}:32443"), "--out"])
            .arg(dir.path().join("mesh"))
            .output()?;
        ensure!(made.status.success(), "init: {}", String::from_utf8_lossy(&made.stderr));
        let mut all = Vec::new();
        marathon.iter().for_each(|url| all.extend(["--marathon".to_owned(), (*url).to_owned()]));
        all.extend(options.iter().map(|option| (*option).to_owned()));
        let mut control = Self { dir, address, options: all, program: None };
        control.serve()?;
        Ok(control)
    }

    /// Starts it, after [`Self::kill`] with what is on its disk.
    pub(crate) fn serve(&mut self) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log"))?;
        let mut command = Command::new(tool("mesh-control")?);
        command
            .arg("serve")
            .args(["--api-listen", &format!("{}:32443", self.address), "--xds-listen", &format!("{}:32010", self.address)])
            .args([PathBuf::from("--state"), self.path("state"), "--admin-socket".into(), self.path("admin.sock")])
            .args([PathBuf::from("--tls-cert"), self.path("mesh/control/server.crt")])
            .args([PathBuf::from("--tls-key"), self.path("mesh/control/server.key")])
            .args([PathBuf::from("--token-file"), self.path("mesh/control/tokens.csv")])
            .args(&self.options)
            // Unless the options say otherwise.
            .env("MESH_MARATHON_SILENCE", "5s")
            .stderr(log);
        self.program = Some(Program::start(&mut command)?);
        eventually("the admin socket answers", SOON, || self.status().map(drop)).with_context(|| self.log())
    }

    /// Ends it by SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.program = None;
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What it wrote, of all its lives.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn admin(&self, path: &str) -> Result<String> {
        unix(&self.path("admin.sock"), path)
    }

    pub(crate) fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.admin("/status")?)?)
    }

    /// The value of a metric, by the begin of its line.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let text = self.admin("/metrics")?;
        let line = text.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name} in {text}"))?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
    }

    /// `service:port address weight` of every endpoint, by the first part of the service's name.
    pub(crate) fn endpoints(&self) -> Result<Vec<String>> {
        let line = |name: &str, port: &Value, endpoint: &Value| {
            let address = endpoint["address"].as_str().unwrap_or_default();
            format!("{name}:{port} {address} {}", endpoint["weight"])
        };
        self.each_endpoint(line)
    }

    /// What `line` makes of each, with the first part of its service's name and its port.
    pub(crate) fn each_endpoint<T>(&self, line: impl Fn(&str, &Value, &Value) -> T) -> Result<Vec<T>> {
        let status = self.status()?;
        let list = |value: &Value, field: &str| value[field].as_array().cloned().unwrap_or_default();
        let mut all = Vec::new();
        for service in list(&status, "services") {
            let name = service["name"].as_str().unwrap_or_default().split('.').next().unwrap_or_default().to_owned();
            for port in list(&service, "ports") {
                all.extend(list(&port, "endpoints").iter().map(|endpoint| line(&name, &port["port"], endpoint)));
            }
        }
        Ok(all)
    }

    /// Waits until the registry has endpoints of exactly these services with weight, one each.
    pub(crate) fn serves(&self, names: &[&str]) -> Result<()> {
        eventually(&format!("{names:?} are served"), SOON, || {
            let live: Vec<String> = self.endpoints()?.into_iter().filter(|line| !line.ends_with(" 0")).collect();
            let seen: Vec<&str> = live.iter().filter_map(|line| line.split(':').next()).collect();
            ensure!(seen == names, "{live:?}");
            Ok(())
        })
        .with_context(|| self.log())
    }

    /// kubectl; the error holds what it wrote.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let kubectl = std::env::var("MESH_KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        let mut command = Command::new(kubectl);
        command.args(arguments).env("KUBECONFIG", self.path("mesh/kubeconfig")).env("HOME", self.dir.path());
        let output = command.stdin(Stdio::null()).output().context("kubectl is needed: install it or set MESH_KUBECTL")?;
        ensure!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until every rule is held by all that are connected.
    pub(crate) fn everybody_holds_all(&self) -> Result<()> {
        for kind in ["virtualservices", "destinationrules"] {
            self.kubectl(&["wait", "--for=condition=Programmed", "--timeout=60s", kind, "--all"])?;
        }
        Ok(())
    }

    /// Waits until what is said of Marathon holds.
    pub(crate) fn marathon(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(what, SOON, || {
            let status = self.status()?;
            ensure!(holds(&status["marathon"][0]), "{}", status["marathon"]);
            Ok(status["marathon"][0].clone())
        })
        .with_context(|| self.log())
    }
}

fn unix(socket: &Path, path: &str) -> Result<String> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    ask(stream, "GET", path, "")
}
