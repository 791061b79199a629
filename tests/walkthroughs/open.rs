//! What is open until it is seen: rules for an outside name, whose address only DNS knows, and ports of which nobody said what they carry.

use crate::kit::{SOON, apply, delete, pods, sniffed};
use crate::one::Outside;
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use serde_json::{Value, json};

pub(crate) const CASES: &[Case] = &[
    ("open::rules for an outside name hold for its requests, and let no other host out", outside_name),
    ("open::a mesh VIP asked for an outside name goes by that name's routes, and to no denied address", foreign_host),
    ("open::on a port that nobody declared HTTP is routed, and a server may speak first", detected),
];

fn outside_name(world: &mut World) -> Result<()> {
    const URL: &str = "http://httpbin.org/headers";
    pods(world, &["1/client"])?;
    let _server = Outside::httpbin(world)?;
    apply(world, "1/serviceEntry")?;
    let status = |arguments: &[&str]| -> Result<u16> { Ok(world.curl("client", &[&["-m", "10"], arguments].concat())?.0) };
    let is = |what: &str, arguments: &[&str], wanted: u16| {
        eventually(what, SOON, || {
            let found = status(arguments)?;
            ensure!(found == wanted, "{found}");
            Ok(())
        })
    };
    is("httpbin.org answers", &[URL], 200)?;
    ensure!(status(&["-H", "x-walk: teapot", URL])? == 200, "there is no rule yet");
    apply(world, "1/httpbinRules")?;
    is("the fault", &["-H", "x-walk: teapot", URL], 418)?;
    ensure!(status(&[URL])? == 200, "the rest goes on to httpbin.org");
    ensure!(status(&["http://httpbin.org/delay/5"])? == 504, "the time limit");
    ensure!(status(&["-H", "Host: other.example", URL])? == 502, "another host at an allowed address");
    delete(world, "1/httpbinRules")?;
    is("no rule again", &["-H", "x-walk: teapot", URL], 200)?;
    delete(world, "1/serviceEntry")?;
    eventually("it is closed again", SOON, || {
        ensure!(!world.try_exec("client", &["curl", "-s", "-m", "5", URL])?.status.success(), "still reached");
        Ok(())
    })
}

/// Writes down who connects.
const TRAP: &str = "import socket, sys\ns = socket.create_server(('', 8081))\nwhile True:\n    c, peer = s.accept()\n    print(peer, file=open(sys.argv[1], 'a'), flush=True)\n    c.close()\n";

/// Rules for httpbin.org that mark what they route, and lead to an address that only others may dial.
const FOREIGN: &str = "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: httpbin-marked}
spec:
  hosts: [httpbin.org]
  http:
  - match: [{uri: {prefix: /denied}}]
    route: [{destination: {host: denied.example.com, port: {number: 8081}}}]
  - headers: {response: {set: {x-walk-rule: outside}}}
    route: [{destination: {host: httpbin.org}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: denied}
spec:
  hosts: [denied.example.com]
  ports: [{number: 8081, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 203.0.113.10}]
  exportTo: [elsewhere]
";

fn foreign_host(world: &mut World) -> Result<()> {
    sniffed(world)?;
    let directory = tempfile::tempdir()?;
    let trapped = directory.path().join("trapped");
    let seen = || std::fs::read_to_string(&trapped).unwrap_or_default();
    let path = trapped.to_string_lossy().into_owned();
    let _trap = Outside::run(world, &["python3", "-c", TRAP, &path])?;
    eventually("the trap works", SOON, || {
        world.in_namespace("outside", &["curl", "-s", "-m", "5", "http://203.0.113.10:8081/"])?.output()?;
        ensure!(seen().contains("203.0.113.10"), "{}", seen());
        Ok(())
    })?;
    let before = seen();
    apply(world, "1/serviceEntry")?;
    world.try_kubectl(&["apply", "-f", "-"], FOREIGN)?;
    let ask = |path: &str| -> Result<String> {
        let url = format!("http://retry-service{path}");
        let said = world.exec("client", &["curl", "-s", "-i", "-m", "10", "-H", "Host: httpbin.org", &url])?;
        Ok(said.to_ascii_lowercase())
    };
    eventually("the VIP's endpoints answer by the outside name's routes", SOON, || {
        let said = ask("/")?;
        ensure!(said.contains(" 200 ") && said.contains("x-walk-rule: outside") && said.contains("\r\n\r\nok "), "{said}");
        Ok(())
    })?;
    // Nothing but the name makes the difference.
    let own = world.exec("client", &["curl", "-s", "-i", "-m", "10", "http://retry-service/"])?.to_ascii_lowercase();
    ensure!(own.contains(" 200 ") && !own.contains("x-walk-rule"), "{own}");
    let denied = ask("/denied")?;
    ensure!(denied.contains(" 503 ") && denied.contains("remote connection failure"), "{denied}");
    ensure!(seen() == before, "a denied address was dialled: {}", seen());
    world.try_kubectl(&["delete", "-f", "-"], FOREIGN)?;
    delete(world, "1/serviceEntry")
}

/// A greeting to whoever connects, before a word of the client's.
const GREETER: &str = "import socket\ns = socket.create_server(('', 7001))\nwhile True:\n    c = s.accept()[0]\n    c.sendall(b'220 ready\\r\\n')\n    c.close()\n";
/// The shortest of some waits for the first byte, in milliseconds: what a busy machine adds it does not add each time.
const WAIT: &str = "import socket, sys, time\nbest = 1e9\nfor _ in range(20):\n    s = socket.create_connection(('greeter', int(sys.argv[1])))\n    start = time.monotonic()\n    assert s.recv(3) == b'220'\n    best = min(best, time.monotonic() - start)\n    s.close()\nprint(best * 1000)\n";

fn detected(world: &mut World) -> Result<()> {
    pods(world, &["1/client"])?;
    if world.instances_of("/greeter").is_err() {
        world.marathon("POST", "/v2/pods", &greeter().to_string())?;
    }
    let wait = |port: &str| -> Result<f64> {
        let waited = world.try_exec("client", &["python3", "-c", WAIT, port])?;
        ensure!(waited.status.success(), "{}", String::from_utf8_lossy(&waited.stderr));
        String::from_utf8_lossy(&waited.stdout).trim().parse().context("milliseconds")
    };
    let undeclared = eventually("the greeting, on a port that nobody declared", SOON, || wait("7001"))?;
    ensure!((50.0..150.0).contains(&undeclared), "{undeclared} ms: neither waited for the client nor long");
    let declared = wait("7002")?;
    ensure!(declared < 5.0, "{declared} ms on a port declared as TCP");
    // The same kind of port with a client that speaks first, and HTTP.
    let seen = eventually("HTTP", SOON, || {
        let output = world.exec("client", &["curl", "-s", "-i", "-m", "10", "http://greeter:7003/get"])?;
        ensure!(output.contains("200"), "{output}");
        Ok(output)
    })?;
    ensure!(seen.to_ascii_lowercase().contains("server: istio-envoy"), "requests are the proxy's: {seen}");
    let client = world.instances_of("/client")?;
    let node = client[0]["node"].as_str().context("a node")?;
    let metrics = world.admin(node, "proxy", "/metrics")?;
    let counted = metrics.lines().filter(|line| line.starts_with("mesh_proxy_detection_timeouts_total"));
    let counted: f64 = counted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    ensure!(counted >= 20.0, "{counted} time-outs were counted");
    world.marathon("DELETE", "/v2/pods/greeter?force=true", "").map(drop)
}

fn greeter() -> Value {
    let endpoint = |name: &str, port: u16, vip: &str| json!({"name": name, "containerPort": port, "hostPort": 0, "protocol": ["tcp"], "labels": {"VIP_0": vip, "mesh.io/mode": "proxy"}});
    let container = |name: &str, argv: Value, endpoints: Value| {
        json!({"name": name, "resources": {"cpus": 0.1, "mem": 64}, "image": {"kind": "DOCKER", "id": "mesh/walkthrough"},
            "exec": {"command": {"argv": argv}}, "endpoints": endpoints})
    };
    json!({
        "id": "/greeter", "labels": {"app": "greeter", "version": "v1", "sidecar.istio.io/inject": "true"},
        "containers": [
            container("greeter", json!(["python3", "-c", GREETER]),
                json!([endpoint("main", 7001, "/greeter:7001"), endpoint("tcp-main", 7001, "/greeter:7002")])),
            container("web", json!(["walkthrough", "serve", "httpbin", "--port", "7003"]), json!([endpoint("web", 7003, "/greeter:7003")])),
        ],
        "networks": [{"name": "dcos", "mode": "container"}], "scaling": {"kind": "fixed", "instances": 1},
    })
}
