//! `mesh-agent dump`: the kernel's tables as JSON.

use crate::cli::Dump;
use crate::core::desired::ip;
use crate::core::reconcile::Actual;
use crate::kernel::Maps;
use anyhow::Result;
use mesh_common::abi::{Addr, BackendKey, Dest, Pod, Service, mode};
use mesh_common::decide::l4::UDP;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Prints the tables.
///
/// # Errors
/// If no agent has pinned any here.
pub fn dump(config: &Dump) -> Result<String> {
    let maps = Maps::pinned(&config.bpffs)?;
    Ok(serde_json::to_string_pretty(&to_json(&maps.read()?, &maps.pods()?))?)
}

fn to_json(tables: &Actual, pods: &BTreeMap<u64, Pod>) -> Value {
    let services: Vec<Value> = tables.services.iter().map(|(dest, service)| service_json(dest, service, tables)).collect();
    let pods: Vec<Value> = pods
        .iter()
        .map(|(cookie, pod)| {
            let addresses: Vec<IpAddr> = [pod.addr4, pod.addr6].into_iter().filter(|a| *a != Addr::default()).map(ip).collect();
            json!({ "slot": pod.slot, "netns_cookie": cookie, "addresses": addresses })
        })
        .collect();
    json!({
        "config": {
            "abi": tables.config.abi,
            "outbound_policy": if tables.config.egress == 0 { "REGISTRY_ONLY" } else { "ALLOW_ANY" },
            "vip_range": format!("{}/{}", IpAddr::from(tables.config.vip4), tables.config.vip4_bits),
            "node": ip(tables.config.node),
        },
        "services": services,
        "pods": pods,
        "workloads": tables.workloads.iter().map(|addr| ip(*addr)).collect::<Vec<_>>(),
        "protected": tables.protected.iter().map(destination).collect::<Vec<_>>(),
    })
}

fn service_json(dest: &Dest, service: &Service, tables: &Actual) -> Value {
    let key = |index| BackendKey { service: service.id, generation: service.generation, index };
    let backends = (0..service.backends).map(|index| tables.backends.get(&key(index)));
    let backends: Vec<Value> = backends.map(|b| json!(b.map(|b| SocketAddr::new(ip(b.addr), b.port)))).collect();
    let mode = match service.mode {
        mode::DIRECT => "direct",
        mode::KERNEL => "kernel",
        mode::PROXY => "proxy",
        _ => "unknown",
    };
    json!({ "vip": destination(dest), "mode": mode, "generation": service.generation, "backends": backends })
}

fn destination(dest: &Dest) -> String {
    let proto = if dest.proto == UDP { "udp" } else { "tcp" };
    format!("{proto}://{}", SocketAddr::new(ip(dest.addr), dest.port))
}
