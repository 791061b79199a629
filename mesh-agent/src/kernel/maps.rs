//! The tables: reading what the kernel holds, and writing the operations that [`crate::core::reconcile`] has ordered.

use super::Error;
use super::loads::Loads;
use crate::core::reconcile::{Actual, Op};
use aya::Ebpf;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SkStorage, SockHash};
use mesh_common::abi::{
    Addr, AuditKey, Backend, BackendKey, Config, Dest, Edge, EdgeKey, EgressKey, EgressNet, Endpoint, Host, HostKey, InboundKey,
    LearnedKey, LearnedName, ListenerKey, Original, Pod, Service, Tag, UdpKey, maps,
};
use mesh_common::reason;
use std::collections::BTreeMap;
use std::hash::Hash;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Longer than any program runs: after it, none still holds a service cell that it read before a flip.
const GRACE: Duration = Duration::from_millis(2);

/// The maps that the agent writes or counts with.
pub struct Maps {
    config: Array<MapData, Config>,
    pods: HashMap<MapData, u64, Pod>,
    pub(super) services: HashMap<MapData, Dest, Service>,
    backends: HashMap<MapData, BackendKey, Backend>,
    endpoints: HashMap<MapData, Dest, Endpoint>,
    loads: Loads,
    udp_reverse: HashMap<MapData, UdpKey, Original>,
    pub(super) workloads: HashMap<MapData, Addr, u32>,
    pub(super) protected: HashMap<MapData, Dest, u32>,
    pub(super) egress_exact: HashMap<MapData, EgressKey, u32>,
    pub(super) egress_cidr: LpmTrie<MapData, EgressNet, u32>,
    pub(super) learned: HashMap<MapData, LearnedKey, LearnedName>,
    pub(super) host: Array<MapData, Host>,
    pub(super) host_pods: HashMap<MapData, HostKey, Pod>,
    listeners: SockHash<MapData, ListenerKey>,
    tags: SkStorage<MapData, Tag>,
    counters: PerCpuArray<MapData, u64>,
    edges: HashMap<MapData, EdgeKey, Edge>,
    pub(super) inbound: HashMap<MapData, InboundKey, u64>,
    pub(super) listens: HashMap<MapData, InboundKey, u64>,
    pub(super) audited: HashMap<MapData, AuditKey, u64>,
}

impl Maps {
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        Self::build(|name| object.take_map(name).ok_or(Error::NoObject))
    }

    /// The maps that an agent has pinned, for reading them beside it.
    ///
    /// # Errors
    /// If one is missing or of another shape.
    pub fn pinned(bpffs: &Path) -> Result<Self, Error> {
        let pins = bpffs.join("mesh");
        Self::build(|name| {
            let error = |source| Error::Map { name, source };
            Map::from_map_data(MapData::from_pin(pins.join(name)).map_err(error)?).map_err(error)
        })
    }

    fn build(mut map: impl FnMut(&'static str) -> Result<Map, Error>) -> Result<Self, Error> {
        Ok(Self {
            config: typed(maps::CONFIG, map(maps::CONFIG)?)?,
            pods: typed(maps::PODS_BY_NETNS, map(maps::PODS_BY_NETNS)?)?,
            services: typed(maps::SERVICES, map(maps::SERVICES)?)?,
            backends: typed(maps::BACKENDS, map(maps::BACKENDS)?)?,
            endpoints: typed(maps::ENDPOINTS, map(maps::ENDPOINTS)?)?,
            loads: Loads::new(map(maps::LOADS)?)?,
            udp_reverse: typed(maps::UDP_REVERSE, map(maps::UDP_REVERSE)?)?,
            workloads: typed(maps::WORKLOADS, map(maps::WORKLOADS)?)?,
            protected: typed(maps::PROTECTED, map(maps::PROTECTED)?)?,
            egress_exact: typed(maps::EGRESS_EXACT, map(maps::EGRESS_EXACT)?)?,
            egress_cidr: typed(maps::EGRESS_CIDR, map(maps::EGRESS_CIDR)?)?,
            learned: typed(maps::LEARNED, map(maps::LEARNED)?)?,
            host: typed(maps::HOST, map(maps::HOST)?)?,
            host_pods: typed(maps::HOST_PODS, map(maps::HOST_PODS)?)?,
            listeners: typed(maps::LISTENERS, map(maps::LISTENERS)?)?,
            tags: typed(maps::TAGS, map(maps::TAGS)?)?,
            counters: typed(maps::COUNTERS, map(maps::COUNTERS)?)?,
            edges: typed(maps::EDGES, map(maps::EDGES)?)?,
            inbound: typed(maps::INBOUND, map(maps::INBOUND)?)?,
            listens: typed(maps::LISTENS, map(maps::LISTENS)?)?,
            audited: typed(maps::AUDITED, map(maps::AUDITED)?)?,
        })
    }

    /// The ABI version that the pinned maps were written by; `None` if nothing is pinned.
    pub(super) fn pinned_abi(pins: &Path) -> Result<Option<u32>, Error> {
        let pin = pins.join(maps::CONFIG);
        if !pin.exists() {
            return Ok(None);
        }
        let error = |source| Error::Map { name: maps::CONFIG, source };
        let map = Map::from_map_data(MapData::from_pin(pin).map_err(error)?).map_err(error)?;
        let config: Array<MapData, Config> = typed(maps::CONFIG, map)?;
        Ok(Some(config.get(&0, 0).map_err(error)?.abi))
    }

    /// Everything that [`crate::core::reconcile`] compares with.
    ///
    /// # Errors
    /// Names the map that could not be read.
    pub fn read(&self) -> Result<Actual, Error> {
        Ok(Actual {
            config: self.config.get(&0, 0).map_err(|source| Error::Map { name: maps::CONFIG, source })?,
            services: entries(maps::SERVICES, &self.services)?,
            backends: entries(maps::BACKENDS, &self.backends)?,
            endpoints: entries(maps::ENDPOINTS, &self.endpoints)?,
            last_stamp: self.loads.last_stamp(),
            workloads: entries(maps::WORKLOADS, &self.workloads)?.into_keys().collect(),
            protected: entries(maps::PROTECTED, &self.protected)?.into_keys().collect(),
        })
    }

    /// Writes the operations in their order, and stops at the first that fails: any prefix is safe.
    ///
    /// # Errors
    /// Names the map that refused.
    pub fn write(&mut self, ops: &[Op]) -> Result<(), Error> {
        for op in ops {
            let (name, result) = match op {
                Op::Claim(dest, endpoint) => {
                    self.loads.claim(*endpoint);
                    (maps::ENDPOINTS, self.endpoints.insert(dest, endpoint, 0))
                }
                Op::Release(dest, endpoint) => {
                    self.loads.release(*endpoint);
                    (maps::ENDPOINTS, gone(self.endpoints.remove(dest)))
                }
                Op::SetBackend(key, backend) => (maps::BACKENDS, self.backends.insert(key, backend, 0)),
                Op::SetService(dest, service) => (maps::SERVICES, self.services.insert(dest, service, 0)),
                Op::AddWorkload(addr) => (maps::WORKLOADS, self.workloads.insert(addr, 0, 0)),
                Op::AddProtected(dest) => (maps::PROTECTED, self.protected.insert(dest, 0, 0)),
                Op::SetConfig(config) => (maps::CONFIG, self.config.set(0, config, 0)),
                Op::Grace => {
                    std::thread::sleep(GRACE);
                    continue;
                }
                Op::DeleteService(dest) => (maps::SERVICES, gone(self.services.remove(dest))),
                Op::DeleteBackend(key) => (maps::BACKENDS, gone(self.backends.remove(key))),
                Op::DeleteWorkload(addr) => (maps::WORKLOADS, gone(self.workloads.remove(addr))),
                Op::DeleteProtected(dest) => (maps::PROTECTED, gone(self.protected.remove(dest))),
            };
            result.map_err(|source| Error::Map { name, source })?;
        }
        Ok(())
    }

    /// How many connections of this node the kernel counts for an endpoint.
    #[must_use]
    pub fn active(&self, endpoint: Endpoint) -> i64 {
        self.loads.active(endpoint)
    }

    /// Adds to such a count.
    pub fn correct(&mut self, endpoint: Endpoint, change: i64) {
        self.loads.correct(endpoint, change);
    }

    /// Is it what a backend is dialled by?
    #[must_use]
    pub fn is_endpoint(&self, dest: &Dest) -> bool {
        self.endpoints.get(dest, 0).is_ok()
    }

    /// Was this socket's peer put in the place of a VIP?
    #[must_use]
    pub fn is_diverted(&self, socket: u64, peer: &Dest) -> bool {
        let key = UdpKey { cookie: socket, addr: peer.addr, port: peer.port, pad: [0; 6] };
        self.udp_reverse.get(&key, 0).is_ok()
    }

    /// The enrolled pods, by namespace cookie.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn pods(&self) -> Result<BTreeMap<u64, Pod>, Error> {
        entries(maps::PODS_BY_NETNS, &self.pods)
    }

    /// From here on, sockets of this namespace are judged as this pod's.
    ///
    /// # Errors
    /// If the map is full.
    pub fn set_pod(&mut self, cookie: u64, pod: &Pod) -> Result<(), Error> {
        self.pods.insert(cookie, pod, 0).map_err(|source| Error::Map { name: maps::PODS_BY_NETNS, source })
    }

    /// From here on, they are no pod's.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_pod(&mut self, cookie: u64) -> Result<(), Error> {
        gone(self.pods.remove(&cookie)).map_err(|source| Error::Map { name: maps::PODS_BY_NETNS, source })
    }

    /// Captured connections of this slot and kind go to this socket. Replaces another without a gap.
    ///
    /// # Errors
    /// If the map is full or the socket does not listen.
    pub fn set_listener(&mut self, key: ListenerKey, socket: &OwnedFd) -> Result<(), Error> {
        self.listeners.insert(key, socket.as_raw_fd(), 0).map_err(|source| Error::Map { name: maps::LISTENERS, source })
    }

    /// They go nowhere. Fine if they did before.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove_listener(&mut self, key: &ListenerKey) -> Result<(), Error> {
        let result = match self.listeners.remove(key) {
            // What sockhash answers for a key that is not there.
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => gone(other),
        };
        result.map_err(|source| Error::Map { name: maps::LISTENERS, source })
    }

    /// Says whose socket this is; only the agent can, and only for sockets that it holds.
    ///
    /// # Errors
    /// If the kernel has no memory for it.
    pub fn tag(&mut self, socket: &OwnedFd, slot: u32) -> Result<(), Error> {
        self.tags.insert(socket, Tag { slot }, 0).map_err(|source| Error::Map { name: maps::TAGS, source })
    }

    /// What connections have come to, by client and VIP.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn edges(&self) -> Result<BTreeMap<EdgeKey, Edge>, Error> {
        // One that the kernel has evicted between its key and its value is gone.
        let read = |key: Result<EdgeKey, MapError>| match key.and_then(|key| Ok((key, self.edges.get(&key, 0)?))) {
            Err(error) if is_missing(&error) => None,
            other => Some(other),
        };
        let all = self.edges.keys().filter_map(read).collect::<Result<_, _>>();
        all.map_err(|source| Error::Map { name: maps::EDGES, source })
    }

    /// How often each code of `mesh_common::reason` was counted, all CPUs together.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counters(&self) -> Result<Vec<u64>, Error> {
        (0..reason::COUNTERS)
            .map(|code| {
                let cells = self.counters.get(&code, 0).map_err(|source| Error::Map { name: maps::COUNTERS, source })?;
                Ok(cells.iter().sum())
            })
            .collect()
    }
}

fn typed<T: TryFrom<Map, Error = MapError>>(name: &'static str, map: Map) -> Result<T, Error> {
    map.try_into().map_err(|source| Error::Map { name, source })
}

pub(super) fn entries<K: aya::Pod + Eq + Hash + Ord, V: aya::Pod>(
    name: &'static str,
    map: &HashMap<MapData, K, V>,
) -> Result<BTreeMap<K, V>, Error> {
    map.iter().collect::<Result<_, _>>().map_err(|source| Error::Map { name, source })
}

/// What is gone already may be removed again.
pub(super) fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(error) if is_missing(&error) => Ok(()),
        other => other,
    }
}

pub(super) fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound => true,
        MapError::SyscallError(error) => error.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}
