//! A run to test against, and what is looked at on the machine.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub(crate) const SIM: &str = env!("CARGO_BIN_EXE_marathon-sim");

/// A run; dies with its standard input if the test does not end it.
pub(crate) struct Sim {
    pub(crate) child: Child,
    pub(crate) _stdin: ChildStdin,
    pub(crate) state: PathBuf,
    pub(crate) info: Value,
}

impl Sim {
    pub(crate) fn start(name: &str) -> Self {
        let state = std::env::temp_dir().join(format!("marathon-sim-test-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&state).unwrap();
        let images = state.join("images.json");
        std::fs::write(&images, json!({"test/sleeper": ["/bin/sleep"]}).to_string()).unwrap();
        let mut child = Command::new(SIM)
            .args(["run", "--nodes", "2", "--die-with-stdin", "--outside-name", "httpbin.org=203.0.113.20", "--state"])
            .arg(&state)
            .arg("--images")
            .arg(&images)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let info = serde_json::from_str(&line).expect("`run` starts only as root, and then says that it is ready");
        Self { _stdin: child.stdin.take().unwrap(), child, state, info }
    }

    pub(crate) fn client(&self, verb: &str, args: &[&str]) -> Output {
        Command::new(SIM).arg(verb).arg("--state").arg(&self.state).args(args).output().unwrap()
    }

    pub(crate) fn exec(&self, pod: &str, script: &str) -> String {
        let output = self.client("exec", &[pod, "--", "sh", "-c", script]);
        assert!(output.status.success(), "{pod}: {script}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn instances(&self) -> Vec<Value> {
        let output = self.client("instances", &["--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) {
        let (status, answer) = http(self.info["marathon"].as_str().unwrap(), "POST", path, &body.to_string());
        assert_eq!(status, 201, "{answer}");
    }

    /// The answer's body; `method` may be GET, PUT, POST, DELETE.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = http(self.info["marathon"].as_str().unwrap(), method, path, &body);
        assert!((200..300).contains(&status), "{method} {path}: {answer}");
        answer.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok()).unwrap_or(Value::Null)
    }

    /// Everything that /v2/events says from now on, with the time of arrival.
    pub(crate) fn listen(&self) -> Events {
        let mut stream = TcpStream::connect(self.info["marathon"].as_str().unwrap().trim_start_matches("http://")).unwrap();
        stream.write_all(b"GET /v2/events HTTP/1.1\r\nhost: m\r\naccept: text/event-stream\r\n\r\n").unwrap();
        let (events, attached) = (Events::default(), std::sync::mpsc::channel());
        let sink = events.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                if let Some(data) = line.strip_prefix("data: ") {
                    sink.0.lock().unwrap().push((Instant::now(), serde_json::from_str(data).unwrap()));
                    let _ = attached.0.send(());
                }
            }
        });
        attached.1.recv_timeout(Duration::from_secs(5)).unwrap();
        events
    }

    pub(crate) fn wait_for(&self, what: &str, done: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let instances = self.instances();
            if done(&instances) {
                return instances;
            }
            assert!(Instant::now() < until, "{what}: {instances:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn running(&self, count: usize) -> Vec<Value> {
        self.wait_for("all run", |all| all.iter().filter(|i| i["running"] == true).count() == count)
    }

    pub(crate) fn down(mut self) -> PathBuf {
        let output = self.client("down", &[]);
        assert!(output.status.success(), "{output:?}");
        assert!(self.child.wait().unwrap().success());
        self.state.clone()
    }
}

#[derive(Clone, Default)]
pub(crate) struct Events(std::sync::Arc<std::sync::Mutex<Vec<(Instant, Value)>>>);

impl Events {
    /// The first that fits, with its place in the order.
    pub(crate) fn find(&self, what: &str, fits: impl Fn(&Value) -> bool) -> (usize, Instant) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let found = self.0.lock().unwrap().iter().enumerate().find(|(_, (_, e))| fits(e)).map(|(n, (at, _))| (n, *at));
            if let Some(found) = found {
                return found;
            }
            assert!(Instant::now() < until, "{what}: {:#?}", self.0.lock().unwrap());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

pub(crate) fn http(base: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(base.trim_start_matches("http://")).unwrap();
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: m\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

/// What must be as before: mounts, interfaces and addresses, cgroups, bpffs.
pub(crate) fn machine() -> Vec<BTreeSet<String>> {
    let output = Command::new("ip").args(["-o", "addr"]).output().unwrap();
    let lines = |text: String| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let names = |path: &str| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect::<BTreeSet<_>>()
    };
    let addresses = String::from_utf8(output.stdout).unwrap();
    let addresses = addresses.lines().map(|l| l.split(" scope").next().unwrap().to_owned()).collect();
    vec![
        lines(std::fs::read_to_string("/proc/self/mountinfo").unwrap()),
        addresses,
        names("/run/netns"),
        names("/etc/mesh"),
        names("/run/mesh"),
    ]
}

pub(crate) fn contains_run(directory: &Path, run: &str) -> bool {
    std::fs::read_dir(directory).into_iter().flatten().flatten().any(|e| e.file_name().to_string_lossy().starts_with(run))
}

/// Processes that live in a cgroup of the run; who is dead, and waits for its parent to ask, does not count.
pub(crate) fn processes(run: &str) -> Vec<String> {
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|e| e.path());
    let of = |path: &PathBuf| std::fs::read_to_string(path.join("cgroup")).is_ok_and(|c| c.contains(run));
    let zombie = |path: &PathBuf| std::fs::read_to_string(path.join("stat")).is_ok_and(|s| s.contains(") Z "));
    all.filter(of).filter(|path| !zombie(path)).map(|p| p.display().to_string()).collect()
}
