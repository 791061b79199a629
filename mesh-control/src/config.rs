//! The command line. Every flag can also be given by its environment variable.

use crate::core::compile::{AccessLog, DefaultLb, RetryOnDefault, ZipkinAddress};
use crate::core::names;
use crate::istio::decode::parse_duration;
use clap::{Args, Parser, Subcommand, ValueEnum};
use mesh_common::ports;
use mesh_xds::agent::OutboundPolicy;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Control plane of the mesh: reads Marathon and Istio's rules, tells every node what to do.
///
/// `mesh-control init` makes certificates and tokens once; `mesh-control serve` runs. Nodes go on with what they have while it is down.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the authority, certificates, tokens and kubeconfig of a first installation
    Init(crate::pki::InitArgs),
    /// Run the control plane
    Serve(Box<ServeArgs>),
    /// Show wanted against enrolled workloads of each node, what its processes hold, and Mesos agents without a mesh
    Status(crate::status::StatusArgs),
    /// Say of manifests what the API would: what is refused, and what would have no effect. Needs no control plane
    Validate(crate::validate::ValidateArgs),
    /// Write all rules, Secrets and VIPs of the running control plane into a file
    Backup(crate::backup::BackupArgs),
    /// Put a backup in place of everything that a stopped control plane has
    Restore(crate::backup::RestoreArgs),
    /// Print the ServiceEntries that audited traffic needs, for kubectl apply -f -
    Suggest(SuggestArgs),
}

#[derive(Args, Debug)]
pub(crate) struct SuggestArgs {
    /// What mesh-agent audit --json has printed, of one node or several; - is standard input. By default this node's agent is asked
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The agent's admin socket
    #[arg(long, env = "MESH_AGENT_ADMIN_SOCKET", value_name = "SOCKET", default_value = "/run/mesh/agent-admin.sock")]
    pub(crate) agent_socket: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) marathons: MarathonArgs,
    /// URL of a Mesos master, all of them if there are several: which agents there are and where. Without it a node is where Marathon runs
    /// something
    #[arg(long, env = "MESH_MESOS_MASTER", value_name = "URL", value_delimiter = ',')]
    pub(crate) mesos_master: Vec<String>,
    /// Directory of the rules that kubectl applied; made if absent, survives restarts
    #[arg(long, env = "MESH_STATE", value_name = "DIR", default_value = "/var/lib/mesh-control")]
    pub(crate) state: PathBuf,
    /// Where kubectl is served (HTTPS)
    #[arg(long, env = "MESH_API_LISTEN", value_name = "ADDRESS:PORT", default_value_t = any(ports::API))]
    pub(crate) api_listen: SocketAddr,
    /// Where nodes are served (xDS: gRPC over TLS)
    #[arg(long, env = "MESH_XDS_LISTEN", value_name = "ADDRESS:PORT", default_value_t = any(ports::XDS))]
    pub(crate) xds_listen: SocketAddr,
    /// PEM of the certificate for both
    #[arg(long, env = "MESH_TLS_CERT", value_name = "FILE", default_value = "/etc/mesh/control/server.crt")]
    pub(crate) tls_cert: PathBuf,
    /// PEM of its private key
    #[arg(long, env = "MESH_TLS_KEY", value_name = "FILE", default_value = "/etc/mesh/control/server.key")]
    pub(crate) tls_key: PathBuf,
    /// Bearer tokens, as kube-apiserver reads them: token,user,uid,"group1,group2". Nodes are in group mesh:nodes, administrators in
    /// system:masters
    #[arg(long, env = "MESH_TOKEN_FILE", value_name = "FILE", default_value = "/etc/mesh/control/tokens.csv")]
    pub(crate) token_file: PathBuf,
    /// Unix socket with /ready, /metrics and /status
    #[arg(long, env = "MESH_ADMIN_SOCKET", value_name = "FILE", default_value = "/run/mesh/control-admin.sock")]
    pub(crate) admin_socket: PathBuf,
    /// What follows a VIP's name in its full DNS name
    #[arg(long, env = "MESH_VIP_DOMAIN", value_name = "DOMAIN", default_value = "marathon.l4lb.thisdcos.directory")]
    pub(crate) vip_domain: String,
    /// Address range of VIPs: what no service owns in it is refused
    #[arg(long, env = "MESH_VIP_RANGE", value_name = "CIDR", value_delimiter = ',', default_value = "11.0.0.0/8")]
    pub(crate) vip_range: Vec<String>,
    /// DNS zones for which the mesh is the only authority. By default that of DC/OS' VIPs by all names that its resolver has for it
    #[arg(long, env = "MESH_ZONE", value_name = "DOMAIN", value_delimiter = ',', default_values = names::ZONES)]
    pub(crate) zone: Vec<String>,
    /// The cluster's id in DC/OS' names that hold everywhere: VIPs are known as NAME.FRAMEWORK.l4lb.ID.dcos.directory too
    #[arg(long, env = "MESH_DCOS_CLUSTER", value_name = "ID")]
    pub(crate) dcos_cluster: Option<String>,
    /// What workloads may dial outside the mesh
    #[arg(long, env = "MESH_OUTBOUND_TRAFFIC_POLICY", value_enum, default_value_t)]
    pub(crate) outbound_traffic_policy: Outbound,
    /// Balancing where no DestinationRule chooses
    #[arg(long, env = "MESH_DEFAULT_LOAD_BALANCER", value_enum, default_value_t)]
    pub(crate) default_load_balancer: DefaultLb,
    /// What a rule's retries mean without retryOn
    #[arg(long, env = "MESH_RETRY_ON_DEFAULT", value_enum, default_value_t)]
    pub(crate) retry_on_default: RetryOnDefault,
    /// File on each node with the authorities that TLS to a service trusts where a DestinationRule names none
    #[arg(long, env = "MESH_SYSTEM_CA_FILE", value_name = "FILE", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    pub(crate) system_ca_file: String,
    /// Zipkin, to which proxies send spans: an IP address or a service of the mesh, as in zipkin:9411
    #[arg(long, env = "MESH_ZIPKIN_ADDRESS", value_name = "HOST:PORT")]
    pub(crate) zipkin_address: Option<ZipkinAddress>,
    /// Per cent of requests to trace, where neither the client nor a proxy before has decided
    #[arg(long, env = "MESH_TRACE_SAMPLING", value_name = "PERCENT", default_value_t = 1.0, value_parser = percent)]
    pub(crate) trace_sampling: f64,
    /// Lines that proxies write about requests, on their standard output
    #[arg(long, env = "MESH_ACCESS_LOG", value_enum, default_value_t)]
    pub(crate) access_log: AccessLog,
    /// How long proxies wait for a client's first bytes on ports of which nobody said what they carry; then the server may speak first.
    /// 0s: for ever
    #[arg(long, env = "MESH_PROTOCOL_DETECTION_TIMEOUT", value_name = "DURATION", default_value = "100ms", value_parser = duration)]
    pub(crate) protocol_detection_timeout: Duration,
    /// Address at which workloads could reach this process, if it is on none of the nodes that run something; its API and xDS ports
    /// there are refused to them
    #[arg(long, env = "MESH_ADVERTISE", value_name = "ADDRESS", value_delimiter = ',')]
    pub(crate) advertise: Vec<IpAddr>,
    /// Further endpoint that no workload may dial, such as Marathon's own
    #[arg(long, env = "MESH_PROTECT", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub(crate) protect: Vec<SocketAddr>,
    /// Write logs as JSON lines. What is logged says RUST_LOG (default: info)
    #[arg(long, env = "MESH_LOG_JSON")]
    pub(crate) log_json: bool,
}

/// Which Marathons are followed, and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct MarathonArgs {
    /// Marathon's URL; several, separated by commas, are the members of one cluster, of which the first that answers is asked. Repeated
    /// (in the variable: after a space) for further Marathons, whose services are one mesh with the first one's
    #[arg(long, env = "MESH_MARATHON", value_name = "URL[,URL]", value_delimiter = ' ', required = true)]
    pub(crate) marathon: Vec<String>,
    /// Everything is asked for again this often, since events may get lost
    #[arg(long, env = "MESH_MARATHON_RESYNC", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub(crate) marathon_resync: Duration,
    /// An event stream that is silent for longer is given up; Marathon's heartbeats come every 10 s
    #[arg(long, env = "MESH_MARATHON_SILENCE", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub(crate) marathon_silence: Duration,
    /// File with one line NAME:PASSWORD for Marathon (HTTP basic). One for all Marathons, or one for each
    #[arg(long, env = "MESH_MARATHON_CREDENTIALS", value_name = "FILE", conflicts_with = "marathon_service_account")]
    pub(crate) marathon_credentials: Vec<PathBuf>,
    /// JSON file of a DC/OS service account: uid, private_key and login_endpoint. One for all Marathons, or one for each
    #[arg(long, env = "MESH_MARATHON_SERVICE_ACCOUNT", value_name = "FILE")]
    pub(crate) marathon_service_account: Vec<PathBuf>,
    /// PEM of the authorities that may have signed the certificate of a Marathon with an https URL
    #[arg(long, env = "MESH_MARATHON_CA_FILE", value_name = "FILE", default_value = "/etc/ssl/certs/ca-certificates.crt")]
    pub(crate) marathon_ca_file: PathBuf,
}

/// Istio's names for MeshConfig.outboundTrafficPolicy.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Outbound {
    /// Only what the mesh knows
    #[default]
    #[value(name = "REGISTRY_ONLY", alias = "registry-only")]
    RegistryOnly,
    /// Anything
    #[value(name = "ALLOW_ANY", alias = "allow-any")]
    AllowAny,
    /// Anything; what REGISTRY_ONLY would refuse is counted (mesh-agent audit, mesh-control suggest)
    #[value(name = "AUDIT", alias = "audit")]
    Audit,
}

impl From<Outbound> for OutboundPolicy {
    fn from(policy: Outbound) -> Self {
        match policy {
            Outbound::RegistryOnly => Self::RegistryOnly,
            Outbound::AllowAny => Self::AllowAny,
            Outbound::Audit => Self::Audit,
        }
    }
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "not a percentage from 0 to 100".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "not a duration such as 100ms or 5s".to_owned())
}

const fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound_and_its_defaults_are_the_documented_ports() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["mesh-control", "serve", "--marathon", "http://a:8080,http://b:8080"]);
        let Command::Serve(args) = cli.command else { panic!("serve") };
        assert_eq!((args.api_listen.port(), args.xds_listen.port(), args.marathons.marathon.len()), (32443, 32010, 1));
    }
}
