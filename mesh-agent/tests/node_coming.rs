//! Workloads on the node's own network, which Mesos knows before Marathon says that they run: in the mesh from then on, and as long as they run.

mod common;

use common::mesos::Mesos;
use common::scene::{NODE, Scene, wait};
use mesh_agent::kernel::Maps;
use mesh_xds::agent as wire;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A container without a network of its own: a cgroup as Mesos makes it, and a process in it.
struct Container {
    cgroup: PathBuf,
    files: PathBuf,
    process: Child,
}

impl Container {
    fn start(scene: &Scene, id: &str) -> Self {
        let cgroup = scene.node.cgroup.join("mesos").join(id);
        fs::create_dir_all(cgroup.join("leaf")).expect("made");
        let process = in_cgroup(&cgroup, Command::new("sleep").arg("1000")).spawn().expect("starts");
        let files = scene.path("mesos/containers").join(id);
        fs::create_dir_all(&files).expect("made");
        fs::write(files.join("pid"), process.id().to_string()).expect("written");
        Self { cgroup, files, process }
    }

    /// Whether the kernel half judges it: what it answers to a connection to the outside world. Only asked of who is known to be in the mesh, so that no packet
    /// leaves this machine.
    fn is_refused(&self) -> bool {
        let mut bash = Command::new("bash");
        let output = in_cgroup(&self.cgroup, bash.args(["-c", "exec 3<>/dev/tcp/203.0.113.5/80"])).output().expect("runs");
        String::from_utf8_lossy(&output.stderr).contains("No route to host")
    }

    fn end(&mut self) {
        let _ = fs::remove_dir_all(&self.files);
        let _ = self.process.kill();
        let _ = self.process.wait();
        for directory in [self.cgroup.join("leaf"), self.cgroup.clone()] {
            // The kernel needs a moment to let go of who was in it.
            wait("an empty cgroup", || !directory.exists() || fs::remove_dir(&directory).is_ok());
        }
        // The last one out.
        let _ = self.cgroup.parent().map(fs::remove_dir);
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return self.end();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir(self.cgroup.join("leaf")).and_then(|()| fs::remove_dir(&self.cgroup));
        let _ = self.cgroup.parent().map(fs::remove_dir);
    }
}

fn in_cgroup<'a>(cgroup: &std::path::Path, command: &'a mut Command) -> &'a mut Command {
    let procs = fs::File::options().write(true).open(cgroup.join("leaf/cgroup.procs")).expect("a cgroup");
    // SAFETY: write is async-signal-safe, and the descriptor is open before the fork.
    unsafe { command.pre_exec(move || Ok(nix::unistd::write(&procs, b"0").map(drop)?)) }
}

/// The slots of workloads on the node's own network.
fn known(scene: &Scene) -> Vec<u32> {
    Maps::pinned(&scene.node.bpffs).expect("pinned").host_pods().expect("readable").into_keys().collect()
}

/// How many workloads the control plane has told of.
fn heard(scene: &Scene) -> u64 {
    let status: serde_json::Value = serde_json::from_str(&scene.get("/status").1).expect("JSON");
    status["resources"]["workloads"].as_u64().expect("a number")
}

fn told(scene: &Scene, enrol: bool) -> wire::Workload {
    let id = "shop_h.instance-1".to_owned();
    wire::Workload {
        id,
        app: "/shop/h".to_owned(),
        node: NODE.to_owned(),
        addresses: Vec::new(),
        host_network: true,
        enrol,
        ..scene.workload()
    }
}

#[test]
fn who_asks_by_its_label_is_governed_before_marathon_has_spoken_of_it() {
    let mesos = Mesos::new();
    let mut scene = Scene::new();
    scene.mesos = Some(mesos.url.clone());
    scene.control.publish("1", &[], &[]);
    scene.start(&[]);
    scene.wait_ready();

    mesos.knows("other", "other.instance-1._app.1", None);
    let other = Container::start(&scene, "other");
    mesos.knows("h1", "shop_h.instance-1._app.1", Some("true"));
    let mut container = Container::start(&scene, "h1");
    wait("the workload", || !known(&scene).is_empty());
    let slots = known(&scene);
    assert_eq!(slots.len(), 1, "the other one does not ask");
    assert!(container.is_refused(), "it is not in force");

    // Marathon speaks of it: the same workload; its word about a namespace counts more than the label.
    scene.control.publish("2", &[told(&scene, true)], &[]);
    wait("the control plane's word", || heard(&scene) == 1);
    assert_eq!(known(&scene), slots, "it has never been out");
    assert!(container.is_refused());
    scene.control.publish("3", &[told(&scene, false)], &[]);
    wait("the workload out", || known(&scene).is_empty());
    scene.control.publish("4", &[told(&scene, true)], &[]);
    wait("the workload in", || !known(&scene).is_empty());

    // Marathon forgets it while it runs: nothing talks around the mesh.
    scene.control.publish("5", &[], &[]);
    wait("the control plane's word", || heard(&scene) == 0);
    assert!(container.is_refused(), "it runs, and it asks");
    mesos.forgets_all();
    container.end();
    wait("the workload gone", || known(&scene).is_empty());
    drop(other);
}

/// Starts to be measured, if `MESH_STARTS` says nothing else.
const STARTS: usize = 20;

/// The time from Mesos' files until the kernel knows a workload on the node's own network. Nothing is asserted of it.
#[test]
fn start_to_governed_is_measured() {
    let mesos = Mesos::new();
    let mut scene = Scene::new();
    scene.mesos = Some(mesos.url.clone());
    scene.control.publish("1", &[], &[]);
    scene.start(&[]);
    scene.wait_ready();
    let starts = std::env::var("MESH_STARTS").map_or(STARTS, |text| text.parse().expect("a number"));
    let mut times = Vec::new();
    for n in 0..starts {
        let id = format!("c{n}");
        mesos.knows(&id, &format!("h.instance-{n}._app.1"), Some("true"));
        let started = Instant::now();
        let container = Container::start(&scene, &id);
        while known(&scene).is_empty() {
            assert!(started.elapsed() < Duration::from_secs(10), "workload {n} is not enrolled");
            std::thread::sleep(Duration::from_millis(1));
        }
        times.push(started.elapsed());
        mesos.forgets_all();
        drop(container);
        wait("the workload gone", || known(&scene).is_empty());
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    println!("start to governed over {starts} starts on the node's own network: p50 {:.1} ms, p99 {:.1} ms", at(50), at(99));
}
