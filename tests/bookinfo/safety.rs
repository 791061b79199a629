//! What must not be possible, and what must not be there.

use super::Case;
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::world::{World, pid_of};
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ("safety::a pod that dials the mesh's own listeners is refused at once", own_listeners),
    ("safety::the capture listeners of IPv4 and IPv6 take nobody who dials them", capture_listeners),
    ("safety::a pod reaches nothing outside that no rule allows", outside),
    ("safety::workloads know nothing of the mesh", nothing_changed),
    ("safety::no iptables or nft rule of ours anywhere", no_netfilter),
    ("safety::no namespace of the tests has a route to this machine's network", isolated),
];

/// Every process of the shop's pods, one per network namespace.
fn pods(world: &World) -> Result<Vec<(String, i32)>> {
    let ids = ["/productpage", "/details", "/ratings", "/reviews-v1", "/reviews-v2", "/reviews-v3"];
    ids.iter().map(|id| Ok(((*id).to_owned(), pid_of(&world.instances_of(id)?[0])?))).collect()
}

fn refused(world: &World, pod: &str, to: &str) -> Result<()> {
    let said = world.echo(pod, &["dial", to])?;
    ensure!(said["ok"] == false, "{pod} reached {to}: {said}");
    ensure!(said["micros"].as_u64().is_some_and(|m| m < 500_000), "{pod} to {to} hung: {said}");
    let errno = said["errno"].as_i64().and_then(|e| i32::try_from(e).ok()).unwrap_or_default();
    let known = [libc::ECONNREFUSED, libc::EPERM, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EACCES];
    ensure!(known.contains(&errno), "{pod} to {to}: {said}");
    Ok(())
}

fn own_listeners(world: &mut World) -> Result<()> {
    for pod in ["productpage", "ratings"] {
        for to in ["127.0.0.1:15001", "127.0.0.1:15053", "127.128.0.1:15053", "0.0.0.0:15001"] {
            refused(world, pod, to)?;
        }
        for node in ["198.18.0.11", "198.18.0.12"] {
            for port in [32443, 32010] {
                refused(world, pod, &format!("{node}:{port}"))?;
            }
        }
        let said = world.echo(pod, &["dial", "--udp", "--timeout-ms", "300", "127.0.0.1:15053"])?;
        // A refusal at sendto(): a datagram that is merely not answered would end in EAGAIN, and show nothing.
        let errno = said["errno"].as_i64().and_then(|e| i32::try_from(e).ok()).unwrap_or_default();
        ensure!([libc::ECONNREFUSED, libc::EPERM, libc::EACCES, libc::EHOSTUNREACH].contains(&errno), "{said}");
    }
    Ok(())
}

/// Where the kernel hands captured connections to: whoever dialled there himself would choose his own original destination. That a process of
/// the node that enters a pod's network is judged as the pod is, mesh-agent's `node_flows` shows.
fn capture_listeners(world: &mut World) -> Result<()> {
    let refusals = |world: &World| -> Result<f64> {
        let mut sum = 0.0;
        for node in ["node1", "node2"] {
            let metrics = world.admin(node, "agent", "/metrics")?;
            let lines = metrics.lines().filter(|l| l.starts_with("mesh_agent_refusals_total") && l.contains("\"mesh_listener\""));
            sum += lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
        }
        Ok(sum)
    };
    // IPv4 and IPv6, the unspecified address that connect() takes for loopback, and IPv4 through an IPv6 socket.
    let ways = ["127.0.0.1", "[::1]", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "127.9.9.9"].map(|host| format!("{host}:15001"));
    let before = refusals(world)?;
    for (pod, pid) in pods(world)? {
        // There is something to protect: both listen.
        for (table, loopback) in [("tcp", "0100007F:3A99"), ("tcp6", "00000000000000000000000001000000:3A99")] {
            let sockets = std::fs::read_to_string(format!("/proc/{pid}/net/{table}"))?;
            ensure!(sockets.lines().any(|line| line.contains(loopback) && line.contains(" 0A ")), "{pod}: {table}:\n{sockets}");
        }
        ways.iter().try_for_each(|to| refused(world, pod.trim_start_matches('/'), to))?;
    }
    let asked = ways.len() * pods(world)?.len();
    eventually("each of them is counted", Duration::from_secs(10), || {
        let counted = refusals(world)? - before;
        ensure!(counted as usize >= asked, "{counted} of {asked}");
        Ok(())
    })?;
    // From the pod's node there is no way to them: they listen on the pod's loopback alone.
    for instance in
        ["/productpage", "/ratings"].map(|id| world.instances_of(id)).into_iter().collect::<Result<Vec<_>>>()?.concat()
    {
        let (node, address) = (instance["node"].as_str().unwrap_or_default(), instance["address"].as_str().unwrap_or_default());
        for port in [15001, 15053] {
            let to = format!("{address}:{port}");
            let output = world.in_namespace(node, &[&world.echo_program(), "dial", &to])?.output()?;
            let said: Value = serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
            ensure!(said["ok"] == false, "{node} reached {to}: {said}");
        }
    }
    Ok(())
}

fn outside(world: &mut World) -> Result<()> {
    for to in ["203.0.113.10:80", "203.0.113.10:443", "198.18.0.1:8080", "11.200.0.1:80"] {
        refused(world, "productpage", to)?;
    }
    Ok(())
}

fn nothing_changed(world: &mut World) -> Result<()> {
    for (pod, pid) in pods(world)? {
        let environment = std::fs::read(format!("/proc/{pid}/environ"))?;
        let environment = String::from_utf8_lossy(&environment).to_ascii_lowercase();
        for hint in ["proxy", "15001", "mesh_"] {
            ensure!(!environment.contains(hint), "{pod}: {hint:?} in its environment");
        }
        let resolver = world.exec(&pod, &["cat", "/etc/resolv.conf"])?;
        ensure!(resolver.contains("198.51.100.1") && !resolver.contains("127."), "{pod}: {resolver}");
        let namespace = std::fs::metadata(format!("/proc/{pid}/ns/net"))?.ino();
        for (name, other) in processes_in(namespace)? {
            // Mesos' executor shares the namespace of its pod; it is the platform's, not ours.
            ensure!(
                other == pid || name == "bookinfo" || name.starts_with("mesos-default-e"),
                "{pod}: a process {name:?} ({other}) shares its namespace"
            );
        }
    }
    Ok(())
}

fn processes_in(namespace: u64) -> Result<BTreeMap<String, i32>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<i32>() else { continue };
        // Processes end while we look; those are in nobody's way.
        let Ok(meta) = std::fs::metadata(format!("/proc/{pid}/ns/net")) else { continue };
        if meta.ino() == namespace {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            found.insert(name.trim().to_owned(), pid);
        }
    }
    Ok(found)
}

/// A process of each network namespace of this world: pods and nodes.
fn namespaces(world: &World) -> Result<Vec<(String, i32)>> {
    let mut all = pods(world)?;
    for instance in world.instances_of("/mesh-agent")? {
        all.push((instance["node"].as_str().unwrap_or_default().to_owned(), pid_of(&instance)?));
    }
    Ok(all)
}

fn inside(pid: i32, command: &[&str]) -> Result<String> {
    let output = Command::new("nsenter").args(["-t", &pid.to_string(), "-n"]).args(command).output()?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn no_netfilter(world: &mut World) -> Result<()> {
    for (name, pid) in namespaces(world)? {
        let rules = inside(pid, &["nft", "list", "ruleset"])?;
        ensure!(rules.trim().is_empty(), "{name}: {rules}");
        for table in ["ip_tables_names", "ip6_tables_names"] {
            let tables = inside(pid, &["cat", &format!("/proc/net/{table}")]).unwrap_or_default();
            ensure!(tables.trim().is_empty(), "{name}: {table}: {tables}");
        }
    }
    Ok(())
}

fn isolated(world: &mut World) -> Result<()> {
    let json = |text: &str| -> Result<Vec<Value>> { Ok(serde_json::from_str(if text.trim().is_empty() { "[]" } else { text })?) };
    let own = json(&String::from_utf8(Command::new("ip").args(["-j", "addr"]).output()?.stdout)?)?;
    let own: Vec<String> = own
        .iter()
        .flat_map(|link| link["addr_info"].as_array().cloned().unwrap_or_default())
        .filter_map(|a| Some(a["local"].as_str()?.to_owned()))
        .collect();
    ensure!(own.iter().any(|a| a == "127.0.0.1"), "{own:?}");
    for test_net in ["9.", "11.", "198.18.0.", "198.51.100.", "203.0.113."] {
        ensure!(!own.iter().any(|a| a.starts_with(test_net)), "this machine itself has a test address: {own:?}");
    }
    let root = std::fs::metadata("/proc/self/ns/net")?.ino();
    for (name, pid) in namespaces(world)? {
        ensure!(std::fs::metadata(format!("/proc/{pid}/ns/net"))?.ino() != root, "{name} is in this machine's own namespace");
        for route in json(&inside(pid, &["ip", "-j", "route"])?)? {
            let gateway = route["gateway"].as_str().unwrap_or("9.");
            ensure!(["9.", "198.18.0.", "203.0.113."].iter().any(|net| gateway.starts_with(net)), "{name} routes to {route}");
        }
    }
    let links = json(&String::from_utf8(Command::new("ip").args(["-j", "-d", "link"]).output()?.stdout)?)?;
    let veth = links.iter().find(|l| l["linkinfo"]["info_kind"] == "veth").map(|l| l["ifname"].clone());
    ensure!(veth.is_none(), "a veth leads from this machine's namespace: {:?}", veth.context("none"));
    Ok(())
}
