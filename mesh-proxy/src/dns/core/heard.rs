//! Which names pods have been answered, for the agent to name addresses by in refusals and audits. Nothing is let pass by it, and nobody waits for
//! it: what is lost here makes a log line say less.

use super::name::Key;
use super::query::Question;
use super::reply::Stored;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A name is not told again sooner: a pod that asks all the time costs the agent a message in this time.
const AGAIN: Duration = Duration::from_secs(10);
/// Names of which it is known when they were told. When they are more, all are forgotten and told again when they are asked for.
const NAMES_MAX: usize = 4096;
/// Waiting to be told, between two looks of the server, which come with each answer.
const WAITING_MAX: usize = 64;
/// Most addresses of one name.
const ADDRESSES_MAX: usize = 64;

/// What the agent is to be told.
#[derive(Debug, Default)]
pub(in crate::dns) struct Heard {
    told: HashMap<(Key, u16), Instant>,
    waiting: Vec<(String, Vec<IpAddr>)>,
}

impl Heard {
    /// A pod is answered.
    pub(in crate::dns) fn answered(&mut self, question: &Question, stored: &Stored, now: Instant) {
        let key = (question.key.clone(), question.query.query_type().into());
        if self.waiting.len() >= WAITING_MAX || self.told.get(&key).is_some_and(|at| now.saturating_duration_since(*at) < AGAIN) {
            return;
        }
        let (Some(name), (mut addresses, _)) = (question.key.to_text(), stored.addresses()) else { return };
        addresses.truncate(ADDRESSES_MAX);
        if addresses.is_empty() {
            return;
        }
        if self.told.len() >= NAMES_MAX {
            self.told.clear();
        }
        self.told.insert(key, now);
        self.waiting.push((name, addresses));
    }

    /// What is to be told now.
    pub(in crate::dns) fn take(&mut self) -> Vec<(String, Vec<IpAddr>)> {
        std::mem::take(&mut self.waiting)
    }

    /// Another agent knows nothing.
    pub(in crate::dns) fn forget(&mut self) {
        self.told.clear();
    }
}
