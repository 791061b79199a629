//! The allowlist at work: egress rules from the control plane and addresses from DNS answers into the kernel's tables. Shared by the main
//! loop, which brings rules and time, and the broker's conversations, which bring answers; the core decides.

use crate::audit::Audit;
use crate::core::egress::{Allowed, EgressOp, Rule, Rules, allowed, cells, reconcile};
use crate::core::learned::{GRACE_SECONDS, Inside, Learned, Lesson};
use crate::core::resources::World;
use crate::explain::Cell;
use crate::kernel::{Error, Kernel};
use crate::metrics::Metrics;
use crate::served::Roster;
use mesh_common::abi::{Dest, maps, policy};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use tracing::{debug, error, info, warn};

mod used;

/// The allowlist.
pub(crate) struct Book {
    kernel: Arc<Kernel>,
    metrics: Arc<Metrics>,
    roster: Arc<Roster>,
    state: Mutex<State>,
    /// What got out without a rule, and the names of addresses.
    pub(crate) audit: Audit,
}

#[derive(Default)]
struct State {
    rules: Rules,
    inside: Inside,
    learned: Learned,
    /// What the tables hold, as far as we know; `None` to read them again.
    actual: Option<Allowed>,
    /// The rules are known. Before, the tables stay as a former agent has left them.
    ruled: bool,
}

impl Book {
    /// Begins with what a former agent has learned.
    pub(crate) fn open(kernel: Arc<Kernel>, metrics: Arc<Metrics>, roster: Arc<Roster>) -> Result<Self, Error> {
        let learned = Learned::from_entries(kernel.maps().learned()?);
        metrics.learned_now(learned.len());
        let state = Mutex::new(State { learned, ..State::default() });
        let audit = Audit::new(Arc::clone(&kernel), Arc::clone(&roster));
        Ok(Self { kernel, metrics, roster, state, audit })
    }

    /// Puts a world's rules in force. What no rule asks for any more is forgotten, and not allowed, from here on.
    pub(crate) fn follow(&self, world: &World, node: IpAddr) -> Result<(), String> {
        let mut state = self.state.lock();
        let rules = Rules::of(world);
        let before = std::mem::replace(&mut state.rules, rules);
        state.inside = Inside::of(world, node);
        state.ruled = true;
        // What was learned for a rule that is gone is forgotten below.
        let ending = before.ending(state.learned.iter().map(|(name, ip, _)| (name, ip)));
        // Time is up only once it is known what is in use.
        self.settle(&mut state, 0)?;
        self.revoke(&state, &ending);
        Ok(())
    }

    /// Ends connections that only a rule allowed that is no more, where the rule said so.
    fn revoke(&self, state: &State, ending: &Allowed) {
        let Some(actual) = state.actual.as_ref().filter(|_| !ending.is_empty()) else { return };
        let gone = ending.without(actual);
        if gone.is_empty() {
            return;
        }
        let covers =
            |allowed: &Allowed, own: u32, dest: &Dest| allowed.covers(own, dest) || allowed.covers(policy::EVERYBODY, dest);
        let is_revoked = |own: u32, dest: &Dest| covers(&gone, own, dest) && !covers(actual, own, dest);
        let ended = used::end(&self.roster, |namespace| state.rules.policies.get(namespace), is_revoked);
        if ended > 0 {
            info!(count = ended, "connections ended with the rule that had allowed them");
            self.metrics.revoked(ended);
        }
    }

    /// The tables may have been written by somebody else: reads them before the next write.
    pub(crate) fn distrust(&self) {
        self.state.lock().actual = None;
    }

    /// Each rule with its policies and what it allows now.
    pub(crate) fn cells_of_rules(&self) -> Vec<(String, BTreeSet<u32>, Vec<Cell>)> {
        let state = self.state.lock();
        let cells = |rule: &Rule| {
            let learned = state.learned.iter().filter(|(name, ..)| rule.wants(name));
            let hosts = learned.map(|(_, ip, _)| (ip, if ip.is_ipv4() { 32 } else { 128 }));
            let all = rule.ranges.iter().copied().chain(hosts);
            all.flat_map(|(ip, bits)| rule.ports.keys().map(move |(proto, port)| (ip, bits, *port, *proto))).collect()
        };
        let rules = state.rules.rules.iter();
        rules.map(|(name, rule)| (name.clone(), state.rules.policies_of(rule), cells(rule))).collect()
    }

    /// Forgets what has expired.
    pub(crate) fn tend(&self) {
        self.audit.look();
        let now = now();
        let mut state = self.state.lock();
        let expired = state.learned.iter().any(|(_, _, expires)| expires <= now);
        // An agent that has just started does not know yet whose connections there are.
        if !state.ruled || !expired || !self.roster.listed() {
            return;
        }
        self.keep_used(&mut state, now);
        if let Err(reason) = self.settle(&mut state, now) {
            error!(reason, "the kernel's allowlist cannot be written");
        }
    }

    /// What a connection uses is not forgotten: the application may open another beside it without asking again.
    fn keep_used(&self, state: &mut State, now: u64) {
        let expired = state.learned.iter().filter(|(_, _, expires)| *expires <= now).map(|(_, ip, _)| ip);
        let used = used::in_use(&self.roster, &expired.collect());
        for (name, ip, expires) in state.learned.keep(|ip, expires| expires <= now && used.contains(&ip), now + GRACE_SECONDS) {
            if let Err(error) = self.kernel.maps().remember(&name, ip, expires) {
                error!(name, %ip, %error, "an address in use is forgotten by the next agent");
            }
        }
    }

    fn settle(&self, state: &mut State, now: u64) -> Result<(), String> {
        let (rules, inside) = (&state.rules, &state.inside);
        let gone = state.learned.sift(|name, ip, expires| expires > now && inside.forbids(ip).is_none() && rules.wants(name));
        let desired = allowed(&state.rules, state.learned.iter().map(|(name, ip, _)| (name, ip))).map_err(|e| e.to_string())?;
        let actual = self.actual(state)?;
        let ops = reconcile(&desired, &actual);
        self.write(state, actual, &ops)?;
        let mut maps = self.kernel.maps();
        for (name, ip) in &gone {
            maps.forget(name, *ip).map_err(|e| e.to_string())?;
            debug!(name, %ip, "an address is no longer allowed by name");
        }
        self.metrics.learned_now(state.learned.len());
        Ok(())
    }

    /// Takes an answer. When this returns, what may be allowed of it is allowed.
    pub(crate) fn learn(&self, name: &str, addresses: &[IpAddr], ttl: u32) {
        self.audit.hear(name, addresses);
        let mut state = self.state.lock();
        let wanted = state.rules.wants(name);
        for ip in addresses.iter().map(IpAddr::to_canonical) {
            let lesson = if wanted { self.lesson(&mut state, name, ip, ttl) } else { Lesson::Unwanted };
            self.metrics.lesson(lesson.label());
            match lesson {
                Lesson::Unwanted | Lesson::Refreshed => {}
                Lesson::Learned => info!(name, %ip, ttl, "an address outside the mesh is allowed by name"),
                _ => warn!(name, %ip, reason = lesson.label(), "an address is not learned, although a rule allows the name"),
            }
        }
        self.metrics.learned_now(state.learned.len());
    }

    fn lesson(&self, state: &mut State, name: &str, ip: IpAddr, ttl: u32) -> Lesson {
        let (lesson, expires) = state.learned.learn(&state.inside, name, ip, ttl, now());
        if !matches!(lesson, Lesson::Learned | Lesson::Refreshed) {
            return lesson;
        }
        match self.put(state, name, ip, expires) {
            Ok(()) => lesson,
            Err(reason) => {
                error!(name, %ip, reason, "the kernel's allowlist cannot be written");
                state.learned.forget(name, ip);
                Lesson::Full
            }
        }
    }

    /// Memory first: a cell without would be removed by the next agent, memory without a cell is only a cell to write.
    fn put(&self, state: &mut State, name: &str, ip: IpAddr, expires: u64) -> Result<(), String> {
        self.kernel.maps().remember(name, ip, expires).map_err(|e| e.to_string())?;
        let actual = self.actual(state)?;
        let wanted = cells(&state.rules, name, ip).into_iter();
        // A cell that another name asks for too may be for the proxy by that, and stays so.
        let missing = wanted.filter(|(key, way)| actual.exact.get(key).is_none_or(|known| known < way));
        let missing: Vec<_> = missing.map(|(key, way)| EgressOp::Add(key, way)).collect();
        self.write(state, actual, &missing)
    }

    fn actual(&self, state: &mut State) -> Result<Allowed, String> {
        match state.actual.take() {
            Some(actual) => Ok(actual),
            None => self.kernel.maps().allowed().map_err(|e| e.to_string()),
        }
    }

    /// After a write that failed halfway only the kernel knows how far it got.
    fn write(&self, state: &mut State, mut actual: Allowed, ops: &[EgressOp]) -> Result<(), String> {
        self.kernel.maps().allow(ops).map_err(|e| e.to_string())?;
        ops.iter().for_each(|op| actual.apply(op));
        self.metrics.holds(maps::EGRESS_EXACT, actual.exact.len());
        self.metrics.holds(maps::EGRESS_CIDR, actual.nets.len());
        state.actual = Some(actual);
        Ok(())
    }
}

/// Seconds since the machine started: the same clock for the next agent, and none that somebody sets.
fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the struct, which outlives the call. Every kernel that loads our programs has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec.unsigned_abs()
}
