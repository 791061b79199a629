//! The safe order of mode changes on one node, where two processes must agree: the kernel (by its agent) hands a port's connections to the
//! proxy only while the proxy serves that port.
//!
//! To `proxy`: the agent is told only after the node's proxy has acknowledged cluster, listener and (HTTP) routes. Back: the agent is told
//! first, and as long as it has not acknowledged, the port is carried on ([`Node::may_hold`]; the compiler keeps its listener for all).
//! Afterwards too, as [`Carriage::Standby`]: what was handed over before is not over, be it a connection that the proxy has yet to accept
//! or the next request on one that is idle. On standby a port has no rule behind it, so its way to `proxy` is the whole way again.
//!
//! Three cases have no safe order and are decided for refusing or waiting, never for passing a rule over:
//! - No proxy was ever seen on the node: everything is told as wanted. Nobody's answer could be waited for, and the kernel keeps
//!   connections to a port that nobody takes waiting, whereas kernel mode would let them past the rules until a proxy comes.
//! - A port that the agent does not know in any mode: it is left out until the proxy, if one is connected, serves it (refused, as a moment
//!   before, when the service did not exist); with the proxy away it is told as PROXY and waits.
//! - What an agent's kernel holds is not known before it has acknowledged anything (we have just started): it is taken to hold
//!   everything as wanted, so that a restart of ours takes no port away. A mode that changed while we were down flips without order.

#[cfg(test)]
mod tests;

use mesh_xds::agent::Mode;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// A TCP port of a service.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct PortKey {
    pub(crate) service: String,
    pub(crate) port: u16,
}

/// Modes as an agent is told them.
pub(crate) type Modes = BTreeMap<PortKey, Mode>;
/// Ports that a proxy serves.
pub(crate) type Carried = BTreeMap<PortKey, Carriage>;

/// How a proxy serves a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Carriage {
    /// Byte by byte, by its rules.
    Tcp,
    /// Request by request, which takes routes.
    Http,
    /// Only what was handed over before: nothing more is meant for the proxy.
    Standby,
}

/// What a proxy needs for a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    Clusters,
    Listeners,
    Routes,
}

impl Part {
    pub(crate) const ALL: [Self; 3] = [Self::Clusters, Self::Listeners, Self::Routes];

    const fn index(self) -> usize {
        self as usize
    }
}

/// What an agent knows modes by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Told {
    Services,
    /// Of hosts outside the mesh.
    Egress,
}

impl Told {
    pub(crate) const ALL: [Self; 2] = [Self::Services, Self::Egress];

    const fn index(self) -> usize {
        self as usize
    }
}

/// More offers than this without an answer are folded into one.
const OFFERS_MAX: usize = 64;

/// One node.
#[derive(Debug, Default)]
pub(crate) struct Node {
    kernel: Option<Kernel>,
    proxy: Proxy,
}

#[derive(Debug)]
struct Kernel {
    acked: Arc<Modes>,
    /// Told after that; each may have arrived or not.
    told: VecDeque<AgentOffer>,
}

#[derive(Debug)]
struct AgentOffer {
    id: u64,
    modes: Arc<Modes>,
    /// By [`Told`]: an answer is still to come.
    pending: [bool; 2],
}

#[derive(Debug, Default)]
struct Proxy {
    seen: bool,
    connected: bool,
    /// By [`Part`]: the ports for which it is held, without any that the proxy was told to drop since; and the offer that is held whole.
    held: [(Carried, Option<u64>); 3],
    offers: VecDeque<ProxyOffer>,
}

#[derive(Debug)]
struct ProxyOffer {
    id: u64,
    ports: Arc<Carried>,
    /// Nothing of this part changed since the offer before.
    same: [bool; 3],
}

impl Node {
    /// The modes to tell the agent now.
    pub(crate) fn modes(&self, wanted: &Arc<Modes>) -> Arc<Modes> {
        let Some(kernel) = self.kernel.as_ref().filter(|_| self.proxy.seen) else { return wanted.clone() };
        let known = kernel.told.back().map_or(&kernel.acked, |told| &told.modes);
        // A port on its way back may still be held as PROXY; it waits all the same, for the proxy has lost the rules that are wanted again.
        let waiting = wanted.iter().filter(|(_, mode)| **mode == Mode::Proxy);
        let waiting = waiting.map(|(port, _)| (port, known.get(port).copied()));
        let waiting: Vec<_> = waiting.filter(|(port, known)| *known != Some(Mode::Proxy) && !self.proxy.serves(port)).collect();
        if waiting.iter().all(|(_, known)| known.is_none() && !self.proxy.connected) {
            return wanted.clone();
        }
        let mut modes = (**wanted).clone();
        for (port, known) in waiting {
            match known {
                Some(mode) => drop(modes.insert(port.clone(), mode)),
                None if self.proxy.connected => drop(modes.remove(port)),
                None => {}
            }
        }
        Arc::new(modes)
    }

    /// The agent is told these modes from now on. `same`: the parts of which nothing changed since the last offer, so that no answer will
    /// come.
    pub(crate) fn tell_agent(&mut self, offer: u64, modes: &Arc<Modes>, same: [bool; 2]) {
        let kernel = self.kernel.get_or_insert_with(|| Kernel { acked: modes.clone(), told: VecDeque::new() });
        kernel.told.push_back(AgentOffer { id: offer, modes: modes.clone(), pending: same.map(|same| !same) });
        kernel.settle();
        while kernel.told.len() > OFFERS_MAX {
            let Some(oldest) = kernel.told.pop_front() else { break };
            let held = oldest.modes.iter().filter(|(_, mode)| **mode == Mode::Proxy);
            Arc::make_mut(&mut kernel.acked).extend(held.map(|(port, mode)| (port.clone(), *mode)));
        }
    }

    /// The agent holds a part of what it was told by this offer, or a later one.
    pub(crate) fn agent_acked(&mut self, part: Told, offer: u64) {
        let Some(kernel) = &mut self.kernel else { return };
        let arrived = kernel.told.iter_mut().take_while(|told| told.id <= offer);
        arrived.for_each(|told| told.pending[part.index()] = false);
        kernel.settle();
    }

    /// Ports that the kernel may hold as PROXY, so that the proxy has to go on serving them.
    pub(crate) fn may_hold(&self) -> impl Iterator<Item = &Arc<Modes>> {
        let kernel = self.kernel.iter();
        kernel.flat_map(|kernel| std::iter::once(&kernel.acked).chain(kernel.told.iter().map(|told| &told.modes)))
    }

    /// A proxy opened a stream: a new process holds nothing, and an old one says again what it holds.
    pub(crate) fn proxy_connected(&mut self) {
        self.proxy = Proxy { seen: true, connected: true, offers: std::mem::take(&mut self.proxy.offers), ..Default::default() };
    }

    pub(crate) fn proxy_gone(&mut self) {
        self.proxy = Proxy { seen: true, ..Default::default() };
    }

    /// The proxy is to hold these ports from now on. `same`: the parts of which nothing changed since the last offer, so that no answer
    /// will come.
    pub(crate) fn offer_proxy(&mut self, offer: u64, ports: &Arc<Carried>, same: [bool; 3]) {
        let last = self.proxy.offers.back().map(|offer| offer.id);
        for ((held, whole), same) in self.proxy.held.iter_mut().zip(same) {
            if same && whole.is_some() && *whole == last {
                (*held, *whole) = ((**ports).clone(), Some(offer));
            } else {
                held.retain(|port, how| ports.get(port) == Some(how));
            }
        }
        self.proxy.offers.push_back(ProxyOffer { id: offer, ports: ports.clone(), same });
        if self.proxy.offers.len() > OFFERS_MAX {
            self.proxy.offers.pop_front();
        }
    }

    /// The proxy holds a part of this offer, or of a later one.
    pub(crate) fn proxy_holds(&mut self, part: Part, offer: u64) {
        let index = part.index();
        let mut from = self.proxy.offers.iter().skip_while(|known| known.id != offer).peekable();
        // An offer that was forgotten proves nothing; its client gets the newest next and answers again.
        let Some(mut held) = from.next() else { return };
        while let Some(later) = from.next_if(|later| later.same[index]) {
            held = later;
        }
        let mut ports = (*held.ports).clone();
        for later in from {
            ports.retain(|port, how| later.ports.get(port) == Some(how));
        }
        let whole = held.id;
        self.proxy.held[index] = (ports, Some(whole));
    }
}

impl Kernel {
    /// An offer of which every part is held is, with those before it, what the kernel has.
    fn settle(&mut self) {
        while let Some(told) = self.told.pop_front_if(|told| told.pending == [false; 2]) {
            self.acked = told.modes;
        }
    }
}

impl Proxy {
    /// By the rules that are wanted.
    fn serves(&self, port: &PortKey) -> bool {
        let [clusters, listeners, routes] = self.held.each_ref().map(|(held, _)| held.get(port));
        match clusters {
            None | Some(Carriage::Standby) => false,
            Some(Carriage::Tcp) => listeners == clusters,
            Some(Carriage::Http) => listeners == clusters && routes == clusters,
        }
    }
}

/// All ports that some kernel may hold as PROXY and that are not `wanted` so any more.
pub(crate) fn lingering<'n>(nodes: impl Iterator<Item = &'n Node>, wanted: &Arc<Modes>) -> BTreeSet<PortKey> {
    // Nearly all nodes share one map, which is looked at once.
    let (mut looked, mut found) = (BTreeSet::from([Arc::as_ptr(wanted)]), BTreeSet::new());
    for modes in nodes.flat_map(Node::may_hold) {
        if looked.insert(Arc::as_ptr(modes)) {
            let held = modes.iter().filter(|(_, mode)| **mode == Mode::Proxy).map(|(port, _)| port);
            found.extend(held.filter(|port| wanted.get(*port) != Some(&Mode::Proxy)).cloned());
        }
    }
    found
}
