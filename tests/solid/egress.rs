//! What is outside is refused until a ServiceEntry allows it, on its port only, and refused again afterwards.

use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::{World, pid_of};
use serde_json::Value;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ("egress::refused at once by default, with log line and counter", refused),
    ("egress::a ServiceEntry opens its host and port, and its deletion closes them", opened),
    ("egress::AUDIT lets out, and with what mesh-control suggests nothing is counted any more", audited),
    ("egress::a pod with NET_RAW and NET_ADMIN does not get out either", privileged_pod),
];

/// The namespace that plays the world: httpbin.org is 203.0.113.10.
const OUTSIDE: &str = "203.0.113.10";
const SOON: Duration = Duration::from_secs(5);

/// A server outside, ended with the test.
struct Server(Child);

impl Server {
    fn start(world: &World, port: u16) -> Result<Self> {
        let port = port.to_string();
        let mut command = world.in_namespace("outside", &[&world.echo_program(), "serve", "--port", &port])?;
        Ok(Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn dial(world: &World, to: &str) -> Result<Value> {
    world.echo("productpage", &["dial", to])
}

fn denied(world: &World, to: &str) -> Result<()> {
    let said = dial(world, to)?;
    ensure!(said["ok"] == false, "reached {to}: {said}");
    ensure!(said["micros"].as_u64().is_some_and(|m| m < 500_000), "hung: {said}");
    Ok(())
}

fn node_of(world: &World, pod: &str) -> Result<String> {
    Ok(world.instances_of(pod)?[0]["node"].as_str().context("no node")?.to_owned())
}

fn refusals(world: &World, node: &str) -> Result<f64> {
    let metrics = world.admin(node, "agent", "/metrics")?;
    let lines = metrics.lines().filter(|l| l.starts_with("mesh_agent_refusals_total") && l.contains("egress_denied"));
    Ok(lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

fn refused(world: &mut World) -> Result<()> {
    let node = node_of(world, "/productpage")?;
    let before = refusals(world, &node)?;
    denied(world, &format!("{OUTSIDE}:80"))?;
    eventually("the counter", SOON, || {
        let now = refusals(world, &node)?;
        ensure!(now > before, "{before} to {now}");
        Ok(())
    })?;
    let agents = world.instances_of("/mesh-agent")?;
    let agent = agents.iter().find(|a| a["node"] == node.as_str()).context("no agent")?;
    eventually("the log line", SOON, || {
        let mut log = String::new();
        for stream in ["stdout", "stderr"] {
            let path = agent["containers"][0][stream].as_str().context("no log")?;
            log += &std::fs::read_to_string(path)?;
        }
        let line = log.lines().find(|l| l.contains("egress_denied") && l.contains(OUTSIDE)).context("no line")?;
        ensure!(line.contains("productpage") && line.contains("80"), "{line}");
        Ok(())
    })
}

fn opened(world: &mut World) -> Result<()> {
    let _servers = [Server::start(world, 80)?, Server::start(world, 81)?];
    let curl = |world: &World, url: &str| world.curl("productpage", &[url]);
    ensure!(curl(world, "http://httpbin.org/ip").is_err(), "reached httpbin.org without a ServiceEntry");
    world.kubectl(&["apply", "-f", "bookinfo/serviceEntry.yaml"])?;
    eventually("httpbin.org answers", SOON, || {
        let (status, body) = curl(world, "http://httpbin.org/ip")?;
        ensure!(status == 200 && body.contains("/ip"), "{status} {body}");
        Ok(())
    })?;
    ensure!(curl(world, "http://httpbin.org:81/ip").is_err(), "reached a port that no rule names");
    denied(world, &format!("{OUTSIDE}:81"))?;
    world.kubectl(&["delete", "-f", "bookinfo/serviceEntry.yaml"])?;
    eventually("closed again", SOON, || denied(world, &format!("{OUTSIDE}:80")))
}

/// ConfigMap `istio` with this outbound policy.
fn policy(mode: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: istio\n  namespace: istio-system\ndata:\n  mesh: |-\n    \
         outboundTrafficPolicy:\n      mode: {mode}\n"
    )
}

fn apply(world: &World, yaml: &str) -> Result<()> {
    let applied = world.try_kubectl(&["apply", "-f", "-"], yaml)?;
    let said = String::from_utf8_lossy(&applied.stderr).into_owned();
    ensure!(applied.status.success() && !said.contains("Warning"), "{said}\n{yaml}");
    Ok(())
}

fn audited(world: &mut World) -> Result<()> {
    let _servers = [Server::start(world, 80)?, Server::start(world, 8099)?];
    let node = node_of(world, "/productpage")?;
    apply(world, &policy("AUDIT"))?;
    // By its name, and an address of which nobody knows one.
    let get_out = || {
        let (status, _) = world.curl("productpage", &["http://httpbin.org/ip"])?;
        let said = dial(world, &format!("{OUTSIDE}:8099"))?;
        ensure!(status == 200 && said["ok"] == true, "{status} {said}");
        Ok(())
    };
    eventually("pods get out", Duration::from_secs(30), get_out)?;
    let counts = || -> Result<Vec<(u64, u64)>> {
        let all: Vec<Value> = serde_json::from_str(&world.admin(&node, "agent", "/audit")?)?;
        let ours = all.iter().filter(|one| one["app"] == "/productpage" && one["address"] == OUTSIDE);
        Ok(ours.map(|one| (one["port"].as_u64().unwrap_or_default(), one["count"].as_u64().unwrap_or_default())).collect())
    };
    let found = counts()?;
    ensure!(found.len() == 2 && found[0].0 == 80 && found[1].0 == 8099, "{found:?}");

    let file = std::env::temp_dir().join(format!("mesh-audit-{}.json", std::process::id()));
    std::fs::write(&file, world.admin(&node, "agent", "/audit")?)?;
    let suggested = Command::new(world.binaries().join("mesh-control")).arg("suggest").arg(&file).output();
    std::fs::remove_file(&file)?;
    let suggested = suggested?;
    let yaml = String::from_utf8_lossy(&suggested.stdout).into_owned();
    ensure!(suggested.status.success(), "{}", String::from_utf8_lossy(&suggested.stderr));
    ensure!(yaml.contains("- httpbin.org"), "{yaml}");
    apply(world, &yaml)?;
    eventually("nothing is counted any more", Duration::from_secs(30), || {
        let before = counts()?;
        get_out()?;
        let after = counts()?;
        ensure!(before == after, "{before:?} {after:?}");
        Ok(())
    })?;
    world.kubectl(&["delete", "configmap", "istio", "-n", "istio-system"])?;
    eventually("what is not suggested is refused again", Duration::from_secs(30), || denied(world, &format!("{OUTSIDE}:82")))?;
    get_out()?;
    let deleted = world.try_kubectl(&["delete", "-f", "-"], &yaml)?;
    ensure!(deleted.status.success(), "{}", String::from_utf8_lossy(&deleted.stderr));
    eventually("closed again", SOON, || denied(world, &format!("{OUTSIDE}:8099")))
}

fn privileged_pod(world: &mut World) -> Result<()> {
    let pid = pid_of(&world.instances_of("/productpage")?[0])?.to_string();
    let own = world.instances_of("/productpage")?[0]["address"].as_str().context("no address")?.to_owned();
    let filter = format!("src host {own}");
    let mut sniffer = world.in_namespace("outside", &["tcpdump", "-n", "-l", "-i", "any", "--immediate-mode", &filter])?;
    let mut sniffer = sniffer.spawn()?;
    // tcpdump says "listening on" when it captures.
    let mut said = std::io::BufReader::new(sniffer.stderr.take().context("no stderr")?);
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        ensure!(std::io::BufRead::read_line(&mut said, &mut line)? > 0, "tcpdump ended");
    }
    // As root in the pod's namespace: raw ICMP, a raw SYN past the hooks, and the mark taken off by a rule of its own.
    let inside = |command: &[&str]| Command::new("nsenter").args(["-t", &pid, "-n"]).args(command).output();
    inside(&["ping", "-c", "2", "-i", "0.2", "-W", "1", OUTSIDE])?;
    let raw = format!(
        "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_RAW,socket.IPPROTO_UDP)\nfor _ in range(5): s.sendto(b'\\x30\\x39\\x00\\x50\\x00\\x0c\\x00\\x00mesh',('{OUTSIDE}',0))\n"
    );
    let python = inside(&["python3", "-c", &raw])?;
    ensure!(python.status.success() || String::from_utf8_lossy(&python.stderr).contains("Permission"), "{python:?}");
    // What the capture would have shown by now it shows before this marker, which comes from the fabric itself.
    let mut marker = world.in_namespace("outside", &["ping", "-c", "1", "-W", "1", OUTSIDE])?;
    marker.output()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(sniffer.id().cast_signed()), nix::sys::signal::Signal::SIGINT)?;
    let output = sniffer.wait_with_output()?;
    let seen = String::from_utf8_lossy(&output.stdout);
    ensure!(seen.trim().is_empty(), "packets got out:\n{seen}");
    Ok(())
}
