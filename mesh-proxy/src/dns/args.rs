//! The command line of `mesh-proxy dns`.

use anyhow::Context;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

/// Where resolvers listen.
const DOMAIN: u16 = mesh_common::ports::DOMAIN;

/// Answer the DNS questions of every enrolled pod of this node.
///
/// mesh-agent hands over the sockets on which pods' questions arrive, whatever server they were sent to; mesh-control tells the names of
/// services. A name of the mesh is answered from memory; anything else is asked of the node's resolvers, from this node, and kept for as
/// long as its TTL allows. Needs no privilege. Without mesh-control or mesh-agent it goes on with what it has.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The control plane's xDS port.
    #[arg(long, env = "MESH_CONTROL", value_name = "HOST:PORT")]
    pub control: String,
    /// File with the token that proves this node to the control plane.
    #[arg(long, env = "MESH_TOKEN_FILE", value_name = "FILE", default_value = "/etc/mesh/node.token")]
    pub token_file: PathBuf,
    /// File with the certificate (PEM) of the authority that signed the control plane's.
    #[arg(long, env = "MESH_CA_FILE", value_name = "FILE", default_value = "/etc/mesh/ca.crt")]
    pub ca_file: PathBuf,
    /// Address (or name) of this node, as Mesos knows it.
    #[arg(long, env = "MESH_NODE_ADDRESS", value_name = "ADDRESS")]
    pub node_address: String,
    /// Name of this node in the control plane's log; the host's name by default.
    #[arg(long, env = "MESH_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// The agent's unix socket.
    #[arg(long, env = "MESH_BROKER", value_name = "SOCKET", default_value = mesh_common::broker::SOCKET)]
    pub broker: PathBuf,
    /// Unix socket to serve /ready, /metrics and /status on.
    #[arg(long, env = "MESH_DNS_ADMIN_SOCKET", value_name = "SOCKET", default_value = "/run/mesh/dns-admin.sock")]
    pub admin_socket: PathBuf,
    /// A resolver of the node, asked for all names that are not the mesh's. Repeat it, or separate several by commas; they are asked in
    /// this order. By default those in /etc/resolv.conf.
    #[arg(long, env = "MESH_UPSTREAM", value_name = "ADDRESS[:PORT]", value_delimiter = ',', value_parser = upstream)]
    pub upstream: Vec<SocketAddr>,
    /// Refuse names that are neither the mesh's nor named by a ServiceEntry (REFUSED), and ask no resolver for them: nobody gets data out by what
    /// names are made of. Names below a wildcard of a ServiceEntry are asked for.
    #[arg(long, env = "MESH_DNS_REGISTRY_ONLY")]
    pub registry_only: bool,
    /// Seconds that SIGTERM leaves to questions under way. A second SIGTERM ends at once.
    #[arg(long, env = "MESH_DNS_DRAIN_TIME", value_name = "SECONDS", default_value = "6", value_parser = clap::value_parser!(u16).range(0..=3600))]
    pub drain_time: u16,
}

impl Args {
    /// The resolvers: those given, else the system's.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn upstreams(&self) -> anyhow::Result<Vec<SocketAddr>> {
        const SYSTEM: &str = "/etc/resolv.conf";
        if !self.upstream.is_empty() {
            return Ok(self.upstream.clone());
        }
        let text = std::fs::read_to_string(SYSTEM).with_context(|| format!("no --upstream, and cannot read {SYSTEM}"))?;
        let found = nameservers(&text);
        anyhow::ensure!(!found.is_empty(), "no --upstream, and no usable nameserver in {SYSTEM}");
        Ok(found)
    }

    /// The node's address; a name is resolved once.
    ///
    /// # Errors
    /// If the name has no address.
    pub(super) fn node_ip(&self) -> anyhow::Result<IpAddr> {
        if let Ok(address) = self.node_address.parse() {
            return Ok(address);
        }
        let found = (self.node_address.as_str(), 0).to_socket_addrs();
        let first = found.with_context(|| format!("--node-address {:?}", self.node_address))?.next();
        first.map(|a| a.ip()).with_context(|| format!("--node-address {:?} has no address", self.node_address))
    }
}

/// Reads a file, naming it if that fails.
///
/// # Errors
/// Of the file system.
pub(super) fn read(what: &str, path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {what} {}", path.display()))
}

fn upstream(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, DOMAIN));
    bare.or_else(|_| text.parse()).map_err(|_not_both| format!("{text:?} is no ADDRESS or ADDRESS:PORT"))
}

/// The `nameserver` lines of a resolv.conf. Addresses with a scope (`fe80::1%eth0`) are passed over.
fn nameservers(text: &str) -> Vec<SocketAddr> {
    let fields = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let named = fields.filter_map(|f| match f[..] {
        ["nameserver", address, ..] => address.parse::<IpAddr>().ok(),
        _ => None,
    });
    named.map(|address| SocketAddr::new(address, DOMAIN)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn upstreams_have_a_port_or_get_one() {
        let line = ["dns", "--control", "c:32010", "--node-address", "192.0.2.1", "--upstream", "198.51.100.1,[fd00::1]:5353"];
        let args = Cli::try_parse_from(line.iter().chain(&["--upstream", "fd00::2"])).map(|cli| cli.args);
        let args = args.unwrap_or_else(|error| panic!("{error}"));
        let shown: Vec<String> = args.upstreams().expect("given").iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["198.51.100.1:53", "[fd00::1]:5353", "[fd00::2]:53"]);
        assert_eq!(args.node_ip().expect("literal").to_string(), "192.0.2.1");
        assert!(Cli::try_parse_from(line.iter().chain(&["--upstream", "here"])).is_err());
    }

    #[test]
    fn the_systems_resolvers_are_read() {
        let text =
            "# nameserver 9.9.9.9\nsearch a b\nnameserver 198.51.100.1\n nameserver\tfd00::1 # x\nnameserver fe80::1%eth0\n";
        let shown: Vec<String> = nameservers(text).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["198.51.100.1:53", "[fd00::1]:53"]);
    }
}
