//! Map names and capacities, shared by the programs' definitions and the agent.

/// `Array<Config>`.
pub const CONFIG: &str = "CONFIG";
/// `HashMap<u64, Pod>`: network namespace cookie.
pub const PODS_BY_NETNS: &str = "PODS_BY_NETNS";
/// `HashMap<Dest, Service>`.
pub const SERVICES: &str = "SERVICES";
/// `HashMap<BackendKey, Backend>`.
pub const BACKENDS: &str = "BACKENDS";
/// `HashMap<Dest, Endpoint>`: where connections to a backend are counted. The agent's memory; programs ask only whether a key is
/// there.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// `Array<Load>`, in the agent's memory too.
pub const LOADS: &str = "LOADS";
/// `HashMap<Addr, u32>`: addresses of known workloads.
pub const WORKLOADS: &str = "WORKLOADS";
/// `HashMap<Dest, u32>`: control-plane and admin ports that no workload may dial.
pub const PROTECTED: &str = "PROTECTED";
/// `SockHash<ListenerKey>`.
pub const LISTENERS: &str = "LISTENERS";
/// `SkStorage<Tag>`.
pub const TAGS: &str = "TAGS";
/// `SkStorage<Diverted>`: what a rewritten connected socket asked for.
pub const ORIGINALS: &str = "ORIGINALS";
/// `LruHashMap<UdpKey, Original>`: where the datagrams of unconnected sockets really come from.
pub const UDP_REVERSE: &str = "UDP_REVERSE";
/// `LruHashMap<UdpKey, UdpChoice>`: the backend of an unconnected socket's datagrams to a VIP.
pub const UDP_CHOICES: &str = "UDP_CHOICES";
/// `HashMap<EgressKey, u32>`: single destinations outside the mesh that are allowed.
pub const EGRESS_EXACT: &str = "EGRESS_EXACT";
/// `LpmTrie<EgressNet, u32>`: ranges outside the mesh that are allowed.
pub const EGRESS_CIDR: &str = "EGRESS_CIDR";
/// `HashMap<LearnedKey, LearnedName>`: the agent's memory of DNS answers. No program reads it; it lies here because here it lives
/// exactly as long as the cells that were made from it.
pub const LEARNED: &str = "LEARNED";
/// `SkStorage<Original>`: the destination with which a pod's socket has passed connect() or sendmsg(), after rewriting.
pub const JUDGED: &str = "JUDGED";
/// `LruHashMap<FlowKey, u32>`: flows that began inbound, or on a judged socket.
pub const FLOWS: &str = "FLOWS";
/// `Array<Host>`, one cell.
pub const HOST: &str = "HOST";
/// `HashMap<HostKey, Pod>`: workloads of the node's own network namespace.
pub const HOST_PODS: &str = "HOST_PODS";
/// `LruHashMap<HandedKey, Original>`: what connections that were handed over on the node's own network were meant for.
pub const HANDED: &str = "HANDED";
/// `LruHashMap<EdgeKey, Edge>`: connections by client and VIP.
pub const EDGES: &str = "EDGES";
/// `HashMap<InboundKey, u64>`: ports of pods that the proxy takes, and since when nobody listens there.
pub const INBOUND: &str = "INBOUND";
/// `HashMap<InboundKey, u64>`: how often somebody began to listen on such a port.
pub const LISTENS: &str = "LISTENS";
/// `SkStorage<Original>`: as whom the proxy dials with this socket.
pub const CLIENTS: &str = "CLIENTS";
/// `LruHashMap<DialledKey, Original>`: the same of connections that the application has not accepted yet.
pub const DIALLED: &str = "DIALLED";
/// `RingBuf`: lines of the kernel's log, as aya-log writes them.
pub const LOGS: &str = "AYA_LOGS";
/// `LruHashMap<AuditKey, u64>`: what the outbound policy AUDIT has let out.
pub const AUDITED: &str = "AUDITED";
/// All of them: what is pinned.
pub const ALL: [&str; 30] = [
    CONFIG,
    PODS_BY_NETNS,
    SERVICES,
    BACKENDS,
    ENDPOINTS,
    LOADS,
    WORKLOADS,
    PROTECTED,
    EGRESS_EXACT,
    EGRESS_CIDR,
    LEARNED,
    LISTENERS,
    TAGS,
    ORIGINALS,
    UDP_REVERSE,
    UDP_CHOICES,
    JUDGED,
    FLOWS,
    HOST,
    HOST_PODS,
    HANDED,
    EDGES,
    INBOUND,
    LISTENS,
    CLIENTS,
    DIALLED,
    AUDITED,
    COUNTERS,
    EVENTS,
    LOGS,
];
/// `PerCpuArray<u64>`, indexed by reason code.
pub const COUNTERS: &str = "COUNTERS";
/// `RingBuf<Event>`.
pub const EVENTS: &str = "EVENTS";

/// Pods on one node: a DC/OS overlay gives a node 254 addresses; four times that.
pub const PODS_MAX: u32 = 1024;
/// (VIP, port, protocol) triples: 10,000 services with up to four ports and both families.
pub const SERVICES_MAX: u32 = 65_536;
/// Backends of all services, twice, since what goes is deleted after what comes is written: 10,000 services with 50,000 backends, and room for
/// both families.
pub const BACKENDS_MAX: u32 = 262_144;
/// What backends are dialled by (each counted once, however many services it serves), and cell 0; twice, for the same reason.
pub const ENDPOINTS_MAX: u32 = 262_144;
/// Workload addresses of the whole mesh, both families.
pub const WORKLOADS_MAX: u32 = 131_072;
/// Control-plane and admin endpoints.
pub const PROTECTED_MAX: u32 = 4096;
/// Allowed (address, port) pairs: every learned address with four ports, and half as many that entries list.
pub const EGRESS_EXACT_MAX: u32 = 131_072;
/// Allowed (range, port) pairs: the published ranges of a large cloud provider (some 8,000) with two ports.
pub const EGRESS_CIDR_MAX: u32 = 16_384;
/// Learned (name, address) pairs: 1,000 names with 16 addresses each.
pub const LEARNED_MAX: u32 = 16_384;
/// UDP sockets with a translated peer; the oldest are forgotten (LRU) and would have to ask again.
pub const UDP_MAX: u32 = 65_536;
/// Flows that packets are let pass for: 128 from outside for each pod. The ones that were silent longest are forgotten (LRU), and cut.
pub const FLOWS_MAX: u32 = 131_072;
/// Keys of workloads on the node's own network: the slot, and up to three by which each is known.
pub const HOST_PODS_MAX: u32 = 4 * PODS_MAX;
/// Connections handed over on the node's own network between their beginning and the moment the proxy has looked who they are meant for; the
/// oldest are forgotten (LRU), and refused then.
pub const HANDED_MAX: u32 = 65_536;
/// Clients and the VIPs that they use: 64 for each of 256 pods. Those that were silent longest are forgotten (LRU) by the kernel; the agent has
/// added them up.
pub const EDGES_MAX: u32 = 16_384;
/// Captured ports of all pods: sixteen of each.
pub const INBOUND_MAX: u32 = 16 * PODS_MAX;
/// Connections of the proxy to the application beside it, between their SYN and the moment the application has them; the oldest are forgotten
/// (LRU), and show the proxy's own address then.
pub const DIALLED_MAX: u32 = 65_536;
/// Destinations that were audited, of all workloads of a node: 64 for each of 256 pods. Those that were silent longest are forgotten (LRU) by
/// the kernel; the agent has added them up.
pub const AUDITED_MAX: u32 = 16_384;
/// Bytes of the ring buffer: about 1,300 refusals between two reads of the agent.
pub const EVENTS_BYTES: u32 = 65_536;
