//! What proxies serve: the ports that are theirs, those that some kernel may still hand over, and those on standby.

use super::{Abilities, Compiled, detects, has_requests};
use crate::core::flip::{Carriage, Carried, PortKey};
use crate::core::registry::{Port, Registry, Service};
use mesh_xds::agent::{Mode, Transport};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The registry as proxies carry it: lingering ports as they are now, or as they last were if they are gone, and ports on standby.
pub(super) fn carrying(registry: &Arc<Registry>, linger: &BTreeSet<PortKey>, before: &Compiled, can: Abilities) -> Arc<Registry> {
    let standby = standby(registry, before, can);
    if linger.is_empty() && standby.is_empty() {
        return registry.clone();
    }
    let mut carrying = (**registry).clone();
    for key in standby {
        let service = carrying.host_mut(&key.service);
        if let Some(port) = service.and_then(|service| service.ports.get_mut(&(key.port, Transport::Tcp))) {
            port.mode = Mode::Proxy;
        }
    }
    for key in linger {
        let number = (key.port, Transport::Tcp);
        let inside = before.carrying.services.get(&key.service);
        let Some(old) = inside.or_else(|| before.carrying.outside.get(&key.service)) else { continue };
        // A host outside may have become a service: then its ports are that service's.
        let outside = inside.is_none() && !carrying.services.contains_key(&key.service);
        let hosts = if outside { &mut carrying.outside } else { &mut carrying.services };
        let service = hosts.entry(key.service.clone());
        let service = service.or_insert_with(|| Service { ports: BTreeMap::new(), ..old.clone() });
        if let Some(port) = service.ports.get_mut(&number) {
            port.mode = Mode::Proxy;
        } else if let Some(port) = old.ports.get(&number) {
            service.ports.insert(number, Port { mode: Mode::Proxy, ..port.clone() });
        }
    }
    Arc::new(carrying)
}

/// How each port is carried: by its rules if `registry`, which has the modes that are wanted, gives it to the proxy.
pub(super) fn carried(carrying: &Registry, registry: &Registry, can: Abilities) -> Carried {
    let ports = carrying.tcp_ports().filter(|(_, port)| port.mode == Mode::Proxy);
    let how = ports.map(|(key, port)| {
        let wanted = registry.host(&key.service).and_then(|service| service.tcp_port(key.port));
        let how = match wanted.map(|port| port.mode) {
            Some(Mode::Proxy) if has_requests(can, port) || detects(can, port) => Carriage::Http,
            Some(Mode::Proxy) => Carriage::Tcp,
            _ => Carriage::Standby,
        };
        (key, how)
    });
    how.collect()
}

/// Ports that are not the proxy's and that it goes on serving for what it was handed before.
///
/// With requests: all of them, so that a request on a connection of last week finds its service also after a restart of ours; only
/// labelled ports are concerned. Without: those that it served once, since what it has accepted needs no configuration any more.
fn standby(registry: &Registry, before: &Compiled, can: Abilities) -> Vec<PortKey> {
    let others = registry.tcp_ports().filter(|(_, port)| port.mode != Mode::Proxy);
    others.filter(|(key, port)| has_requests(can, port) || before.carried.contains_key(key)).map(|(key, _)| key).collect()
}
