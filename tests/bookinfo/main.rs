//! Bookinfo through the mesh: each claim of the README, shown on the real binaries on two simulated nodes. One mesh serves all tests, which
//! run one after another; each leaves no rule behind.

mod end;
mod mesh_config;
mod names;
mod operate;
mod programmed;
mod rules;
mod safety;
mod shop;
mod trace;
mod who;

use mesh_tests::suite::{self, Case};
use std::process::ExitCode;

fn main() -> ExitCode {
    // Zipkin starts meanwhile: its cases come late.
    suite::run_with(
        &[],
        &[
            shop::CASES,
            names::CASES,
            rules::CASES,
            programmed::CASES,
            mesh_config::CASES,
            who::CASES,
            safety::CASES,
            operate::CASES,
            trace::CASES,
            end::CASES,
        ],
    )
}
