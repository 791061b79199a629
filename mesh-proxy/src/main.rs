//! The command line. Everything else is in the library.

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use mesh_proxy::admin::cli::Ask;
use mesh_proxy::logging::LogLevel;
use mesh_proxy::privilege::Identity;
use mesh_proxy::{dns, run};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The node's share of the mesh above the kernel: L7 routing and DNS, for all pods of the node, without any privilege.
///
/// Started as root, it becomes --uid and --gid, clears all capabilities and sets no_new_privs before it touches the network; if
/// anything is left it exits with an error. Logs go to stderr: RUST_LOG chooses (default info). The access log, if
/// the control plane asks for one, goes to stdout.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    identity: Identity,
    /// Write logs as JSON, one object per line.
    #[arg(long, env = "MESH_LOG_JSON", global = true)]
    log_json: bool,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Dns(dns::Args),
    #[command(flatten)]
    Ask(Ask),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new("info"));
    let (filter, level) = LogLevel::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let log = tracing_subscriber::registry().with(filter);
    if cli.log_json {
        log.with(lines.json()).init()
    } else {
        log.with(lines).init()
    }
    let ended = match cli.command {
        Command::Run(args) => run::run(args, cli.identity, level),
        Command::Dns(args) => dns::start(args, cli.identity),
        Command::Ask(ask) => ask.run(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
