//! What ARCHITECTURE.md's failure table says of tables that are full and of programs that the kernel refuses. The real binary.

mod common;

use common::scene::{Scene, service, wait};
use common::{Mesh, answer, ask, at, tcp};
use mesh_agent::core::reconcile::Op;
use mesh_common::abi::{Dest, maps, mode};
use mesh_xds::agent as wire;
use nix::sys::signal::Signal::SIGTERM;
use std::net::TcpListener;

/// What a privileged container has, but CAP_PERFMON: the verifier then allows no arithmetic on some pointers, and refuses.
const WITHOUT_PERFMON: [&str; 3] =
    ["setpriv", "--bounding-set=-all,+chown,+fowner,+dac_override,+bpf,+net_admin,+sys_resource", "--inh-caps=-all"];

/// The errno of [`mesh_common::reason::Reason::UnknownVip`].
const UNREACHABLE: Option<i32> = Some(libc::EHOSTUNREACH);

fn reach(scene: &Scene, to: &str) -> Result<String, Option<i32>> {
    scene.pair.pod.run(|| ask(at(to))).map(|(text, ..)| text).map_err(|error| error.raw_os_error())
}

fn scene() -> Scene {
    let mut scene = Scene::new();
    scene.run_container("c1");
    answer(scene.pair.world.run(|| TcpListener::bind("9.0.1.1:8080").expect("bound")), "backend");
    scene
}

#[test]
fn a_table_that_would_not_fit_is_refused_by_name_and_what_is_in_force_stays() {
    let mut scene = scene();
    let old = service("old", "11.1.2.3", wire::Mode::Kernel, "9.0.1.1:8080");
    let new = service("new", "11.1.2.4", wire::Mode::Kernel, "9.0.1.1:8080");
    scene.control.publish("1", &[scene.workload()], std::slice::from_ref(&old));
    scene.start(&[]);
    scene.wait_ready();

    let endpoint = |n: u32| wire::Endpoint { address: format!("192.0.{}.{}", n >> 8, n & 255), port: 1, transport: 0 };
    let protected: Vec<_> = (0..=maps::PROTECTED_MAX).map(endpoint).collect();
    let why = "4097 entries do not fit into the kernel's table PROTECTED, which holds 4096";
    scene.control.forget_answers();
    scene.control.publish_all("2", &[scene.workload()], &[old.clone(), new.clone()], &[], protected.clone());
    for type_url in [wire::MESH, wire::SERVICE] {
        scene.control.answered(type_url, |error| error.is_some_and(|error| error.contains(why)));
    }
    assert!(reach(&scene, "11.1.2.3:80").is_ok_and(|text| text.starts_with("backend ")), "what was there goes on");
    assert_eq!(reach(&scene, "11.1.2.4:80"), Err(UNREACHABLE), "nothing of the new is let in, not even what would fit");
    assert_eq!(reach(&scene, "203.0.113.5:80"), Err(UNREACHABLE));
    let metrics = scene.get("/metrics").1;
    assert!(metrics.contains(r#"mesh_agent_xds_deliveries_total{resource="mesh",result="nack"} 1"#), "{metrics}");
    assert!(scene.log().contains(why), "{}", scene.log());
    assert!(scene.get("/status").1.contains(why));

    // An agent that starts into this is not ready, and the kernel half of the one before goes on.
    assert!(scene.stop(SIGTERM).success());
    scene.start(&[]);
    wait("the reason", || scene.get("/ready") == (503, format!("the kernel's tables are not filled: {why}\n")));
    assert!(reach(&scene, "11.1.2.3:80").is_ok());
    scene.control.publish("3", &[scene.workload()], &[old, new]);
    scene.wait_ready();
    assert!(reach(&scene, "11.1.2.4:80").is_ok(), "once it fits, it is in force");
}

#[test]
fn a_full_map_refuses_by_name_and_keeps_what_it_holds() {
    let mesh = Mesh::new();
    answer(mesh.pair.world.run(|| TcpListener::bind("9.0.1.1:8080").expect("bound")), "backend");
    let protected: Vec<Dest> = (0..maps::PROTECTED_MAX).map(|n| tcp(&format!("192.0.{}.{}:1", n >> 8, n & 255))).collect();
    mesh.fill(&[(tcp("11.1.2.3:80"), mode::KERNEL, &["9.0.1.1:8080"])], &[], &protected);
    let before = mesh.kernel.maps().read().expect("readable");
    // As if somebody else had written the table since it was counted. The denial comes first, so the service behind it is not let in.
    let ops = [Op::AddProtected(tcp("192.1.0.0:1")), Op::DeleteService(tcp("11.1.2.3:80"))];
    let error = mesh.kernel.maps().write(&ops).expect_err("full").to_string();
    assert!(error.starts_with("eBPF map PROTECTED: "), "{error}");
    assert_eq!(mesh.kernel.maps().read().expect("readable"), before, "and nothing after it was written");
    assert!(mesh.ask("11.1.2.3:80").is_ok());
}

#[test]
fn a_program_that_the_verifier_refuses_leaves_everything_as_it_was() {
    let mut scene = scene();
    // On a node that has never had an agent: nothing is attached, and pods connect as they did.
    let refused = |scene: &Scene| {
        let ended = scene.command(&WITHOUT_PERFMON).status().expect("starts");
        assert!(!ended.success(), "Marathon sees a task that fails");
        assert_ne!(scene.get("/ready").0, 200);
        let log = scene.log();
        // Which program it is and which reason depends on the kernel, and on how the programs are compiled; that there is one, and what to do, does not.
        for words in ["eBPF program ", " does not load: ", "; the verifier says \"", "privileged container", "uname -r"] {
            assert!(log.contains(words), "{words:?} is wanted in {log}");
        }
        let line = log.lines().find(|line| line.contains("does not load")).expect("one line");
        assert!(line.len() < 6000, "the verifier's whole log is not for people: {} bytes", line.len());
    };
    refused(&scene);
    assert!(reach(&scene, "9.0.1.1:8080").is_ok(), "as before");

    // On one that has the kernel half of a former agent: it goes on, denials included.
    let plain = service("plain", "11.1.2.3", wire::Mode::Kernel, "9.0.1.1:8080");
    scene.control.publish("1", &[scene.workload()], &[plain]);
    scene.start(&[]);
    scene.wait_ready();
    assert!(scene.stop(SIGTERM).success());
    std::fs::remove_file(scene.path("agent.log")).expect("removed");
    refused(&scene);
    assert!(reach(&scene, "11.1.2.3:80").is_ok_and(|text| text.starts_with("backend ")));
    assert_eq!(reach(&scene, "203.0.113.5:80"), Err(UNREACHABLE), "what is not allowed is refused");

    scene.start(&[]);
    scene.wait_ready();
}
