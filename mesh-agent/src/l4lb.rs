//! `mesh-agent compare-l4lb`: before dcos-net's load balancer is switched off on a node, does the mesh send its clients where that does?

use crate::cli::CompareL4lb;
use crate::core::desired::{addr, ip};
use crate::core::l4lb::{Finding, Key, Table, as_dialled, compare, parse};
use crate::explain::{Names, ask_agent};
use crate::kernel::Maps;
use anyhow::{Context, Result, bail, ensure};
use mesh_common::abi::{Dest, mode};
use mesh_common::decide::l4::UDP;
use mesh_common::vip::{self, ZONE};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// dcos-net answers at once, or does not run.
const PATIENCE: Duration = Duration::from_secs(5);
/// Far above the table of the largest cluster; a stranger's endless answer ends here.
const ANSWER_MAX: u64 = 64 << 20;

/// What was found, as text or JSON, and how many VIPs' ports a client would find changed.
///
/// # Errors
/// If dcos-net does not answer, or no agent has pinned tables here.
pub fn run(config: &CompareL4lb) -> Result<(String, usize)> {
    let names = ask_agent(&config.agent.admin_socket);
    let theirs = as_dialled(parse(&get(&config.url)?)?, &names.published);
    let maps = Maps::pinned(&config.agent.bpffs)?;
    let ours = table(&maps, &names, &theirs)?;
    let serving: BTreeSet<SocketAddr> = ours.values().flatten().copied().collect();
    // What is dialled for nobody's new connections is only there for those that it has.
    let is_draining = |proto, place: SocketAddr| {
        let dest = Dest { addr: addr(place.ip()), port: place.port(), proto, pad: 0 };
        !serving.contains(&place) && maps.is_endpoint(&dest)
    };
    let found = compare(&theirs, &ours, is_draining);
    let differ = found.values().filter(|finding| finding.differs()).count();
    let text = if config.json { to_json(&found)? } else { to_text(&found)? };
    Ok((text, differ))
}

/// The VIPs that the kernel balances, by the names under which dcos-net knows them: the agent tells, or without one the address, which is made
/// of the name.
fn table(maps: &Maps, names: &Names, theirs: &Table) -> Result<Table> {
    let tables = maps.read()?;
    let made: BTreeMap<IpAddr, &String> =
        theirs.keys().flat_map(|(name, ..)| addresses(name).map(move |ip| (ip, name))).collect();
    let name_of = |vip: IpAddr| {
        let mut known = names.services.iter().filter(|(.., vips)| vips.contains(&vip)).flat_map(|(_, all, _)| all);
        let name = known.find(|name| name.ends_with(ZONE)).or_else(|| made.get(&vip).copied());
        name.cloned().unwrap_or_else(|| vip.to_string())
    };
    let mut table = Table::new();
    for (dest, service) in tables.services.iter().filter(|(_, service)| service.mode != mode::DIRECT) {
        let backends = crate::dump::backends_of(service, &tables).into_keys();
        table.entry((name_of(ip(dest.addr)), dest.port, dest.proto)).or_default().extend(backends);
    }
    Ok(table)
}

/// What DC/OS makes of a VIP's name; nothing of what is no such name.
fn addresses(name: &str) -> impl Iterator<Item = IpAddr> {
    let short = name.strip_suffix(ZONE).and_then(|rest| rest.strip_suffix('.'));
    short.into_iter().flat_map(|short| [vip::address_v4(short).into(), vip::address_v6(short).into()])
}

fn to_text(found: &BTreeMap<Key, Finding>) -> Result<String> {
    let mut text = String::new();
    for (key, finding) in found.iter().filter(|(_, finding)| **finding != Finding::Same) {
        writeln!(text, "{}  {finding}", spell(key))?;
    }
    let count = |of: fn(&Finding) -> bool| found.values().filter(|finding| of(finding)).count();
    let (same, ours) = (count(|finding| *finding == Finding::Same), count(|finding| *finding == Finding::Ours));
    write!(text, "{same} the same, {} differ, {ours} only the mesh's", count(Finding::differs))?;
    Ok(text)
}

fn to_json(found: &BTreeMap<Key, Finding>) -> Result<String> {
    let one = |(key, finding): (&Key, &Finding)| match finding {
        Finding::Same => json!({ "vip": spell(key), "finding": "same" }),
        Finding::Missing => json!({ "vip": spell(key), "finding": "missing" }),
        Finding::Ours => json!({ "vip": spell(key), "finding": "ours" }),
        Finding::Backends { theirs, ours } => {
            json!({ "vip": spell(key), "finding": "backends", "only_dcos_net": theirs, "only_mesh": ours })
        }
    };
    Ok(serde_json::to_string_pretty(&found.iter().map(one).collect::<Vec<_>>())?)
}

fn spell((host, port, proto): &Key) -> String {
    let proto = if *proto == UDP { "udp" } else { "tcp" };
    if host.contains(':') { format!("{proto}://[{host}]:{port}") } else { format!("{proto}://{host}:{port}") }
}

/// One request without TLS, to this node.
fn get(url: &str) -> Result<String> {
    let rest = url.strip_prefix("http://").context("--url: it begins with http://")?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let ask = || -> Result<String> {
        let mut stream = TcpStream::connect(if host.contains(':') { host.to_owned() } else { format!("{host}:80") })?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // In one piece: what answers to the first line may have closed before the last.
        stream.write_all(format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nAccept: application/json\r\n\r\n").as_bytes())?;
        let mut text = String::new();
        stream.take(ANSWER_MAX).read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
        let status = head.lines().next().unwrap_or_default();
        ensure!(status.split(' ').nth(1) == Some("200"), "{status}");
        Ok(body.to_owned())
    };
    match ask() {
        Ok(body) => Ok(body),
        Err(error) => bail!("{url}: {error:#}. Does dcos-net run on this node? --url says where else to ask"),
    }
}
