//! The recent events, for watches. Bounded in number and bytes; who asks for older ones must list again (410 Expired).
//!
//! It is not on disk: after a restart it begins at the stored version, and clients that watched from before list again.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Stored;

/// The most events kept.
const MAX_EVENTS: usize = 1_000;
/// The most bytes of objects kept only for watchers.
const MAX_BYTES: usize = 16 << 20;

/// What happened to an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum EventType {
    Added,
    Modified,
    Deleted,
}

/// A write to one object. For a deletion, `stored` is its last state with the version of the deletion.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) kind: EventType,
    pub(crate) version: u64,
    pub(crate) stored: Arc<Stored>,
    pub(crate) previous: Option<Arc<Stored>>,
}

/// The events asked for are forgotten.
#[derive(Debug)]
pub(crate) struct Expired {
    /// The oldest version that can still be watched from.
    pub(crate) oldest: u64,
}

#[derive(Debug)]
pub(super) struct History {
    /// Every event after this version is in `events`.
    horizon: u64,
    bytes: usize,
    events: VecDeque<Event>,
}

impl History {
    pub(super) const fn starting_at(version: u64) -> Self {
        Self { horizon: version, bytes: 0, events: VecDeque::new() }
    }

    pub(super) fn push(&mut self, event: Event) {
        self.bytes += event.stored.bytes;
        self.events.push_back(event);
        while self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.events.pop_front() else { break };
            self.bytes -= oldest.stored.bytes;
            self.horizon = oldest.version;
        }
    }

    pub(super) fn since(&self, version: u64) -> Result<Vec<Event>, Expired> {
        if version < self.horizon {
            return Err(Expired { oldest: self.horizon });
        }
        let first = self.events.partition_point(|event| event.version <= version);
        Ok(self.events.range(first..).cloned().collect())
    }
}
