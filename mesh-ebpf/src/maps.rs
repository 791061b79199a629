//! Every map, sized by `abi::maps`; and the tables of the L4 decision over them.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SockHash};
use mesh_common::abi::{
    Addr, AuditKey, Backend, BackendKey, Config, Dest, DialledKey, Diverted, Edge, EdgeKey, EgressKey, EgressNet, Endpoint, FlowKey, HandedKey, Host,
    HostKey, InboundKey, LearnedKey, LearnedName, ListenerKey, Load, Original, Pod, Service, Tag, UdpChoice, UdpKey, listener, maps,
};
use mesh_common::decide::l4::{Tables, stricter};
use mesh_common::reason;

#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static PODS_BY_NETNS: HashMap<u64, Pod> = HashMap::with_max_entries(maps::PODS_MAX, 0);
#[map]
pub(crate) static SERVICES: HashMap<Dest, Service> = HashMap::with_max_entries(maps::SERVICES_MAX, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static BACKENDS: HashMap<BackendKey, Backend> = HashMap::with_max_entries(maps::BACKENDS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static ENDPOINTS: HashMap<Dest, Endpoint> = HashMap::with_max_entries(maps::ENDPOINTS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static LOADS: Array<Load> = Array::with_max_entries(maps::ENDPOINTS_MAX, BPF_F_MMAPABLE);
#[map]
pub(crate) static WORKLOADS: HashMap<Addr, u32> = HashMap::with_max_entries(maps::WORKLOADS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static PROTECTED: HashMap<Dest, u32> = HashMap::with_max_entries(maps::PROTECTED_MAX, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static EGRESS_EXACT: HashMap<EgressKey, u32> = HashMap::with_max_entries(maps::EGRESS_EXACT_MAX, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static EGRESS_CIDR: LpmTrie<EgressNet, u32> = LpmTrie::with_max_entries(maps::EGRESS_CIDR_MAX, BPF_F_NO_PREALLOC);
/// The agent's own: no program reads it.
#[map]
pub(crate) static LEARNED: HashMap<LearnedKey, LearnedName> = HashMap::with_max_entries(maps::LEARNED_MAX, BPF_F_NO_PREALLOC);
/// One listener of each kind of each pod.
#[map]
pub(crate) static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(maps::PODS_MAX * listener::KINDS, 0);
#[btf_map]
pub(crate) static TAGS: SkStorage<Tag> = SkStorage::new();
#[btf_map]
pub(crate) static ORIGINALS: SkStorage<Diverted> = SkStorage::new();
#[map]
pub(crate) static UDP_REVERSE: LruHashMap<UdpKey, Original> = LruHashMap::with_max_entries(maps::UDP_MAX, 0);
#[map]
pub(crate) static UDP_CHOICES: LruHashMap<UdpKey, UdpChoice> = LruHashMap::with_max_entries(maps::UDP_MAX, 0);
#[btf_map]
pub(crate) static JUDGED: SkStorage<Original> = SkStorage::new();
#[map]
pub(crate) static FLOWS: LruHashMap<FlowKey, u32> = LruHashMap::with_max_entries(maps::FLOWS_MAX, 0);
#[map]
pub(crate) static HOST: Array<Host> = Array::with_max_entries(1, 0);
#[map]
pub(crate) static HOST_PODS: HashMap<HostKey, Pod> = HashMap::with_max_entries(maps::HOST_PODS_MAX, 0);
#[map]
pub(crate) static HANDED: LruHashMap<HandedKey, Original> = LruHashMap::with_max_entries(maps::HANDED_MAX, 0);
#[map]
pub(crate) static EDGES: LruHashMap<EdgeKey, Edge> = LruHashMap::with_max_entries(maps::EDGES_MAX, 0);
#[map]
pub(crate) static INBOUND: HashMap<InboundKey, u64> = HashMap::with_max_entries(maps::INBOUND_MAX, BPF_F_NO_PREALLOC);
#[map]
pub(crate) static LISTENS: HashMap<InboundKey, u64> = HashMap::with_max_entries(maps::INBOUND_MAX, BPF_F_NO_PREALLOC);
#[btf_map]
pub(crate) static CLIENTS: SkStorage<Original> = SkStorage::new();
#[map]
pub(crate) static DIALLED: LruHashMap<DialledKey, Original> = LruHashMap::with_max_entries(maps::DIALLED_MAX, 0);
#[map]
pub(crate) static AUDITED: LruHashMap<AuditKey, u64> = LruHashMap::with_max_entries(maps::AUDITED_MAX, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(reason::COUNTERS, 0);
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(maps::EVENTS_BYTES, 0);

/// The tables of [`mesh_common::decide::l4::decide`], as eBPF maps.
pub(crate) struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn service(&self, dest: &Dest) -> Option<Service> {
        // SAFETY: the value is copied at once; an update puts another element in its place.
        unsafe { SERVICES.get(dest) }.copied()
    }

    #[inline(always)]
    fn is_protected(&self, dest: &Dest) -> bool {
        // SAFETY: only asked whether it exists.
        unsafe { PROTECTED.get(dest) }.is_some()
    }

    #[inline(always)]
    fn is_workload(&self, addr: &Addr) -> bool {
        // SAFETY: only asked whether it exists.
        unsafe { WORKLOADS.get(addr) }.is_some()
    }

    #[inline(always)]
    fn is_endpoint(&self, dest: &Dest) -> bool {
        // SAFETY: only asked whether it exists.
        unsafe { ENDPOINTS.get(dest) }.is_some()
    }

    #[inline(always)]
    fn egress(&self, policy: u32, dest: &Dest) -> Option<u32> {
        let known = |way: u32| (way != NOTHING).then_some(way);
        stricter(policy, |policy| known(exact(policy, dest)), |policy| known(range(policy, dest)))
    }
}

/// No cell. The verifier refuses to compare two cells' pointers at once, which is what the compiler makes of two look-ups whose answers are
/// joined; so each look-up is a function of its own, and its answer a number.
const NOTHING: u32 = u32::MAX;

#[inline(never)]
fn exact(policy: u32, dest: &Dest) -> u32 {
    // SAFETY: the value is one aligned word, copied at once.
    unsafe { EGRESS_EXACT.get(&EgressKey { policy, dest: *dest }) }.map_or(NOTHING, |way| *way)
}

#[inline(never)]
fn range(policy: u32, dest: &Dest) -> u32 {
    EGRESS_CIDR.get(&Key::new(EgressNet::BITS, EgressNet::question(policy, dest))).map_or(NOTHING, |way| *way)
}
