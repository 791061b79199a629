//! What the kernel programs and mesh-agent say to each other: map keys, map values, events.
//!
//! Every type is `repr(C)` without implicit padding. Addresses are 16 bytes in network order, IPv4 as v4-mapped (`::ffff:a.b.c.d`), so that
//! one map serves both families. Ports are in host order. A change of any type here must raise [`ABI_VERSION`]: pinned maps of another
//! version are not reused.

/// Raised with every change of a type in this module.
pub const ABI_VERSION: u32 = 12;

/// What the compiled programs carry, so that an agent never loads an object that was built from another version of this module.
pub const ABI_MARKER: [u8; 12] = {
    let mut marker = *b"mesh-abi:000";
    assert!(ABI_VERSION < 1000);
    marker[9] += (ABI_VERSION / 100) as u8;
    marker[10] += (ABI_VERSION / 10 % 10) as u8;
    marker[11] += (ABI_VERSION % 10) as u8;
    marker
};

/// Address of either family: IPv6, or IPv4 as v4-mapped, network byte order.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Addr(pub [u8; 16]);

impl Addr {
    /// From an IPv4 address in network order.
    #[must_use]
    #[inline(always)]
    pub const fn v4(a: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3]])
    }

    /// The IPv4 address if this is v4-mapped.
    #[must_use]
    #[inline(always)]
    pub const fn to_v4(self) -> Option<[u8; 4]> {
        let b = self.0;
        let mapped = b[0] | b[1] | b[2] | b[3] | b[4] | b[5] | b[6] | b[7] | b[8] | b[9] == 0 && b[10] & b[11] == 0xff;
        if mapped { Some([b[12], b[13], b[14], b[15]]) } else { None }
    }

    /// 127.0.0.0/8 or ::1.
    #[must_use]
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        match self.to_v4() {
            Some(v4) => v4[0] == 127,
            None => {
                let b = self.0;
                let zero =
                    b[0] | b[1] | b[2] | b[3] | b[4] | b[5] | b[6] | b[7] | b[8] | b[9] | b[10] | b[11] | b[12] | b[13] | b[14];
                zero == 0 && b[15] == 1
            }
        }
    }

    /// 0.0.0.0 or ::, which connect() treats as loopback.
    #[must_use]
    #[inline(always)]
    pub const fn is_unspecified(self) -> bool {
        let b = self.0;
        let tail = b[12] | b[13] | b[14] | b[15];
        let head = b[0] | b[1] | b[2] | b[3] | b[4] | b[5] | b[6] | b[7] | b[8] | b[9];
        tail == 0 && head == 0 && (b[10] | b[11] == 0 || b[10] & b[11] == 0xff)
    }
}

/// A destination: key of the service, protected and egress maps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Dest {
    /// Where to.
    pub addr: Addr,
    /// Port, host order.
    pub port: u16,
    /// `IPPROTO_TCP` (6) or `IPPROTO_UDP` (17).
    pub proto: u8,
    /// Always zero.
    pub pad: u8,
}

mod edge;
pub mod host;
mod inbound;
pub mod policy;
mod question;
mod service;
pub use edge::{Edge, EdgeKey};
pub use host::{HandedKey, Host, HostKey};
pub use inbound::{DialledKey, HEARD, InboundKey, silent};
pub use question::Question;
pub use service::{Backend, BackendKey, Endpoint, Load, NO_CELL, Service, UdpChoice, choice, mode};

/// An enrolled workload. Value of `PODS_BY_NETNS`, keyed by the namespace's cookie, and of `HOST_PODS`, where it has no address of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pod {
    /// Number of the pod on this node: key of its listeners, content of its sockets' tags.
    pub slot: u32,
    /// Egress policy of the pod: what its namespace may, beside what everybody may ([`policy`]).
    pub policy: u32,
    /// Own IPv4 address (v4-mapped) or all zero.
    pub addr4: Addr,
    /// Own IPv6 address or all zero.
    pub addr6: Addr,
    /// What happens to its destinations that nobody has allowed: [`egress::OF_MESH`] or [`egress::own`].
    pub outbound: u32,
}

/// [`Pod::slot`] of the node's gateway: no pod of the node's table, and known by the tag of its sockets only, since it lives in the node's own
/// network namespace among processes that are no workloads. One below the number that events use for those.
pub const GATEWAY_SLOT: u32 = u32::MAX - 1;

/// Content of the sk_storage tag: whose socket this is. Only the agent can write it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tag {
    /// [`Pod::slot`] of the pod for which the socket was brokered.
    pub slot: u32,
}

/// Key of the `LISTENERS` sockhash.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ListenerKey {
    /// [`Pod::slot`].
    pub slot: u32,
    /// One of [`listener`].
    pub kind: u32,
}

/// The listeners that the agent opens in each pod's namespace.
pub mod listener {
    /// Captured outgoing TCP over IPv4.
    pub const OUTBOUND_V4: u32 = 0;
    /// DNS over TCP over IPv4.
    pub const DNS_TCP_V4: u32 = 1;
    /// Captured outgoing TCP over IPv6.
    pub const OUTBOUND_V6: u32 = 2;
    /// DNS over TCP over IPv6.
    pub const DNS_TCP_V6: u32 = 3;
    /// Captured incoming TCP over IPv4.
    pub const INBOUND_V4: u32 = 4;
    /// Captured incoming TCP over IPv6.
    pub const INBOUND_V6: u32 = 5;
    /// How many kinds there are.
    pub const KINDS: u32 = 6;
}

/// A destination before rewriting; value of the UDP reverse table.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Original {
    /// What the application asked for.
    pub addr: Addr,
    /// Port, host order.
    pub port: u16,
    /// Always zero.
    pub pad: u16,
}

/// What connect() made of a destination; content of the socket's storage.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Diverted {
    /// What the application asked for.
    pub original: Original,
    /// Where the socket is connected to instead: a send() on a connected AF_INET6 socket with a v4-mapped peer runs the sendmsg hook with
    /// this address, and was judged already.
    pub to: Original,
    /// Where the connection is counted, [`NO_CELL`] if nowhere.
    pub cell: u32,
    /// [`Load::stamp`] of that cell when it was counted: another one now means that the cell is another backend's.
    pub stamp: u32,
    /// [`EdgeKey::client`].
    pub client: u64,
}

/// Key of the UDP reverse table: a datagram from `addr:port` to this socket really comes from the [`Original`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct UdpKey {
    /// Socket cookie.
    pub cookie: u64,
    /// Rewritten address.
    pub addr: Addr,
    /// Rewritten port, host order.
    pub port: u16,
    /// Always zero.
    pub pad: [u8; 6],
}

/// Key of `FLOWS`: an exchange of packets that may go on although the pod could not have begun it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowKey {
    /// [`Pod::slot`].
    pub slot: u32,
    /// The other side.
    pub remote: Addr,
    /// Port of the other side; of ICMP echoes their number.
    pub remote_port: u16,
    /// The pod's port; 0 for ICMP.
    pub local_port: u16,
    /// IP protocol.
    pub proto: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

/// What happens to destinations outside the mesh (MeshConfig.outboundTrafficPolicy).
pub mod egress {
    /// Refused unless a ServiceEntry allows it (REGISTRY_ONLY).
    pub const DENY: u8 = 0;
    /// Allowed (ALLOW_ANY).
    pub const ALLOW: u8 = 1;
    /// Allowed, and what [`DENY`] would have refused is counted (AUDIT).
    pub const AUDIT: u8 = 2;

    /// [`super::Pod::outbound`] of a pod for which the mesh's settings count.
    pub const OF_MESH: u32 = 0;

    /// [`super::Pod::outbound`] of a pod with a mode of its own.
    #[must_use]
    pub const fn own(mode: u8) -> u32 {
        1 + mode as u32
    }

    /// The mode that counts for this pod.
    #[must_use]
    #[inline(always)]
    pub const fn of(pod: &super::Pod, config: &super::Config) -> u8 {
        if pod.outbound == OF_MESH { config.egress } else { (pod.outbound - 1) as u8 }
    }
}

/// How an allowed destination outside the mesh is reached: value of `EGRESS_EXACT` and `EGRESS_CIDR`.
pub mod way {
    /// Past the proxy.
    pub const PASS: u32 = 0;
    /// TCP of pods is handed to mesh-proxy, which looks at the host that is asked for; only its own sockets get there.
    pub const PROXY: u32 = 1;
}

/// Key of `AUDITED`: a workload has been let out there although no rule allows it. The value counts how often.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AuditKey {
    /// [`Pod::slot`].
    pub slot: u32,
    /// Where to.
    pub dest: Dest,
}

/// Key of `EGRESS_EXACT`: this destination outside the mesh is allowed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EgressKey {
    /// [`Pod::policy`].
    pub policy: u32,
    /// Where to.
    pub dest: Dest,
}

/// Key of `EGRESS_CIDR`, behind the trie's prefix length: a port of a whole range is allowed.
///
/// The port is part of the key, before the address: a destination is allowed if any range allows its port, however the ranges overlap,
/// and a range may have any number of ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct EgressNet {
    /// [`Pod::policy`].
    pub policy: u32,
    /// Port, host order.
    pub port: u16,
    /// `IPPROTO_TCP` (6) or `IPPROTO_UDP` (17).
    pub proto: u8,
    /// 4 or 6: no IPv6 range, however wide, contains the v4-mapped addresses.
    pub family: u8,
    /// First address of the range; as a question, the destination.
    pub addr: Addr,
}

impl EgressNet {
    /// Bits before the address, which always count.
    pub const FIXED_BITS: u32 = 64;
    /// All bits: what is asked.
    pub const BITS: u32 = 192;

    /// The question whether a range contains this destination; to be asked with [`Self::BITS`].
    #[must_use]
    #[inline(always)]
    pub const fn question(policy: u32, dest: &Dest) -> Self {
        let family = if dest.addr.to_v4().is_some() { 4 } else { 6 };
        Self { policy, port: dest.port, proto: dest.proto, family, addr: dest.addr }
    }
}

/// Key of `LEARNED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LearnedKey {
    /// What a resolver has answered.
    pub addr: Addr,
    /// FNV-1a of the name: one address may have several.
    pub name: u64,
}

/// What a name's address was learned with. Value of `LEARNED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LearnedName {
    /// Second of CLOCK_BOOTTIME from which on it is forgotten.
    pub expires: u64,
    /// The name, zero-padded: DNS allows 253 bytes.
    pub name: [u8; 256],
}

/// The node's settings: the one cell of `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Config {
    /// [`ABI_VERSION`] of the agent that wrote this.
    pub abi: u32,
    /// One of [`egress`].
    pub egress: u8,
    /// 1 once the maps hold a first complete snapshot.
    pub ready: u8,
    /// Length of the IPv4 VIP range in bits, 0 if there is none.
    pub vip4_bits: u8,
    /// Length of the IPv6 VIP range in bits, 0 if there is none.
    pub vip6_bits: u8,
    /// The IPv4 VIP range (DC/OS: 11.0.0.0/8), network order.
    pub vip4: [u8; 4],
    /// The IPv6 VIP range (DC/OS: fd01:c::/16 and longer).
    pub vip6: Addr,
    /// The node's own IPv4 address (v4-mapped), where its Mesos agent listens.
    pub node: Addr,
}

/// One refusal, as the ring buffer reports it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Event {
    /// `bpf_ktime_get_ns` of the refusal.
    pub time_ns: u64,
    /// Where the workload wanted to go.
    pub dest: Dest,
    /// [`Pod::slot`], or `u32::MAX` if the process is no enrolled workload.
    pub slot: u32,
    /// Process that asked.
    pub pid: u32,
    /// A [`crate::reason::Reason`] code.
    pub reason: u8,
    /// Always zero.
    pub pad: [u8; 3],
}

/// How the agent proves at start that the connect hook really fires: the program refuses this one destination with an error that no
/// network gives. A cgroup namespace, or net_cls before Linux 5.15, would silently disable the hook.
pub mod probe {
    /// 240.0.0.86: reserved (RFC 1112), routed by nobody.
    pub const ADDR: [u8; 4] = [240, 0, 0, 86];
    /// The port dialled.
    pub const PORT: u16 = 15_001;
    /// `ENOTUNIQ`: no TCP stack returns it from connect().
    pub const ERRNO: i32 = 76;
}

/// Where DNS datagrams go: 127.128.0.0/9 is always local, and the hash of the asked server in the lower bits keeps two servers apart.
pub mod dns {
    use super::Addr;
    use crate::ports;

    /// The address and port inside the pod to which a datagram for `server` is rewritten.
    #[must_use]
    #[inline(always)]
    pub const fn redirect(server: [u8; 4]) -> (Addr, u16) {
        let hash = u32::from_be_bytes(server).wrapping_mul(2_654_435_761);
        // Never .0.0.0, which some stacks treat as a network address.
        let low = (hash >> 9) & 0x007f_ffff;
        let bytes = (0x7f80_0000 | if low == 0 { 1 } else { low }).to_be_bytes();
        (Addr::v4(bytes), ports::DNS)
    }

    /// The same on the node's own network, where each workload has one address: a resolver that asks two servers from one socket hears from
    /// either that the other has answered, which is as good.
    #[must_use]
    #[inline(always)]
    pub const fn of_host(slot: u32) -> (Addr, u16) {
        (Addr::v4(super::host::listener(slot, false)), ports::DNS)
    }
}

/// Name of the global of each `sk_lookup` instance that tells it whose it is: a [`Pod`].
pub const POD_GLOBAL: &str = "POD";

pub mod maps;

#[cfg(feature = "user")]
mod pod_impls {
    use super::*;
    macro_rules! pods { ($($t:ty),+) => { $(
        // SAFETY: repr(C), no padding (asserted below), every bit pattern is valid.
        unsafe impl aya::Pod for $t {}
    )+ } }
    pods!(
        Addr,
        AuditKey,
        Backend,
        BackendKey,
        Config,
        Dest,
        DialledKey,
        Diverted,
        Edge,
        EdgeKey,
        Endpoint,
        EgressKey,
        EgressNet,
        Event,
        FlowKey,
        HandedKey,
        Host,
        HostKey,
        InboundKey,
        LearnedKey,
        LearnedName,
        ListenerKey,
        Load,
        Original,
        Pod,
        Service,
        Tag,
        UdpChoice,
        UdpKey
    );
}

/// No implicit padding: the size is the sum of the fields, so that equal keys have equal bytes.
const _: () = {
    assert!(size_of::<Dest>() == 20);
    assert!(size_of::<Pod>() == 44);
    assert!(size_of::<AuditKey>() == 24);
    assert!(size_of::<ListenerKey>() == 8);
    assert!(size_of::<Original>() == 20);
    assert!(size_of::<Diverted>() == 56);
    assert!(size_of::<UdpKey>() == 32);
    assert!(size_of::<EgressKey>() == 24);
    assert!(size_of::<EgressNet>() == 24 && EgressNet::BITS == 8 * 24);
    assert!(size_of::<LearnedKey>() == 24);
    assert!(size_of::<LearnedName>() == 264);
    assert!(size_of::<FlowKey>() == 28);
    assert!(size_of::<Config>() == 44);
    assert!(size_of::<Event>() == 40);
};

#[cfg(test)]
mod tests {
    use super::Addr;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn address_classes_agree_with_the_standard_library() {
        for text in ["127.0.0.1", "127.255.1.2", "126.0.0.1", "0.0.0.0", "9.0.1.2", "255.255.255.255"] {
            let ip: Ipv4Addr = text.parse().expect("literal");
            let addr = Addr::v4(ip.octets());
            assert_eq!(addr.is_loopback(), ip.is_loopback(), "{text}");
            assert_eq!(addr.is_unspecified(), ip.is_unspecified(), "{text}");
            assert_eq!(addr.to_v4(), Some(ip.octets()));
        }
        for text in ["::1", "::", "::2", "fd01:c::1", "2001:db8::ffff:1:2"] {
            let ip: Ipv6Addr = text.parse().expect("literal");
            let addr = Addr(ip.octets());
            assert_eq!(addr.is_loopback(), ip.is_loopback(), "{text}");
            assert_eq!(addr.is_unspecified(), ip.is_unspecified(), "{text}");
            assert_eq!(addr.to_v4(), None, "{text}");
        }
    }
}
