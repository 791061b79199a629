//! What the kernel programs themselves write to the agent's log, at the level that it is started with.

mod common;

use common::scene::{Scene, service, wait};
use common::{ask, at};
use mesh_xds::agent as wire;
use std::net::TcpListener;

const DENIED: &str = "203.0.113.9:8080";

/// An agent at this level, of whose pod one connection was balanced and one refused.
fn scene(more: &[&str]) -> Scene {
    let mut scene = Scene::new();
    scene.run_container("c1");
    common::answer(scene.pair.world.run(|| TcpListener::bind("9.0.1.1:8080").expect("bound")), "backend");
    scene.control.publish("1", &[scene.workload()], &[service("shop", "11.1.2.3", wire::Mode::Kernel, "9.0.1.1:8080")]);
    scene.start(more);
    scene.wait_ready();
    scene.pair.pod.run(|| {
        ask(at("11.1.2.3:80")).expect("balanced");
        ask(at(DENIED)).expect_err("refused");
    });
    scene
}

fn lines<'a>(log: &'a str, words: &[&str]) -> Vec<&'a str> {
    log.lines().filter(|line| words.iter().all(|word| line.contains(word))).collect()
}

#[test]
fn refusals_are_logged_at_info_and_every_verdict_at_debug() {
    const REFUSED: [&str; 4] = ["refused code=5 ", "dest=::ffff:203.0.113.9 port=8080 proto=6", "egress_denied", "kernel"];
    const BALANCED: [&str; 3] = ["verdict code=65 ", "dest=::ffff:11.1.2.3 port=80 proto=6", "backend"];
    let info = scene(&["--kernel-log", "info"]);
    wait("the refusal's line", || !lines(&info.log(), &REFUSED).is_empty());
    assert!(lines(&info.log(), &["verdict code="]).is_empty(), "{}", info.log());
    drop(info);
    let debug = scene(&["--kernel-log", "debug"]);
    wait("both lines", || !lines(&debug.log(), &REFUSED).is_empty() && !lines(&debug.log(), &BALANCED).is_empty());
}

#[test]
fn by_default_the_programs_write_nothing() {
    let scene = scene(&[]);
    // The refusal's event comes by the other way, and later than a line would.
    wait("the refusal's event", || !lines(&scene.log(), &["203.0.113.9:8080", "egress_denied"]).is_empty());
    assert!(lines(&scene.log(), &["code="]).is_empty(), "{}", scene.log());
}
