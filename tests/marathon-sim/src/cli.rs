//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::faults::Faults;
use crate::{client, node, paper, run};

/// A stand-in for Marathon and Mesos agents, for tests and demos.
///
/// `run` simulates nodes on this machine: each is a network namespace with a cgroup subtree, joined by a fabric that leads nowhere else.
/// Apps and pods posted to its Marathon API become processes there; an images file says which local program stands for which container
/// image. Needs root, cgroup2, overlayfs and iproute2. Writes only below --state, in cgroups called marathon-sim-… and in
/// directories of that name on /sys/fs/bpf, and removes all of it at the end, also of runs that were killed.
///
/// The other commands talk to a running one through its state directory.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start nodes and Marathon; ends with Ctrl-C, SIGTERM or `down`, and leaves nothing behind.
    ///
    /// When ready, prints one line of JSON: {"ready":true,"pid":…,"marathon":"http://127.0.0.1:…","state":"…","nodes":[…]}, which is
    /// also in STATE/sim.json. Inside the simulated network Marathon is http://leader.mesos:8080 (198.18.0.1), the Mesos
    /// master http://leader.mesos:5050.
    Run(RunArgs),
    /// Serve Marathon's API alone: no nodes, no processes, no privilege. What is launched is said to run at once.
    ///
    /// For tests of what reads Marathon. Prints one line of JSON when ready: {"ready":true,"marathon":"http://127.0.0.1:…"}. Faults
    /// can be set as with `run`; GET /asked on STATE/sim.sock lists the requests since it was asked last.
    Api(ApiArgs),
    /// Run a command inside a container: its cgroup, namespaces, root, environment, user and capabilities.
    ///
    /// POD is an app or pod id (with or without the leading slash), an instance id, or a prefix that fits one.
    /// Standard streams and the exit code are the command's.
    Exec {
        #[command(flatten)]
        state: State,
        pod: String,
        /// Container of a pod; the first one if not given.
        #[arg(short, long)]
        container: Option<String>,
        #[arg(last = true, required = true, value_name = "CMD")]
        argv: Vec<String>,
    },
    /// Print what a container wrote.
    Logs {
        #[command(flatten)]
        state: State,
        pod: String,
        #[arg(short, long)]
        container: Option<String>,
        /// Go on as more is written.
        #[arg(short, long)]
        follow: bool,
    },
    /// List the instances.
    Instances {
        #[command(flatten)]
        state: State,
        /// All that is known, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make a port of an app or pod reachable from this machine, like `kubectl port-forward`; follows restarts.
    ///
    /// Prints the address that listens. It stays until the stand-in ends.
    Forward {
        #[command(flatten)]
        state: State,
        app: String,
        port: u16,
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Stop the stand-in and wait until all of it is gone.
    Down(State),
    /// Run a command in a namespace of the topology: fabric, master, outside, node1, node2, …
    NetnsExec {
        #[command(flatten)]
        state: State,
        namespace: String,
        #[arg(last = true, required = true, value_name = "CMD")]
        argv: Vec<String>,
    },
    /// Show what is broken on purpose, or break something else: the JSON is the whole new state, `{}` mends everything.
    ///
    /// {"events":"drop"} loses events ("delay" with "delayMs", "duplicate" and "reorder" do that), {"closeStreams":true} ends all event
    /// streams once, {"stall":true} silences them, {"cut":3} writes them in pieces of three bytes, {"padding":300000} makes events large,
    /// {"leader":"HOST:PORT","redirect":307} is a standby, {"noLeader":true} answers 502 and {"unavailable":true} 503 to every request,
    /// {"slowMs":2000} holds answers back, {"nonsense":"html"} (truncated, empty, null, array, elements) spoils them,
    /// {"version":"1.4"} has the shapes of that age, {"forgetsHealth":true} and {"unreachable":["198.18.0.12"]} lose what was known,
    /// {"authorization":"Basic …"} wants that header.
    Faults {
        #[command(flatten)]
        state: State,
        #[arg(value_name = "JSON", value_parser = |text: &str| serde_json::from_str::<Faults>(text))]
        faults: Option<Faults>,
    },
    /// Remove what killed runs left behind; `run` does the same when it starts.
    Sweep,
    #[command(name = "__task", hide = true)]
    Task { file: PathBuf },
    #[command(name = "__cni", hide = true)]
    Cni,
    #[command(name = "__enter", hide = true)]
    Enter {
        file: PathBuf,
        pid: i32,
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct State {
    /// The state directory of the run.
    #[arg(long, value_name = "DIR", env = "MARATHON_SIM_STATE")]
    pub(crate) state: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ApiArgs {
    /// Directory for sim.sock; made if missing.
    #[arg(long, value_name = "DIR", env = "MARATHON_SIM_STATE")]
    pub(crate) state: PathBuf,
    /// Host name or address of an agent on which instances are said to run; may be repeated.
    #[arg(long, value_name = "HOST", default_values = ["198.18.0.11", "198.18.0.12"])]
    pub(crate) agent: Vec<String>,
    /// Where Marathon's API listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub(crate) marathon_listen: SocketAddr,
    /// Between two heartbeats of an event stream.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub(crate) heartbeat_ms: u64,
    /// Between SIGTERM and the end of a task.
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub(crate) kill_ms: u64,
    /// End when standard input reaches its end: a test that dies takes the stand-in with it.
    #[arg(long)]
    pub(crate) die_with_stdin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Directory for sockets, logs, volumes and the nodes' files; made if missing.
    #[arg(long, value_name = "DIR", env = "MARATHON_SIM_STATE")]
    pub(crate) state: PathBuf,
    /// How many nodes: node1 at 198.18.0.11 with containers in 9.0.1.0/24, node2 at 198.18.0.12, …
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=40))]
    pub(crate) nodes: u8,
    /// JSON object of image name (with or without tag) to argv: {"mesh/mesh-agent": ["/path/mesh-agent"]}.
    #[arg(long, value_name = "FILE")]
    pub(crate) images: Option<PathBuf>,
    /// Where Marathon's API listens on this machine, besides 198.18.0.1:8080 inside.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub(crate) marathon_listen: SocketAddr,
    /// A name of the outside world, at addresses of 203.0.113.0/24 or fd01:e::/64; may be repeated.
    #[arg(long, value_name = "NAME=ADDRESS[,ADDRESS]", value_parser = outside_name)]
    pub(crate) outside_name: Vec<(String, Vec<IpAddr>)>,
    /// End when standard input reaches its end: a test that dies takes the stand-in with it.
    #[arg(long)]
    pub(crate) die_with_stdin: bool,
}

/// The outside world is a namespace of ours, so only its own ranges make sense.
fn outside_name(text: &str) -> Result<(String, Vec<IpAddr>), String> {
    let (name, addresses) = text.split_once('=').ok_or("expected NAME=ADDRESS")?;
    let parse = |a: &str| {
        let address: IpAddr = a.parse().map_err(|e| format!("{a}: {e}"))?;
        let ours = match address {
            IpAddr::V4(v4) => v4.octets()[..3] == [203, 0, 113] && v4.octets()[3] != 254,
            IpAddr::V6(v6) => v6.segments()[..4] == [0xfd01, 0xe, 0, 0],
        };
        if ours { Ok(address) } else { Err(format!("{address} is not in 203.0.113.0/24 or fd01:e::/64")) }
    };
    Ok((name.trim_end_matches('.').to_ascii_lowercase(), addresses.split(',').map(parse).collect::<Result<_, _>>()?))
}

pub(crate) fn dispatch(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Run(args) => run::main(&args)?,
        Command::Api(args) => paper::main(&args)?,
        Command::Exec { state, pod, container, argv } => client::exec(&state.state, &pod, container.as_deref(), &argv)?,
        Command::Logs { state, pod, container, follow } => client::logs(&state.state, &pod, container.as_deref(), follow)?,
        Command::Instances { state, json } => client::instances(&state.state, json)?,
        Command::Forward { state, app, port, listen } => client::forward(&state.state, &app, port, listen)?,
        Command::Down(state) => client::down(&state.state)?,
        Command::NetnsExec { state, namespace, argv } => client::netns_exec(&state.state, &namespace, &argv)?,
        Command::Faults { state, faults } => client::faults(&state.state, faults)?,
        Command::Sweep => node::sweep::dead_runs()?.iter().for_each(|what| println!("removed {what}")),
        Command::Cni => node::cni::main()?,
        Command::Task { file } => node::task::main(&file)?,
        Command::Enter { file, pid, argv } => node::task::enter(&file, pid, &argv)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        assert!(outside_name("httpbin.org=203.0.113.20,fd01:e::20").is_ok());
        assert!(outside_name("httpbin.org=10.0.0.1").is_err());
    }
}
