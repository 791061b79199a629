//! `cargo xtask VERB`: every command of the project. One verb per module; each says what it does while it does it, and an error
//! ends with what to do next.

#![forbid(unsafe_code)]

mod bench;
mod bookinfo;
mod cargo;
mod ebpf;
mod fuzz;
mod http;
mod install;
mod test;
mod tidy;
mod ui;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Every command of the project", disable_version_flag = true)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// The shop through the mesh on two simulated nodes; in the foreground until Ctrl-C, or with --detach.
    Bookinfo(bookinfo::Args),
    /// Run a command inside a pod: name or prefix of the pod, then `--`, then the command.
    Exec(bookinfo::tools::ExecArgs),
    /// Print what a pod wrote.
    Logs(bookinfo::tools::LogsArgs),
    /// Debian's kubectl 1.20 with the kubeconfig of the running shop.
    Kubectl(bookinfo::tools::KubectlArgs),
    /// Measure, side by side with what others do.
    Bench(bench::Args),
    /// Feed mesh-proxy's parsers inputs that nobody thought of, led by coverage.
    Fuzz(fuzz::Args),
    /// Build the eBPF programs alone.
    BuildEbpf,
    /// Run everything that must pass; what CI calls.
    Test(test::Args),
    /// Check the rules of ARCHITECTURE.md that can be checked by reading.
    Tidy,
}

fn main() -> ExitCode {
    if let Some(compiled) = fuzz::compile() {
        return compiled;
    }
    let outcome = match Args::parse().verb {
        Verb::Bookinfo(args) => bookinfo::run(&args),
        Verb::Exec(args) => bookinfo::tools::exec(&args),
        Verb::Logs(args) => bookinfo::tools::logs(&args),
        Verb::Kubectl(args) => bookinfo::tools::kubectl(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::BuildEbpf => ebpf::build().map(|()| ExitCode::SUCCESS),
        Verb::Test(args) => test::run(&args),
        Verb::Tidy => tidy::run(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("\nerror: {error:#}");
        ExitCode::FAILURE
    })
}
