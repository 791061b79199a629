//! `cargo xtask test`: what must pass, in one order, each suite with a budget; a table of counts and times at the end.

mod kernels;
mod report;
mod suites;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::install;
use crate::ui::note;
use report::{Line, Report};
use suites::{Context, SUITES};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this suite (may be repeated); what it needs from others is built all the same.
    #[arg(long, value_name = "SUITE")]
    only: Vec<String>,
    /// List the suites with their budgets.
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.list {
        for suite in SUITES {
            println!("{:10} {:>4} s  {}", suite.name, suite.budget, suite.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(unknown) = args.only.iter().find(|name| !SUITES.iter().any(|suite| suite.name == **name)) {
        bail!("there is no suite '{unknown}'; `cargo xtask test --list` names them");
    }
    let context = Context::new()?;
    let mut report = Report { partial: !args.only.is_empty(), ..Report::default() };
    for suite in SUITES.iter().filter(|suite| args.only.is_empty() || args.only.iter().any(|name| name == suite.name)) {
        eprintln!("\n━━ {} ━━ {}", suite.name, suite.what);
        let start = Instant::now();
        let tally = (suite.run)(&context).unwrap_or_else(|error| {
            eprintln!("✗ {}: {error:#}", suite.name);
            report::Tally { passed: 0, failed: 1, ignored: 0 }
        });
        report.lines.push(Line { suite: suite.name, tally, time: start.elapsed(), budget: suite.budget });
    }
    println!("\n{report}");
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that any suite needs, so that nothing is installed in the middle of a measurement.
fn install() -> Result<()> {
    install::packages(&install::NODES)?;
    install::packages(&install::TESTS)?;
    install::kubectl()?;
    // One suite looks at traces, and says so if there is nothing to look at.
    if let Err(error) = install::zipkin() {
        note(&format!("no Zipkin: {error:#}"));
    }
    install::promtool()?;
    install::cargo_deny()
}
