//! The DNS zones that DC/OS serves for running tasks, and those of the outside world. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::instance::State;
use super::{Core, ids, vips};

const MASTERS: [&str; 4] = ["leader.mesos", "master.mesos", "leader.dcos.thisdcos.directory", "master.dcos.thisdcos.directory"];

/// DC/OS' resolver says by it that it serves.
const READY: &str = "ready.spartan";

/// Addresses of `name` (no trailing dot, any case); `None` is NXDOMAIN.
pub(crate) fn lookup(core: &Core, outside: &BTreeMap<String, Vec<IpAddr>>, master: IpAddr, name: &str) -> Option<Vec<IpAddr>> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if MASTERS.contains(&name.as_str()) {
        return Some(vec![master]);
    }
    if name == READY {
        return Some(vec![IpAddr::from([127, 0, 0, 1])]);
    }
    if let Some(addresses) = outside.get(&name) {
        return Some(addresses.clone());
    }
    if let Some(addresses) = vips::lookup(core, &name) {
        return Some(addresses);
    }
    let zones = ["agentip", "containerip", "autoip"];
    let dcos = |zone: &str| name.strip_suffix(&format!(".marathon.{zone}.dcos.thisdcos.directory")).map(str::to_owned);
    let found = zones.iter().find_map(|zone| Some((dcos(zone)?, *zone)));
    let mesos = || name.strip_suffix(".marathon.mesos").map(|app| (app.to_owned(), "containerip"));
    let slave = || name.strip_suffix(".marathon.slave.mesos").map(|app| (app.to_owned(), "agentip"));
    let (app, zone) = found.or_else(mesos).or_else(slave)?;
    let mut out = Vec::new();
    for instance in core.instances.values().filter(|i| ids::discovery_name(&i.spec.id) == app) {
        if !instance.tasks.iter().any(|t| t.state == State::Running) {
            continue;
        }
        let agent = instance.hostname.parse::<IpAddr>().into_iter();
        match zone {
            "agentip" => out.extend(agent),
            "autoip" if !instance.host_ports.is_empty() => out.extend(agent),
            _ => out.extend(instance.addresses()),
        }
    }
    out.sort();
    out.dedup();
    (!out.is_empty()).then_some(out)
}
