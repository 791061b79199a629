//! A stock Envoy 1.40 beside a workload and at the edge, driven by mesh-control by either form of xDS: each walkthrough's rules are applied by
//! kubectl, and requests go through it.

use crate::Case;
use crate::backend;
use crate::kit::{self, Control, Marathon, Program, SOON};
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) const CASES: &[Case] = &[
    ("envoy::state of the world: each walkthrough's rules", || walkthroughs("GRPC")),
    ("envoy::delta: each walkthrough's rules", || walkthroughs("DELTA_GRPC")),
];

const PORT: u16 = 9080;

/// Marathon, control plane, backends that really answer.
struct Mesh {
    marathon: Marathon,
    control: Control,
}

impl Mesh {
    fn start() -> Result<Self> {
        let marathon = Marathon::start_with(&["--agent", "127.0.0.1"])?;
        let control = Control::start(&[&marathon.url()], &["--retry-on-default", "istio-1.0"])?;
        let mesh = Self { marathon, control };
        for (name, versions, port) in [
            ("productpage", &["v1"][..], PORT),
            ("details", &["v1"], PORT),
            ("ratings", &["v1"], PORT),
            ("reviews", &["v1", "v2", "v3"], PORT),
            ("myweb-service", &["v1", "v2"], PORT),
            ("helloworld", &["v1", "v2"], PORT),
            ("httpbin", &["v1"], PORT),
            ("retry-service", &["v1"], PORT),
            ("curl", &["v1"], PORT),
        ] {
            for version in versions {
                mesh.app(name, version, port)?;
            }
        }
        Ok(mesh)
    }

    fn app(&self, name: &str, version: &str, vip: u16) -> Result<()> {
        let port = backend::start(&format!("{name}-{version}"))?;
        let labels = json!({"VIP_0": format!("/{name}:{vip}")});
        self.marathon.create(&json!({
            "id": format!("/{name}-{version}"), "cmd": "serve", "instances": 1, "labels": {"version": version, "app": name},
            "requirePorts": true,
            "portDefinitions": [{"port": port, "name": "http", "protocol": "tcp", "labels": labels}],
        }))
    }

    fn apply(&self, file: &str) -> Result<()> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../bookinfo").join(file);
        self.control.kubectl(&["apply", "-f", &path.to_string_lossy()]).map(drop)
    }

    fn forget(&self) -> Result<()> {
        self.control.kubectl(&["delete", "virtualservices,destinationrules,gateways,serviceentries", "--all"]).map(drop)
    }
}

/// A stock Envoy.
struct Envoy {
    address: String,
    dir: tempfile::TempDir,
    _program: Program,
}

impl Envoy {
    fn start(mesh: &Mesh, form: &str, id: &str, address: &str, metadata: &Value) -> Result<Self> {
        let path = std::env::var_os("MESH_ENVOY").context("MESH_ENVOY is not set: run the tests by `cargo xtask test`")?;
        let dir = tempfile::tempdir()?;
        let tokens = std::fs::read_to_string(mesh.control.path("mesh/control/tokens.csv"))?;
        let token = tokens.lines().find(|line| line.contains("mesh:nodes")).and_then(|line| line.split(',').next());
        let ads = json!({"ads": {}, "resource_api_version": "V3"});
        let metadata_of = json!([{"key": "authorization", "value": format!("Bearer {}", token.context("no token of nodes")?)}]);
        let http2 = json!({"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}}});
        let tls = json!({"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {"validation_context": {"trusted_ca": {"filename": mesh.control.path("mesh/ca.crt")}}}});
        let endpoint = json!({"address": {"socket_address": {"address": mesh.control.address, "port_value": 32010}}});
        let bootstrap = json!({
            "node": {"id": id, "cluster": "tests", "metadata": metadata},
            "dynamic_resources": {
                "cds_config": ads, "lds_config": ads,
                "ads_config": {"api_type": form, "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}, "initial_metadata": metadata_of}]},
            },
            "static_resources": {"clusters": [{
                "name": "xds", "type": "STATIC", "connect_timeout": "5s",
                "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
                "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
                "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
            }]},
        });
        let file = dir.path().join("bootstrap.json");
        std::fs::write(&file, bootstrap.to_string())?;
        let mut command = Command::new(path);
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning", "--config-path"]).arg(file);
        command.stderr(std::fs::File::create(dir.path().join("log"))?);
        Ok(Self { address: address.to_owned(), _program: Program::start(&mut command)?, dir })
    }

    /// Status and body.
    fn get(&self, host: &str, path: &str, headers: &[&str]) -> Result<(u16, String)> {
        self.get_at(PORT, host, path, headers)
    }

    fn get_at(&self, port: u16, host: &str, path: &str, headers: &[&str]) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect((self.address.as_str(), port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n{headers}\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        Ok((status, body.to_owned()))
    }

    /// How often each answer came.
    fn sample(&self, host: &str, headers: &[&str], count: u32) -> Result<BTreeMap<String, u32>> {
        let mut seen = BTreeMap::new();
        for _ in 0..count {
            let (status, body) = self.get(host, "/", headers)?;
            *seen.entry(if status == 200 { body } else { status.to_string() }).or_default() += 1;
        }
        Ok(seen)
    }

    /// Waits until twenty requests have exactly these answers.
    fn answers(&self, what: &str, (host, headers): (&str, &[&str]), want: &[&str]) -> Result<()> {
        let want: BTreeSet<String> = want.iter().map(|name| (*name).to_owned()).collect();
        eventually(what, SOON, || {
            let seen = self.sample(host, headers, 20)?;
            ensure!(seen.keys().cloned().collect::<BTreeSet<_>>() == want, "{seen:?} instead of {want:?}");
            Ok(())
        })
        .with_context(|| std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default())
    }
}

const JASON: &[&str] = &["end-user: jason"];

fn walkthroughs(form: &str) -> Result<()> {
    let mesh = Mesh::start()?;
    let plain = json!({"INTERCEPTION_MODE": "NONE"});
    let (own, curls) = (kit::address(), kit::address());
    let envoy = Envoy::start(&mesh, form, &format!("sidecar~{own}~productpage.default~default.svc.cluster.local"), &own, &plain)?;
    // The Envoy of the workload `curl`, by the id of its task.
    let tasks: Value = serde_json::from_str(&mesh.marathon.call("GET", "/v2/apps/curl-v1/tasks", &Value::Null)?)?;
    let task = tasks["tasks"][0]["id"].as_str().context("curl's task")?;
    let curl = Envoy::start(&mesh, form, &format!("sidecar~{curls}~{task}~default.svc.cluster.local"), &curls, &plain)?;
    zero(&mesh, &envoy)?;
    one(&mesh, &envoy)?;
    two(&mesh, &envoy)?;
    three(&mesh, &envoy, &curl)?;
    edge(&mesh, form)?;
    ensure!(
        mesh.control.metric("mesh_control_xds_nacks_total")? < 0.5,
        "nothing was refused: {}",
        mesh.control.status()?["nodes"]
    );
    Ok(())
}

fn zero(mesh: &Mesh, envoy: &Envoy) -> Result<()> {
    envoy.answers("without rules", ("reviews", &[]), &["reviews-v1", "reviews-v2", "reviews-v3"])?;
    ensure!(envoy.get("nowhere", "/", &[])?.0 == 502, "a host that no service has");
    mesh.apply("destination-rule-all.yaml")?;
    mesh.apply("vs-all-v1.yaml")?;
    envoy.answers("all to v1", ("reviews.marathon.l4lb.thisdcos.directory", &[]), &["reviews-v1"])?;
    mesh.apply("vs-details-abort.yaml")?;
    envoy.answers("500 from details", ("details", JASON), &["500"])?;
    mesh.apply("vs-delay-details.yaml")?;
    eventually("seven seconds for jason", SOON, || {
        let begun = Instant::now();
        let (status, _) = envoy.get("details", "/", JASON)?;
        ensure!(status == 200 && begun.elapsed() >= Duration::from_secs(6), "{status} after {:?}", begun.elapsed());
        Ok(())
    })?;
    mesh.forget()
}

fn one(mesh: &Mesh, envoy: &Envoy) -> Result<()> {
    mesh.apply("walkthroughs/1/canary10percent.yaml")?;
    eventually("a tenth", SOON, || {
        let seen = envoy.sample("myweb-service", &[], 300)?;
        let new = seen.get("myweb-service-v2").copied().unwrap_or_default();
        // 30 expected; five standard deviations.
        ensure!(seen.len() == 2 && (4..=56).contains(&new), "{seen:?}");
        Ok(())
    })?;
    mesh.apply("walkthroughs/1/canaryCookie.yaml")?;
    envoy.answers("testers", ("myweb-service", &["cookie: usertype=tester"]), &["myweb-service-v2"])?;
    envoy.answers("others", ("myweb-service", &[]), &["myweb-service-v1"])?;
    mesh.apply("walkthroughs/1/retryVirtualService.yaml")?;
    eventually("tried again until it is well", SOON, || {
        let statuses = (0..20).map(|_| Ok(envoy.get("retry-service", "/flaky", &[])?.0)).collect::<Result<Vec<_>>>()?;
        ensure!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        Ok(())
    })?;
    // What balances, limits and mirrors: taken, and requests go on.
    for file in
        ["lbRandom", "lbRoundRobin", "lbHeaderHash", "policyConnections", "circuitBreaker", "copyVirtualService", "httpbinRules"]
    {
        mesh.apply(&format!("walkthroughs/1/{file}.yaml"))?;
    }
    mesh.control.everybody_holds_all()?;
    ensure!(envoy.get("httpbin", "/", &[])?.0 == 200);
    mesh.forget()
}

fn two(mesh: &Mesh, envoy: &Envoy) -> Result<()> {
    let apply = |file: &str| mesh.apply(&format!("walkthroughs/2/{file}.yaml"));
    mesh.apply("destination-rule-all.yaml")?;
    apply("virtual-service-all-v1")?;
    envoy.answers("all to v1", ("reviews", JASON), &["reviews-v1"])?;
    apply("virtual-service-reviews-test-v2")?;
    envoy.answers("jason's", ("reviews", JASON), &["reviews-v2"])?;
    envoy.answers("everybody's", ("reviews", &[]), &["reviews-v1"])?;
    apply("virtual-service-ratings-test-abort")?;
    envoy.answers("aborted", ("ratings", JASON), &["500"])?;
    envoy.answers("not aborted", ("ratings", &[]), &["ratings-v1"])?;
    apply("virtual-service-reviews-50-v3")?;
    envoy.answers("two of three", ("reviews", &[]), &["reviews-v1", "reviews-v3"])?;
    apply("virtual-service-reviews-v3")?;
    envoy.answers("all to v3", ("reviews", &[]), &["reviews-v3"])?;
    apply("request-timeouts")?;
    apply("httpbin-circuit-breaker")?;
    mesh.control.everybody_holds_all()?;
    ensure!(envoy.get("httpbin", "/", &[])?.0 == 200);
    mesh.forget()
}

fn three(mesh: &Mesh, envoy: &Envoy, curl: &Envoy) -> Result<()> {
    mesh.apply("walkthroughs/3/helloworld.yaml")?;
    curl.answers("pods called curl", ("helloworld", &[]), &["helloworld-v1"])?;
    envoy.answers("all others", ("helloworld", &[]), &["helloworld-v1", "helloworld-v2"])?;
    mesh.forget()
}

/// The first walkthrough's gateway, at an address and port that disturb nobody.
fn edge(mesh: &Mesh, form: &str) -> Result<()> {
    let address = kit::address();
    let gateway = json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "edge", "namespace": "default"},
        "spec": {"selector": {"istio": "ingressgateway"}, "servers": [{"port": {"number": 18080, "name": "http", "protocol": "HTTP"},
            "bind": address, "hosts": ["shop.example"]}]}});
    let rule = json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "shop", "namespace": "default"},
        "spec": {"hosts": ["shop.example"], "gateways": ["edge"],
            "http": [{"match": [{"uri": {"prefix": "/productpage"}}], "route": [{"destination": {"host": "productpage", "port": {"number": PORT}}}]}]}});
    let file = mesh.control.path("edge.json");
    std::fs::write(&file, json!({"apiVersion": "v1", "kind": "List", "items": [gateway, rule]}).to_string())?;
    mesh.control.kubectl(&["apply", "-f", &file.to_string_lossy()])?;
    let labels = json!({"LABELS": {"istio": "ingressgateway"}});
    let id = format!("router~{address}~edge.istio-system~istio-system.svc.cluster.local");
    let envoy = Envoy::start(mesh, form, &id, &address, &labels)?;
    eventually("the shop at the edge", SOON, || {
        let shop = |path: &str| envoy.get_at(18080, "shop.example", path, &[]);
        ensure!(shop("/productpage")? == (200, "productpage-v1".to_owned()) && shop("/other")?.0 == 404);
        ensure!(envoy.get_at(18080, "other.example", "/productpage", &[])?.0 == 404);
        Ok(())
    })?;
    mesh.forget()
}
