//! `mesh-agent audit` and `GET /audit`: what the outbound policy AUDIT has let out that REGISTRY_ONLY would have refused, by whom, with the names
//! that pods were given for the addresses. `mesh-control suggest` makes ServiceEntries of it.

use crate::cli::Audit as Config;
use crate::core::audit::{Heard, Ledger, Owner};
use crate::core::desired::ip;
use crate::kernel::Kernel;
use crate::served::Roster;
use anyhow::{Context as _, Result};
use mesh_common::decide::l4::{TCP, UDP};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tracing::warn;

/// One destination of one pod.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Audited {
    /// Istio's namespace of the pod.
    pub namespace: String,
    /// Marathon's path.
    pub app: String,
    /// Marathon's instance id.
    pub pod: String,
    /// Where it went.
    pub address: IpAddr,
    /// The port, 0 where the protocol has none.
    pub port: u16,
    /// `tcp`, `udp`, or the protocol's number.
    pub transport: String,
    /// Under which names pods were told of the address, the last one first.
    pub names: Vec<String>,
    /// Connections, or datagrams.
    pub count: u64,
}

/// The agent's part.
pub(crate) struct Audit {
    kernel: Arc<Kernel>,
    roster: Arc<Roster>,
    ledger: Mutex<Ledger>,
    heard: Mutex<Heard>,
}

impl Audit {
    pub(crate) fn new(kernel: Arc<Kernel>, roster: Arc<Roster>) -> Self {
        Self { kernel, roster, ledger: Mutex::default(), heard: Mutex::default() }
    }

    /// Adds up what the kernel has counted; often enough that a pod's counts are taken while it is there.
    pub(crate) fn look(&self) {
        let now = match self.kernel.maps().audited() {
            Ok(now) => now,
            Err(error) => return warn!(%error, "what was audited cannot be read"),
        };
        self.ledger.lock().take(now, |slot| {
            let pod = self.roster.get(slot)?;
            let of = |text: &String| text.clone();
            Some(Owner { namespace: of(&pod.workload.namespace), app: of(&pod.workload.app), pod: of(&pod.workload.id) })
        });
    }

    /// A pod is told that this name has these addresses.
    pub(crate) fn hear(&self, name: &str, addresses: &[IpAddr]) {
        let mut heard = self.heard.lock();
        addresses.iter().for_each(|ip| heard.hear(name, ip.to_canonical()));
    }

    /// The names of an address, the last one first.
    pub(crate) fn names(&self, ip: IpAddr) -> Vec<String> {
        self.heard.lock().names(ip)
    }

    /// All names.
    pub(crate) fn heard(&self) -> std::collections::BTreeMap<IpAddr, Vec<String>> {
        self.heard.lock().all()
    }

    /// Everything up to now.
    pub(crate) fn report(&self) -> Vec<Audited> {
        self.look();
        let ledger = self.ledger.lock();
        let one = |((owner, dest), count): (&(Owner, mesh_common::abi::Dest), &u64)| Audited {
            namespace: owner.namespace.clone(),
            app: owner.app.clone(),
            pod: owner.pod.clone(),
            address: ip(dest.addr),
            port: dest.port,
            transport: match dest.proto {
                TCP => "tcp".to_owned(),
                UDP => "udp".to_owned(),
                other => other.to_string(),
            },
            names: self.names(ip(dest.addr)),
            count: *count,
        };
        ledger.totals().iter().map(one).collect()
    }
}

/// Asks this node's agent.
///
/// # Errors
/// If it does not answer.
pub fn audit(config: &Config) -> Result<String> {
    let socket = config.admin_socket.display();
    let text = crate::explain::get(&config.admin_socket, "/audit").with_context(|| format!("no agent answers on {socket}"))?;
    let all: Vec<Audited> = serde_json::from_str(&text).context("the agent's answer")?;
    if config.json {
        return Ok(serde_json::to_string_pretty(&all)?);
    }
    let mut text = format!("{:>8}  {:30}  {:45}  {}", "COUNT", "APP", "DESTINATION", "NAMES");
    for one in all {
        let to = format!("{} {}", one.transport, SocketAddr::new(one.address, one.port));
        let app = format!("{}{}", one.namespace, one.app);
        write!(text, "\n{:8}  {app:30}  {to:45}  {}", one.count, one.names.join(" "))?;
    }
    Ok(text)
}
