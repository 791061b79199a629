//! mesos-bridge: the same addresses on every node, host ports of TCP and UDP by which other nodes reach them, and dcos-net's view of it.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::Sim;

/// Says for TCP and UDP on which node it is and whom it sees.
const SERVER: &str = r#"exec python3 -c '
import os, socket, threading
tcp = socket.create_server(("", 9080)); udp = socket.socket(type=socket.SOCK_DGRAM); udp.bind(("", 9080))
def datagrams():
    while True:
        _, peer = udp.recvfrom(9); udp.sendto((os.environ["HOST"] + " " + peer[0]).encode(), peer)
threading.Thread(target=datagrams, daemon=True).start()
while True:
    one, peer = tcp.accept(); one.sendall((os.environ["HOST"] + " " + peer[0]).encode()); one.close()
'"#;

/// Asks once over each transport, and prints both answers.
fn ask(to: &str) -> String {
    format!(
        "python3 -c 'import socket; host, port = \"{to}\".split(\":\"); to = (host, int(port)); s = socket.create_connection(to, 2); \
         print(s.recv(99).decode()); u = socket.socket(type=socket.SOCK_DGRAM); u.settimeout(2); u.sendto(b\"x\", to); print(u.recv(99).decode())'"
    )
}

fn bridged() -> Value {
    json!({
        "id": "/bridged", "cmd": SERVER, "instances": 2, "networks": [{"mode": "container/bridge"}], "constraints": [["hostname", "UNIQUE"]],
        "container": {"type": "MESOS", "portMappings": [{"containerPort": 9080, "hostPort": 0, "protocol": "tcp,udp", "labels": {"VIP_0": "/bridged:80"}}]}
    })
}

#[test]
fn bridged_containers_are_reached_by_host_ports() {
    let sim = Sim::start("bridge");
    sim.post("/v2/apps", &bridged());
    let instances = sim.running(2);
    let on = |node: &str| instances.iter().find(|i| i["node"] == node).unwrap();
    assert_eq!(on("node1")["address"], on("node2")["address"], "every node uses the same range");
    let address = on("node1")["address"].as_str().unwrap();
    let port = on("node1")["hostPorts"][0]["port"].to_string();
    let first = format!("198.18.0.11:{port}");
    let until = Instant::now() + Duration::from_secs(20);
    let from = |node: &str, to: &str| {
        let output = sim.client("netns-exec", &[node, "--", "sh", "-c", &ask(to)]);
        String::from_utf8(output.stdout).unwrap().trim().replace('\n', ", ")
    };
    while from("node2", &first) != "198.18.0.11 198.18.0.12, 198.18.0.11 198.18.0.12" {
        assert!(Instant::now() < until, "{}", from("node2", &first));
    }
    assert_eq!(from("node1", &first), "198.18.0.11 198.18.0.11, 198.18.0.11 198.18.0.11", "from its own node");
    assert_eq!(from("node1", &format!("{address}:9080")), "198.18.0.11 172.31.254.1, 198.18.0.11 172.31.254.1", "straight");
    let (own, other) = (on("node1")["id"].as_str().unwrap(), on("node2")["id"].as_str().unwrap());
    assert_eq!(sim.exec(own, &ask(&first)), "198.18.0.11 172.31.254.1\n198.18.0.11 172.31.254.1", "itself, by way of the node");
    assert_eq!(
        sim.exec(other, &ask(&first)),
        "198.18.0.11 198.18.0.12\n198.18.0.11 198.18.0.12",
        "what leaves a bridge has its node's address"
    );
    dcos_net(&sim, &instances);
    sim.call("PUT", "/v2/apps/bridged?force=true", &json!({"instances": 0}));
    sim.wait_for("all are gone", |all| all.is_empty());
    for node in ["node1", "node2"] {
        let output = sim.client("netns-exec", &[node, "--", "nft", "list", "table", "ip", "mesos_bridge"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("map udp_ports") && !text.contains("elements"), "host ports of nobody: {text}");
    }
    std::fs::remove_dir_all(sim.down()).unwrap();
}

/// What tools that come from DC/OS ask a node: VIPs by host ports, and names with the addresses of its hash.
fn dcos_net(sim: &Sim, instances: &[Value]) {
    let get = "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:62080/v1/vips\", timeout=5).read().decode())'";
    let output = sim.client("netns-exec", &["node2", "--", "sh", "-c", get]);
    let vips: Value = serde_json::from_slice(&output.stdout).unwrap();
    let backends: Vec<Value> = instances.iter().map(|i| json!({"ip": i["agent"], "port": i["hostPorts"][0]["port"]})).collect();
    for (index, protocol) in ["tcp", "udp"].into_iter().enumerate() {
        assert_eq!(vips[index]["vip"], "bridged.marathon.l4lb.thisdcos.directory:80");
        assert_eq!(vips[index]["protocol"], protocol);
        let listed = vips[index]["backend"].as_array().unwrap();
        assert!(listed.len() == 2 && backends.iter().all(|one| listed.contains(one)), "{vips} is not {backends:?}");
    }
    let found = sim.exec("/bridged", "getent ahostsv4 bridged.marathon.l4lb.thisdcos.directory");
    assert!(found.starts_with("11."), "{found}");
}
