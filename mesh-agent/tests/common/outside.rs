//! A scene with one pod in the mesh and servers outside, and egress rules as the control plane and the DNS process tell them.

use super::scene::{AGENT, PROXY_UID, Proxy, Scene, service};
use super::{answer, ask, at, ip};
use mesh_common::broker::{Role, ToAgent, ToProxy};
use mesh_xds::agent as wire;
use std::net::{IpAddr, TcpListener};

/// The errno of [`mesh_common::reason::Reason::EgressDenied`].
pub const UNREACHABLE: Option<i32> = Some(libc::EHOSTUNREACH);

pub fn rule(name: &str, hosts: &[&str], addresses: &[&str], ports: &[u32]) -> wire::Egress {
    let own = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
    let ports = ports.iter().map(|port| wire::EgressPort { port: *port, ..wire::EgressPort::default() }).collect();
    wire::Egress {
        name: name.to_owned(),
        hosts: own(hosts),
        ports,
        addresses: own(addresses),
        learn: addresses.is_empty(),
        ..Default::default()
    }
}

/// A scene with one pod in the mesh and an outside that answers at these addresses.
pub fn scene(outside: &[&str]) -> Scene {
    let mut scene = Scene::new();
    scene.run_container("c1");
    for to in outside {
        scene.pair.world.owns(&[&format!("{}/{}", at(to).ip(), if at(to).is_ipv4() { 32 } else { 128 })]);
        answer(scene.pair.world.run(|| TcpListener::bind(at(to)).expect("bound")), to);
    }
    publish(&scene, "1", &[]);
    scene.start(&[]);
    scene.wait_ready();
    scene
}

pub fn publish(scene: &Scene, version: &str, rules: &[wire::Egress]) {
    let services = [service("s", "11.1.2.3", wire::Mode::Kernel, "9.0.1.1:8080")];
    scene.control.forget_answers();
    scene.control.publish_with(version, &[scene.workload()], &services, rules);
}

/// Publishes and waits for the agent's answer: from then on, the rules are in force.
pub fn apply(scene: &Scene, version: &str, rules: &[wire::Egress]) {
    publish(scene, version, rules);
    scene.control.answered(wire::EGRESS, |error| error.is_none());
}

pub fn reach(scene: &Scene, to: &str) -> Result<String, Option<i32>> {
    let start = std::time::Instant::now();
    let result = scene.pair.pod.run(|| ask(at(to)));
    assert!(start.elapsed().as_millis() < 500, "{to}: never a hang");
    result.map(|(text, ..)| text).map_err(|error| error.raw_os_error())
}

pub fn dns(scene: &Scene) -> Proxy {
    let dns = scene.broker(PROXY_UID);
    dns.hello(Role::Dns);
    dns.pod();
    assert!(matches!(dns.hear(), Some((ToProxy::Ready, _))));
    dns
}

/// As the DNS process does before it gives a pod its answer.
pub fn learn(dns: &Proxy, id: u64, name: &str, addresses: &[&str], ttl_seconds: u32) {
    let addresses: Vec<IpAddr> = addresses.iter().map(|a| ip(a)).collect();
    dns.say(&ToAgent::Learned { id, name: name.to_owned(), addresses, ttl_seconds });
    loop {
        match dns.hear() {
            Some((ToProxy::Learned { id: answered }, _)) if answered == id => return,
            // Described anew meanwhile.
            Some((ToProxy::Pod { .. }, _)) => {}
            other => panic!("{other:?}"),
        }
    }
}

pub fn explain(scene: &Scene, pod: &str, to: &str, more: &[&str]) -> String {
    let mut command = std::process::Command::new(AGENT.expect("cargo names it to tests"));
    command.args(["explain", pod, to]).args(more).arg("--bpffs").arg(&scene.node.bpffs);
    let output = command.arg("--admin-socket").arg(scene.path("admin.sock")).output().expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
