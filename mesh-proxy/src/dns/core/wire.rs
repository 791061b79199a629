//! Where things are in a message's bytes. Records that are not ours are passed on as they came, so they are located, never decoded:
//! a record type that nobody here has heard of goes through untouched.
//!
//! Compression pointers only ever point backwards, so a message may be cut after any record.

/// Length of the header.
pub(in crate::dns) const HEADER: usize = 12;
/// Largest message over TCP.
pub(in crate::dns) const TCP_MAX: usize = 65_535;
/// Type code of A.
pub(in crate::dns) const A: u16 = 1;
/// Type code of AAAA.
pub(in crate::dns) const AAAA: u16 = 28;
/// Type code of OPT.
pub(in crate::dns) const OPT: u16 = 41;
/// Type code of SOA.
pub(in crate::dns) const SOA: u16 = 6;

/// Flag bits, in the header's second pair of bytes.
pub(in crate::dns) mod flag {
    /// It is a response.
    pub(in crate::dns) const QR: u16 = 0x8000;
    /// All bits of the operation.
    pub(in crate::dns) const OPCODE: u16 = 0x7800;
    /// Cut off: ask over TCP.
    pub(in crate::dns) const TC: u16 = 0x0200;
    /// Recursion desired.
    pub(in crate::dns) const RD: u16 = 0x0100;
    /// Checking disabled.
    pub(in crate::dns) const CD: u16 = 0x0010;
    /// All bits of the response code.
    pub(in crate::dns) const RCODE: u16 = 0x000f;
}

/// The part of a message that a record is in.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(in crate::dns) enum Section {
    Answer,
    Authority,
    Additional,
}

/// Where a record is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::dns) struct RecordAt {
    pub(in crate::dns) section: Section,
    pub(in crate::dns) start: usize,
    pub(in crate::dns) end: usize,
    pub(in crate::dns) kind: u16,
    /// Of its four bytes of TTL.
    pub(in crate::dns) ttl: usize,
}

/// Where everything is in a message with one question.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::dns) struct Layout {
    /// End of the question: it starts at [`HEADER`].
    pub(in crate::dns) question_end: usize,
    pub(in crate::dns) records: Vec<RecordAt>,
}

/// Two bytes at an offset.
pub(in crate::dns) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

/// Four bytes at an offset.
pub(in crate::dns) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

/// Overwrites bytes; outside the message nothing happens.
pub(in crate::dns) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..value.len())) {
        place.copy_from_slice(value);
    }
}

/// The header's flags; none set if there is no header.
pub(in crate::dns) fn flags(bytes: &[u8]) -> u16 {
    u16_at(bytes, 2).unwrap_or(0)
}

/// Just behind the name that starts here. Its pointer, if it ends in one, must point before it, or clients could run in a circle.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    let start = at;
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += usize::from(length) + 1,
            0xc0.. => {
                let target = usize::from(u16_at(bytes, at)? & 0x3fff);
                return (HEADER..start).contains(&target).then_some(at + 2);
            }
            _ => return None,
        }
    }
}

/// Locates question and records of a message with exactly one question; `None` if its counts and bytes disagree.
pub(in crate::dns) fn layout(bytes: &[u8]) -> Option<Layout> {
    if u16_at(bytes, 4)? != 1 {
        return None;
    }
    let question_end = skip_name(bytes, HEADER)? + 4;
    bytes.get(..question_end)?;
    let mut records = Vec::new();
    let mut at = question_end;
    for (section, count_at) in [(Section::Answer, 6), (Section::Authority, 8), (Section::Additional, 10)] {
        for _ in 0..u16_at(bytes, count_at)? {
            let fixed = skip_name(bytes, at)?;
            let end = fixed + 10 + usize::from(u16_at(bytes, fixed + 8)?);
            bytes.get(..end)?;
            records.push(RecordAt { section, start: at, end, kind: u16_at(bytes, fixed)?, ttl: fixed + 4 });
            at = end;
        }
    }
    Some(Layout { question_end, records })
}

/// Keeps the first `keep` records and the question; sets the counts to what is left.
pub(in crate::dns) fn cut(bytes: &mut Vec<u8>, layout: &mut Layout, keep: usize) {
    layout.records.truncate(keep);
    bytes.truncate(layout.records.last().map_or(layout.question_end, |r| r.end));
    for (section, at) in [(Section::Answer, 6), (Section::Authority, 8), (Section::Additional, 10)] {
        let count = layout.records.iter().filter(|r| r.section == section).count();
        // Counts come from 16-bit counts and only shrink.
        put(bytes, at, &u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
    }
}

/// Makes a message fit, leaving `reserve` bytes free: first goes what is additional, which needs no flag; then whole records from the
/// end, with TC. Some addresses stay, for the resolvers (older musl) that do not ask over TCP.
pub(in crate::dns) fn fit(bytes: &mut Vec<u8>, layout: &mut Layout, limit: usize, reserve: usize) {
    let limit = limit.saturating_sub(reserve);
    if bytes.len() <= limit {
        return;
    }
    let required = layout.records.iter().take_while(|r| r.section != Section::Additional).count();
    let fitting = layout.records.iter().take_while(|r| r.end <= limit).count();
    cut(bytes, layout, fitting.min(required));
    if fitting < required {
        let flags = flags(bytes) | flag::TC;
        put(bytes, 2, &flags.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::core::samples;
    use hickory_proto::op::Message;
    use proptest::prelude::*;

    #[test]
    fn records_are_where_hickory_wrote_them() {
        let bytes = samples::addresses(0x1234, "a.example.com.", 3, 60);
        let layout = layout(&bytes).expect("a valid message");
        assert_eq!(layout.records.len(), 3);
        assert_eq!(layout.records.last().map(|r| r.end), Some(bytes.len()));
        assert!(layout.records.iter().all(|r| r.kind == 1 && u32_at(&bytes, r.ttl) == Some(60)));
    }

    #[test]
    fn a_name_that_could_lead_clients_in_a_circle_is_no_name() {
        let good = samples::addresses(1, "a.example.com.", 1, 60);
        let start = layout(&good).expect("valid").question_end;
        let pointing = |to: usize| {
            let mut bytes = good.clone();
            put(&mut bytes, start, &u16::try_from(0xc000 | to).expect("fits").to_be_bytes());
            layout(&bytes).is_some()
        };
        assert!(pointing(HEADER) && pointing(start - 5));
        assert!(!pointing(start) && !pointing(start + 20) && !pointing(0), "itself, forwards, into the header");
    }

    #[test]
    fn what_does_not_fit_goes_whole_and_is_told() {
        let whole = samples::addresses(1, "a.example.com.", 100, 60);
        let mut bytes = whole.clone();
        let mut at = layout(&bytes).expect("valid");
        fit(&mut bytes, &mut at, 512, 11);
        let message = Message::from_vec(&bytes).expect("still a message");
        assert!(message.metadata.truncation && bytes.len() <= 501 && !message.answers.is_empty());
        assert_eq!(message.answers[..], Message::from_vec(&whole).expect("valid").answers[..message.answers.len()]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_located_inside_or_not_at_all(bytes in proptest::collection::vec(any::<u8>(), 0..600), limit in 0usize..700) {
            let mut bytes = bytes;
            if bytes.len() > 6 { put(&mut bytes, 4, &[0, 1]); }
            if let Some(mut at) = layout(&bytes) {
                prop_assert!(at.records.iter().all(|r| r.start < r.end && r.end <= bytes.len() && r.ttl + 4 <= r.end));
                let least = at.question_end;
                fit(&mut bytes, &mut at, limit, 0);
                prop_assert!(bytes.len() <= limit.max(least));
            }
        }
    }
}
