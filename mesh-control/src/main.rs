//! The control plane: Marathon's registry and Istio's rules in, delta xDS out.
//!
//! `run` wires the rest; `core` is pure and knows neither files nor sockets.

mod admin;
mod api;
mod ask;
mod auth;
mod backup;
mod config;
mod config_map;
mod core;
mod istio;
mod marathon;
mod mesos;
mod metrics;
mod pki;
mod programmed;
mod run;
mod secret;
mod serve;
mod status;
mod store;
mod suggest;
mod validate;

use clap::Parser;
use config::{Cli, Command};
use std::io::IsTerminal;
use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Init(args) => pki::init(&args).map(|()| ExitCode::SUCCESS),
        Command::Status(args) => status::main(&args),
        Command::Validate(args) => validate::main(&args),
        Command::Backup(args) => backup::backup(&args).map(|()| ExitCode::SUCCESS),
        Command::Restore(args) => backup::restore(&args).map(|()| ExitCode::SUCCESS),
        Command::Suggest(args) => suggest::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Serve(args) => {
            let filter = tracing_subscriber::EnvFilter::try_from_default_env();
            let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
            let logs = tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_ansi(std::io::stderr().is_terminal())
                .with_writer(std::io::stderr);
            if args.log_json {
                logs.json().init();
            } else {
                logs.init();
            }
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run::serve(*args))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
