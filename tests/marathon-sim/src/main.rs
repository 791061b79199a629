//! A stand-in for Marathon and Mesos agents: Marathon's API, with each instance run as processes in its own namespaces and cgroup on
//! simulated nodes of one machine. `cli` says what it can do; `core` decides, `node` acts, `run` connects them; `paper` has no nodes.

mod admin;
mod api;
mod cli;
mod client;
mod core;
mod faults;
mod node;
mod paper;
mod run;
mod world;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::dispatch(cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("marathon-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}
