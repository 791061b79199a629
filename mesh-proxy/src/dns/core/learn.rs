//! Names whose addresses the kernel must let pass before a pod may have them: which names, and what the agent has acknowledged.

use super::handler::Answered;
use super::name::Key;
use super::query::Question;
use super::reply::Stored;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest TTL that a pod gets for such a name. The agent is told the true one, so that a pod asks again, and its address is learned
/// again, well before the agent forgets it; and an allowlist that was lost or a rule that came later is made good after this.
pub(in crate::dns) const POD_TTL: u32 = 30;
/// Longest TTL that pods get while it is not known which names are to be learned, or while the agent is away.
pub(in crate::dns) const UNSURE_TTL: u32 = 5;
/// What was acknowledged so lately is not learned again: a pod that asks all the time costs the agent one message a second.
pub(in crate::dns) const FRESH: Duration = Duration::from_secs(1);
/// Most addresses of one answer: they fit into one message to the agent. Beyond: SERVFAIL, `learn_limit`.
pub(in crate::dns) const ADDRESSES_MAX: usize = 1000;
/// Answers remembered. When it is full, the one that was acknowledged first goes: it is learned again when it is asked for.
const ENTRIES_MAX: usize = 2048;
/// Longest answer remembered, so that all of them need at most 16 MiB. A longer one is learned each time.
const ENTRY_BYTES: usize = 8 * 1024;

/// Hosts that egress rules name.
#[derive(Debug, Default)]
pub(in crate::dns) struct Rules {
    resources: HashMap<String, Vec<Key>>,
    hosts: HashMap<Key, usize>,
    told: bool,
}

impl Rules {
    /// Puts a rule in place of the former of this name.
    pub(in crate::dns) fn set(&mut self, resource: &str, hosts: Vec<Key>) {
        self.remove(resource);
        for host in &hosts {
            *self.hosts.entry(host.clone()).or_default() += 1;
        }
        self.resources.insert(resource.to_owned(), hosts);
    }

    /// A rule is gone.
    pub(in crate::dns) fn remove(&mut self, resource: &str) {
        for host in self.resources.remove(resource).unwrap_or_default() {
            if let Some(count) = self.hosts.get_mut(&host) {
                *count -= 1;
                if *count == 0 {
                    self.hosts.remove(&host);
                }
            }
        }
    }

    /// The control plane has told the rules once.
    pub(in crate::dns) fn set_told(&mut self) {
        self.told = true;
    }

    /// Has it?
    pub(in crate::dns) fn is_told(&self) -> bool {
        self.told
    }

    /// Is it the host of a rule, or below a host such as `*.example.com`?
    pub(in crate::dns) fn names(&self, name: &Key) -> bool {
        let wildcard = |parent: &[u8]| self.hosts.contains_key(&Key::wildcard(parent));
        !self.hosts.is_empty() && (self.hosts.contains_key(name) || wildcard(&[]) || name.parents().any(wildcard))
    }

    /// How many hosts.
    pub(in crate::dns) fn len(&self) -> usize {
        self.hosts.len()
    }
}

/// An answer that may go out once its addresses are in force.
#[derive(Clone, Debug)]
pub(in crate::dns) struct Learning {
    pub(in crate::dns) question: Question,
    pub(in crate::dns) stored: Arc<Stored>,
    /// Seconds since a resolver gave it.
    pub(in crate::dns) age: u32,
    /// What it counts as.
    pub(in crate::dns) answered: Answered,
    /// As the agent is told it.
    pub(in crate::dns) name: String,
    /// Sorted.
    pub(in crate::dns) addresses: Vec<IpAddr>,
    /// Seconds, of the shortest record.
    pub(in crate::dns) ttl: u32,
}

impl Learning {
    /// `None`: there is nothing to learn from this answer.
    pub(in crate::dns) fn new(question: &Question, stored: Arc<Stored>, age: u32, answered: Answered) -> Option<Self> {
        let name = question.key.to_text()?;
        let (mut addresses, ttl) = stored.addresses();
        addresses.retain(is_learnable);
        addresses.sort_unstable();
        addresses.dedup();
        let ttl = ttl.saturating_sub(age);
        (!addresses.is_empty()).then(|| Self { question: question.clone(), stored, age, answered, name, addresses, ttl })
    }

    /// What the pod gets.
    pub(in crate::dns) fn render(&self) -> Vec<u8> {
        self.stored.render_within(&self.question, self.age, POD_TTL)
    }

    /// What the agent is told: [`FRESH`] longer, since for that time an acknowledgement is not renewed.
    pub(in crate::dns) fn agent_ttl(&self) -> u32 {
        self.ttl.saturating_add(1)
    }
}

/// Whatever a zone says: these are never outside. The agent, which knows them, leaves out the mesh's own ranges and the nodes.
fn is_learnable(address: &IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            !(v4.is_loopback() || v4.is_unspecified() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast())
        }
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast()),
    }
}

/// What the agent has acknowledged, by name and type.
#[derive(Debug)]
pub(in crate::dns) struct Memory {
    entries: HashMap<(Key, u16), Entry>,
    entries_max: usize,
}

#[derive(Debug)]
struct Entry {
    addresses: Vec<IpAddr>,
    stored: Arc<Stored>,
    /// `None`: by an agent that has gone since.
    at: Option<Instant>,
    /// Until then, at least, the agent keeps it. An agent that is away forgets nothing.
    until: Instant,
}

impl Default for Memory {
    fn default() -> Self {
        Self { entries: HashMap::new(), entries_max: ENTRIES_MAX }
    }
}

impl Memory {
    /// The agent has these addresses in force.
    pub(in crate::dns) fn acknowledged(&mut self, learning: &Learning, now: Instant) {
        if learning.stored.size() > ENTRY_BYTES {
            return;
        }
        let key = key(&learning.question);
        if self.entries.len() >= self.entries_max && !self.entries.contains_key(&key) {
            let first = self.entries.iter().min_by_key(|(_, entry)| entry.until).map(|(key, _)| key.clone());
            first.and_then(|first| self.entries.remove(&first));
        }
        let until = now + Duration::from_secs(u64::from(learning.agent_ttl()));
        let (addresses, stored) = (learning.addresses.clone(), Arc::clone(&learning.stored));
        self.entries.insert(key, Entry { addresses, stored, at: Some(now), until });
    }

    /// Were just these acknowledged just now, for as long as the pod will believe them?
    pub(in crate::dns) fn is_fresh(&self, learning: &Learning, now: Instant) -> bool {
        let Some(entry) = self.entries.get(&key(&learning.question)) else { return false };
        let lately = entry.at.is_some_and(|at| now.saturating_duration_since(at) < FRESH);
        let pods = Duration::from_secs(u64::from(learning.ttl.min(POD_TTL)));
        lately && entry.addresses == learning.addresses && entry.until >= now + pods
    }

    /// The agent is gone. What it may have forgotten by now is not in force; the rest is, until it is back.
    pub(in crate::dns) fn agent_lost(&mut self, now: Instant) {
        self.entries.retain(|_, entry| entry.until > now);
        for entry in self.entries.values_mut() {
            entry.at = None;
        }
    }

    /// The agent may have dropped what a former rule let pass: everything is learned again, and what no rule names is forgotten.
    pub(in crate::dns) fn rules_changed(&mut self, rules: &Rules) {
        self.entries.retain(|(name, _), _| rules.names(name));
        for entry in self.entries.values_mut() {
            entry.at = None;
        }
    }

    /// Without an agent: this answer if its addresses are in force, else the last one whose were.
    pub(in crate::dns) fn without_agent(&self, learning: &Learning) -> Option<Vec<u8>> {
        let entry = self.entries.get(&key(&learning.question))?;
        let known = learning.addresses.iter().all(|address| entry.addresses.contains(address));
        let stored = if known { &learning.stored } else { &entry.stored };
        Some(stored.render_within(&learning.question, 0, UNSURE_TTL))
    }

    /// How many.
    pub(in crate::dns) fn len(&self) -> usize {
        self.entries.len()
    }
}

fn key(question: &Question) -> (Key, u16) {
    (question.key.clone(), question.query.query_type().into())
}

#[cfg(test)]
mod tests;
