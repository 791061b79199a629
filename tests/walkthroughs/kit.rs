//! Hands for the walkthroughs: pods and rules of `bookinfo/walkthroughs`, and the load client's counts.

use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::world::{World, pid_of, root};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// A rule is in force about when kubectl returns, a pod takes longer; a machine that does other work too may need all of this.
pub(crate) const SOON: Duration = Duration::from_secs(20);
const STARTED: Duration = Duration::from_secs(60);

fn definition(pod: &str) -> Result<Value> {
    let path = root().join(format!("bookinfo/walkthroughs/{pod}.json"));
    Ok(serde_json::from_str(&std::fs::read_to_string(&path).with_context(|| path.display().to_string())?)?)
}

/// Posts pods (`1/client`) unless they are there, and waits until all their instances run.
pub(crate) fn pods(world: &World, pods: &[&str]) -> Result<()> {
    for pod in pods {
        let definition = definition(pod)?;
        let id = definition["id"].as_str().context("a pod has an id")?;
        if world.instances_of(id).is_err() {
            world.marathon("POST", "/v2/pods", &definition.to_string())?;
        }
    }
    pods.iter().try_for_each(|pod| running(world, &definition(pod)?))
}

/// Changes a pod: how many, and its environment. Waits until that is what runs.
pub(crate) fn change(world: &World, pod: &str, instances: u32, environment: Value) -> Result<()> {
    let mut definition = definition(pod)?;
    definition["scaling"]["instances"] = json!(instances);
    definition["environment"] = environment;
    put(world, &definition)?;
    eventually("the deployment ends", STARTED, || {
        let deployments = world.marathon("GET", "/v2/deployments", "")?;
        ensure!(deployments.trim() == "[]", "{deployments}");
        Ok(())
    })?;
    running(world, &definition)
}

/// Asks for so many instances of a pod; what runs goes on, and what does not yet is not waited for.
pub(crate) fn scale(world: &World, pod: &str, instances: u32) -> Result<()> {
    let mut definition = definition(pod)?;
    definition["scaling"]["instances"] = json!(instances);
    put(world, &definition)
}

fn put(world: &World, definition: &Value) -> Result<()> {
    let path = format!("/v2/pods{}?force=true", definition["id"].as_str().unwrap_or_default());
    world.marathon("PUT", &path, &definition.to_string()).map(drop)
}

/// A client, a backend that never fails, and a sniffer that answers.
pub(crate) fn sniffed(world: &World) -> Result<()> {
    pods(world, &["1/client", "1/sniffer"])?;
    change(world, "1/retry-backend", 3, json!({ "FAIL_RATE": "0" }))?;
    eventually("the sniffer answers", SOON, || {
        let (status, body) = world.curl("client", &["http://sniffer/hello"])?;
        ensure!(status == 200, "{status} {body}");
        Ok(())
    })
}

/// What a pod has written.
pub(crate) fn logs(world: &World, pod: &str) -> Result<String> {
    let mut logs = std::process::Command::new(world.binaries().join("marathon-sim"));
    let output = logs.args(["logs", "--state"]).arg(&world.state).arg(pod).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn running(world: &World, definition: &Value) -> Result<()> {
    let id = definition["id"].as_str().context("a pod has an id")?;
    let wanted = definition["scaling"]["instances"].as_u64().unwrap_or(1);
    eventually(&format!("{id} runs"), STARTED, || {
        let running = world.instances_of(id)?.iter().filter(|instance| pid_of(instance).is_ok()).count();
        ensure!(running as u64 == wanted, "{running} of {wanted}");
        Ok(())
    })
}

/// `kubectl apply -f` of a file of the walkthroughs (`1/gateway`).
pub(crate) fn apply(world: &World, rule: &str) -> Result<()> {
    world.kubectl(&["apply", "-f", &format!("bookinfo/walkthroughs/{rule}.yaml")]).map(|_| ())
}

/// `kubectl delete -f` of the same.
pub(crate) fn delete(world: &World, rule: &str) -> Result<()> {
    world.kubectl(&["delete", "-f", &format!("bookinfo/walkthroughs/{rule}.yaml")]).map(|_| ())
}

/// What the load client counted: by status (`200`), and by value of the word (`version: v1`).
pub(crate) type Counts = BTreeMap<String, u32>;

/// Runs the load client in a pod: so many connections and requests.
pub(crate) fn load(world: &World, pod: &str, connections: u32, requests: u32, more: &[&str]) -> Result<Counts> {
    let (connections, requests) = (connections.to_string(), requests.to_string());
    let program = world.binaries().join("walkthrough").to_string_lossy().into_owned();
    let said = world.exec(pod, &[&[program.as_str(), "load", "-c", &connections, "-n", &requests], more].concat())?;
    let mut counts = Counts::new();
    for line in said.lines() {
        if let Some((what, count)) = line.rsplit_once(" : ") {
            let what = what.trim_start_matches("Code").trim().to_owned();
            let count = count.split(' ').next().and_then(|count| count.parse().ok());
            counts.insert(what, count.with_context(|| format!("no count in {line:?}"))?);
        }
    }
    ensure!(!counts.is_empty(), "the load client said {said:?}");
    Ok(counts)
}

/// The counts of one word's values only.
pub(crate) fn values(counts: &Counts, word: &str) -> BTreeMap<String, u32> {
    let prefix = format!("{word}: ");
    counts.iter().filter_map(|(what, count)| Some((what.strip_prefix(&prefix)?.to_owned(), *count))).collect()
}

pub(crate) fn count(counts: &Counts, what: &str) -> u32 {
    counts.get(what).copied().unwrap_or_default()
}

/// Is `seen` of `total` within four standard deviations of a share? One run in 16,000 is not.
pub(crate) fn within(seen: u32, total: u32, share: f64) -> Result<()> {
    let (seen, total) = (f64::from(seen), f64::from(total));
    let off = (seen - total * share).abs();
    let allowed = 4.0 * (total * share * (1.0 - share)).sqrt();
    ensure!(off <= allowed, "{seen} of {total} is {off:.0} off a share of {share}, {allowed:.0} are allowed");
    Ok(())
}

/// GET from outside at a node's address: status and body.
pub(crate) fn outside(world: &World, node: u8, host: &str, path: &str) -> Result<(u16, String)> {
    let url = format!("http://198.18.0.1{node}{path}");
    let header = format!("host: {host}");
    let mut curl =
        world.in_namespace("outside", &["curl", "-s", "-S", "-m", "10", "-w", "\n%{http_code}", "-H", &header, &url])?;
    let output = curl.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "curl {url}: {}", String::from_utf8_lossy(&output.stderr));
    let (body, status) = text.rsplit_once('\n').context("curl said nothing")?;
    Ok((status.trim().parse()?, body.to_owned()))
}
