//! One running mesh: two simulated nodes, the control plane, bookinfo, and hands to reach into each.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// From `xtask bookinfo` to a ready mesh, with binaries built: measured at well under 30 s; the rest is for a busy machine.
const START_LIMIT: Duration = Duration::from_secs(240);

/// The mesh of one test run.
pub struct World {
    /// Where the stand-in keeps everything.
    pub state: PathBuf,
    /// The product page as a person would open it.
    pub page: String,
    /// For kubectl.
    pub kubeconfig: PathBuf,
    /// `host:port` of Marathon's API.
    pub marathon: String,
    /// Zipkin's page, if it was posted.
    pub zipkin: Option<String>,
    binaries: PathBuf,
    command: Child,
}

impl World {
    /// Runs the newcomer's command and waits until it says where the product page is.
    ///
    /// # Errors
    /// With the command's own words if it fails.
    pub fn start(options: &[&str]) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "these tests need root: namespaces, cgroups and eBPF");
        let state = PathBuf::from(format!("/run/mesh-tests-{}", std::process::id()));
        let log = std::env::temp_dir().join(format!("mesh-tests-{}.log", std::process::id()));
        let output = std::fs::File::create(&log)?;
        let mut command = Command::new(tool("xtask")?);
        command.args(["bookinfo", "--state"]).arg(&state).args(options).current_dir(root());
        command.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output);
        // SAFETY: prctl is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)?));
        }
        let mut command = command.spawn().context("starting xtask bookinfo")?;
        let session = crate::eventually("xtask bookinfo", START_LIMIT, || {
            // An end is an answer too, and the last one.
            if let Some(status) = command.try_wait()? {
                return Ok(Err(anyhow::anyhow!("xtask bookinfo ended with {status}")));
            }
            let session: Value = serde_json::from_slice(&std::fs::read(state.join("session.json"))?)?;
            Ok(Ok(session))
        })
        .flatten();
        let text =
            |session: &Value, field: &str| Ok::<_, anyhow::Error>(session[field].as_str().context(field.to_owned())?.to_owned());
        let started = session.and_then(|s| {
            let zipkin = s["zipkin"].as_str().map(str::to_owned);
            Ok((text(&s, "page")?, text(&s, "kubeconfig")?, text(&s, "marathon")?, zipkin))
        });
        let (page, kubeconfig, marathon, zipkin) = match started {
            Ok(started) => started,
            Err(error) => {
                end(&mut command)?;
                bail!("{error:#}; it said:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
            }
        };
        // Where `xtask bookinfo` places its own binaries: pods run as users that may not enter a checkout.
        let binaries = Path::new("/var/cache/mesh").join(state.to_string_lossy().trim_matches('/').replace('/', "-"));
        std::fs::copy(tool("mesh-echo")?, binaries.join("mesh-echo")).context("placing mesh-echo")?;
        std::fs::remove_file(log)?;
        Ok(Self { state, page, kubeconfig: kubeconfig.into(), marathon, zipkin, binaries, command })
    }

    /// Ends the command as Ctrl-C does and waits for it.
    ///
    /// # Errors
    /// If it does not end well.
    pub fn stop(&mut self) -> Result<()> {
        end(&mut self.command)
    }

    /// Runs a command inside a pod.
    ///
    /// # Errors
    /// If it fails; the error holds what it wrote.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        succeed(&self.try_exec(pod, command)?, &format!("{command:?} in {pod}"))
    }

    /// Runs a command inside a pod, whatever comes of it.
    ///
    /// # Errors
    /// If it cannot be started at all.
    pub fn try_exec(&self, pod: &str, command: &[&str]) -> Result<Output> {
        Ok(self.exec_command(pod, command)?.output()?)
    }

    /// The command that runs a command inside a pod, for those who want to start it and go on.
    ///
    /// # Errors
    /// If the stand-in's binary is missing.
    pub fn exec_command(&self, pod: &str, command: &[&str]) -> Result<Command> {
        let mut exec = Command::new(self.binaries.join("marathon-sim"));
        exec.args(["exec", "--state"]).arg(&self.state).args([pod, "--"]).args(command);
        exec.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(exec)
    }

    /// Runs the tests' own client inside a pod and reads its JSON.
    ///
    /// # Errors
    /// If it fails or prints no JSON.
    pub fn echo(&self, pod: &str, arguments: &[&str]) -> Result<Value> {
        let said = self.exec(pod, &[&[self.echo_program().as_str()], arguments].concat())?;
        serde_json::from_str(&said).with_context(|| format!("not JSON: {said:?}"))
    }

    /// The tests' own server and client, at a path that every pod can run.
    #[must_use]
    pub fn echo_program(&self) -> String {
        self.binaries.join("mesh-echo").to_string_lossy().into_owned()
    }

    /// Where the mesh's binaries were placed.
    #[must_use]
    pub fn binaries(&self) -> &Path {
        &self.binaries
    }

    /// GET inside a pod with curl: status and body.
    ///
    /// # Errors
    /// If curl fails.
    pub fn curl(&self, pod: &str, arguments: &[&str]) -> Result<(u16, String)> {
        let said = self.exec(pod, &[&["curl", "-s", "-S", "-m", "20", "-w", "\n%{http_code}"], arguments].concat())?;
        split_status(&said)
    }

    /// GET from this machine with curl, as a browser would.
    ///
    /// # Errors
    /// If curl fails.
    pub fn browse(&self, arguments: &[&str]) -> Result<(u16, String)> {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-S", "-m", "30", "-w", "\n%{http_code}"]).args(arguments);
        split_status(&succeed(&curl.output()?, "curl")?)
    }

    /// kubectl 1.20 against the mesh.
    ///
    /// # Errors
    /// If kubectl fails; the error holds its words.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        succeed(&self.try_kubectl(arguments, "")?, &format!("kubectl {arguments:?}"))
    }

    /// kubectl with text on its standard input, whatever comes of it.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn try_kubectl(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let mut child = self.kubectl_command(arguments)?.stdin(Stdio::piped()).spawn()?;
        child.stdin.take().context("no stdin")?.write_all(input.as_bytes())?;
        Ok(child.wait_with_output()?)
    }

    /// The kubectl command, for those who want to start it and go on.
    ///
    /// # Errors
    /// If there is no kubectl.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Result<Command> {
        let kubectl = std::env::var_os("MESH_KUBECTL").map(PathBuf::from);
        let kubectl = kubectl.unwrap_or_else(|| root().join("target/tools/kubectl-1.20/usr/bin/kubectl"));
        ensure!(kubectl.exists(), "no {}: run the tests by `cargo xtask test`", kubectl.display());
        let mut command = Command::new(kubectl);
        command.args(arguments).current_dir(root()).env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.state);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Deletes every rule, so that the next test starts from none.
    ///
    /// # Errors
    /// If kubectl fails.
    pub fn forget_rules(&self) -> Result<()> {
        self.kubectl(&["delete", "virtualservices,destinationrules", "--all"])?;
        Ok(())
    }

    /// All instances as the stand-in knows them.
    ///
    /// # Errors
    /// If the stand-in does not answer.
    pub fn instances(&self) -> Result<Vec<Value>> {
        let socket = self.state.join("sim.sock");
        let said = unix_get(&socket, "/instances")?;
        let value: Value = serde_json::from_str(&said)?;
        let list = value.as_array().or_else(|| value.get("instances").and_then(Value::as_array));
        Ok(list.context("no list of instances")?.clone())
    }

    /// The instances of one app or pod.
    ///
    /// # Errors
    /// If there is none.
    pub fn instances_of(&self, id: &str) -> Result<Vec<Value>> {
        let text = |v: &Value| ["runSpecId", "run_spec", "app", "runSpec"].iter().find_map(|k| v[*k].as_str().map(str::to_owned));
        let all: Vec<Value> = self.instances()?.into_iter().filter(|v| text(v).as_deref() == Some(id)).collect();
        ensure!(!all.is_empty(), "no instance of {id}");
        Ok(all)
    }

    /// GET on an admin socket of a node's process (`agent`, `proxy`, `dns`, `control`).
    ///
    /// # Errors
    /// If it does not answer with success.
    pub fn admin(&self, node: &str, process: &str, path: &str) -> Result<String> {
        let socket = self.state.join(node).join(format!("root/run/mesh/{process}-admin.sock"));
        unix_get(&socket, path).with_context(|| format!("{process} on {node}"))
    }

    /// Calls Marathon's API.
    ///
    /// # Errors
    /// If Marathon refuses.
    pub fn marathon(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-S", "--fail-with-body", "-X", method, "-H", "content-type: application/json", "--data-binary", body]);
        succeed(&curl.arg(format!("http://{}{path}", self.marathon)).output()?, &format!("{method} {path}"))
    }

    /// Runs a command in one of the simulated network's namespaces (`outside`, `node1`, `fabric`, ...).
    ///
    /// # Errors
    /// If the stand-in's binary is missing.
    pub fn in_namespace(&self, namespace: &str, command: &[&str]) -> Result<Command> {
        let mut exec = Command::new(self.binaries.join("marathon-sim"));
        exec.args(["netns-exec", "--state"]).arg(&self.state).args([namespace, "--"]).args(command);
        exec.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(exec)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            let _ = writeln!(std::io::stderr(), "ending the mesh: {error:#}");
        }
    }
}

/// The process of an instance (of its first container).
///
/// # Errors
/// If it has none now.
pub fn pid_of(instance: &Value) -> Result<i32> {
    let found = instance.get("pids").and_then(|p| p.get(0)).or_else(|| instance.get("pid")).and_then(Value::as_i64);
    let nested = || instance["containers"][0]["pid"].as_i64();
    Ok(i32::try_from(found.or_else(nested).with_context(|| format!("no pid in {instance}"))?)?)
}

/// The repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// A binary of this workspace, beside the test's own.
///
/// # Errors
/// If it was not built.
pub fn tool(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own.parent().and_then(Path::parent).context("a test binary lives in target/PROFILE/deps")?;
    let directory = std::env::var_os("MESH_BIN_DIR").map_or_else(|| beside.to_owned(), PathBuf::from);
    let path = directory.join(name);
    ensure!(path.exists(), "{} is not built: run the tests by `cargo xtask test`", path.display());
    Ok(path)
}

fn unix_get(socket: &Path, path: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // HTTP/1.0: the answer comes in one piece and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("GET {path}: no answer but {answer:?}"))?;
    ensure!(head.split(' ').nth(1).is_some_and(|code| code.starts_with('2')), "GET {path}: {head}\n{body}");
    Ok(body.to_owned())
}

fn succeed(output: &Output, what: &str) -> Result<String> {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{what}: {}\n{out}{err}", output.status);
    Ok(out.into_owned())
}

fn split_status(said: &str) -> Result<(u16, String)> {
    let (body, status) = said.rsplit_once('\n').context("curl said nothing")?;
    Ok((status.trim().parse()?, body.to_owned()))
}

/// As Ctrl-C does; then waits.
fn end(command: &mut Child) -> Result<()> {
    if command.try_wait()?.is_none() {
        let pid = nix::unistd::Pid::from_raw(command.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT)?;
    }
    command.wait()?;
    Ok(())
}
