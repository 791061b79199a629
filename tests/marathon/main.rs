//! mesh-control against a Marathon that misbehaves in every way it is known for: the real binaries, the stand-in's API without nodes, and
//! its fault switches; and a stock Envoy that the control plane drives. Each case has a Marathon and a control plane of its own; none needs privilege.

mod auth;
mod away;
mod backend;
mod envoy;
mod health;
mod kit;
mod shapes;
mod stream;

use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;

/// What is claimed, and how it is shown.
type Case = (&'static str, fn() -> anyhow::Result<()>);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They wait for time-outs more than they work.
    arguments.test_threads = Some(4);
    let cases = [stream::CASES, shapes::CASES, away::CASES, auth::CASES, health::CASES, envoy::CASES];
    let trial = |(name, case): &Case| {
        let case = *case;
        Trial::test(*name, move || case().map_err(|error| Failed::from(format!("{error:#}"))))
    };
    libtest_mimic::run(&arguments, cases.into_iter().flatten().map(trial).collect()).exit_code()
}
