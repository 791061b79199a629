//! What the kernel's tables should hold, given the control plane's resources.

use super::resources::{Mesh, Service, ServicePort, World};
use super::slots;
use mesh_common::abi::{ABI_VERSION, Addr, Config, Dest, choice, maps, mode};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Contents of the tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// The one cell.
    pub config: Config,
    /// By VIP, port and protocol.
    pub services: BTreeMap<Dest, Port>,
    /// Addresses of workloads.
    pub workloads: BTreeSet<Addr>,
    /// Control-plane and admin endpoints.
    pub protected: BTreeSet<Dest>,
    /// What backends are dialled by that take nothing new: flows that they have go on.
    pub draining: BTreeSet<Dest>,
}

/// One service port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Port {
    /// One of [`mode`].
    pub mode: u8,
    /// One of [`mesh_common::abi::choice`].
    pub choice: u8,
    /// It is for some namespaces only.
    pub scoped: bool,
    /// Who serves it, each with its weight, which is not 0.
    pub backends: BTreeMap<Dest, u32>,
}

impl Port {
    /// How many cells of the kernel's table of backends it needs.
    #[must_use]
    pub fn cells(&self) -> usize {
        if self.choice == choice::SOURCE { slots::table(self.backends.len()) } else { self.backends.len() }
    }
}

/// A table that would not fit.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("{wanted} entries do not fit into the kernel's table {map}, which holds {capacity}")]
pub struct TooMany {
    map: &'static str,
    wanted: usize,
    capacity: u32,
}

/// Computes the tables for this node.
///
/// Two services that claim the same VIP and port: the first by name has it; [`World::conflicts`] names them.
///
/// # Errors
/// If a table would not fit. Nothing is cut off silently.
pub fn desired(world: &World, node: IpAddr) -> Result<Desired, TooMany> {
    let mesh = world.mesh.clone().unwrap_or_default();
    let (mut services, mut draining) = (BTreeMap::new(), BTreeSet::new());
    for service in world.services.values() {
        for (dest, port) in ports_of(service) {
            services.entry(dest).or_insert_with(|| Port { scoped: !port.namespaces.is_empty(), ..to_port(port, &dest.addr) });
        }
        for port in service.ports.iter().filter(|port| port.mode != mode::DIRECT && port.namespaces.is_empty()) {
            draining.extend(port.backends.iter().filter(|b| b.weight == 0).map(|b| dialled(b, port.proto)));
        }
    }
    let workloads = world.workloads.values().flat_map(|w| &w.addresses).map(|ip| addr(*ip)).collect();
    let desired = Desired { config: config(&mesh, node), services, workloads, protected: mesh.protected, draining };
    desired.check()?;
    Ok(desired)
}

impl TooMany {
    pub(super) fn check(map: &'static str, wanted: usize, capacity: u32) -> Result<(), Self> {
        if wanted > capacity as usize { Err(Self { map, wanted, capacity }) } else { Ok(()) }
    }
}

impl Desired {
    /// What backends are dialled by, of all services that are for everybody: such addresses are the mesh's, which every workload may dial. Those
    /// of others are outside, let out by the allowlist to whom they are for, and not counted.
    #[must_use]
    pub fn endpoints(&self) -> BTreeSet<Dest> {
        let open = self.services.values().filter(|port| !port.scoped);
        open.flat_map(|port| port.backends.keys()).chain(&self.draining).copied().collect()
    }

    fn check(&self) -> Result<(), TooMany> {
        let backends: usize = self.services.values().map(Port::cells).sum();
        for (map, wanted, capacity) in [
            (maps::SERVICES, self.services.len(), maps::SERVICES_MAX),
            // Half: what comes is written before what goes is deleted.
            (maps::BACKENDS, backends, maps::BACKENDS_MAX / 2),
            (maps::ENDPOINTS, self.endpoints().len(), maps::ENDPOINTS_MAX / 2),
            (maps::WORKLOADS, self.workloads.len(), maps::WORKLOADS_MAX),
            (maps::PROTECTED, self.protected.len(), maps::PROTECTED_MAX),
        ] {
            TooMany::check(map, wanted, capacity)?;
        }
        Ok(())
    }
}

/// Every (VIP, port) of a service.
pub(super) fn ports_of(service: &Service) -> impl Iterator<Item = (Dest, &ServicePort)> {
    service.addresses.iter().flat_map(|vip| {
        service.ports.iter().map(|port| (Dest { addr: addr(*vip), port: port.port, proto: port.proto, pad: 0 }, port))
    })
}

/// An address as the kernel's tables have it.
#[must_use]
pub fn addr(ip: IpAddr) -> Addr {
    match ip {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr(v6.octets()),
    }
}

/// An address as people read it.
#[must_use]
pub fn ip(addr: Addr) -> IpAddr {
    addr.to_v4().map_or_else(|| IpAddr::from(addr.0), IpAddr::from)
}

fn config(mesh: &Mesh, node: IpAddr) -> Config {
    let (vip4, vip4_bits) = mesh.vip4.map_or(([0; 4], 0), |(base, bits)| (base.octets(), bits));
    let (vip6, vip6_bits) = mesh.vip6.map_or((Addr([0; 16]), 0), |(base, bits)| (Addr(base.octets()), bits));
    Config { abi: ABI_VERSION, egress: mesh.egress, ready: 1, vip4_bits, vip6_bits, vip4, vip6, node: addr(node) }
}

/// Only backends of the VIP's own family, since a connection cannot change it; of these the nearest that take connections at all.
fn to_port(port: &ServicePort, vip: &Addr) -> Port {
    let mut backends = BTreeMap::new();
    if port.mode == mode::DIRECT {
        return Port { mode: port.mode, choice: port.choice, backends, ..Port::default() };
    }
    let takes = |backend: &&super::resources::Backend| backend.weight > 0 && backend.address.is_ipv4() == vip.to_v4().is_some();
    let able = || port.backends.iter().filter(takes);
    let nearest = able().map(|backend| backend.priority).min();
    for backend in able().filter(|backend| Some(backend.priority) == nearest) {
        let weight: &mut u32 = backends.entry(dialled(backend, port.proto)).or_default();
        *weight = weight.saturating_add(backend.weight);
    }
    Port { mode: port.mode, choice: port.choice, backends, ..Port::default() }
}

fn dialled(backend: &super::resources::Backend, proto: u8) -> Dest {
    Dest { addr: addr(backend.address), port: backend.port, proto, pad: 0 }
}

#[cfg(test)]
mod tests;
