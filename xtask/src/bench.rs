//! `cargo xtask bench`: measurements of the real binaries on simulated nodes, beside what others do, in one run.

mod cpu;
mod envoy;
mod path;
mod profile;
mod report;
mod stage;
mod wrk;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Requests a second and latency from pod to pod: no mesh, kernel mode, our proxy, Envoy behind iptables.
    Path(path::Args),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match &args.what {
        What::Path(args) => path::run(args),
    }
}
