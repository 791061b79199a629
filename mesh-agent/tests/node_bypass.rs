//! `mesh-agent bypass` and `uninstall`: out of the way with and without an agent, and back.

mod common;

use common::scene::{Scene, service, wait};
use common::{answer, ask, at};
use mesh_common::reason::Reason;
use mesh_xds::agent as wire;
use nix::sys::signal::Signal::SIGTERM;
use std::net::TcpListener;
use std::process::{Command, Output};

const BACKEND: &str = "9.0.1.1:8080";
/// Behind no VIP.
const DENIED: &str = "9.0.1.1:8081";
const VIP: &str = "11.1.2.3:80";

fn reach(scene: &Scene, to: &str) -> Result<(), Option<i32>> {
    scene.pair.pod.run(|| ask(at(to))).map(drop).map_err(|error| error.raw_os_error())
}

fn command(scene: &Scene, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-agent"));
    command.args(words).arg("--bpffs").arg(&scene.node.bpffs).arg("--admin-socket").arg(scene.path("admin.sock"));
    match words[0] {
        "bypass" => command.arg("--bypass-file").arg(scene.path("bypass")),
        _ => command.arg("--mesos-runtime-dir").arg(scene.path("mesos")),
    };
    command.output().expect("runs")
}

/// Policy rules by which marked sockets are captured, in the pod's namespace.
fn capture_rules(scene: &Scene) -> usize {
    let pod = scene.pair.pod.name.as_str();
    let rules = |family| Command::new("ip").args(["-n", pod, family, "rule"]).output().expect("runs").stdout;
    let text = [rules("-4"), rules("-6")].concat();
    String::from_utf8_lossy(&text).lines().filter(|line| line.contains("0x1d5")).count()
}

#[test]
fn one_command_takes_a_pod_out_of_the_mesh_and_it_stays_out() {
    let mut scene = Scene::new();
    scene.run_container("c1");
    for address in [BACKEND, DENIED] {
        answer(scene.pair.world.run(|| TcpListener::bind(address).expect("bound")), "backend");
    }
    let plain = service("plain", "11.1.2.3", wire::Mode::Kernel, BACKEND);
    scene.control.publish("1", &[scene.workload()], &[plain]);
    scene.start(&[]);
    scene.wait_ready();
    let denied = Err(Some(Reason::EgressDenied.errno()));
    assert_eq!((reach(&scene, DENIED), reach(&scene, VIP)), (denied, Ok(())));

    assert!(!command(&scene, &["bypass", "/nobody"]).status.success(), "who is not there is no pod");
    let done = command(&scene, &["bypass", "/a"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!((reach(&scene, DENIED), reach(&scene, VIP)), (Ok(()), Ok(())), "no policy, and VIPs go on");
    wait("metrics to say so", || scene.get("/metrics").1.contains("mesh_agent_pods_bypassed 1"));
    let status: serde_json::Value = serde_json::from_str(&scene.get("/status").1).expect("JSON");
    assert_eq!((&status["bypassed"][0], &status["wanted"]), (&"a.instance-1".into(), &0.into()));
    assert!(!command(&scene, &["uninstall"]).status.success(), "not while an agent runs");

    // Over a restart, and back.
    assert!(scene.stop(SIGTERM).success());
    scene.start(&[]);
    scene.wait_ready();
    assert_eq!(reach(&scene, DENIED), Ok(()));
    assert!(command(&scene, &["bypass", "--end"]).status.success());
    wait("the pod to be judged again", || reach(&scene, DENIED) == denied);

    // Without an agent, by the pins alone.
    assert!(scene.stop(SIGTERM).success());
    assert_eq!(reach(&scene, DENIED), denied);
    assert!(command(&scene, &["bypass"]).status.success());
    assert_eq!((reach(&scene, DENIED), reach(&scene, VIP)), (Ok(()), Ok(())));
    assert!(capture_rules(&scene) > 0, "they stay for connections that were handed over before");
    let done = command(&scene, &["uninstall"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(!scene.node.bpffs.join("mesh").exists());
    assert_eq!(capture_rules(&scene), 0);
    wait("VIPs to be gone", || reach(&scene, VIP).is_err());
}
