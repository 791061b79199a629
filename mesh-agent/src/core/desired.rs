//! What the kernel's tables should hold, given the control plane's resources.

use super::resources::{Mesh, Service, ServicePort, World};
use mesh_common::abi::{ABI_VERSION, Addr, Backend, Config, Dest, maps, mode};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Most copies of one backend in a set: weights are kept to within 1/16 of the greatest.
const COPIES_MAX: u32 = 16;

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
}

/// One service port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Port {
    /// One of [`mode`].
    pub mode: u8,
    /// Who serves it, in a stable order.
    pub backends: Vec<Backend>,
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
    let mut services = BTreeMap::new();
    for service in world.services.values() {
        for (dest, port) in ports_of(service) {
            services.entry(dest).or_insert_with(|| to_port(port, &dest.addr));
        }
    }
    let workloads = world.workloads.values().flat_map(|w| &w.addresses).map(|ip| addr(*ip)).collect();
    let desired = Desired { config: config(&mesh, node), services, workloads, protected: mesh.protected };
    desired.check()?;
    Ok(desired)
}

impl TooMany {
    pub(super) fn check(map: &'static str, wanted: usize, capacity: u32) -> Result<(), Self> {
        if wanted > capacity as usize { Err(Self { map, wanted, capacity }) } else { Ok(()) }
    }
}

impl Desired {
    fn check(&self) -> Result<(), TooMany> {
        let backends: usize = self.services.values().map(|port| port.backends.len()).sum();
        for (map, wanted, capacity) in [
            (maps::SERVICES, self.services.len(), maps::SERVICES_MAX),
            // Half: an old and a new generation live side by side.
            (maps::BACKENDS, backends, maps::BACKENDS_MAX / 2),
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
    Config { abi: ABI_VERSION, egress: mesh.egress, ready: 1, vip4_bits, pad: 0, vip4, node: addr(node) }
}

/// Only backends of the VIP's own family: a connection cannot change it.
fn to_port(port: &ServicePort, vip: &Addr) -> Port {
    let takes = |backend: &&super::resources::Backend| backend.weight > 0 && backend.address.is_ipv4() == vip.to_v4().is_some();
    if port.mode == mode::DIRECT {
        return Port { mode: port.mode, backends: Vec::new() };
    }
    let able: Vec<_> = port.backends.iter().filter(takes).collect();
    let most = able.iter().map(|b| b.weight).max().unwrap_or(1);
    let equal = able.iter().all(|b| b.weight == most);
    let mut backends = Vec::with_capacity(able.len());
    for backend in able {
        let copies = if equal { 1 } else { copies(backend.weight, most) };
        let entry = Backend { addr: addr(backend.address), port: backend.port, pad: 0 };
        backends.extend(std::iter::repeat_n(entry, copies as usize));
    }
    backends.sort_unstable_by_key(|b| (b.addr, b.port));
    Port { mode: port.mode, backends }
}

/// The program picks uniformly, so a weight is a number of copies.
fn copies(weight: u32, most: u32) -> u32 {
    let scaled = (u64::from(weight) * u64::from(COPIES_MAX)).div_ceil(u64::from(most));
    scaled as u32
}

#[cfg(test)]
mod tests;
