//! `mesh-agent dump`: the kernel's tables, for people or as JSON; also for `GET /dump`.

use crate::cli::Dump;
use crate::core::desired::ip;
use crate::core::reconcile::Actual;
use crate::kernel::{Error, Maps};
use anyhow::Result;
use mesh_common::abi::{Addr, BackendKey, Dest, EgressNet, HostKey, Pod, Service, choice, egress, mode, way};
use mesh_common::decide::l4::UDP;
use mesh_common::reason::{Passed, Reason, Steered};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Prints the tables.
///
/// # Errors
/// If no agent has pinned any here.
pub fn dump(config: &Dump) -> Result<String> {
    let dump = tables(&Maps::pinned(&config.bpffs)?)?;
    if config.json { Ok(serde_json::to_string_pretty(&dump)?) } else { Ok(to_text(&dump)) }
}

/// Everything that the tables hold.
pub(crate) fn tables(maps: &Maps) -> Result<Value, Error> {
    let tables = maps.read()?;
    let mut dump = to_json(&tables, &maps.pods()?);
    let on_host = maps.host_pods()?.into_iter().map(|(slot, (_, keys))| {
        let keys = keys.iter().filter(|key| key.kind != HostKey::SLOT);
        let known_by = keys
            .map(|key| if key.kind == HostKey::CGROUP { format!("cgroup:{}", key.id) } else { format!("class:{:#x}", key.id) });
        json!({ "slot": slot, "known_by": known_by.collect::<Vec<_>>() })
    });
    dump["host_pods"] = on_host.collect();
    let endpoints = tables.endpoints.iter();
    dump["endpoints"] =
        endpoints.map(|(dest, e)| json!({ "endpoint": destination(dest), "connections": maps.active(*e) })).collect();
    let allowed = maps.allowed()?;
    let by = |way: u32| if way == way::PROXY { "proxy" } else { "kernel" };
    let exact = allowed.exact.iter();
    let exact = exact.map(|(key, way)| json!({ "policy": key.policy, "destination": destination(&key.dest), "mode": by(*way) }));
    let nets = allowed.nets.iter().map(|((bits, net), way)| {
        let bits = bits - EgressNet::FIXED_BITS - if net.family == 4 { 96 } else { 0 };
        let proto = if net.proto == UDP { "udp" } else { "tcp" };
        let to = format!("{proto}://{}/{bits} port {}", ip(net.addr), net.port);
        json!({ "policy": net.policy, "destination": to, "mode": by(*way) })
    });
    dump["egress"] = exact.chain(nets).collect();
    let learned = maps.learned()?;
    let learned = learned.iter().map(|(name, ip, expires)| json!({ "name": name, "address": ip, "expires_boottime": expires }));
    dump["learned"] = learned.collect();
    let counters = maps.counters()?;
    let labels = Reason::ALL.iter().map(|r| (r.code(), "refused", r.label()));
    let labels = labels.chain(Passed::ALL.iter().map(|p| (p.code(), "passed", p.label())));
    let labels = labels.chain(Steered::ALL.iter().map(|s| (s.code(), "steered", s.label())));
    let counted = labels.map(|(code, what, label)| json!({ "flows": what, "why": label, "count": counters[usize::from(code)] }));
    dump["counters"] = counted.collect();
    Ok(dump)
}

/// One table for each part, its columns as wide as their contents.
fn to_text(dump: &Value) -> String {
    let mut text = String::new();
    for (part, columns) in PARTS {
        let rows = match &dump[part] {
            Value::Array(rows) => rows.clone(),
            one => vec![one.clone()],
        };
        let cells = |row: &Value| match row {
            Value::Object(_) => columns.iter().map(|column| cell(&row[column])).collect(),
            other => vec![cell(other)],
        };
        let mut table: Vec<Vec<String>> = vec![columns.iter().map(|column| column.to_uppercase()).collect()];
        table.extend(rows.iter().map(cells));
        text.push_str(&format!("{} ({})\n", part.to_uppercase(), rows.len()));
        for row in table.iter().filter(|_| !rows.is_empty()) {
            for (i, cell) in row.iter().enumerate() {
                let width = table.iter().filter_map(|row| row.get(i)).map(String::len).max().unwrap_or_default();
                text.push_str(&format!("  {cell:width$}"));
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

/// The parts in the order in which they are shown, and their columns.
const PARTS: [(&str, &[&str]); 10] = [
    ("config", &["abi", "outbound_policy", "vip_range", "node"]),
    ("pods", &["slot", "netns_cookie", "outbound_policy", "addresses"]),
    ("host_pods", &["slot", "known_by"]),
    ("services", &["vip", "mode", "balance", "backends"]),
    ("endpoints", &["endpoint", "connections"]),
    ("egress", &["policy", "destination", "mode"]),
    ("learned", &["name", "address", "expires_boottime"]),
    ("workloads", &["address"]),
    ("protected", &["destination"]),
    ("counters", &["flows", "why", "count"]),
];

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn to_json(tables: &Actual, pods: &BTreeMap<u64, Pod>) -> Value {
    let services: Vec<Value> = tables.services.iter().map(|(dest, service)| service_json(dest, service, tables)).collect();
    let pods: Vec<Value> = pods
        .iter()
        .map(|(cookie, pod)| {
            let addresses: Vec<IpAddr> = [pod.addr4, pod.addr6].into_iter().filter(|a| *a != Addr::default()).map(ip).collect();
            json!({ "slot": pod.slot, "netns_cookie": cookie, "outbound_policy": outbound(egress::of(pod, &tables.config)), "addresses": addresses })
        })
        .collect();
    json!({
        "config": {
            "abi": tables.config.abi,
            "outbound_policy": outbound(tables.config.egress),
            "vip_range": format!("{}/{}", IpAddr::from(tables.config.vip4), tables.config.vip4_bits),
            "node": ip(tables.config.node),
        },
        "services": services,
        "pods": pods,
        "workloads": tables.workloads.iter().map(|addr| ip(*addr)).collect::<Vec<_>>(),
        "protected": tables.protected.iter().map(destination).collect::<Vec<_>>(),
    })
}

fn outbound(mode: u8) -> &'static str {
    match mode {
        egress::DENY => "REGISTRY_ONLY",
        egress::ALLOW => "ALLOW_ANY",
        egress::AUDIT => "AUDIT",
        _ => "unknown",
    }
}

fn service_json(dest: &Dest, service: &Service, tables: &Actual) -> Value {
    let backends = backends_of(service, tables);
    let weighted = backends.values().any(|weight| Some(weight) != backends.values().next());
    let backends: Vec<String> =
        backends.iter().map(|(to, weight)| if weighted { format!("{to}*{weight}") } else { to.to_string() }).collect();
    let mode = match service.mode {
        mode::DIRECT => "direct",
        mode::KERNEL => "kernel",
        mode::PROXY => "proxy",
        _ => "unknown",
    };
    let balance = match service.choice {
        choice::LEAST => "least-connections",
        choice::RANDOM => "random",
        choice::SOURCE => "source",
        _ => "unknown",
    };
    json!({ "vip": destination(dest), "mode": mode, "balance": balance, "backends": backends })
}

/// Who serves, with weights; of a Maglev table each once.
pub(crate) fn backends_of(service: &Service, tables: &Actual) -> BTreeMap<SocketAddr, u32> {
    let range = BackendKey { service: service.id, index: 0 }..BackendKey { service: service.id, index: service.backends };
    tables.backends.range(range).map(|(_, b)| (SocketAddr::new(ip(b.addr), b.port), b.weight)).collect()
}

fn destination(dest: &Dest) -> String {
    let proto = if dest.proto == UDP { "udp" } else { "tcp" };
    format!("{proto}://{}", SocketAddr::new(ip(dest.addr), dest.port))
}
