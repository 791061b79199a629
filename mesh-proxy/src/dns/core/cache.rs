//! What resolvers said lately, bounded in entries and bytes. When it is full, what would expire first goes.

use super::name::Key;
use super::query::Question;
use super::reply::Stored;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most answers.
pub(in crate::dns) const ENTRIES_MAX: usize = 8192;
/// Most bytes of answers.
pub(in crate::dns) const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Longest stay, whatever the TTL: a mistake in somebody's zone is over after this.
const STAY_MAX: Duration = Duration::from_secs(300);

/// What makes two questions the same.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct CacheKey {
    name: Key,
    kind: u16,
    dnssec_ok: bool,
    checking_disabled: bool,
}

#[derive(Debug)]
struct Entry {
    stored: Arc<Stored>,
    since: Instant,
    until: Instant,
    serial: u64,
}

/// The cache.
#[derive(Debug)]
pub(in crate::dns) struct Cache {
    entries: HashMap<CacheKey, Entry>,
    by_expiry: BTreeMap<(Instant, u64), CacheKey>,
    bytes: usize,
    serial: u64,
    entries_max: usize,
    bytes_max: usize,
}

impl Cache {
    /// An empty one.
    pub(in crate::dns) fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self { entries: HashMap::new(), by_expiry: BTreeMap::new(), bytes: 0, serial: 0, entries_max, bytes_max }
    }

    /// The answer, and how many seconds old it is (rounded up, so that nobody keeps it too long).
    pub(in crate::dns) fn get(&mut self, question: &Question, now: Instant) -> Option<(Arc<Stored>, u32)> {
        let key = key(question)?;
        let entry = self.entries.get(&key)?;
        if now >= entry.until {
            self.remove(&key);
            return None;
        }
        let age = now.saturating_duration_since(entry.since);
        let seconds = age.as_secs() + u64::from(age.subsec_nanos() > 0);
        Some((Arc::clone(&entry.stored), u32::try_from(seconds).unwrap_or(u32::MAX)))
    }

    /// Keeps an answer for as long as it says.
    pub(in crate::dns) fn put(&mut self, question: &Question, stored: Arc<Stored>, now: Instant) {
        let (Some(key), Some(seconds)) = (key(question), stored.keep_for()) else { return };
        self.remove(&key);
        // One answer may not push out half of the others.
        if stored.size() > self.bytes_max / 64 {
            return;
        }
        while self.entries.len() >= self.entries_max || self.bytes + stored.size() > self.bytes_max {
            let Some(first) = self.by_expiry.first_key_value().map(|(_, key)| key.clone()) else { return };
            self.remove(&first);
        }
        let until = now + Duration::from_secs(u64::from(seconds)).min(STAY_MAX);
        self.serial += 1;
        self.bytes += stored.size();
        self.by_expiry.insert((until, self.serial), key.clone());
        self.entries.insert(key, Entry { stored, since: now, until, serial: self.serial });
    }

    /// Entries and bytes held.
    pub(in crate::dns) fn sizes(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    fn remove(&mut self, key: &CacheKey) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.bytes -= entry.stored.size();
        self.by_expiry.remove(&(entry.until, entry.serial));
    }
}

/// `None`: a question whose answer is nobody else's. Without RD a resolver says only what it happens to know.
fn key(question: &Question) -> Option<CacheKey> {
    question.recursion_desired.then(|| CacheKey {
        name: question.key.clone(),
        kind: question.query.query_type().into(),
        dnssec_ok: question.edns.unwrap_or(false),
        checking_disabled: question.checking_disabled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::core::query::{Parsed, Transport, parse};
    use crate::dns::core::samples;
    use hickory_proto::op::Message;
    use hickory_proto::rr::RecordType;
    use proptest::prelude::*;

    fn question(name: &str) -> Question {
        match parse(&samples::query_bytes(1, name, RecordType::A), Transport::Udp) {
            Parsed::Ask(question) => *question,
            other => panic!("{other:?}"),
        }
    }

    fn stored(name: &str, ttl: u32) -> Arc<Stored> {
        Arc::new(Stored::new(samples::addresses(1, name, 1, ttl)).expect("valid"))
    }

    #[test]
    fn case_does_not_matter_and_type_and_dnssec_do() {
        let now = Instant::now();
        let mut cache = Cache::new(10, BYTES_MAX);
        cache.put(&question("a.example.com."), stored("a.example.com.", 60), now);
        assert!(cache.get(&question("A.EXAMPLE.com."), now).is_some());
        assert!(cache.get(&question("b.example.com."), now).is_none());
        let mut other = question("a.example.com.");
        other.edns = Some(true);
        assert!(cache.get(&other, now).is_none());
        other = question("a.example.com.");
        other.recursion_desired = false;
        assert!(cache.get(&other, now).is_none());
    }

    #[test]
    fn a_full_cache_drops_what_expires_first_and_a_huge_answer_is_not_kept() {
        let now = Instant::now();
        let mut cache = Cache::new(2, BYTES_MAX);
        for (name, ttl) in [("a.", 60), ("b.", 10), ("c.", 30)] {
            cache.put(&question(name), stored(name, ttl), now);
        }
        assert!(cache.get(&question("b."), now).is_none());
        assert!(cache.get(&question("a."), now).is_some() && cache.get(&question("c."), now).is_some());
        let mut small = Cache::new(10, 64);
        small.put(&question("a."), stored("a.", 60), now);
        assert_eq!(small.sizes(), (0, 0));
    }

    proptest! {
        #[test]
        fn nothing_is_answered_past_its_ttl_nor_with_more_than_is_left(
            steps in proptest::collection::vec((0u8..8, 0u32..400, 0u64..100_000), 1..80)
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut cache = Cache::new(4, BYTES_MAX);
            let mut put_at = HashMap::new();
            for (name, ttl, pause) in steps {
                let text = format!("n{name}.");
                if let Some((found, age)) = cache.get(&question(&text), now) {
                    let (at, ttl): (Instant, u32) = put_at[&name];
                    let expiry = at + Duration::from_secs(u64::from(ttl));
                    prop_assert!(now < expiry);
                    let message = Message::from_vec(&found.render(&question(&text), age)).expect("valid");
                    prop_assert!(now + Duration::from_secs(u64::from(message.answers[0].ttl)) <= expiry);
                } else {
                    cache.put(&question(&text), stored(&text, ttl), now);
                    put_at.insert(name, (now, ttl));
                }
                let bytes: usize = cache.entries.values().map(|e| e.stored.size()).sum();
                prop_assert_eq!((cache.by_expiry.len(), cache.bytes), (cache.entries.len(), bytes));
                prop_assert!(cache.entries.len() <= 4);
                now += Duration::from_millis(pause);
            }
        }
    }
}
