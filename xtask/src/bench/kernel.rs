//! `bench kernel`: what a connection costs with the kernel programs, beside a plain one and the rules of iptables and nftables. The load is
//! `mesh-agent/examples/kernel`, which is also what makes and removes the stage; here its lines become tables.

mod table;

use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::report::{Conditions, publish};
use crate::cargo::{self, show};
use crate::ui::{note, step};
use crate::{ebpf, install};

#[derive(clap::Args)]
pub(super) struct Args {
    /// 5 rounds instead of 25: a minute.
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
    services: u32,
    round: u32,
    /// Connections, requests or bytes.
    done: f64,
    /// Seconds of the core's time.
    cpu: f64,
    /// Nanoseconds.
    p50: f64,
    p99: f64,
}

impl Sample {
    fn per_core(&self) -> f64 {
        self.done / self.cpu
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(nix::unistd::geteuid().is_root(), "this makes namespaces and loads kernel programs, which need root");
    install::packages(&install::NODES)?;
    install::packages(&install::KERNEL)?;
    ebpf::ensure()?;
    step("building the load", || show(cargo::cargo().args(["build", "--workspace", "--example", "kernel"])))?;
    let rounds = if args.quick { 5 } else { 25 };
    let samples = measure(rounds)?;
    let command = if args.quick { "cargo xtask bench kernel --quick" } else { "cargo xtask bench kernel" };
    let conditions = Conditions::of_this_machine(command, rounds, f64::from(SLICE_MS) / 1000.0)?;
    publish("kernel", &table::section(&samples, &conditions))?;
    Ok(ExitCode::SUCCESS)
}

fn measure(rounds: u32) -> Result<Vec<Sample>> {
    let mut command = cargo::foreign(cargo::target().join("debug/examples/kernel"));
    command.args([rounds.to_string(), SLICE_MS.to_string()]).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", cargo::spell(&command)))?;
    let mut samples = Vec::new();
    let mut at = (0, u32::MAX);
    for line in BufReader::new(child.stdout.take().context("no output")?).lines() {
        let line = line?;
        let sample: Sample = serde_json::from_str(&line).with_context(|| format!("not a sample: {line}"))?;
        if (sample.services, sample.round) != at {
            at = (sample.services, sample.round);
            note(&format!("{} services, round {} of {rounds}", sample.services, sample.round + 1));
        }
        samples.push(sample);
    }
    ensure!(child.wait()?.success(), "the load failed; what it said is above");
    Ok(samples)
}
