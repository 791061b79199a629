//! The binary: reads the command line, starts logging, and hands over.

use anyhow::{Result, bail};
use clap::Parser;
use mesh_agent::cli::{Cli, Command};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let ansi = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    match obey(cli.command) {
        Ok(code) => code,
        Err(error) => {
            // One line with all causes, without the backtrace that Debug would add.
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn obey(command: Command) -> Result<ExitCode> {
    match command {
        // What it prints is the specification's, also when it fails.
        Command::Cni => return Ok(mesh_agent::cni::main()),
        // Two threads: one may be inside the kernel for the length of a table write while the other serves broker and admin.
        Command::Run(config) => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(async { tokio::spawn(mesh_agent::run::run(*config)).await? })?;
        }
        Command::Audit(config) => writeln!(std::io::stdout(), "{}", mesh_agent::audit::audit(&config)?)?,
        Command::Explain(config) => writeln!(std::io::stdout(), "{}", mesh_agent::explain::explain(&config)?)?,
        Command::Bypass(config) => writeln!(std::io::stdout(), "{}", mesh_agent::bypass::bypass(&config)?)?,
        Command::Uninstall(config) => writeln!(std::io::stdout(), "{}", mesh_agent::bypass::uninstall(&config)?)?,
        Command::CompareL4lb(config) => {
            let (text, differ) = mesh_agent::l4lb::run(&config)?;
            writeln!(std::io::stdout(), "{text}")?;
            if differ > 0 {
                bail!("clients of {differ} VIPs would notice that dcos-net's load balancer is switched off");
            }
        }
        Command::Dump(config) => writeln!(std::io::stdout(), "{}", mesh_agent::dump::dump(&config)?)?,
    }
    Ok(ExitCode::SUCCESS)
}
