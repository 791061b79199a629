//! A resolver's answer: is it to our question, how long may it be kept, and how does it become the answer to a client's question.
//! Its records are passed on byte for byte; only id, flags, the question's case and the TTLs are the client's own.

use super::query::Question;
use super::wire::{self, Layout, Section, flag};
use super::{answer, query};
use hickory_proto::op::ResponseCode;
use std::net::IpAddr;

/// What a message from a resolver is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::dns) enum Judged {
    /// Not an answer to what was asked: go on waiting, for this may be forged.
    Foreign,
    /// Cut off: ask again over TCP.
    Truncated,
    /// The resolver could or would not answer; another may.
    Failed(u16),
    /// An answer.
    Good,
}

/// Judges a message by the query that was sent.
pub(in crate::dns) fn judge(asked: &[u8], bytes: &[u8]) -> Judged {
    const FORMERR: u16 = 1;
    const SERVFAIL: u16 = 2;
    const NOTIMP: u16 = 4;
    const REFUSED: u16 = 5;
    let flags = wire::flags(bytes);
    let is_answer = flags & flag::QR != 0 && flags & flag::OPCODE == 0 && bytes.get(..2) == asked.get(..2);
    if bytes.len() < wire::HEADER || !is_answer {
        return Judged::Foreign;
    }
    let code = flags & flag::RCODE;
    let failed = matches!(code, FORMERR | SERVFAIL | NOTIMP | REFUSED);
    if !is_same_question(asked, bytes) {
        // Some servers leave the question out when they fail.
        let is_bare = wire::u16_at(bytes, 4) == Some(0);
        return if failed && is_bare { Judged::Failed(code) } else { Judged::Foreign };
    }
    match (failed, flags & flag::TC != 0, wire::layout(bytes)) {
        (true, ..) => Judged::Failed(code),
        (_, true, _) => Judged::Truncated,
        (.., Some(_)) => Judged::Good,
        (.., None) => Judged::Failed(FORMERR),
    }
}

/// Case-insensitive in the name, exact in type and class (65 and 97 differ by the "case" bit).
fn is_same_question(asked: &[u8], bytes: &[u8]) -> bool {
    let Some(Layout { question_end, .. }) = wire::layout(asked) else { return false };
    let (Some(ours), Some(theirs)) = (asked.get(wire::HEADER..question_end), bytes.get(wire::HEADER..question_end)) else {
        return false;
    };
    let name = ours.len() - 4;
    wire::u16_at(bytes, 4) == Some(1) && ours[..name].eq_ignore_ascii_case(&theirs[..name]) && ours[name..] == theirs[name..]
}

/// A resolver's answer, ready to be given to any client that asks the same.
#[derive(Clone, Debug)]
pub(in crate::dns) struct Stored {
    bytes: Vec<u8>,
    layout: Layout,
}

impl Stored {
    /// Takes an answer that was judged [`Judged::Good`]; `None` if it is not one.
    pub(in crate::dns) fn new(mut bytes: Vec<u8>) -> Option<Self> {
        let mut layout = wire::layout(&bytes)?;
        // OPT is between neighbours. What follows it goes too, since its names may point behind it; that is optional data.
        if let Some(opt) = layout.records.iter().position(|r| r.section == Section::Additional && r.kind == wire::OPT) {
            wire::cut(&mut bytes, &mut layout, opt);
        }
        // Nothing should follow the last record.
        let end = layout.records.last().map_or(layout.question_end, |r| r.end);
        bytes.truncate(end);
        Some(Self { bytes, layout })
    }

    /// Seconds for which it may be given to others; `None`: not at all.
    pub(in crate::dns) fn keep_for(&self) -> Option<u32> {
        const NXDOMAIN: u16 = 3;
        let code = wire::flags(&self.bytes) & flag::RCODE;
        let records = &self.layout.records;
        let least = records.iter().map(|r| self.ttl(r.ttl)).min()?;
        let has_answer = records.iter().any(|r| r.section == Section::Answer);
        let soa = records.iter().find(|r| r.section == Section::Authority && r.kind == wire::SOA);
        // The last field of SOA says how long its zone's silence may be believed (RFC 2308).
        let minimum = soa.and_then(|r| wire::u32_at(&self.bytes, r.end.checked_sub(4)?));
        let keep = match (code, has_answer, minimum) {
            (0, true, _) => least,
            (0 | NXDOMAIN, _, Some(minimum)) => least.min(minimum),
            _ => return None,
        };
        (keep > 0).then_some(keep)
    }

    /// The addresses in the answer, at whichever end of a chain of aliases, and the shortest TTL of the chain.
    pub(in crate::dns) fn addresses(&self) -> (Vec<IpAddr>, u32) {
        let records = self.layout.records.iter().filter(|r| r.section == Section::Answer);
        let address = |r: &wire::RecordAt| {
            // Type, class, TTL and length are the ten bytes before the data.
            let data = self.bytes.get(r.ttl + 6..r.end)?;
            match r.kind {
                wire::A => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
                wire::AAAA => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
                _ => None,
            }
        };
        (records.clone().filter_map(address).collect(), records.map(|r| self.ttl(r.ttl)).min().unwrap_or(0))
    }

    /// A TTL; with the highest bit set it counts as zero (RFC 2181).
    fn ttl(&self, at: usize) -> u32 {
        wire::u32_at(&self.bytes, at).filter(|ttl| i32::try_from(*ttl).is_ok()).unwrap_or(0)
    }

    /// Bytes that it holds.
    pub(in crate::dns) fn size(&self) -> usize {
        self.bytes.len() + self.layout.records.len() * size_of::<wire::RecordAt>()
    }

    /// The answer to a question that differs from the stored one at most in id, case and flags, `age` seconds later.
    pub(in crate::dns) fn render(&self, question: &Question, age: u32) -> Vec<u8> {
        self.render_within(question, age, u32::MAX)
    }

    /// The same, with no TTL longer than `most`.
    pub(in crate::dns) fn render_within(&self, question: &Question, age: u32, most: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let own = flag::RD | flag::CD;
        let asked = (u16::from(question.recursion_desired) * flag::RD) | (u16::from(question.checking_disabled) * flag::CD);
        let flags = (wire::flags(&bytes) & !own) | asked;
        wire::put(&mut bytes, 0, &question.id.to_be_bytes());
        wire::put(&mut bytes, 2, &flags.to_be_bytes());
        if let Some(asked) = query::outgoing(question, 0, false)
            && asked.len() == self.layout.question_end
        {
            wire::put(&mut bytes, wire::HEADER, &asked[wire::HEADER..]);
        }
        for record in &self.layout.records {
            let left = self.ttl(record.ttl).saturating_sub(age).min(most);
            wire::put(&mut bytes, record.ttl, &left.to_be_bytes());
        }
        let code = ResponseCode::from(0, u8::try_from(flags & flag::RCODE).unwrap_or(0));
        answer::finish(question, bytes, self.layout.clone(), code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::core::query::{Parsed, Transport, parse};
    use crate::dns::core::samples;
    use hickory_proto::op::Message;
    use hickory_proto::rr::RecordType;

    fn question(bytes: &[u8]) -> Question {
        match parse(bytes, Transport::Udp) {
            Parsed::Ask(question) => *question,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_answer_to_our_question_is_good() {
        let asked = samples::query_bytes(7, "a.example.com.", RecordType::A);
        let judge = |bytes: &[u8]| judge(&asked, bytes);
        let good = samples::addresses(7, "A.exAmple.com.", 1, 60);
        assert_eq!(judge(&good), Judged::Good);
        assert_eq!(judge(&samples::addresses(8, "a.example.com.", 1, 60)), Judged::Foreign, "another id");
        assert_eq!(judge(&samples::addresses(7, "b.example.com.", 1, 60)), Judged::Foreign, "another name");
        assert_eq!(judge(&asked), Judged::Foreign, "a query");
        let aaaa = samples::response(7, "a.example.com.", RecordType::AAAA).to_vec().expect("encodes");
        assert_eq!(judge(&aaaa), Judged::Foreign, "another type");
        let with_flags = |flags: u16| {
            let mut bytes = good.clone();
            wire::put(&mut bytes, 2, &flags.to_be_bytes());
            bytes
        };
        assert_eq!(judge(&with_flags(flag::QR | flag::TC)), Judged::Truncated);
        for code in [1, 2, 4, 5] {
            assert_eq!(judge(&with_flags(flag::QR | code)), Judged::Failed(code));
        }
        assert_eq!(judge(&with_flags(flag::QR | 3)), Judged::Good, "that there is no such name is an answer");
        assert_eq!(judge(&good[..good.len() - 1]), Judged::Failed(1), "cut off without saying so");
        assert_eq!(judge(&answer::header_only(&asked, ResponseCode::Refused)), Judged::Failed(5));
        assert_eq!(judge(&answer::header_only(&asked, ResponseCode::NoError)), Judged::Foreign);
    }

    #[test]
    fn types_that_differ_in_the_case_bit_differ() {
        let https = samples::query_bytes(7, "a.", RecordType::HTTPS);
        let mut other = samples::response(7, "a.", RecordType::HTTPS).to_vec().expect("encodes");
        assert_eq!(judge(&https, &other), Judged::Good);
        let at = other.len() - 3;
        other[at] |= 0x20;
        assert_eq!(judge(&https, &other), Judged::Foreign);
    }

    #[test]
    fn an_answer_is_kept_as_long_as_its_shortest_record_and_silence_as_long_as_its_zone_says() {
        let keep = |bytes: Vec<u8>| Stored::new(bytes).expect("valid").keep_for();
        assert_eq!(keep(samples::addresses(1, "a.", 2, 60)), Some(60));
        assert_eq!(keep(samples::addresses(1, "a.", 2, 0)), None);
        assert_eq!(keep(samples::addresses(1, "a.", 2, 0x8000_0000)), None);
        assert_eq!(keep(samples::no_such_name(1, "a.", 60, 7)), Some(7));
        assert_eq!(keep(samples::no_such_name(1, "a.", 6, 70)), Some(6));
        let no_soa = samples::response(1, "a.", RecordType::A).to_vec().expect("encodes");
        assert_eq!(keep(no_soa), None);
    }

    #[test]
    fn the_client_gets_its_own_id_case_and_flags_and_the_rest_of_the_ttl() {
        let mut upstream = samples::addresses(1, "a.example.com.", 2, 60);
        answer::push_opt(&mut upstream, true, 0);
        let stored = Stored::new(upstream).expect("valid");
        let plain = question(&samples::query_bytes(77, "A.eXample.com.", RecordType::A));
        let got = Message::from_vec(&stored.render(&plain, 13)).expect("valid");
        assert_eq!((got.metadata.id, got.metadata.recursion_desired, got.edns.is_none()), (77, true, true));
        assert_eq!(got.queries[0].name().to_string(), "A.eXample.com.");
        assert!(got.answers.len() == 2 && got.answers.iter().all(|r| r.ttl == 47));
        let edns = question(&samples::query_edns(78, "a.example.com.", RecordType::A, 1232));
        assert!(Message::from_vec(&stored.render(&edns, 13)).expect("valid").edns.is_some());
    }
}
