//! Apps on the node's own network, Marathon's default: they share their node's namespace and address, and are in the mesh one by one.

use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

pub(crate) const CASES: &[Case] = &[
    ("host::an app on the node's own network is balanced, ruled and policed, its neighbour only balanced", shared),
    ("wish::a namespace's label enrols and a workload's own keeps out, without a restart", namespace),
];

/// In the mesh, and not.
const IN: &str = "/host-in";
const OUT: &str = "/host-out";
const OUTSIDE: &str = "203.0.113.10";
const RULE: &str = r#"
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {name: details-of-hosts}
spec:
  hosts: [details]
  http:
  - match: [{sourceLabels: {tier: host}}]
    fault: {abort: {httpStatus: 418, percentage: {value: 100}}}
    route: [{destination: {host: details}}]
  - route: [{destination: {host: details}}]
"#;

fn post(world: &World, id: &str, labels: &Value) -> Result<()> {
    let app = json!({
        "id": id, "labels": labels, "cmd": format!("exec {} serve --port $PORT0", world.echo_program()), "cpus": 0.1, "mem": 32,
        "networks": [{"mode": "host"}], "portDefinitions": [{"port": 0, "name": "http", "protocol": "tcp", "labels": {"VIP_0": format!("{id}:80")}}],
        "constraints": [["hostname", "CLUSTER", "198.18.0.11"]],
    });
    world.marathon("POST", "/v2/apps", &app.to_string()).map(drop)
}

fn status(world: &World, id: &str) -> Result<Value> {
    let status: Value = serde_json::from_str(&world.admin("node1", "agent", "/status")?)?;
    let pods = status["pods"].as_array().context("no pods")?;
    pods.iter().find(|pod| pod["app"] == id).cloned().with_context(|| format!("{id} is not in {status}"))
}

fn get(world: &World, app: &str, url: &str) -> Result<(u16, String)> {
    world.curl(app, &[url])
}

fn shared(world: &mut World) -> Result<()> {
    post(world, IN, &json!({"sidecar.istio.io/inject": "true", "tier": "host"}))?;
    post(world, OUT, &json!({}))?;
    eventually("the app is enrolled", Duration::from_secs(30), || {
        let pod = status(world, IN)?;
        ensure!(pod["enrolled"] == true && pod["host_network"] == true, "{pod}");
        Ok(())
    })?;
    ensure!(status(world, OUT).is_err(), "nobody asked for {OUT}");
    eventually("its neighbour runs", Duration::from_secs(30), || world.exec(OUT, &["true"]))?;

    // By name, through the proxy, as itself: a rule for its labels holds for it alone.
    eventually("names", Duration::from_secs(10), || {
        let (code, body) = get(world, IN, "http://details:9080/details/0")?;
        ensure!(code == 200, "{code} {body}");
        Ok(())
    })?;
    let applied = world.try_kubectl(&["apply", "-f", "-"], RULE)?;
    ensure!(applied.status.success(), "{applied:?}");
    eventually("the rule", Duration::from_secs(10), || {
        let (code, body) = get(world, IN, "http://details:9080/details/0")?;
        ensure!(code == 418, "{code} {body}");
        Ok(())
    })?;
    let vip = crate::node::vip(world, "productpage", "details")?;
    for other in ["productpage", OUT] {
        let (code, body) = get(world, other, &format!("http://{vip}:9080/details/0"))?;
        ensure!(code == 200, "{other}: {code} {body}");
    }
    world.forget_rules()?;

    // Kernel mode, and each other: two apps at one address.
    crate::kernel::started(world)?;
    let redis = crate::node::vip(world, "productpage", "redis")?;
    for app in [IN, OUT] {
        let said = world.echo(app, &["dial", &format!("{redis}:6379")])?;
        ensure!(said["ok"] == true && said["peer"] == format!("{redis}:6379"), "{app}: {said}");
    }
    eventually("the neighbour's VIP", Duration::from_secs(10), || {
        let (code, body) = get(world, IN, "http://host-out/")?;
        ensure!(code == 200, "{code} {body}");
        Ok(())
    })?;

    // Egress: refused at once, and the neighbour's is none of the mesh's business (nobody listens there).
    let said = world.echo(IN, &["dial", &format!("{OUTSIDE}:81")])?;
    ensure!(said["ok"] == false && said["micros"].as_u64().is_some_and(|m| m < 500_000), "{said}");
    ensure!(said.to_string().contains("No route to host"), "{said}");
    let said = world.echo(OUT, &["dial", &format!("{OUTSIDE}:81")])?;
    ensure!(said.to_string().contains("Connection refused"), "{said}");

    for app in [IN, OUT] {
        world.marathon("DELETE", &format!("/v2/apps{app}"), "")?;
    }
    eventually("it has left", Duration::from_secs(20), || {
        let dump: Value = serde_json::from_str(&world.admin("node1", "agent", "/dump")?)?;
        ensure!(dump["host_pods"].as_array().is_some_and(Vec::is_empty), "{}", dump["host_pods"]);
        Ok(())
    })
}

/// One of the namespace that asks, and one of it that does not.
fn pods(world: &World) -> Result<()> {
    for (id, labels) in [
        ("/wish-a", json!({"istio.io/namespace": "wishes"})),
        ("/wish-b", json!({"istio.io/namespace": "wishes", "sidecar.istio.io/inject": "false"})),
    ] {
        let pod = json!({
            "id": id, "labels": labels, "networks": [{"name": "dcos", "mode": "container"}], "scaling": {"kind": "fixed", "instances": 1},
            "containers": [{"name": "main", "resources": {"cpus": 0.1, "mem": 32}, "image": {"kind": "DOCKER", "id": "istio/examples-bookinfo-details-v1:1.8.0"},
                "exec": {"command": {"argv": [world.echo_program(), "serve", "--port", "8080"]}}}],
        });
        world.marathon("POST", "/v2/pods", &pod.to_string())?;
    }
    for id in ["/wish-a", "/wish-b"] {
        eventually("the pod runs", Duration::from_secs(30), || world.exec(id, &["true"]))?;
    }
    Ok(())
}

/// As errno says whether the kernel half judges it: nobody listens outside.
fn is_policed(world: &World, pod: &str) -> Result<bool> {
    let said = world.echo(pod, &["dial", &format!("{OUTSIDE}:81")])?;
    match said["errno"].as_i64() {
        Some(113) => Ok(true),
        Some(111) => Ok(false),
        _ => anyhow::bail!("{said}"),
    }
}

fn namespace(world: &mut World) -> Result<()> {
    pods(world)?;
    ensure!(!is_policed(world, "/wish-a")? && !is_policed(world, "/wish-b")?, "nobody has asked yet");
    world.kubectl(&["create", "namespace", "wishes"])?;
    for (label, wanted) in [
        ("istio-injection=enabled", true),
        ("istio-injection=disabled", false),
        ("istio-injection=enabled", true),
        ("istio-injection-", false),
    ] {
        let mut arguments = vec!["label", "namespace", "wishes", label];
        arguments.extend((!label.ends_with('-')).then_some("--overwrite"));
        world.kubectl(&arguments)?;
        let started = Instant::now();
        eventually("the label is in force", Duration::from_secs(10), || {
            ensure!(is_policed(world, "/wish-a")? == wanted, "after {label}");
            Ok(())
        })?;
        println!("{label}: in force {} ms after kubectl's return", started.elapsed().as_millis());
        ensure!(!is_policed(world, "/wish-b")?, "it has opted out");
    }
    world.kubectl(&["delete", "namespace", "wishes"])?;
    for id in ["/wish-a", "/wish-b"] {
        world.marathon("DELETE", &format!("/v2/pods{id}"), "")?;
    }
    Ok(())
}
