//! What a client's message asks for. Hostile bytes come in here: everything that is no plain question is answered or dropped at once.

use super::name::Key;
use super::{answer, wire};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};

/// Smallest answer that every client takes over UDP.
const UDP_MIN: usize = 512;
/// Largest answer over UDP: fits any link unfragmented (DNS flag day 2020).
pub(in crate::dns) const UDP_MAX: u16 = 1232;

/// How a message came, and so how long the answer may be.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(in crate::dns) enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    /// In metrics.
    pub(in crate::dns) const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// A question that has an answer somewhere.
#[derive(Clone, Debug)]
pub(in crate::dns) struct Question {
    /// The client's number.
    pub(in crate::dns) id: u16,
    /// Name (with the client's case), type, class.
    pub(in crate::dns) query: Query,
    /// The name without its case.
    pub(in crate::dns) key: Key,
    /// RD, echoed and passed on.
    pub(in crate::dns) recursion_desired: bool,
    /// CD, echoed and passed on.
    pub(in crate::dns) checking_disabled: bool,
    /// The client speaks EDNS; the value is its DO bit.
    pub(in crate::dns) edns: Option<bool>,
    /// Longest answer.
    pub(in crate::dns) limit: usize,
}

/// Why a message gets no answer at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::dns) enum Ignored {
    /// Shorter than a header: there is no id to answer to.
    Garbage,
    /// A response. Answering it could start a loop.
    Response,
}

impl Ignored {
    /// In metrics.
    pub(in crate::dns) const fn label(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Response => "response",
        }
    }
}

/// What a message is.
#[derive(Debug)]
pub(in crate::dns) enum Parsed {
    Ask(Box<Question>),
    /// Refused with this answer.
    Refuse(Vec<u8>, ResponseCode),
    Ignore(Ignored),
}

/// Reads a client's message.
pub(in crate::dns) fn parse(bytes: &[u8], transport: Transport) -> Parsed {
    if bytes.len() < wire::HEADER {
        return Parsed::Ignore(Ignored::Garbage);
    }
    let refuse = |code| Parsed::Refuse(answer::header_only(bytes, code), code);
    let flags = wire::flags(bytes);
    if flags & wire::flag::QR != 0 {
        return Parsed::Ignore(Ignored::Response);
    }
    if flags & wire::flag::OPCODE != 0 {
        return refuse(ResponseCode::NotImp);
    }
    if wire::u16_at(bytes, 4) != Some(1) {
        return refuse(ResponseCode::FormErr);
    }
    let Ok(message) = Message::from_vec(bytes) else { return refuse(ResponseCode::FormErr) };
    let Some(question) = question(message, transport) else { return refuse(ResponseCode::FormErr) };
    match objection(bytes, &question) {
        Some(code) => Parsed::Refuse(answer::error(&question, code), code),
        None => Parsed::Ask(Box::new(question)),
    }
}

fn question(mut message: Message, transport: Transport) -> Option<Question> {
    let query = message.queries.pop()?;
    let announced = message.edns.as_ref().map_or(0, |edns| usize::from(edns.max_payload()));
    let limit = match transport {
        Transport::Udp => announced.clamp(UDP_MIN, usize::from(UDP_MAX)),
        Transport::Tcp => wire::TCP_MAX,
    };
    Some(Question {
        id: message.metadata.id,
        key: Key::of(query.name()),
        query,
        recursion_desired: message.metadata.recursion_desired,
        checking_disabled: message.metadata.checking_disabled,
        edns: message.edns.as_ref().map(|edns| edns.flags().dnssec_ok),
        limit,
    })
}

/// Why a well-formed question is not answered.
fn objection(bytes: &[u8], question: &Question) -> Option<ResponseCode> {
    if question.edns.is_some() && edns_version(bytes) != Some(0) {
        return Some(ResponseCode::BADVERS);
    }
    if question.query.query_class() != DNSClass::IN {
        return Some(ResponseCode::Refused);
    }
    // Zone transfers and other meta types but ANY have answers of several messages or none.
    let kind = question.query.query_type();
    let is_meta = (249..=254).contains(&u16::from(kind)) || matches!(kind, RecordType::OPT | RecordType::ZERO);
    is_meta.then_some(ResponseCode::Refused)
}

/// The version in OPT, read from the bytes: hickory keeps only what it understands.
fn edns_version(bytes: &[u8]) -> Option<u8> {
    let layout = wire::layout(bytes)?;
    let opt = layout.records.iter().find(|r| r.kind == wire::OPT)?;
    bytes.get(opt.ttl + 1).copied()
}

/// The question as it goes to a resolver: a number of its own, our EDNS instead of the client's (OPT is between neighbours only).
/// `None` cannot happen: the name was read from a message.
pub(in crate::dns) fn outgoing(question: &Question, id: u16, edns: bool) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = question.recursion_desired;
    message.metadata.checking_disabled = question.checking_disabled;
    message.add_query(question.query.clone());
    let mut bytes = message.to_vec().ok()?;
    if edns {
        answer::push_opt(&mut bytes, question.edns.unwrap_or(false), 0);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::core::samples;

    fn refused(bytes: &[u8]) -> ResponseCode {
        let Parsed::Refuse(answer, code) = parse(bytes, Transport::Udp) else { panic!("not refused: {bytes:?}") };
        let answer = Message::from_vec(&answer).expect("a valid answer");
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        assert_eq!(answer.metadata.id, wire::u16_at(bytes, 0).expect("has an id"));
        assert_eq!(answer.metadata.response_code.low(), code.low());
        code
    }

    #[test]
    fn what_is_no_plain_question_is_refused_by_its_kind() {
        let plain = samples::query_bytes(7, "a.example.com.", RecordType::A);
        assert!(matches!(parse(&plain, Transport::Udp), Parsed::Ask(_)));
        let with = |at: usize, value: u8| {
            let mut bytes = plain.clone();
            bytes[at] = value;
            bytes
        };
        assert_eq!(refused(&with(2, 0x28)), ResponseCode::NotImp, "opcode UPDATE");
        assert_eq!(refused(&with(5, 2)), ResponseCode::FormErr, "two questions");
        assert_eq!(refused(&with(5, 0)), ResponseCode::FormErr, "no question");
        assert_eq!(refused(&with(12, 0x99)), ResponseCode::FormErr, "no label");
        assert_eq!(refused(&plain[..20]), ResponseCode::FormErr, "cut off");
        assert_eq!(refused(&with(plain.len() - 1, 3)), ResponseCode::Refused, "class CH");
        assert_eq!(refused(&samples::query_bytes(7, "a.example.com.", RecordType::AXFR)), ResponseCode::Refused);
        let mut version = samples::query_edns(7, "a.example.com.", RecordType::A, 1232);
        let at = version.len() - 5;
        version[at] = 1;
        assert_eq!(refused(&version), ResponseCode::BADVERS);
    }

    #[test]
    fn what_could_loop_or_has_no_id_gets_no_answer() {
        assert!(matches!(parse(&[0; 11], Transport::Udp), Parsed::Ignore(Ignored::Garbage)));
        let response = samples::addresses(1, "a.example.com.", 1, 5);
        assert!(matches!(parse(&response, Transport::Tcp), Parsed::Ignore(Ignored::Response)));
    }

    #[test]
    fn the_limit_is_the_clients_within_ours() {
        let limit = |bytes: &[u8], transport| match parse(bytes, transport) {
            Parsed::Ask(question) => question.limit,
            other => panic!("{other:?}"),
        };
        let edns = |size| samples::query_edns(1, "a.", RecordType::A, size);
        assert_eq!(limit(&samples::query_bytes(1, "a.", RecordType::A), Transport::Udp), 512);
        assert_eq!(limit(&edns(100), Transport::Udp), 512);
        assert_eq!(limit(&edns(1000), Transport::Udp), 1000);
        assert_eq!(limit(&edns(4096), Transport::Udp), 1232);
        assert_eq!(limit(&edns(512), Transport::Tcp), 65_535);
    }

    #[test]
    fn the_question_goes_on_with_its_case_and_without_the_clients_options() {
        let Parsed::Ask(question) = parse(&samples::query_edns(7, "wWw.Example.com.", RecordType::A, 4096), Transport::Udp)
        else {
            panic!("a question")
        };
        let sent = Message::from_vec(&outgoing(&question, 99, true).expect("encodes")).expect("valid");
        assert_eq!((sent.metadata.id, sent.metadata.recursion_desired), (99, true));
        assert_eq!(sent.queries[0].name().to_string(), "wWw.Example.com.");
        assert_eq!(sent.edns.expect("ours").max_payload(), UDP_MAX);
    }
}
