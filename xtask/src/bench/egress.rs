//! `bench egress`: what an allowlist of 10 to 100,000 entries costs a connection, beside ipset and iptables. The load is
//! `mesh-agent/examples/egress`, which is also what makes and removes the stage; here its lines become tables.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::report::{Conditions, publish, spread};
use crate::cargo::{self, show};
use crate::ui::{note, step};
use crate::{ebpf, install};

#[derive(clap::Args)]
pub(super) struct Args {
    /// 3 rounds instead of 15: a minute.
    #[arg(long)]
    quick: bool,
}

/// How long one load of one variant lasts: long beside a connection, short beside whatever else the machine does.
const SLICE_MS: u32 = 150;

/// One slice of one load.
#[derive(Deserialize)]
struct Sample {
    case: String,
    variant: String,
    entries: u32,
    round: u32,
    /// Connections, or bytes.
    done: f64,
    /// Seconds of the core's time.
    cpu: f64,
    /// Nanoseconds.
    p50: f64,
    p99: f64,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "this makes namespaces and loads kernel programs, which need root");
    for packages in [&install::NODES[..], &install::KERNEL, &install::EGRESS] {
        install::packages(packages)?;
    }
    ebpf::ensure()?;
    step("building the load", || show(cargo::cargo().args(["build", "--workspace", "--example", "egress"])))?;
    let rounds = if args.quick { 3 } else { 15 };
    let samples = measure(rounds)?;
    let command = if args.quick { "cargo xtask bench egress --quick" } else { "cargo xtask bench egress" };
    let conditions = Conditions::of_this_machine(command, rounds, f64::from(SLICE_MS) / 1000.0)?;
    publish("egress", &section(&samples, &conditions))?;
    Ok(ExitCode::SUCCESS)
}

fn measure(rounds: u32) -> Result<Vec<Sample>> {
    let mut command = cargo::foreign(cargo::target().join("debug/examples/egress"));
    command.args([rounds.to_string(), SLICE_MS.to_string()]).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", cargo::spell(&command)))?;
    let mut samples = Vec::new();
    let mut at = (0, u32::MAX);
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        let sample: Sample = serde_json::from_str(&line).with_context(|| format!("not a sample: {line}"))?;
        if (sample.entries, sample.round) != at {
            at = (sample.entries, sample.round);
            note(&format!("{} entries, round {} of {rounds}", sample.entries, sample.round + 1));
        }
        samples.push(sample);
    }
    ensure!(child.wait()?.success(), "the load failed; what it said is above");
    Ok(samples)
}

fn section(samples: &[Sample], conditions: &Conditions) -> String {
    let mut out = format!(
        "{}; medians, with smallest and largest in brackets. A pod connects to allowed hosts at random, both ends on one core; ipset: one rule \
         with a set of `hash:ip,port`; iptables: one rule for each entry. Refused is what nobody allows: by the mesh with EHOSTUNREACH in \
         connect(), by the others with a reset. From lesson to connection: a cell is written, as before an answer of DNS is passed on, and the \
         first connection made, which a thread has to enter the pod's namespace for.\n",
        conditions.sentence()
    );
    let mut sizes: Vec<u32> = samples.iter().map(|sample| sample.entries).collect();
    sizes.dedup();
    let find = |case: &str, variant: &str, entries: u32| -> Vec<&Sample> {
        samples.iter().filter(|s| s.case == case && s.variant == variant && s.entries == entries).collect()
    };
    let micros = |samples: &[&Sample], of: fn(&Sample) -> f64| {
        let (low, middle, high) = spread(samples.iter().map(|sample| of(sample) / 1e3));
        if samples.is_empty() { "–".to_owned() } else { format!("{middle:.1} ({low:.1}–{high:.1})") }
    };
    for entries in sizes {
        let _ = write!(
            out,
            "\nAmong {entries} entries:\n\n| | connections/CPU-s | connect() p50 µs | p99 µs | refused p50 µs | from lesson to connection µs | bytes per entry |\n|---|---|---|---|---|---|---|\n"
        );
        for variant in ["no allowlist", "the mesh", "ipset", "iptables"] {
            let made = find("connect", variant, entries);
            let (low, middle, high) = spread(made.iter().map(|sample| sample.done / sample.cpu));
            let memory = find("memory", variant, entries);
            let memory = memory.first().map_or_else(|| "–".to_owned(), |s| format!("{:.0}", s.done / f64::from(entries)));
            let _ = writeln!(
                out,
                "| {variant} | {middle:.0} ({low:.0}–{high:.0}) | {} | {} | {} | {} | {memory} |",
                micros(&made, |s| s.p50),
                micros(&made, |s| s.p99),
                micros(&find("refuse", variant, entries), |s| s.p50),
                micros(&find("learn", variant, entries), |s| s.p50),
            );
        }
    }
    out
}
