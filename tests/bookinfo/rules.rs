//! Istio's rules, applied by the real kubectl.

use super::Case;
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::world::{World, pid_of};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) const CASES: &[Case] = &[
    ("rules::all to v1, and back after delete; in force on both nodes soon after kubectl returns", all_to_v1),
    ("rules::a delay of 7 s for jason only", delay),
    ("rules::500 from details for jason only", abort),
    ("rules::kubectl get -o yaml gives back what was applied", get_yaml),
    ("rules::a bad manifest is refused with path and reason", bad_manifest),
    ("rules::config survives kill -9 of mesh-control", survives_kill),
    ("rules::the api wants a token", wants_token),
];

const SOON: Duration = Duration::from_secs(5);
const REVIEWS: [&str; 5] = ["count", "reviews", "9080", "/reviews/0", "12"];

fn versions(world: &World, pod: &str) -> Result<Value> {
    world.echo(pod, &[&REVIEWS[..], &["version"]].concat())
}

fn only_v1(world: &World, pod: &str) -> Result<()> {
    let seen = versions(world, pod)?;
    ensure!(seen == serde_json::json!({"v1": 12}), "{pod} saw {seen}");
    Ok(())
}

/// One pod on each node.
pub(crate) fn clients(world: &World) -> Result<Vec<String>> {
    let mut by_node = std::collections::BTreeMap::new();
    for pod in ["/productpage", "/details", "/ratings", "/reviews-v1", "/reviews-v2", "/reviews-v3"] {
        let node = world.instances_of(pod)?[0]["node"].as_str().unwrap_or_default().to_owned();
        by_node.entry(node).or_insert_with(|| pod.to_owned());
    }
    ensure!(by_node.len() == 2, "{by_node:?}");
    Ok(by_node.into_values().collect())
}

fn all_to_v1(world: &mut World) -> Result<()> {
    let program = world.echo_program();
    world.kubectl(&["apply", "-f", "bookinfo/destination-rule-all.yaml"])?;
    let clients = clients(world)?;
    let arguments = [program.as_str(), "probe", "reviews", "9080", "/reviews/0", "reviews-v1", "--good", "200"];
    let mut probes = Vec::new();
    for pod in &clients {
        let mut probe = world.exec_command(pod, &arguments)?.stdout(Stdio::piped()).spawn()?;
        let mut said = BufReader::new(probe.stdout.take().context("no stdout")?);
        let mut line = String::new();
        said.read_line(&mut line)?;
        ensure!(line.trim() == "started", "{pod}: {line:?}");
        probes.push((pod, probe, said));
    }
    world.kubectl(&["apply", "-f", "bookinfo/vs-all-v1.yaml"])?;
    let returned = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    for (pod, mut probe, mut said) in probes {
        let mut line = String::new();
        said.read_line(&mut line)?;
        ensure!(probe.wait()?.success(), "the probe in {pod} failed: {line}");
        let said: Value = serde_json::from_str(&line)?;
        let last: u128 = said["last_other_ns"].as_str().context("no time")?.parse()?;
        let late = i128::try_from(last)? - i128::try_from(returned)?;
        println!("rule in force for {pod}: last other answer {:.1} ms after kubectl's return", late as f64 / 1e6);
        ensure!(late < 5_000_000_000, "{pod}: {late} ns");
        only_v1(world, pod)?;
    }
    world.kubectl(&["delete", "-f", "bookinfo/vs-all-v1.yaml"])?;
    for pod in &clients {
        eventually("turns again", SOON, || {
            let seen = versions(world, pod)?;
            ensure!(seen == serde_json::json!({"v1": 4, "v2": 4, "v3": 4}), "{pod} saw {seen}");
            Ok(())
        })?;
    }
    world.forget_rules()
}

fn timed(world: &World, pod: &str, user: &str) -> Result<(u16, String, Duration)> {
    let started = Instant::now();
    let (status, body) = world.curl(pod, &["-H", &format!("end-user: {user}"), "http://details:9080/details/0"])?;
    Ok((status, body, started.elapsed()))
}

fn delay(world: &mut World) -> Result<()> {
    world.kubectl(&["apply", "-f", "bookinfo/destination-rule-all.yaml", "-f", "bookinfo/vs-delay-details.yaml"])?;
    for pod in clients(world)? {
        eventually("jason waits", SOON * 4, || {
            let (status, body, took) = timed(world, &pod, "jason")?;
            ensure!(status == 200, "{status} {body}");
            ensure!((7.0..9.0).contains(&took.as_secs_f64()), "{took:?}");
            Ok(())
        })?;
        let (status, _, took) = timed(world, &pod, "mary")?;
        ensure!(status == 200 && took < Duration::from_secs(3), "{status} {took:?}");
    }
    world.forget_rules()
}

fn abort(world: &mut World) -> Result<()> {
    world.kubectl(&["apply", "-f", "bookinfo/destination-rule-all.yaml", "-f", "bookinfo/vs-details-abort.yaml"])?;
    for pod in clients(world)? {
        eventually("jason gets 500", SOON, || {
            let (status, body, _) = timed(world, &pod, "jason")?;
            ensure!(status == 500 && body == "fault filter abort", "{status} {body}");
            Ok(())
        })?;
        for user in ["mary", ""] {
            let (status, body, _) = timed(world, &pod, user)?;
            ensure!(status == 200, "{user:?}: {status} {body}");
        }
    }
    world.forget_rules()?;
    eventually("jason is served again", SOON, || {
        let (status, body, _) = timed(world, "productpage", "jason")?;
        ensure!(status == 200, "{status} {body}");
        Ok(())
    })
}

fn get_yaml(world: &mut World) -> Result<()> {
    world.kubectl(&["apply", "-f", "bookinfo/vs-details-abort.yaml"])?;
    let yaml = world.kubectl(&["get", "virtualservice", "details", "-o", "yaml"])?;
    for text in [
        "kind: VirtualService",
        "name: details",
        "httpStatus: 500",
        "percent: 100",
        "exact: jason",
        "details.marathon.l4lb.thisdcos.directory",
    ] {
        ensure!(yaml.contains(text), "no {text:?} in\n{yaml}");
    }
    let table = world.kubectl(&["get", "virtualservice"])?;
    for text in ["NAME", "GATEWAYS", "HOSTS", "AGE", "details"] {
        ensure!(table.contains(text), "no {text:?} in\n{table}");
    }
    let again = world.kubectl(&["apply", "-f", "bookinfo/vs-details-abort.yaml"])?;
    ensure!(again.contains("unchanged"), "{again}");
    world.forget_rules()
}

fn bad_manifest(world: &mut World) -> Result<()> {
    let manifest = |spec: &str| {
        format!("apiVersion: networking.istio.io/v1alpha3\nkind: VirtualService\nmetadata:\n  name: bad\nspec:\n{spec}")
    };
    for (spec, path, reason) in [
        (
            "  hosts: [reviews]\n  http:\n  - fault: {abort: {percent: 100, httpStatus: 999}}\n    route: [{destination: {host: reviews}}]\n",
            "http",
            "999",
        ),
        ("  hosts: [reviews]\n  http:\n  - rout: [{destination: {host: reviews}}]\n", "spec.http[0].rout", "unknown field"),
        ("  hosts: reviews\n", "spec.hosts", "array"),
    ] {
        let output = world.try_kubectl(&["apply", "-f", "-"], &manifest(spec))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "accepted:\n{spec}");
        ensure!(said.contains(path) && said.contains(reason), "no {path:?} and {reason:?} in {said}");
    }
    let stored = world.try_kubectl(&["get", "virtualservice", "bad"], "")?;
    ensure!(!stored.status.success(), "a refused manifest was stored");
    Ok(())
}

fn survives_kill(world: &mut World) -> Result<()> {
    world.kubectl(&["apply", "-f", "bookinfo/destination-rule-all.yaml", "-f", "bookinfo/vs-all-v1.yaml"])?;
    let before = world.instances_of("/mesh-control")?[0].clone();
    let pid = pid_of(&before)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
    // The data plane does not notice: not even one request of these goes elsewhere.
    for pod in clients(world)? {
        only_v1(world, &pod)?;
    }
    eventually("Marathon starts mesh-control again, with its rules", Duration::from_secs(60), || {
        let now = world.instances_of("/mesh-control")?;
        ensure!(now.iter().any(|i| pid_of(i).is_ok_and(|p| p != pid)), "the same process");
        world.kubectl(&["get", "virtualservice", "reviews", "-o", "name"])
    })?;
    for pod in clients(world)? {
        only_v1(world, &pod)?;
    }
    eventually("rules can be changed again", Duration::from_secs(30), || {
        world.forget_rules()?;
        let seen = versions(world, "productpage")?;
        ensure!(seen.as_object().is_some_and(|o| o.len() == 3), "{seen}");
        Ok(())
    })
}

fn wants_token(world: &mut World) -> Result<()> {
    let config = std::fs::read_to_string(&world.kubeconfig)?;
    let server = config
        .lines()
        .find_map(|l| l.trim().strip_prefix("server: "))
        .context("no server in the kubeconfig")?
        .trim_matches('"')
        .to_owned();
    for arguments in [vec![], vec!["-H", "authorization: Bearer wrong"]] {
        let url = format!("{server}/apis/networking.istio.io/v1/virtualservices");
        let (status, body) = world.browse(&[&["-k", url.as_str()], &arguments[..]].concat())?;
        ensure!(status == 401, "{status} {body}");
    }
    Ok(())
}
