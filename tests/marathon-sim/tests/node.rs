//! Nodes on this machine: two simulated nodes, real namespaces, cgroups and processes. Needs root; without it these tests fail.
//!
//!     cargo test -p marathon-sim --features node --test node

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[path = "node/bridge.rs"]
mod bridge;
#[path = "node/cni.rs"]
mod cni;
#[path = "node/life.rs"]
mod life;
#[path = "node/support.rs"]
mod support;

use support::{SIM, Sim, contains_run, http, machine, processes};

const PYTHON_WEB: &str =
    "exec python3 -c 'import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=9080, bind=\"0.0.0.0\")'";

fn web() -> Value {
    json!({
        "id": "/web", "labels": {"version": "v1"}, "environment": {"FOO": "bar"}, "scaling": {"kind": "fixed", "instances": 2},
        "containers": [
            {"name": "web", "exec": {"command": {"shell": PYTHON_WEB}},
             "endpoints": [{"name": "http-9080", "containerPort": 9080, "hostPort": 0, "protocol": ["tcp"]}]},
            {"name": "side", "user": "nobody", "image": {"kind": "DOCKER", "id": "test/sleeper:1"},
             "exec": {"command": {"argv": ["sleep", "1000"]}}}],
        "networks": [{"name": "dcos", "mode": "container"}]
    })
}

fn agent() -> Value {
    let volume = |path: &str| json!({"hostPath": path, "containerPath": path, "mode": "RW"});
    json!({
        "id": "/mesh/agent", "args": ["1000"], "instances": 2, "constraints": [["hostname", "UNIQUE"]], "networks": [{"mode": "host"}],
        "container": {"type": "DOCKER", "docker": {"image": "test/sleeper", "privileged": true, "parameters": [{"key": "pid", "value": "host"}]},
                      "volumes": [volume("/sys/fs/cgroup"), volume("/sys/fs/bpf"), volume("/var/run/mesos"), volume("/run/mesh"), volume("/etc/mesh")]}
    })
}

fn proxy() -> Value {
    let parameter = |key: &str, value: &str| json!({"key": key, "value": value});
    json!({
        "id": "/mesh/proxy", "cmd": "sleep 1000", "networks": [{"mode": "host"}],
        "container": {"type": "DOCKER", "docker": {"image": "x", "parameters": [
            parameter("user", "65534"), parameter("cap-drop", "ALL"), parameter("security-opt", "no-new-privileges")]}}
    })
}

#[test]
fn two_nodes() {
    let before = machine();
    let sim = Sim::start("two");
    sim.post("/v2/pods", &web());
    sim.post("/v2/apps", &agent());
    sim.post("/v2/apps", &proxy());
    let instances = sim.running(5);
    assert_eq!(machine(), before, "the machine's own network, mounts and directories stay as they were");
    placement(&instances);
    connectivity(&sim, &instances);
    isolation(&sim);
    containers(&sim, &instances);
    privileges(&sim);
    exec(&sim);
    restart(&sim, &instances);
    let run = sim.info["run"].as_str().unwrap().to_owned();
    let state = sim.down();
    assert_eq!(machine(), before);
    assert_eq!(processes(&run), [""; 0], "processes are left");
    for directory in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/bpf"] {
        assert!(!contains_run(Path::new(directory), &run), "{directory}");
    }
    assert!(!state.join("node1").exists() && !state.join("sim.sock").exists());
    std::fs::remove_dir_all(state).unwrap();
}

fn placement(instances: &[Value]) {
    for app in ["/web", "/mesh/agent"] {
        let nodes: BTreeSet<&str> = instances.iter().filter(|i| i["app"] == app).map(|i| i["node"].as_str().unwrap()).collect();
        assert_eq!(nodes.len(), 2, "{app} is on both nodes");
    }
    for instance in instances {
        for container in instance["containers"].as_array().unwrap() {
            let cgroup = container["cgroup"].as_str().unwrap();
            let procs = std::fs::read_to_string(format!("{cgroup}/leaf/cgroup.procs")).unwrap();
            let pid = container["pid"].to_string();
            assert!(procs.lines().any(|line| line == pid), "{container}");
            assert!(cgroup.contains(&format!("/{}/mesos/", instance["node"].as_str().unwrap())));
        }
    }
}

fn address(instances: &[Value], app: &str, node: &str) -> String {
    let found = instances.iter().find(|i| i["app"] == app && i["node"] == node).unwrap();
    found["address"].as_str().unwrap().to_owned()
}

fn connectivity(sim: &Sim, instances: &[Value]) {
    let get = |url: &str| format!("python3 -c 'import urllib.request as u; print(u.urlopen(\"{url}\", timeout=5).status)'");
    let until = Instant::now() + Duration::from_secs(10);
    for node in ["node1", "node2"] {
        let url = format!("http://{}:9080/", address(instances, "/web", node));
        while !sim.client("netns-exec", &[node, "--", "sh", "-c", &get(&url)]).status.success() {
            assert!(Instant::now() < until, "{url} does not come up");
        }
    }
    let id = |node: &str| instances.iter().find(|i| i["app"] == "/web" && i["node"] == node).unwrap()["id"].as_str().unwrap();
    let other = address(instances, "/web", "node2");
    assert_eq!(sim.exec(id("node1"), &get(&format!("http://{other}:9080/"))), "200", "over the overlay");
    let port = &instances.iter().find(|i| i["app"] == "/web").unwrap()["hostPorts"][0]["port"];
    assert_eq!(sim.exec("/mesh/proxy", &get(&format!("http://198.18.0.12:{port}/"))), "200", "by host port");
    let by_name = get("http://web.marathon.containerip.dcos.thisdcos.directory:9080/");
    assert_eq!(sim.exec("/mesh/agent", &by_name), "200", "by name, on the host network");
    assert_eq!(sim.exec("/web", &get("http://leader.mesos:8080/ping")), "200");
    assert!(sim.exec("/web", "getent ahostsv4 httpbin.org").starts_with("203.0.113.20"));
    let missing = sim.client("exec", &["/web", "--", "getent", "hosts", "example.org"]);
    assert!(!missing.status.success(), "nothing else has a name");
    let output = sim.client("netns-exec", &["outside", "--", "sh", "-c", &get(&format!("http://{other}:9080/"))]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "200", "from outside: {output:?}");
    assert_eq!(sim.exec("/web", &get("http://198.18.0.11:5051/containers")), "200", "the Mesos agent");
    // Whatever comes and goes, the instances' gateway stays where their ARP tables say.
    let output = sim.client("netns-exec", &["node2", "--", "ip", "-br", "link", "show", "m-dcos"]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("02:42:09:00:02:01"), "{output:?}");
    let output = sim.client("forward", &["web", "9080"]);
    let forward = String::from_utf8(output.stdout).unwrap();
    assert_eq!(http(forward.trim(), "GET", "/", "").0, 200, "by forward");
}

/// No namespace leads to the machine, and the machine has no address in the simulated networks.
fn isolation(sim: &Sim) {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let output = Command::new("hostname").arg("-I").output().unwrap();
    let own = String::from_utf8(output.stdout).unwrap();
    let addresses: Vec<&str> = own.split_whitespace().filter(|a| !a.contains(':')).chain(["127.0.0.1"]).collect();
    for namespace in ["fabric", "master", "outside", "node1", "node2"] {
        for address in &addresses {
            let script = format!("import socket; socket.create_connection((\"{address}\", {port}), 1)");
            let output = sim.client("netns-exec", &[namespace, "--", "python3", "-c", &script]);
            assert!(!output.status.success(), "{namespace} reaches {address}, which is the machine's");
        }
        let links = sim.client("netns-exec", &[namespace, "--", "ip", "-o", "link"]);
        let links = String::from_utf8(links.stdout).unwrap();
        let known = ["lo", "eth0", "up-", "br-", "m-dcos", "ucr-br0", "v"];
        for link in links.lines().map(|l| l.split(": ").nth(1).unwrap()) {
            assert!(known.iter().any(|k| link.starts_with(k)), "{namespace} has {link}");
        }
    }
    let addresses = Command::new("ip").args(["-o", "addr"]).output().unwrap();
    let addresses = String::from_utf8(addresses.stdout).unwrap();
    for ours in ["198.18.0.1/", "198.18.0.11/", "198.18.0.12/", "9.0.1.", "9.0.2.", "203.0.113.", "198.51.100."] {
        assert!(!addresses.contains(&format!("inet {ours}")), "the machine has {ours}");
    }
}

fn containers(sim: &Sim, instances: &[Value]) {
    for pod in ["/web", "/mesh/agent"] {
        assert!(sim.exec(pod, "cat /etc/resolv.conf").starts_with("nameserver 198.51.100.1"));
        assert!(sim.exec(pod, "cat /proc/self/cgroup").contains("0::/mesos/"), "the node's subtree is the root");
    }
    let env = sim.exec(
        "/web",
        "echo $FOO $MARATHON_APP_ID $MARATHON_APP_LABEL_VERSION $EP_CONTAINER_HTTP_9080; echo $HOST $MESOS_CONTAINER_IP",
    );
    let (first, second) = env.split_once('\n').unwrap();
    assert_eq!(first, "bar /web v1 9080");
    let instance = instances.iter().find(|i| i["app"] == "/web").unwrap();
    assert_eq!(second, format!("{} {}", instance["agent"].as_str().unwrap(), instance["address"].as_str().unwrap()));
    let id = instance["id"].as_str().unwrap();
    let uuid = sim.exec(id, "hostname");
    let agent = instances.iter().find(|i| i["app"] == "/mesh/agent" && i["node"] == instance["node"]).unwrap();
    let agent = agent["id"].as_str().unwrap();
    let pid = sim.exec(agent, &format!("cat /var/run/mesos/containers/*/containers/{uuid}/pid"));
    assert_eq!(pid, instance["containers"][0]["pid"].to_string());
    assert_ne!(sim.exec(agent, "readlink /proc/self/ns/net"), sim.exec(id, "readlink /proc/self/ns/net"));
    assert_eq!(sim.exec(agent, &format!("readlink /proc/{pid}/ns/net")), sim.exec(id, "readlink /proc/self/ns/net"));
    sim.exec(agent, "ls /var/run/mesos/isolators/network/cni/*/dcos/eth0/network.info");
    sim.exec(agent, "touch /etc/mesh/x /run/mesh/y /etc/own && mkdir /sys/fs/cgroup/mine && rmdir /sys/fs/cgroup/mine");
    assert_eq!(sim.exec(agent, "stat -fc %T /sys/fs/bpf /sys/fs/cgroup | xargs"), "bpf_fs cgroup2fs");
    let root = sim.state.join(instance["node"].as_str().unwrap()).join("root");
    assert!(root.join("etc/mesh/x").exists() && root.join("run/mesh/y").exists());
    assert!(!Path::new("/etc/own").exists() && !Path::new("/etc/mesh/x").exists(), "nothing is written to the machine");
}

fn privileges(sim: &Sim) {
    let status = |pod: &str, container: &[&str], key: &str| {
        let mut args = vec![pod];
        args.extend(container);
        args.extend(["--", "grep", key, "/proc/self/status"]);
        let output = sim.client("exec", &args);
        String::from_utf8(output.stdout).unwrap().split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!((status("/mesh/proxy", &[], "CapBnd"), status("/mesh/proxy", &[], "NoNewPrivs")), ("0".repeat(16), "1".into()));
    assert_eq!(status("/mesh/proxy", &[], "^Uid"), "65534");
    let all = std::fs::read_to_string("/proc/self/status").unwrap();
    let all = all.lines().find_map(|l| l.strip_prefix("CapBnd:\t")).unwrap().to_owned();
    assert_eq!(status("/mesh/agent", &[], "CapEff"), all, "privileged keeps everything");
    assert_eq!(status("/web", &["-c", "side"], "CapEff"), "0".repeat(16));
    assert_eq!(sim.exec("/web", "grep CapEff /proc/self/status | cut -f2"), format!("000000000000{DEFAULT_CAPS}"));
    let raw =
        sim.client("exec", &["/web", "--", "sh", "-c", "mount -t tmpfs none /mnt || echo x > /proc/sys/net/ipv4/ip_forward"]);
    assert!(!raw.status.success());
    let processes = sim.instances();
    let side = processes.iter().find(|i| i["app"] == "/web").unwrap()["containers"][1]["pid"].to_string();
    let uid = std::fs::read_to_string(format!("/proc/{side}/status")).unwrap();
    assert!(uid.contains("Uid:\t65534"), "the task itself, not only exec");
}

/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID, NET_BIND_SERVICE, NET_RAW.
const DEFAULT_CAPS: &str = "24db";

fn exec(sim: &Sim) {
    assert_eq!(sim.client("exec", &["web", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    let mut child = Command::new(SIM)
        .args(["exec", "--state"])
        .arg(&sim.state)
        .args(["web", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"through").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"through");
    let missing = sim.client("exec", &["nothing", "--", "true"]);
    let message = String::from_utf8(missing.stderr).unwrap();
    assert!(message.contains("no app, pod or instance nothing; there are: /mesh/agent, /mesh/proxy, /web"), "{message}");
    let logs = sim.client("logs", &["web"]);
    assert!(logs.status.success());
}

fn restart(sim: &Sim, instances: &[Value]) {
    let instance = instances.iter().find(|i| i["app"] == "/web").unwrap();
    let (id, pid) = (&instance["id"], &instance["containers"][0]["pid"]);
    let killed = i32::try_from(pid.as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(killed), nix::sys::signal::Signal::SIGKILL).unwrap();
    let after = sim.wait_for("the killed one runs again", |all| {
        all.iter().any(|i| i["id"] == *id && i["running"] == true && i["containers"][0]["pid"] != *pid)
    });
    let again = after.iter().find(|i| i["id"] == *id).unwrap();
    assert!(again["containers"][0]["task"].as_str().unwrap().ends_with(".web.2"));
    assert_ne!(again["containers"][1]["pid"], instance["containers"][1]["pid"], "the whole pod is restarted");
    assert!(again["lastFailure"].as_str().unwrap().contains("signal 9"));
}

#[test]
fn a_killed_run_is_swept() {
    let mut sim = Sim::start("swept");
    sim.post("/v2/pods", &web());
    sim.running(2);
    let run = sim.info["run"].as_str().unwrap().to_owned();
    assert!(!processes(&run).is_empty());
    sim.child.kill().unwrap();
    sim.child.wait().unwrap();
    let output = Command::new(SIM).arg("sweep").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // Any other run that starts at this moment may have been first, and still be at it.
    let roots = ["/sys/fs/bpf", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
    let left = || !processes(&run).is_empty() || roots.iter().any(|root| contains_run(root, &run));
    let until = Instant::now() + Duration::from_secs(10);
    while left() {
        assert!(Instant::now() < until, "processes {:?} or directories are left", processes(&run));
        std::thread::sleep(Duration::from_millis(20));
    }
    std::fs::remove_dir_all(&sim.state).unwrap();
}

#[test]
fn a_run_ends_with_its_standard_input() {
    let sim = Sim::start("stdin");
    sim.post("/v2/pods", &web());
    sim.running(2);
    let Sim { mut child, _stdin, state, info } = sim;
    drop(_stdin);
    assert!(child.wait().unwrap().success());
    assert_eq!(processes(info["run"].as_str().unwrap()), [""; 0]);
    std::fs::remove_dir_all(state).unwrap();
}
