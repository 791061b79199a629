//! The CNI plugin against the real agent and a Mesos agent's answers: a container is in the mesh before anything runs in it.

mod common;

use common::mesos::Mesos;
use common::scene::{NODE, PROXY_UID, Scene, service, wait};
use common::{Ns, ask, at};
use mesh_agent::kernel::Maps;
use mesh_common::broker::{Role, ToProxy};
use mesh_xds::agent as wire;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// As Mesos calls a plugin.
fn plugin(scene: &Scene, command: &str, container: &str, netns: &Path, conf: &Value) -> Output {
    let mut conf = conf.clone();
    conf["cniVersion"] = json!("0.4.0");
    conf["name"] = json!("dcos");
    conf["agentSocket"] = json!(scene.path("cni.sock"));
    let mut plugin = Command::new(env!("CARGO_BIN_EXE_mesh-agent"));
    plugin
        .arg("cni")
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", container)
        .env("CNI_NETNS", netns)
        .env("CNI_IFNAME", "eth0");
    plugin.env("CNI_PATH", scene.path("plugins")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut plugin = plugin.spawn().expect("starts");
    plugin.stdin.take().expect("piped").write_all(conf.to_string().as_bytes()).expect("written");
    plugin.wait_with_output().expect("ends")
}

fn result(address: &str) -> Value {
    json!({"cniVersion": "0.4.0", "ips": [{"version": "4", "address": format!("{address}/24")}]})
}

fn path_of(ns: &Ns) -> PathBuf {
    Path::new("/run/netns").join(&ns.name)
}

/// The first instruction of a container: a connection to the outside world.
fn first_instruction(ns: &Ns) -> Option<i32> {
    ns.run(|| ask(at("203.0.113.5:80"))).err().and_then(|error| error.raw_os_error())
}

/// The failure that the specification wants on standard output.
fn refused(output: &Output) -> (u64, String) {
    assert!(!output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    (said["code"].as_u64().expect("a code"), said["details"].as_str().expect("details").to_owned())
}

#[test]
fn a_container_is_governed_from_its_first_instruction() {
    let mesos = Mesos::new();
    let mut scene = Scene::new();
    scene.mesos = Some(mesos.url.clone());
    mesos.knows("c1", "instance-shop_a.1", Some("true"));
    let ruled = service("ruled", "11.1.2.3", wire::Mode::Proxy, "9.0.1.1:8080");
    let path = path_of(&scene.pair.pod);
    let conf = json!({"prevResult": result("9.0.1.2")});

    // Without an agent, and with one that knows nothing yet, no container starts; every container can end.
    let (code, why) = refused(&plugin(&scene, "ADD", "c1", &path, &conf));
    assert!(code == 11 && why.contains("cannot be asked"), "{code} {why}");
    assert!(plugin(&scene, "DEL", "c1", Path::new(""), &json!({})).status.success());
    scene.start(&[]);
    wait("the agent", || scene.get("/ready").0 != 0);
    let (code, why) = refused(&plugin(&scene, "ADD", "c1", &path, &conf));
    assert!(code == 11 && why.contains("no first snapshot"), "{code} {why}");

    scene.control.publish("1", &[], std::slice::from_ref(&ruled));
    scene.wait_ready();
    let proxy = scene.broker(PROXY_UID);
    proxy.hello(Role::Proxy);
    assert!(matches!(proxy.hear(), Some((ToProxy::Ready, _))));
    let added = plugin(&scene, "ADD", "c1", &path, &conf);
    assert!(added.status.success(), "{added:?}");
    assert_eq!(first_instruction(&scene.pair.pod), Some(libc::EHOSTUNREACH));
    let handed: Value = serde_json::from_slice(&added.stdout).expect("JSON");
    assert_eq!(handed, conf["prevResult"], "the network is as the plugin before has made it");
    let (_, workload, listeners) = proxy.pod();
    assert_eq!((workload.id.as_str(), workload.app.as_str(), listeners.len()), ("shop_a.instance-1", "/shop/a", 2));
    common::answer(TcpListener::from(listeners.into_iter().next().expect("one").1), "proxy");
    assert!(scene.pair.pod.run(|| ask(at("11.1.2.3:80"))).expect("captured").0.starts_with("proxy "));
    assert!(plugin(&scene, "CHECK", "c1", &path, &conf).status.success());

    // The control plane hears of it, before Mesos has told Marathon an address: the same pod, and described as it says.
    let told = wire::Workload { id: "shop_a.instance-1".to_owned(), app: "/shop/a".to_owned(), ..scene.workload() };
    let early =
        wire::Workload { addresses: Vec::new(), labels: [("version".to_owned(), "v0".to_owned())].into(), ..told.clone() };
    scene.run_container("c1");
    scene.control.publish("2", &[early], std::slice::from_ref(&ruled));
    assert_eq!(proxy.pod().1.labels["version"], "v0");
    assert_eq!(first_instruction(&scene.pair.pod), Some(libc::EHOSTUNREACH));
    scene.control.publish("3", &[told], &[ruled]);
    assert_eq!(proxy.pod().1.labels["version"], "v1");
    assert!(scene.pair.pod.run(|| ask(at("11.1.2.3:80"))).expect("captured").0.starts_with("proxy "));
    assert_eq!(first_instruction(&scene.pair.pod), Some(libc::EHOSTUNREACH));
    fs::remove_dir_all(scene.path("mesos/containers/c1")).expect("removed");
    assert!(plugin(&scene, "DEL", "c1", &path, &json!({})).status.success());
    assert!(matches!(proxy.hear(), Some((ToProxy::PodGone { .. }, _))));
}

#[test]
fn who_does_not_ask_starts_as_ever_and_a_delegate_makes_the_network() {
    let mesos = Mesos::new();
    let mut scene = Scene::new();
    scene.mesos = Some(mesos.url.clone());
    mesos.knows("c1", "a.instance-1._app.1", None);
    mesos.knows("c2", "b.instance-1._app.1", Some("true"));
    scene.control.publish("1", &[], &[]);
    scene.start(&[]);
    scene.wait_ready();
    let path = path_of(&scene.pair.pod);
    assert!(plugin(&scene, "ADD", "c1", &path, &json!({"prevResult": result("9.0.1.2")})).status.success());
    assert_ne!(first_instruction(&scene.pair.pod), Some(libc::EHOSTUNREACH), "none of the mesh's business");
    mesos.knows("alone", "", None);
    assert!(plugin(&scene, "ADD", "alone", &path, &json!({"prevResult": result("9.0.1.2")})).status.success(), "no executor's");
    // What Mesos has not listed yet may well ask for the mesh.
    let (code, why) = refused(&plugin(&scene, "ADD", "unheard", &path, &json!({"prevResult": result("9.0.1.2")})));
    assert!(code == 11 && why.contains("no such container"), "{code} {why}");

    // Mesos has no chains: the plugin that makes the network is called by ours, and its network taken away if ours cannot follow.
    let calls = scene.path("calls");
    fs::create_dir(scene.path("plugins")).expect("made");
    let script = format!(
        "#!/bin/sh\necho $CNI_COMMAND >> {}\ncat > /dev/null\n[ $CNI_COMMAND = ADD ] && echo '{}' || true\n",
        calls.display(),
        result("9.0.1.2")
    );
    let program = scene.path("plugins/maker");
    fs::write(&program, script).expect("written");
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("mode");
    let conf = json!({"delegate": {"type": "maker"}});
    let added = plugin(&scene, "ADD", "c2", &path, &conf);
    assert_eq!(serde_json::from_slice::<Value>(&added.stdout).expect("JSON"), result("9.0.1.2"));
    assert_eq!(first_instruction(&scene.pair.pod), Some(libc::EHOSTUNREACH));
    assert!(plugin(&scene, "DEL", "c2", &path, &conf).status.success());
    let (code, why) = refused(&plugin(&scene, "ADD", "c2", Path::new("/run/netns/nowhere"), &conf));
    assert!(code == 11 && why.contains("CNI_NETNS"), "{code} {why}");
    let said = fs::read_to_string(&calls).expect("written");
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["ADD", "DEL", "ADD", "DEL"]);
    let (_, why) = refused(&plugin(&scene, "ADD", "c2", &path, &json!({"delegate": {"type": "none"}})));
    assert!(why.contains("CNI_PATH"), "{why}");
}

/// Starts to be measured, each way, if `MESH_STARTS` says nothing else: enough to see that it works, not to compare.
const STARTS: usize = 30;

/// The time from a container's start until the kernel knows it, with and without the plugin. Nothing is asserted of the times.
#[test]
fn start_to_enrolled_is_measured() {
    let mesos = Mesos::new();
    let mut scene = Scene::new();
    scene.mesos = Some(mesos.url.clone());
    scene.control.publish("0", &[], &[]);
    scene.start(&[]);
    scene.wait_ready();
    let address = |n: usize| format!("9.1.{}.{}", n / 200, n % 200 + 1);
    let pod = |n: usize| {
        let ns = Ns::new();
        ns.owns(&[&format!("{}/32", address(n))]);
        ns
    };
    let is_known = |ns: &Ns| {
        let cookie = ns.handle.cookie().expect("a cookie");
        move |scene: &Scene| Maps::pinned(&scene.node.bpffs).expect("pinned").pods().expect("readable").contains_key(&cookie)
    };
    let starts = std::env::var("MESH_STARTS").map_or(STARTS, |text| text.parse().expect("a number"));
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for n in 0..starts {
        let ns = pod(n);
        let (container, known) = (format!("c{n}"), is_known(&ns));
        mesos.knows(&container, &format!("cni.instance-{n}._app.1"), Some("true"));
        let started = Instant::now();
        let added = plugin(&scene, "ADD", &container, &path_of(&ns), &json!({"prevResult": result(&address(n))}));
        with.push(started.elapsed());
        assert!(added.status.success() && known(&scene), "{added:?}");
        assert!(plugin(&scene, "DEL", &container, &path_of(&ns), &json!({})).status.success());
        mesos.forgets_all();
    }
    for n in 0..starts {
        let ns = pod(n);
        let known = is_known(&ns);
        let mut task = Running(Command::new("ip").args(["netns", "exec", &ns.name, "sleep", "1000"]).spawn().expect("starts"));
        let inside = mesh_agent::netns::identity(&path_of(&ns)).expect("exists");
        let proc = PathBuf::from(format!("/proc/{}/ns/net", task.0.id()));
        wait("the process", || mesh_agent::netns::identity(&proc).is_ok_and(|id| id == inside));
        let started = Instant::now();
        // What Mesos writes, and what Marathon tells a moment later.
        let directory = scene.path("mesos/containers").join(format!("c{n}"));
        fs::create_dir_all(&directory).expect("made");
        fs::write(directory.join("pid"), task.0.id().to_string()).expect("written");
        let told = wire::Workload {
            id: format!("file.instance-{n}"),
            node: NODE.to_owned(),
            addresses: vec![address(n)],
            ..scene.workload()
        };
        scene.control.publish(&format!("p{n}"), &[told], &[]);
        while !known(&scene) {
            assert!(started.elapsed() < Duration::from_secs(10), "pod {n} is not enrolled");
            std::thread::sleep(Duration::from_millis(1));
        }
        without.push(started.elapsed());
        fs::remove_dir_all(directory).expect("removed");
        let _ = task.0.kill();
    }
    for (how, mut times) in [("with the CNI plugin, before its first instruction", with), ("found by Mesos' files", without)] {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
        println!("start to enrolled over {starts} starts, {how}: p50 {:.1} ms, p99 {:.1} ms", at(50), at(99));
    }
}

/// Ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
