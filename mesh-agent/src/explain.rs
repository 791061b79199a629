//! `mesh-agent explain`: what would happen to a flow now. The pinned maps go through the same `decide::l4` as in the kernel; names come
//! from the agent, if it runs.

use crate::cli::Explain;
use crate::core::desired::{addr, ip};
use crate::kernel::Maps;
use anyhow::{Context, Result, bail};
use mesh_common::abi::{Addr, Dest, Pod, egress, mode, policy};
use mesh_common::decide::l4::{self, Flow, TCP, UDP, Verdict};
use mesh_common::reason::{Passed, Reason};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Port of a destination that names none.
const PORT: u16 = 80;

/// What one rule allows: first address and length of a range, port, protocol.
pub type Cell = (IpAddr, u8, u16, u8);

/// What the agent knows by name: `GET /names`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Names {
    /// Pods of this node: slot, id, app.
    pub pods: Vec<(u32, String, String)>,
    /// Services: name, all names, VIPs.
    pub services: Vec<(String, Vec<String>, Vec<IpAddr>)>,
    /// ServiceEntries, each with the policies that it is part of, and what it allows now.
    pub egress: Vec<(String, BTreeSet<u32>, Vec<Cell>)>,
    /// Backends that are also reached by a host port: what is dialled, and agent's address and port.
    #[serde(default)]
    pub published: BTreeSet<(SocketAddr, SocketAddr)>,
    /// Under which names pods were told of addresses, the last one first.
    #[serde(default)]
    pub heard: BTreeMap<IpAddr, Vec<String>>,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    pod: String,
    destination: SocketAddr,
    transport: &'static str,
    outcome: &'static str,
    reason: String,
    decided_by: String,
    carried_by: &'static str,
    backends: Vec<SocketAddr>,
}

/// Explains.
///
/// # Errors
/// If no agent has pinned tables here, or pod or destination is not known.
pub fn explain(config: &Explain) -> Result<String> {
    let maps = Maps::pinned(&config.agent.bpffs)?;
    let names = ask_agent(&config.agent.admin_socket);
    let (pod, label) = find_pod(&config.pod, &maps, &names)?;
    let to = destination(&config.destination, &maps, &names)?;
    let proto = if config.udp { UDP } else { TCP };
    let dest = Dest { addr: addr(to.ip()), port: to.port(), proto, pad: 0 };
    let answer = answer(&maps, &names, &pod, label, dest)?;
    if config.json {
        return Ok(serde_json::to_string_pretty(&answer)?);
    }
    let mut text = String::new();
    writeln!(text, "pod          {}", answer.pod)?;
    writeln!(text, "destination  {} {}", answer.transport, answer.destination)?;
    writeln!(text, "outcome      {} ({})", answer.outcome, answer.reason)?;
    writeln!(text, "decided by   {}", answer.decided_by)?;
    write!(text, "carried by   {}", answer.carried_by)?;
    for backend in &answer.backends {
        write!(text, "\nbackend      {backend}")?;
    }
    Ok(text)
}

fn answer(maps: &Maps, names: &Names, pod: &Pod, label: String, dest: Dest) -> Result<Answer> {
    let tables = maps.read()?;
    let verdict = match l4::decide(&Flow { dest, pod: Some(pod), brokered: false }, &tables.config, maps) {
        Verdict::Dns if dest.addr.to_v4().is_none() => Verdict::Deny(Reason::Ipv6Dns),
        other => other,
    };
    let to = ip(dest.addr);
    let service = names.services.iter().find(|(_, _, vips)| vips.contains(&to)).map_or("a service", |(name, ..)| name.as_str());
    let listed = tables.services.get(&dest).filter(|service| service.mode != mode::DIRECT);
    let backends = listed.map(|service| crate::dump::backends_of(service, &tables)).unwrap_or_default();
    let mine = |policies: &BTreeSet<u32>| policies.contains(&policy::EVERYBODY) || policies.contains(&pod.policy);
    let around = || names.egress.iter().filter(|(.., cells)| cells.iter().any(|cell| contains(*cell, &dest)));
    let of_entry = || {
        let rule = around().find(|(_, policies, _)| mine(policies));
        rule.map_or_else(|| "a ServiceEntry".to_owned(), |(name, ..)| format!("ServiceEntry {name}"))
    };
    let denied = || match around().next() {
        _ if tables.services.contains_key(&dest) => format!("{service}, which is not exported to the pod's namespace"),
        Some((name, ..)) => {
            format!("outboundTrafficPolicy REGISTRY_ONLY: ServiceEntry {name} is not exported to the pod's namespace")
        }
        None => format!("outboundTrafficPolicy REGISTRY_ONLY, and no ServiceEntry allows it; {}", missing(names, &dest)),
    };
    let own = egress::of(pod, &tables.config);
    let decided_by = match verdict {
        Verdict::Proxy if !tables.services.contains_key(&dest) => format!("{}, and the proxy looks at the host", of_entry()),
        Verdict::Proxy => format!("{service}, port {}, mode proxy", dest.port),
        Verdict::Backend(_) => format!("{service}, port {}, mode kernel", dest.port),
        Verdict::Pass(Passed::Direct) => format!("{service}, port {}, mode direct", dest.port),
        Verdict::Pass(Passed::Audited) => {
            format!("outboundTrafficPolicy AUDIT: REGISTRY_ONLY would refuse it; {}", missing(names, &dest))
        }
        Verdict::Pass(Passed::Egress) if own == egress::ALLOW => "outboundTrafficPolicy ALLOW_ANY".to_owned(),
        Verdict::Pass(Passed::Egress) => of_entry(),
        Verdict::Pass(Passed::Workload) => "it is the address of a workload of the mesh".to_owned(),
        Verdict::Deny(Reason::EgressDenied) => denied(),
        Verdict::Deny(Reason::NoBackend) => format!("{service} has no backend that takes connections"),
        Verdict::Deny(Reason::UnknownVip) => "the VIP range, in which no service owns this address and port".to_owned(),
        _ => "the mesh itself".to_owned(),
    };
    let (outcome, reason, carried_by) = match verdict {
        Verdict::Pass(why) => ("passes", why.label(), "nobody: the kernel's decision at connect(), then app to app"),
        Verdict::Dns => ("is answered by the mesh's DNS", "dns", "mesh-proxy dns"),
        Verdict::Proxy => ("is handed to the proxy", "proxy", "mesh-proxy: its route decides on each request"),
        Verdict::Backend(_) => ("goes to a backend", "backend", "the kernel: rewritten at connect(), then app to app"),
        Verdict::Deny(reason) => ("is refused", reason.label(), "nobody: the kernel refuses at connect()"),
    };
    Ok(Answer {
        pod: label,
        destination: SocketAddr::new(to, dest.port),
        transport: if dest.proto == UDP { "udp" } else { "tcp" },
        outcome,
        reason: reason.to_owned(),
        decided_by,
        carried_by,
        backends: backends.into_keys().collect(),
    })
}

/// Which entry would allow it.
fn missing(names: &Names, dest: &Dest) -> String {
    let (to, proto) = (ip(dest.addr), if dest.proto == UDP { "UDP" } else { "TCP" });
    let known = names.heard.get(&to).and_then(|names| names.first());
    let what = known.map_or_else(|| format!("addresses [{to}] and resolution NONE"), |name| format!("hosts [{name}]"));
    let near =
        names.egress.iter().find(|(.., cells)| cells.iter().any(|cell| contains((cell.0, cell.1, dest.port, dest.proto), dest)));
    let near = near.map(|(name, ..)| format!(" (ServiceEntry {name} allows other ports of it)")).unwrap_or_default();
    format!("one with {what} and port {} {proto} would{near}", dest.port)
}

fn contains((base, bits, port, proto): Cell, dest: &Dest) -> bool {
    let to = ip(dest.addr);
    port == dest.port
        && proto == dest.proto
        && base.is_ipv4() == to.is_ipv4()
        && crate::core::egress::range(to, bits) == crate::core::egress::range(base, bits)
}

/// By Marathon's id or path, by address, or by slot.
pub(crate) fn find_pod(wanted: &str, maps: &Maps, names: &Names) -> Result<(Pod, String)> {
    let mut pods: Vec<Pod> = maps.pods()?.into_values().collect();
    pods.extend(maps.host_pods()?.into_values().map(|(pod, _)| pod));
    let address = wanted.parse::<IpAddr>().ok().map(|ip| addr(ip.to_canonical()));
    let named = names.pods.iter().find(|(_, id, app)| id == wanted || app == wanted || app.trim_start_matches('/') == wanted);
    let slot = named.map(|(slot, ..)| *slot).or_else(|| wanted.parse().ok());
    let found = pods.iter().find(|pod| Some(pod.slot) == slot || address.is_some_and(|a| a == pod.addr4 || a == pod.addr6));
    let pod = found.with_context(|| {
        let known: Vec<&str> = names.pods.iter().map(|(_, id, _)| id.as_str()).collect();
        format!("no pod {wanted:?} is in the mesh on this node; there are: {}", known.join(", "))
    })?;
    let id = names.pods.iter().find(|(slot, ..)| *slot == pod.slot).map_or("?", |(_, id, _)| id.as_str());
    let addresses = [pod.addr4, pod.addr6].into_iter().filter(|a| *a != Addr::default()).map(|a| ip(a).to_string());
    Ok((*pod, format!("{id} (slot {}, {})", pod.slot, addresses.collect::<Vec<_>>().join(", "))))
}

/// ADDRESS, ADDRESS:PORT, [V6]:PORT, NAME or NAME:PORT. A name is a service's, or one that DNS has taught.
fn destination(text: &str, maps: &Maps, names: &Names) -> Result<SocketAddr> {
    if let Ok(both) = text.parse::<SocketAddr>() {
        return Ok(SocketAddr::new(both.ip().to_canonical(), both.port()));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip.to_canonical(), PORT));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().with_context(|| format!("{port:?} is no port"))?),
        None => (text, PORT),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let vip = names.services.iter().filter(|(_, all, _)| all.contains(&name)).flat_map(|(.., vips)| vips).min();
    if let Some(vip) = vip {
        return Ok(SocketAddr::new(*vip, port));
    }
    let learned = maps.learned()?.into_iter().find(|(learned, ..)| *learned == name).map(|(_, ip, _)| ip);
    let heard = || names.heard.iter().find(|(_, all)| all.contains(&name)).map(|(ip, _)| *ip);
    match learned.or_else(heard) {
        Some(ip) => Ok(SocketAddr::new(ip, port)),
        None => bail!("no service is called {name:?}, and no DNS answer has taught its address; give an address"),
    }
}

/// Without an agent there are no names, and everything else works.
pub(crate) fn ask_agent(socket: &Path) -> Names {
    get(socket, "/names").and_then(|body| Ok(serde_json::from_str(&body)?)).unwrap_or_default()
}

/// The body of an admin endpoint's answer.
pub(crate) fn get(socket: &Path, path: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.split_once("\r\n\r\n").context("no body")?.1.to_owned())
}
