//! What operators ask of the running processes: `mesh-proxy clusters`, and the pages that Prometheus reads.

use super::Case;
use anyhow::{Context, Result, ensure};
use mesh_tests::world::World;
use mesh_tests::{eventually, promtool};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ("operate::mesh-proxy clusters shows connections to reviews v1", clusters),
    ("operate::promtool accepts the page of every process", pages),
];

const V1: &str = "outbound|9080|v1|reviews.marathon.l4lb.thisdcos.directory";

fn clusters(world: &mut World) -> Result<()> {
    world.kubectl(&["apply", "-f", "bookinfo/destination-rule-all.yaml", "-f", "bookinfo/vs-all-v1.yaml"])?;
    let node = world.instances_of("/productpage")?[0]["node"].as_str().unwrap_or_default().to_owned();
    let address = world.instances_of("/reviews-v1")?[0]["address"].as_str().context("no address")?.to_owned();
    let socket = world.state.join(&node).join("root/run/mesh/proxy-admin.sock");
    let mode = std::fs::metadata(&socket)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "anybody may ask: {mode:o}");
    eventually("a connection to v1 is shown", Duration::from_secs(30), || {
        let (status, body) = world.curl("productpage", &["http://reviews:9080/reviews/0"])?;
        ensure!(status == 200, "{status} {body}");
        let output = Command::new(world.binaries().join("mesh-proxy")).args(["clusters", "--admin"]).arg(&socket).output()?;
        ensure!(output.status.success(), "{output:?}");
        let page = String::from_utf8(output.stdout)?;
        // The connection of the last request rests, and is the only one that productpage needs.
        for stat in ["cx_active::1", "rq_active::0", "health_flags::healthy", "priority::0"] {
            let line = format!("{V1}::{address}:9080::{stat}");
            ensure!(page.lines().any(|found| found == line), "no {line} in\n{page}");
        }
        ensure!(page.contains(&format!("{V1}::default_priority::max_requests::")), "no limits in\n{page}");
        Ok(())
    })?;
    world.forget_rules()
}

fn pages(world: &mut World) -> Result<()> {
    let control = world.instances_of("/mesh-control")?[0]["node"].as_str().unwrap_or_default().to_owned();
    for (node, process) in
        [("node1", "proxy"), ("node2", "proxy"), ("node1", "agent"), ("node1", "dns"), (control.as_str(), "control")]
    {
        let page = world.admin(node, process, "/metrics")?;
        ensure!(page.lines().count() > 10, "{process}: {page}");
        let problems = promtool::check(&page).with_context(|| process.to_owned())?;
        // Istio's own name, which its dashboards ask for.
        let ours: Vec<&str> = problems.lines().filter(|line| !line.starts_with("istio_request_duration_milliseconds ")).collect();
        ensure!(ours.is_empty(), "{process} on {node}: {ours:#?}");
    }
    Ok(())
}
