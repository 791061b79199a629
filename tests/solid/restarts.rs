//! Restarts of the mesh's own parts under load: planned ones lose nothing, a killed agent is not noticed, and a killed proxy only where
//! it was at work.

use crate::held::{self, Held};
use crate::kernel;
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use mesh_tests::load::Load;
use mesh_tests::suite::Case;
use mesh_tests::world::{World, pid_of};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const CASES: &[Case] = &[
    ("restarts::a planned upgrade of mesh-proxy loses no request", |world| planned(world, "mesh-proxy")),
    ("restarts::a planned upgrade of mesh-agent loses no request", |world| planned(world, "mesh-agent")),
    ("restarts::kill -9 of mesh-agent is not noticed, in connections old or new of any mode", agent_killed),
    (
        "restarts::kill -9 of mesh-proxy fails what is in flight at once, refuses no connection, and leaves kernel mode and direct \
         connections alone",
        proxy_killed,
    ),
    ("restarts::a node without its agent keeps and makes connections in every mode for a minute", minute_without_agent),
    ("restarts::with the proxy gone policy holds: denied is refused, ruled waits, and no packet goes to a backend", proxy_gone),
];

const REVIEWS: [&str; 3] = ["details", "9080", "/details/0"];
const RATE: u32 = 2000;
/// How soon a request in flight ends when its proxy is killed. The kernel does it within milliseconds; this is far above what a busy
/// machine adds, and far below the 15 s and 60 s for which the clients would wait.
const AT_ONCE: Duration = Duration::from_secs(4);

pub(crate) fn pids(world: &World, app: &str) -> Result<BTreeSet<i32>> {
    world.instances_of(app)?.iter().map(pid_of).collect()
}

pub(crate) fn ready(world: &World, process: &str) -> Result<()> {
    for node in ["node1", "node2"] {
        world.admin(node, process, "/ready")?;
    }
    Ok(())
}

fn planned(world: &mut World, app: &str) -> Result<()> {
    let process = app.trim_start_matches("mesh-");
    let before = pids(world, &format!("/{app}"))?;
    let load = Load::start(world, "productpage", REVIEWS, RATE, &[])?;
    world.marathon("POST", &format!("/v2/apps/{app}/restart?force=true"), "{}")?;
    eventually("both nodes run a new one", Duration::from_secs(60), || {
        let now = pids(world, &format!("/{app}"))?;
        ensure!(now.len() == 2 && now.is_disjoint(&before), "{before:?} to {now:?}");
        ready(world, process)
    })?;
    load.until_requests(8000);
    load.finish_without_failure(5000).map(drop)
}

/// Loads that no proxy is on the path of, by what they show: direct and in kernel mode, on kept connections and on new ones.
fn past_the_proxy(world: &World) -> Result<Vec<(&'static str, Load)>> {
    const KEPT: [&str; 4] = ["--connections", "4", "--seconds", "120"];
    const FRESH: [&str; 5] = ["--connections", "4", "--seconds", "120", "--fresh"];
    kernel::started(world)?;
    let address = world.instances_of("/details")?[0]["address"].as_str().context("no address")?.to_owned();
    let (direct, redis) = ([address.as_str(), "9080", "/details/0"], ["redis", "6379", "ping"]);
    let in_kernel_mode = |more: &[&str]| Load::start(world, "ratings", redis, 50, &[&["--redis"], more].concat());
    Ok(vec![
        ("direct, kept", Load::start(world, "reviews-v1", direct, 50, &KEPT)?),
        ("direct, new", Load::start(world, "reviews-v1", direct, 50, &FRESH)?),
        ("kernel mode, kept", in_kernel_mode(&KEPT)?),
        ("kernel mode, new", in_kernel_mode(&FRESH)?),
    ])
}

/// Nothing failed, and what was kept is on the sockets that it began on.
fn noticed_nothing(loads: Vec<(&'static str, Load)>) -> Result<()> {
    for (what, load) in loads {
        let outcome = load.finish_without_failure(50).context(what)?;
        ensure!(!what.ends_with("kept") || outcome.said["opened"] == 4, "{what}: {}", outcome.said);
    }
    Ok(())
}

fn agent_killed(world: &mut World) -> Result<()> {
    let load = Load::start(world, "productpage", REVIEWS, RATE, &[])?;
    let fresh = Load::start(world, "reviews-v1", REVIEWS, 20, &["--connections", "2", "--fresh"])?;
    let others = past_the_proxy(world)?;
    let before = pids(world, "/mesh-agent")?;
    for pid in &before {
        kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
    }
    eventually("Marathon starts the agents again", Duration::from_secs(30), || {
        let now = pids(world, "/mesh-agent")?;
        ensure!(now.len() == 2 && now.is_disjoint(&before), "{now:?}");
        ready(world, "agent")
    })?;
    load.until_requests(8000);
    noticed_nothing(others)?;
    fresh.finish_without_failure(50)?;
    load.finish_without_failure(5000).map(drop)
}

fn signal_agents(pids: &BTreeSet<i32>, signal: Signal) -> Result<()> {
    pids.iter().try_for_each(|pid| Ok(kill(Pid::from_raw(*pid), signal)?))
}

/// kill -9, and none is started again. Marathon would do that within a second, so it hears first that there are to be none; the SIGTERM that it
/// then sends does not reach a stopped process.
fn minute_without_agent(world: &mut World) -> Result<()> {
    let agents = pids(world, "/mesh-agent")?;
    signal_agents(&agents, Signal::SIGSTOP)?;
    world.marathon("PUT", "/v2/apps/mesh-agent?force=true", "{\"instances\":0}")?;
    signal_agents(&agents, Signal::SIGKILL)?;
    let outcome = set_instances(world, "mesh-agent", 0).and_then(|()| minute(world));
    set_instances(world, "mesh-agent", 2)?;
    eventually("the agents are back", Duration::from_secs(60), || ready(world, "agent"))?;
    outcome
}

fn minute(world: &World) -> Result<()> {
    for node in ["node1", "node2"] {
        ensure!(world.admin(node, "agent", "/ready").is_err(), "an agent answers on {node}");
    }
    let fresh = ["--connections", "4", "--fresh", "--seconds", "120"];
    let proxied = Load::start(world, "productpage", REVIEWS, 20, &fresh)?;
    let kept = Load::start(world, "productpage", REVIEWS, 50, &["--connections", "4", "--seconds", "120"])?;
    let others = past_the_proxy(world)?;
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        let pong = world.exec("ratings", &["redis-cli", "-h", "redis", "ping"])?;
        ensure!(pong.trim() == "PONG", "kernel mode: {pong}");
    }
    noticed_nothing(others)?;
    kept.finish_without_failure(1000)?;
    proxied.finish_without_failure(1000).map(drop)
}

pub(crate) fn set_instances(world: &World, app: &str, instances: u32) -> Result<()> {
    world.marathon("PUT", &format!("/v2/apps/{app}?force=true"), &format!("{{\"instances\":{instances}}}"))?;
    let id = format!("/{app}");
    eventually("Marathon follows", Duration::from_secs(40), || {
        let now = world.instances()?.iter().filter(|i| i["app"] == id.as_str() && pid_of(i).is_ok()).count();
        ensure!(now == instances as usize, "{now} of {instances}");
        Ok(())
    })
}

fn proxy_gone(world: &mut World) -> Result<()> {
    let backend = world.instances_of("/details")?[0]["address"].as_str().context("no address")?.to_owned();
    let client = pid_of(&world.instances_of("/productpage")?[0])?.to_string();
    set_instances(world, "mesh-proxy", 0)?;
    let mut sniffer = Command::new("nsenter");
    let filter = format!("dst host {backend} and tcp");
    sniffer.args(["-t", &client, "-n", "tcpdump", "-n", "-l", "-i", "any", "--immediate-mode", &filter]);
    let mut sniffer = sniffer.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut said = BufReader::new(sniffer.stderr.take().context("no stderr")?);
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        ensure!(said.read_line(&mut line)? > 0, "tcpdump ended");
    }
    let denied = world.echo("productpage", &["dial", "203.0.113.10:80"])?;
    let waiting =
        world.exec_command("productpage", &["curl", "-s", "-m", "30", "-w", "%{http_code}", "http://details:9080/details/0"])?;
    let mut waiting = { waiting }.spawn()?;
    // Kernel mode goes on meanwhile, and shows that time has passed.
    let kernel = (0..20).try_for_each(|_| world.exec("productpage", &["redis-cli", "-h", "redis", "ping"]).map(drop));
    let early = waiting.try_wait()?;
    kill(Pid::from_raw(sniffer.id().cast_signed()), Signal::SIGINT)?;
    let captured = String::from_utf8_lossy(&sniffer.wait_with_output()?.stdout).into_owned();
    set_instances(world, "mesh-proxy", 2)?;
    let answer = String::from_utf8_lossy(&waiting.wait_with_output()?.stdout).into_owned();
    ensure!(denied["ok"] == false && denied["micros"].as_u64().is_some_and(|m| m < 500_000), "{denied}");
    kernel?;
    ensure!(early.is_none(), "the request to a ruled port did not wait: {early:?}");
    ensure!(captured.trim().is_empty(), "packets to a backend without a proxy:\n{captured}");
    ensure!(answer.ends_with("200"), "the request that waited got {answer:?}");
    Ok(())
}

fn proxy_killed(world: &mut World) -> Result<()> {
    let load = Load::start(world, "productpage", REVIEWS, 500, &["--connections", "8"])?;
    let others = past_the_proxy(world)?;
    let in_flight = Held::start(world, "productpage", 8)?;
    let before = pids(world, "/mesh-proxy")?;
    let killed = held::now();
    for pid in &before {
        kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
    }
    in_flight.failed_within(world, killed, AT_ONCE)?;
    eventually("Marathon starts the proxies again", Duration::from_secs(30), || {
        let now = pids(world, "/mesh-proxy")?;
        ensure!(now.len() == 2 && now.is_disjoint(&before), "{now:?}");
        ready(world, "proxy")
    })?;
    load.until_requests(3000);
    noticed_nothing(others)?;
    let outcome = load.finish()?;
    println!("{}", outcome.said);
    // Each of the eight connections loses one request, and no other fails; a refused connection would show as an error of its own.
    ensure!((1..=8).contains(&outcome.bad), "{}", outcome.said);
    let slowest = outcome.said["slowest_bad_ms"].as_u64().context("no time")?;
    ensure!(Duration::from_millis(slowest) < AT_ONCE, "a failure took {slowest} ms: {}", outcome.said);
    let texts = outcome.said["texts"].as_object().context("no texts")?;
    let other =
        texts.keys().find(|text| ["refused", "timed out", "temporarily unavailable"].iter().any(|word| text.contains(word)));
    ensure!(other.is_none(), "{}", outcome.said);
    Ok(())
}
