//! May this flow pass, and who carries it? Asked once per connection (connect) or datagram (sendmsg).
//!
//! The same code is linked into the kernel programs, where [`Tables`] are eBPF maps, and into user space, where they are whatever the
//! caller has. Tables are asked lazily, in the order of the numbered steps of [`decide`], because each question costs a map look-up.

use crate::abi::{Addr, Config, Dest, GATEWAY_SLOT, Pod, Service, egress, mode, policy, way};
use crate::ports;
use crate::reason::{Passed, Reason, Steered};

/// `IPPROTO_TCP`.
pub const TCP: u8 = 6;
/// `IPPROTO_UDP`.
pub const UDP: u8 = 17;

/// What is asked: a workload's connect() or sendto().
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    /// Where to, as the application gave it (v4-mapped if it is IPv4).
    pub dest: Dest,
    /// The enrolled workload: for a brokered socket the pod that it was brokered for, else the caller's; `None` if not enrolled.
    pub pod: Option<&'a Pod>,
    /// The socket is brokered: the proxy dials on the pod's behalf. It skips the hand-over, never the verdict.
    pub brokered: bool,
}

/// What is known of destinations. Implemented over eBPF maps in the kernel.
pub trait Tables {
    /// The service that owns this VIP, port and protocol.
    fn service(&self, dest: &Dest) -> Option<Service>;
    /// Is this a control-plane or admin endpoint of the mesh?
    fn is_protected(&self, dest: &Dest) -> bool;
    /// Is this the address of a workload of the mesh?
    fn is_workload(&self, addr: &Addr) -> bool;
    /// Is this what a backend of some service is dialled by: for workloads whose address others share, as on their node's own network?
    fn is_endpoint(&self, dest: &Dest) -> bool;
    /// How a rule of this egress policy, or one that is for everybody, allows this destination: one of [`way`]. [`stricter`] says how.
    fn egress(&self, policy: u32, dest: &Dest) -> Option<u32>;
}

/// The answer of a policy's and everybody's cells together: an address's own before those of ranges around it, and of a policy's and
/// everybody's the way by the proxy, or a rule for all would open what a rule for some has closed.
#[inline(always)]
pub fn stricter(number: u32, exact: impl Fn(u32) -> Option<u32>, range: impl Fn(u32) -> Option<u32>) -> Option<u32> {
    // One policy is the rule where nothing is scoped: half the questions.
    if number == policy::EVERYBODY {
        return exact(number).or_else(|| range(number));
    }
    let (own, all) = (exact(number), exact(policy::EVERYBODY));
    if own.is_some() || all.is_some() {
        return own.max(all);
    }
    range(number).max(range(policy::EVERYBODY))
}

const _: () = assert!(way::PROXY > way::PASS, "the larger way is the stricter");

/// What to do with a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Leave it alone.
    Pass(Passed),
    /// Send it to the mesh's DNS.
    Dns,
    /// Hand it to the proxy.
    Proxy,
    /// Rewrite it to a backend of this service (which has at least one).
    Backend(Service),
    /// Refuse it.
    Deny(Reason),
}

impl Verdict {
    /// What is counted when nothing comes between the verdict and its execution.
    #[must_use]
    #[inline(always)]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Pass(why) => why.code(),
            Self::Dns => Steered::Dns.code(),
            Self::Proxy => Steered::Proxy.code(),
            Self::Backend(_) => Steered::Backend.code(),
            Self::Deny(reason) => reason.code(),
        }
    }
}

/// Decides, in this order (DESIGN.md section 3):
///
/// 1. DNS of an enrolled workload, at any address, goes to the mesh's DNS.
/// 2. The mesh's own listeners are refused, to the gateway the node's whole loopback; other loopback and own-address traffic passes.
/// 3. The node's Mesos agent passes (the executor shares the namespace); control-plane and admin ports are refused.
/// 4. A service's VIP is balanced for every process, enrolled or not, but for workloads that the service is not for; an address of a VIP
///    range that no service owns is refused.
/// 5. What is not enrolled passes.
/// 6. The address of a known workload passes; so does, on a brokered socket, what a service's backend is dialled by.
/// 7. Everything else is outside the mesh: what a rule of the pod's egress policy allows passes, or goes to the proxy where the rule says so;
///    the rest as the pod's outbound policy says, or else the mesh's.
#[inline(always)]
pub fn decide<T: Tables>(flow: &Flow<'_>, config: &Config, tables: &T) -> Verdict {
    if let Some(pod) = flow.pod {
        if let Some(verdict) = local(flow, pod, config) {
            return verdict;
        }
        if tables.is_protected(&flow.dest) {
            return Verdict::Deny(Reason::ControlPlane);
        }
    } else if flow.dest.addr.is_loopback() {
        return Verdict::Pass(Passed::Loopback);
    }
    if let Some(service) = tables.service(&flow.dest) {
        let outsider = flow.pod.filter(|pod| service.scoped != 0 && tables.egress(pod.policy, &flow.dest).is_none());
        return if outsider.is_some() { Verdict::Deny(Reason::EgressDenied) } else { to_service(flow, service) };
    }
    if in_vip_range(&flow.dest.addr, config) {
        return Verdict::Deny(Reason::UnknownVip);
    }
    let Some(pod) = flow.pod else { return Verdict::Pass(Passed::NotEnrolled) };
    if tables.is_workload(&flow.dest.addr) || (flow.brokered && tables.is_endpoint(&flow.dest)) {
        return Verdict::Pass(if flow.brokered { Passed::Brokered } else { Passed::Workload });
    }
    match tables.egress(pod.policy, &flow.dest) {
        Some(way::PROXY) if !flow.brokered && flow.dest.proto == TCP => Verdict::Proxy,
        Some(_) => Verdict::Pass(Passed::Egress),
        None => match egress::of(pod, config) {
            egress::ALLOW => Verdict::Pass(Passed::Egress),
            egress::AUDIT => Verdict::Pass(Passed::Audited),
            _ => Verdict::Deny(Reason::EgressDenied),
        },
    }
}

/// Steps 1 to 3: what can be said without asking a table.
#[inline(always)]
fn local(flow: &Flow<'_>, pod: &Pod, config: &Config) -> Option<Verdict> {
    let dest = &flow.dest;
    if dest.port == ports::DOMAIN && !flow.brokered {
        return Some(Verdict::Dns);
    }
    let loopback = dest.addr.is_loopback() || dest.addr.is_unspecified();
    let own = dest.addr == pod.addr4 || dest.addr == pod.addr6;
    // The gateway dials from the node's namespace, whose loopback is the node's, not its own.
    if loopback && pod.slot == GATEWAY_SLOT {
        return Some(Verdict::Deny(Reason::EgressDenied));
    }
    if loopback || own {
        return Some(match dest.port {
            ports::OUTBOUND | ports::INBOUND | ports::DNS => Verdict::Deny(Reason::MeshListener),
            _ if loopback => Verdict::Pass(Passed::Loopback),
            _ => Verdict::Pass(Passed::OwnAddress),
        });
    }
    // An executor shares its pod's namespace; the gateway has none.
    if dest.addr == config.node && dest.port == ports::MESOS_AGENT && dest.proto == TCP && pod.slot != GATEWAY_SLOT {
        return Some(Verdict::Pass(Passed::MesosAgent));
    }
    None
}

#[inline(always)]
fn to_service(flow: &Flow<'_>, service: Service) -> Verdict {
    match service.mode {
        mode::DIRECT => Verdict::Pass(Passed::Direct),
        // A process outside the mesh gets plain balancing from the kernel: the proxy serves enrolled pods only.
        mode::PROXY if flow.pod.is_some() && !flow.brokered && flow.dest.proto == TCP => Verdict::Proxy,
        mode::PROXY | mode::KERNEL if service.backends == 0 => Verdict::Deny(Reason::NoBackend),
        mode::PROXY | mode::KERNEL => Verdict::Backend(service),
        _ => Verdict::Deny(Reason::Internal),
    }
}

#[inline(always)]
fn in_vip_range(addr: &Addr, config: &Config) -> bool {
    let Some(v4) = addr.to_v4() else { return in_vip6_range(addr, config) };
    if config.vip4_bits == 0 || config.vip4_bits > 32 {
        return false;
    }
    let mask = u32::MAX << (32 - u32::from(config.vip4_bits));
    u32::from_be_bytes(v4) & mask == u32::from_be_bytes(config.vip4) & mask
}

#[inline(always)]
fn in_vip6_range(addr: &Addr, config: &Config) -> bool {
    let bits = u32::from(config.vip6_bits);
    if bits == 0 || bits > 128 {
        return false;
    }
    let (asked, base) = (halves(addr), halves(&config.vip6));
    // A shift by the whole width would be none.
    let mask = |bits: u32| if bits == 0 { 0 } else { u64::MAX << (64 - bits) };
    let (high, low) = if bits > 64 { (u64::MAX, mask(bits - 64)) } else { (mask(bits), 0) };
    (asked.0 ^ base.0) & high == 0 && (asked.1 ^ base.1) & low == 0
}

#[inline(always)]
const fn halves(addr: &Addr) -> (u64, u64) {
    let a = &addr.0;
    (
        u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    )
}

#[cfg(test)]
mod tests;
