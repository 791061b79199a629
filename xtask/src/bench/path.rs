//! `bench path`: from building to the table. Variants take turns within each round, so that whatever else the machine does falls on all.

use std::process::{Command, ExitCode};

use anyhow::Result;

use super::profile;
use super::report::{self, Sample};
use super::stage::{Place, Stage, Variant};
use crate::cargo::{self, show};
use crate::ui::{note, step};
use crate::{ebpf, install};

const CONNECTIONS: [u32; 2] = [1, 32];

#[derive(clap::Args)]
pub(super) struct Args {
    /// 3 rounds of 3 s each instead of 5 rounds of 8 s.
    #[arg(long)]
    quick: bool,
    /// Take the release binaries as they are: their build takes minutes, and a stale one shows in the figures only.
    #[arg(long)]
    built: bool,
    /// Do not measure: profile mesh-proxy under load, and print what costs most.
    #[arg(long)]
    profile: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    install::packages(&install::NODES)?;
    install::packages(&install::BENCH)?;
    install::kubectl()?;
    install::nginx()?;
    install::envoy()?;
    if !args.built {
        build()?;
    }
    let stage = Stage::start()?;
    if args.profile {
        let outcome = profile::run(&stage);
        stage.end()?;
        return outcome.map(|()| ExitCode::SUCCESS);
    }
    let (rounds, seconds) = if args.quick { (3, 3) } else { (5, 8) };
    let samples = measure(&stage, rounds, seconds);
    stage.end()?;
    let command = if args.quick { "cargo xtask bench path --quick" } else { "cargo xtask bench path" };
    let conditions = report::Conditions::of_this_machine(command, rounds, seconds)?;
    report::publish("path", &report::section(&samples?, &conditions))?;
    Ok(ExitCode::SUCCESS)
}

fn build() -> Result<()> {
    ebpf::ensure()?;
    step("building the release binaries (minutes: fat LTO)", || {
        let packages = ["mesh-agent", "mesh-proxy", "mesh-control", "marathon-sim"];
        let mut command: Command = cargo::cargo();
        show(command.args(["build", "--release"]).args(packages.iter().flat_map(|package| ["-p", package])))
    })
}

fn measure(stage: &Stage, rounds: u32, seconds: u32) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for round in 0..rounds {
        for (place, connections) in Place::ALL.into_iter().flat_map(|place| CONNECTIONS.map(|connections| (place, connections))) {
            let mut order = Variant::ALL;
            // Whoever comes first in one round comes last in the next.
            order.rotate_left(round as usize % Variant::ALL.len());
            for variant in order {
                let sample = one(stage, variant, place, connections, seconds)?;
                note(&format!(
                    "round {} of {rounds}: {}, {connections} connections, {}: {:.0} requests a second",
                    round + 1,
                    place.name(),
                    variant.name(),
                    sample.measured.per_second
                ));
                samples.push(sample);
            }
        }
    }
    Ok(samples)
}

fn one(stage: &Stage, variant: Variant, place: Place, connections: u32, seconds: u32) -> Result<Sample> {
    let before = stage.cpu(variant, place)?;
    let measured = stage.wrk(variant, place, connections, seconds)?;
    let after = stage.cpu(variant, place)?;
    let (proxy, server) = (after.proxy - before.proxy, after.server - before.server);
    Ok(Sample { variant, place, connections, measured, proxy, server })
}
