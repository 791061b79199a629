//! Who asks, and what the decision says: the half that connect and sendmsg share.

use crate::host;
use crate::maps::{CONFIG, JUDGED, KernelTables, PODS_BY_NETNS, TAGS};
use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_netns_cookie;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::abi::{Addr, Dest, EdgeKey, GATEWAY_SLOT, Original, Pod, egress, policy};
use mesh_common::decide::choose;
use mesh_common::decide::l4::{self, Flow, Verdict};
use mesh_common::reason::Reason;

/// Who the gateway is: the egress policy of its namespace, no address that would be its own.
static GATEWAY: Pod = Pod {
    slot: GATEWAY_SLOT,
    policy: policy::of(policy::GATEWAY_NAMESPACE),
    addr4: Addr([0; 16]),
    addr6: Addr([0; 16]),
    outbound: egress::OF_MESH,
};

/// Slot in events of processes that are no enrolled workload.
const NO_SLOT: u32 = u32::MAX;

/// Who makes the call.
pub(crate) struct Caller {
    netns: u64,
    pub(crate) pod: Option<&'static Pod>,
    /// The workload shares the node's own network namespace.
    pub(crate) on_host: bool,
    /// The slot that the socket was brokered for, else [`NO_SLOT`]. No `Option`: the compiler would leave a pointer in its unused half, which
    /// the verifier does not let it store.
    tag: u32,
}

impl Caller {
    /// By the process's cgroup2, its class id, and the network namespace of the socket, in this order. A brokered socket is the tag's,
    /// whoever makes the call: in a pod's namespace the tag has to agree with it.
    #[inline(always)]
    pub(crate) fn of(ctx: &SockAddrContext) -> Self {
        // SAFETY: reads the context only.
        let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
        // SAFETY: the context's socket is valid during the call.
        let tag = unsafe { TAGS.get_ptr_mut(ctx).as_ref() }.map_or(NO_SLOT, |tag| tag.slot);
        if tag == NO_SLOT {
            if let Some(pod) = host::workload(ctx) {
                return Self { netns, pod: Some(pod), on_host: true, tag };
            }
        }
        // SAFETY: the entry is read within this program run; a preallocated hash reuses an entry's memory at the earliest after an RCU
        // grace period, or for another pod with the same bucket, which `tag` would then refuse.
        if let Some(pod) = unsafe { PODS_BY_NETNS.get(&netns) } {
            return Self { netns, pod: Some(pod), on_host: false, tag };
        }
        // The gateway lives in the node's namespace, which is no pod's: it is known by the tag alone, which only the agent can write.
        if tag == GATEWAY_SLOT {
            return Self { netns, pod: Some(&GATEWAY), on_host: false, tag };
        }
        let pod = if tag == NO_SLOT { None } else { host::by_slot(tag) };
        Self { netns, pod, on_host: true, tag }
    }

    #[inline(always)]
    pub(crate) fn slot(&self) -> u32 {
        self.pod.map_or(NO_SLOT, |pod| pod.slot)
    }

    /// Whose connections are counted together.
    #[inline(always)]
    pub(crate) fn client(&self) -> u64 {
        match self.pod {
            Some(pod) if self.on_host => EdgeKey::ON_HOST | u64::from(pod.slot),
            _ => self.netns,
        }
    }

    /// A number for the client's addresses, of both families. What is no pod has its namespace's: the agent knows no addresses of it.
    #[inline(always)]
    pub(crate) fn source(&self) -> u32 {
        match self.pod {
            Some(pod) if !self.on_host => choose::source(&pod.addr4) ^ choose::source(&pod.addr6),
            // Its connections leave from the node's address.
            Some(_) => CONFIG.get(0).map_or(0, |config| choose::source(&config.node)),
            None => (choose::mix(self.netns) >> 32) as u32,
        }
    }

    /// Asks the decision.
    #[inline(always)]
    pub(crate) fn decide(&self, dest: Dest) -> Verdict {
        let Some(config) = CONFIG.get(0) else { return Verdict::Deny(Reason::Internal) };
        // A socket brokered for a pod that has left, in a namespace that is nobody's or another slot's by now.
        if self.tag != NO_SLOT && self.tag != self.slot() {
            return Verdict::Deny(Reason::Internal);
        }
        if self.pod.is_none() && host::is_listener(self.netns, &dest) {
            return Verdict::Deny(Reason::MeshListener);
        }
        l4::decide(&Flow { dest, pod: self.pod, brokered: self.tag != NO_SLOT }, config, &KernelTables)
    }
}

/// Notes on a pod's socket where it may send, for the packets that the guard of its veth sees. A later verdict takes the place.
#[inline(always)]
pub(crate) fn judged(ctx: &SockAddrContext, caller: &Caller, dest: &Dest) -> Result<(), Reason> {
    // No veth is between the node's own network and the node.
    if caller.pod.is_none() || caller.on_host {
        return Ok(());
    }
    let mut value = Original { addr: dest.addr, port: dest.port, pad: 0 };
    // SAFETY: the context's socket is valid during the call; the value that may be there is written whole.
    unsafe {
        match JUDGED.get_or_insert_ptr_mut(ctx, Some(&mut value)).as_mut() {
            Some(cell) => *cell = value,
            None => return Err(Reason::MapFull),
        }
    }
    Ok(())
}
