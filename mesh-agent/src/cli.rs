//! The command line: every flag also as an environment variable, as a Marathon app sets it.

use crate::core::gateway;
use crate::kernel::KernelLog;
use clap::{Args, Parser, Subcommand};
use mesh_common::broker::SOCKET;
use std::net::IpAddr;
use std::path::PathBuf;

/// Where agents find it in their containers too. A reboot ends every bypass, unless the file is elsewhere.
const BYPASS_FILE: &str = "/run/mesh/bypass";

/// The node's kernel half of the mesh.
///
/// Runs as root, once on each Mesos agent's node. Loads the eBPF programs that judge every connection of the node's pods, keeps their
/// tables as the control plane says, finds the pods' network namespaces by Mesos' runtime directory, and makes the sockets with which the
/// unprivileged mesh-proxy works inside them.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run on this node until SIGTERM or SIGINT.
    ///
    /// When it stops, the kernel half stays in force: programs, tables and listeners go on without an agent, so that an upgrade refuses no
    /// connection, and the next agent takes over. Only new pods and changes wait for it. To take everything out of the kernel, stop it
    /// with --detach-on-exit.
    Run(Box<Run>),
    /// Show the tables as the kernel holds them, from the pins that the agent has made.
    Dump(Dump),
    /// Show what would happen to a flow now, which rule or service decides, and who carries it.
    Explain(Explain),
    /// Show what the outbound policy AUDIT has let out that REGISTRY_ONLY would have refused: by whom, how often, under which names.
    /// `mesh-control suggest` makes ServiceEntries of it.
    Audit(Audit),
    /// Take one pod, or all of this node, out of the mesh at once: nothing is judged, handed to the proxy or asked of the mesh's DNS. VIPs go
    /// on. Holds, also over restarts, until `bypass --end`.
    Bypass(Bypass),
    /// Be a CNI plugin: called by Mesos with environment and standard input, behind the plugin that makes a container's network, or with that
    /// as `delegate` in its configuration. Has this node's agent enrol the container before its first instruction.
    Cni,
    /// Take programs and tables out of the kernel, after the agent has stopped: no VIPs, no policy.
    Uninstall(Uninstall),
    /// Compare the VIPs that the kernel balances with those of dcos-net's load balancer on this node, which may run beside the mesh. Fails if
    /// a client would find one of them changed.
    #[command(name = "compare-l4lb")]
    CompareL4lb(CompareL4lb),
}

/// Where the agent of this node has left its things.
#[derive(Args, Clone, Debug)]
pub struct Agent {
    /// The BPF file system in which the agent has pinned.
    #[arg(long, env = "MESH_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,

    /// The agent's admin socket, for names. Without an agent there are addresses only.
    #[arg(long, env = "MESH_ADMIN_SOCKET", value_name = "FILE", default_value = "/run/mesh/agent-admin.sock")]
    pub admin_socket: PathBuf,
}

/// `mesh-agent compare-l4lb`.
#[derive(Args, Clone, Debug)]
pub struct CompareL4lb {
    /// Where dcos-net shows its VIPs.
    #[arg(long, env = "MESH_L4LB_URL", value_name = "URL", default_value = "http://127.0.0.1:62080/v1/vips")]
    pub url: String,

    /// JSON instead of text, of every VIP.
    #[arg(long)]
    pub json: bool,

    /// The agent.
    #[command(flatten)]
    pub agent: Agent,
}

/// `mesh-agent audit`.
#[derive(Args, Clone, Debug)]
pub struct Audit {
    /// JSON instead of text, as `mesh-control suggest` reads it.
    #[arg(long)]
    pub json: bool,

    /// The agent's admin socket.
    #[arg(long, env = "MESH_ADMIN_SOCKET", value_name = "FILE", default_value = "/run/mesh/agent-admin.sock")]
    pub admin_socket: PathBuf,
}

/// `mesh-agent bypass`.
#[derive(Args, Clone, Debug)]
pub struct Bypass {
    /// The pod: Marathon's instance id or path, or an address. Default: all pods of this node, those to come too.
    pub pod: Option<String>,

    /// End the bypass of this pod, or every bypass.
    #[arg(long)]
    pub end: bool,

    /// Where it is written down; the agent's has the same flag.
    #[arg(long, env = "MESH_BYPASS_FILE", value_name = "FILE", default_value = BYPASS_FILE)]
    pub bypass_file: PathBuf,

    /// The agent.
    #[command(flatten)]
    pub agent: Agent,
}

/// `mesh-agent uninstall`.
#[derive(Args, Clone, Debug)]
pub struct Uninstall {
    /// The BPF file system in which the agent has pinned.
    #[arg(long, env = "MESH_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,

    /// The agent's admin socket: while it answers, nothing is done.
    #[arg(long, env = "MESH_ADMIN_SOCKET", value_name = "FILE", default_value = "/run/mesh/agent-admin.sock")]
    pub admin_socket: PathBuf,

    /// Mesos' runtime directory: by it the containers are found in which pods were enrolled.
    #[arg(long, env = "MESH_MESOS_RUNTIME_DIR", value_name = "DIR", default_value = "/var/run/mesos")]
    pub mesos_runtime_dir: PathBuf,
}

/// `mesh-agent explain`.
#[derive(Args, Clone, Debug)]
pub struct Explain {
    /// The pod: Marathon's instance id or path, an address, or its slot.
    pub pod: String,

    /// Where to: ADDRESS, NAME, or either with :PORT (80 without).
    pub destination: String,

    /// A UDP datagram instead of a TCP connection.
    #[arg(long)]
    pub udp: bool,

    /// JSON instead of text.
    #[arg(long)]
    pub json: bool,

    /// The agent.
    #[command(flatten)]
    pub agent: Agent,
}

/// `mesh-agent run`.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// Address of this node as Mesos and Marathon know its agent: workloads whose `node` it is are this node's.
    #[arg(long, env = "MESH_NODE_ADDRESS", value_name = "IP")]
    pub node_address: IpAddr,

    /// Host name of this node, for Marathons that name nodes so. Default: what gethostname says.
    #[arg(long, env = "MESH_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,

    /// mesh-control's xDS port; HOST may be a name, found by this node's resolver.
    #[arg(long, env = "MESH_CONTROL", value_name = "HOST:PORT")]
    pub control: String,

    /// File with the bearer token of this node's xDS clients.
    #[arg(long, env = "MESH_TOKEN_FILE", value_name = "FILE", default_value = "/etc/mesh/node.token")]
    pub token_file: PathBuf,

    /// PEM of the authority that signed mesh-control's certificate.
    #[arg(long, env = "MESH_CA_FILE", value_name = "FILE", default_value = "/etc/mesh/ca.crt")]
    pub ca_file: PathBuf,

    /// Where the programs attach: sockets made in this cgroup or below are judged. Default: the root of the cgroup2 file system,
    /// /sys/fs/cgroup or /sys/fs/cgroup/unified. Another one is for several nodes on one machine.
    #[arg(long, env = "MESH_CGROUP_ROOT", value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,

    /// The BPF file system. Maps and links are pinned in its directory `mesh`.
    #[arg(long, env = "MESH_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,

    /// Mesos' runtime directory: `containers/ID/pid` in it names a process in each pod's network namespace.
    #[arg(long, env = "MESH_MESOS_RUNTIME_DIR", value_name = "DIR", default_value = "/var/run/mesos")]
    pub mesos_runtime_dir: PathBuf,

    /// How to ask the Mesos agent of this node.
    #[command(flatten)]
    pub mesos: MesosAgent,

    /// Where mesh-proxy and its DNS process get their sockets.
    #[arg(long, env = "MESH_SOCKET", value_name = "FILE", default_value = SOCKET)]
    pub socket: PathBuf,

    /// Where `mesh-agent cni` asks.
    #[arg(long, env = "MESH_CNI_SOCKET", value_name = "FILE", default_value = crate::cni::SOCKET)]
    pub cni_socket: PathBuf,

    /// HTTP over a unix socket for the operator: GET /ready, /metrics, /status.
    #[arg(long, env = "MESH_ADMIN_SOCKET", value_name = "FILE", default_value = "/run/mesh/agent-admin.sock")]
    pub admin_socket: PathBuf,

    /// The user as which mesh-proxy runs; nobody else gets sockets.
    #[arg(long, env = "MESH_PROXY_UID", value_name = "UID", default_value_t = 65_534)]
    pub proxy_uid: u32,

    /// Ports of this node that its gateway may have: mesh-proxy run with --gateway-labels listens there as far as Gateways ask for it, by
    /// sockets of this process. Numbers and ranges (80,443,8000-8099); empty for none. Never a port of the mesh.
    #[arg(long, env = "MESH_GATEWAY_PORTS", value_name = "PORTS", default_value = gateway::DEFAULT)]
    pub gateway_ports: gateway::Ports,

    /// The pods that `mesh-agent bypass` has taken out of the mesh.
    #[arg(long, env = "MESH_BYPASS_FILE", value_name = "FILE", default_value = BYPASS_FILE)]
    pub bypass_file: PathBuf,

    /// Lines that the eBPF programs themselves write to this process's log, about each refusal (info) or every verdict (debug): for finding out why
    /// a flow goes where it goes. Off costs nothing; what is logged is bounded.
    #[arg(long, env = "MESH_KERNEL_LOG", value_name = "LEVEL", value_enum, default_value_t)]
    pub kernel_log: KernelLog,

    /// On SIGTERM, take programs and tables out of the kernel. For uninstalling: pods are outside the mesh at once, unprotected.
    #[arg(long, env = "MESH_DETACH_ON_EXIT")]
    pub detach_on_exit: bool,
}

/// The Mesos agent of the node.
#[derive(Args, Clone, Debug, Default)]
pub struct MesosAgent {
    /// The Mesos agent of this node, which says which container is which workload: http[s]://HOST:PORT. Default: port 5051 of --node-address.
    #[arg(long, env = "MESH_MESOS_AGENT", value_name = "URL")]
    pub mesos_agent: Option<String>,

    /// PEM of the authorities of which one has signed the Mesos agent's certificate, for https.
    #[arg(long, env = "MESH_MESOS_AGENT_CA_FILE", value_name = "FILE")]
    pub mesos_agent_ca_file: Option<PathBuf>,

    /// Who this is to the Mesos agent: `PRINCIPAL SECRET`, or JSON with `principal` and `secret`, as Mesos' own credentials. Read for each
    /// question.
    #[arg(long, env = "MESH_MESOS_AGENT_CREDENTIALS_FILE", value_name = "FILE", conflicts_with = "mesos_agent_token_file")]
    pub mesos_agent_credentials_file: Option<PathBuf>,

    /// A token of DC/OS, for the same. Read for each question, so that it can be renewed.
    #[arg(long, env = "MESH_MESOS_AGENT_TOKEN_FILE", value_name = "FILE")]
    pub mesos_agent_token_file: Option<PathBuf>,
}

/// `mesh-agent dump`.
#[derive(Args, Clone, Debug)]
pub struct Dump {
    /// JSON instead of tables.
    #[arg(long)]
    pub json: bool,

    /// The BPF file system in which the agent has pinned.
    #[arg(long, env = "MESH_BPFFS", value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
}
