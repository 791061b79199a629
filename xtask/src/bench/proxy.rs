//! `bench proxy`: HAProxy, nginx, Envoy and mesh-proxy side by side on this machine's loopback, one thread each, before the same backends.
//! Without pods and kernel programs: what a proxy itself costs. Rivals take turns within each round.

mod case;
mod config;
mod h2load;
mod idle;
mod rival;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::report::{Conditions, publish};
use super::{cpu, wrk};
use crate::cargo::{self, show};
use crate::install;
use crate::ui::{note, say, step};
use case::{CASES, Case, Load};
use rival::{Rival, Stand};

/// What a pace is measured at: far below what any of them can do on one core of the last ten years.
const PACE: u32 = 4000;
const CONNECTIONS: u32 = 32;
const IDLE: usize = 1000;

#[derive(clap::Args)]
pub(super) struct Args {
    /// The first case alone, under a minute; printed and not written to docs/benchmarks.md.
    #[arg(long)]
    quick: bool,
    /// Take mesh-proxy's release build as it is: its build takes minutes, and a stale one shows in the figures only.
    #[arg(long)]
    built: bool,
    /// Only cases whose name has this in it; printed and not written to docs/benchmarks.md.
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Another build of `examples/solo` that takes part as mesh-proxy's rival: what a change is worth.
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
}

/// A run of a load against a rival.
pub(super) struct Sample {
    rival: Rival,
    case: &'static str,
    requests: f64,
    per_second: f64,
    /// CPU seconds of the rival.
    cpu: f64,
}

/// Latencies at a pace, in microseconds: p50, p99, p99.9.
pub(super) struct Paced {
    rival: Rival,
    micros: [f64; 3],
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let programs =
        rival::Programs { haproxy: haproxy()?, nginx: install::nginx()?, envoy: install::envoy()?, ours: solo(args.built)? };
    let stand = step("starting backends and proxies", || Stand::start(&programs, args.against.as_deref()))?;
    let all = !args.quick && args.case.is_none();
    let (rounds, seconds) = (5, 2);
    let wanted = |case: &&Case| match &args.case {
        Some(text) => case.name.contains(text),
        None => all || case.name == case::KEEP_ALIVE,
    };
    let cases: Vec<&Case> = CASES.iter().filter(wanted).collect();
    ensure!(!cases.is_empty(), "no case has that in its name; they are: {}", CASES.map(|case| case.name).join("; "));
    // First: what loads leave in an allocator would hide what connections take.
    let idle = stand.rivals().iter().filter(|_| all).map(|rival| Ok((*rival, idle::measure(&stand, *rival, IDLE)?)));
    let memory = idle.collect::<Result<Vec<_>>>()?;
    let mut samples = Vec::new();
    for case in cases {
        for round in 0..rounds {
            samples.extend(turns(&stand, round).map(|rival| one(&stand, rival, case, seconds)).collect::<Result<Vec<_>>>()?);
        }
        say(&table::case(case, &samples));
    }
    if !all {
        return Ok(ExitCode::SUCCESS);
    }
    let mut paced = Vec::new();
    for round in 0..rounds {
        for rival in turns(&stand, round) {
            let micros = h2load::paced(&stand.url(rival, case::Port::One, "/1k"), CONNECTIONS, PACE, seconds, stand.dir())?;
            paced.push(Paced { rival, micros });
        }
        note(&format!("round {} of {rounds} at {PACE} requests a second", round + 1));
    }
    let conditions = Conditions::of_this_machine("cargo xtask bench proxy", rounds, seconds)?;
    publish("proxy", &table::all(&samples, &paced, &memory, &conditions))?;
    Ok(ExitCode::SUCCESS)
}

/// Whoever comes first in one round comes last in the next.
fn turns(stand: &Stand, round: u32) -> impl Iterator<Item = Rival> {
    let mut order = stand.rivals().to_vec();
    let by = round as usize % order.len();
    order.rotate_left(by);
    order.into_iter()
}

fn one(stand: &Stand, rival: Rival, case: &Case, seconds: u32) -> Result<Sample> {
    let url = stand.url(rival, case.port, case.path);
    let before = cpu::of(stand.pid(rival))?;
    let (requests, per_second) = match case.load {
        Load::Wrk { connections, headers } => {
            let measured = wrk::run(rival::bound("wrk"), &url, connections, seconds, headers)?;
            (measured.requests, measured.per_second)
        }
        Load::Http2 { connections, streams, grpc } => {
            h2load::run(&url, (connections, streams), seconds, grpc.then(|| stand.message()).as_deref())?
        }
    };
    // What is still being cleared away when the load ends belongs to it.
    std::thread::sleep(Duration::from_millis(20));
    let cpu = cpu::of(stand.pid(rival))? - before;
    ensure!(cpu > 0.0, "{} did nothing: the load went elsewhere", rival.name());
    note(&format!("{}, {}: {per_second:.0} requests a second, {:.0} per CPU-second", case.name, rival.name(), requests / cpu));
    Ok(Sample { rival, case: case.name, requests, per_second, cpu })
}

/// Debian's HAProxy, unpacked beside the build, and what it and the loads need.
fn haproxy() -> Result<PathBuf> {
    install::packages(&install::LOADS)?;
    install::haproxy()
}

fn solo(built: bool) -> Result<PathBuf> {
    let program = cargo::target().join("release/examples/solo");
    if !built {
        step("building mesh-proxy alone (minutes: fat LTO)", || {
            show(cargo::cargo().args(["build", "--release", "-p", "mesh-proxy", "--example", "solo"]))
        })?;
    }
    ensure!(program.is_file(), "{} is not there; without --built it is built", program.display());
    Ok(program)
}
