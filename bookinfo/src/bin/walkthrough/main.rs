//! The small servers and the load client of the walkthroughs (docs/walkthroughs.md): one program, one role a process.
//!
//! Ordinary applications, as bookinfo is: they know nothing of any mesh and depend on none of its crates.

#![forbid(unsafe_code)]

mod load;
mod roles;
mod server;

use clap::{Parser, Subcommand, ValueEnum};

/// What the walkthroughs run inside pods.
#[derive(Parser)]
#[command(disable_version_flag = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer every request: which one of the small servers is said by the role.
    Serve {
        #[arg(value_enum)]
        role: Role,
        /// Named in every answer.
        #[arg(long, default_value = "v1", env = "VERSION")]
        version: String,
        #[arg(long, default_value_t = 80)]
        port: u16,
        /// How the retry backend fails.
        #[arg(long, value_enum, default_value_t = Failure::Busy, env = "MODE")]
        mode: Failure,
        /// How often it does so, in percent.
        #[arg(long, default_value_t = 50, env = "FAIL_RATE", value_parser = clap::value_parser!(u32).range(0..=100))]
        fail_rate: u32,
    },
    /// GET a URL again and again, as `fortio load` does, and say how often each status came.
    Load {
        /// `http://HOST[:PORT]/PATH`
        url: String,
        /// Connections, each with one request at a time.
        #[arg(short = 'c', default_value_t = 1)]
        connections: u32,
        /// Requests over all connections.
        #[arg(short = 'n', default_value_t = 20)]
        requests: u32,
        /// A header of every request, `NAME: VALUE`; may be repeated.
        #[arg(short = 'H')]
        headers: Vec<String>,
        /// Milliseconds that each connection waits after an answer before it asks again.
        #[arg(long, default_value_t = 0)]
        think_ms: u64,
        /// Count the values of this word in the answers too: of `version: v1`, the word is `version`.
        #[arg(long)]
        count: Option<String>,
    },
}

/// A server.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Role {
    /// Istio's helloworld: version and instance on one line.
    Helloworld,
    /// A page that names version and instance.
    Web,
    /// `OK`, unless it fails as `--mode` says.
    RetryBackend,
    /// Writes each request to standard output.
    Sniffer,
    /// `/status/N`, `/delay/SECONDS`, `/headers` and `/get`, like httpbin; each answer says how many requests were in flight at most
    /// (since `/forget`).
    Httpbin,
}

/// How the retry backend fails.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Failure {
    /// 503 at once.
    Busy,
    /// It answers after 5 s.
    Hang,
    /// The process ends without an answer.
    Crash,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    let done = match Args::parse().command {
        Command::Serve { role, version, port, mode, fail_rate } => {
            server::serve(port, roles::Server::new(role, version, mode, fail_rate)).await
        }
        Command::Load { url, connections, requests, headers, think_ms, count } => {
            let think = std::time::Duration::from_millis(think_ms);
            load::run(&url, (connections, requests), &headers, think, count.as_deref()).await
        }
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            server::line(&format!("walkthrough: {error}"));
            std::process::ExitCode::FAILURE
        }
    }
}
