//! The bytes of answers that are ours: mesh names, refusals, failures. Every answer, also a resolver's, ends in [`finish`].

use super::query::{Question, UDP_MAX};
use super::wire::{self, Layout};
use super::zone::Lookup;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::IpAddr;

/// Seconds that a mesh name may be remembered, found or not: DC/OS's own figure.
pub(in crate::dns) const TTL: u32 = 5;
/// Bytes of an OPT record without options.
const OPT_BYTES: usize = 11;

/// The answer to a question about a name that the mesh knows about. `None`: the mesh does not, ask a resolver.
pub(in crate::dns) fn mesh(question: &Question, found: &Lookup<'_>) -> Option<(Vec<u8>, Kind)> {
    let (code, addresses, zone): (_, &[IpAddr], _) = match found {
        Lookup::Elsewhere => return None,
        Lookup::NotYet => return Some((error(question, ResponseCode::ServFail), Kind::NotYet)),
        Lookup::NoName(zone) => (ResponseCode::NXDomain, &[], *zone),
        Lookup::NoData(zone) => (ResponseCode::NoError, &[], *zone),
        Lookup::Known(addresses, zone) => (ResponseCode::NoError, *addresses, zone.unwrap_or(&question.key)),
    };
    let wanted = match question.query.query_type() {
        // The smallest honest answer to ANY is one record set (RFC 8482).
        RecordType::ANY if addresses.iter().any(IpAddr::is_ipv4) => RecordType::A,
        RecordType::ANY => RecordType::AAAA,
        other => other,
    };
    let data = addresses.iter().filter_map(|address| match (address, wanted) {
        (IpAddr::V4(v4), RecordType::A) => Some(RData::A(A(*v4))),
        (IpAddr::V6(v6), RecordType::AAAA) => Some(RData::AAAA(AAAA(*v6))),
        _ => None,
    });
    let answers: Vec<Record> = data.map(|data| Record::from_rdata(question.query.name().clone(), TTL, data)).collect();
    let kind = match (code, answers.is_empty()) {
        (ResponseCode::NXDomain, _) => Kind::NoName,
        (_, true) => Kind::NoData,
        (_, false) => Kind::Mesh,
    };
    let soa = answers.is_empty().then(|| soa(zone.to_name()));
    Some((build(question, code, true, answers, soa), kind))
}

/// What an answer of the mesh says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::dns) enum Kind {
    /// Addresses.
    Mesh,
    /// The name exists, without addresses of that kind.
    NoData,
    /// The name does not exist.
    NoName,
    /// It would be the mesh's to say, but the control plane has not told yet.
    NotYet,
}

/// Tells the client how long it may remember that there is nothing.
fn soa(zone: Name) -> Record {
    let label = |l: &str| Name::from_labels([l]).ok().and_then(|n| n.append_domain(&zone).ok()).unwrap_or_else(|| zone.clone());
    let data = SOA::new(label("ns"), label("hostmaster"), 1, 60, 60, 60, TTL);
    Record::from_rdata(zone.clone(), TTL, RData::SOA(data))
}

/// An answer with the question and a response code only.
pub(in crate::dns) fn error(question: &Question, code: ResponseCode) -> Vec<u8> {
    build(question, code, false, Vec::new(), None)
}

fn build(question: &Question, code: ResponseCode, authoritative: bool, answers: Vec<Record>, soa: Option<Record>) -> Vec<u8> {
    let mut message = Message::new(question.id, MessageType::Response, OpCode::Query);
    message.metadata.authoritative = authoritative;
    message.metadata.recursion_desired = question.recursion_desired;
    message.metadata.checking_disabled = question.checking_disabled;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.add_query(question.query.clone());
    message.add_answers(answers);
    message.add_authorities(soa);
    // The parts came from a message or from checked names, so this always encodes and is located.
    let encoded = message.to_vec().ok().and_then(|bytes| wire::layout(&bytes).map(|layout| (bytes, layout)));
    match encoded {
        Some((bytes, layout)) => finish(question, bytes, layout, code),
        None => bare(question.id, 0, ResponseCode::ServFail),
    }
}

/// Makes an answer fit and adds the OPT that a client with EDNS expects.
pub(in crate::dns) fn finish(question: &Question, mut bytes: Vec<u8>, mut layout: Layout, code: ResponseCode) -> Vec<u8> {
    let reserve = if question.edns.is_some() { OPT_BYTES } else { 0 };
    wire::fit(&mut bytes, &mut layout, question.limit, reserve);
    if let Some(dnssec_ok) = question.edns {
        push_opt(&mut bytes, dnssec_ok, code.high());
    }
    bytes
}

/// Appends an OPT record without options.
pub(in crate::dns) fn push_opt(bytes: &mut Vec<u8>, dnssec_ok: bool, code_high: u8) {
    let Some(count) = wire::u16_at(bytes, 10) else { return };
    wire::put(bytes, 10, &count.saturating_add(1).to_be_bytes());
    let [size_high, size_low] = UDP_MAX.to_be_bytes();
    let dnssec_ok = if dnssec_ok { 0x80 } else { 0 };
    bytes.extend([0, 0, 41, size_high, size_low, code_high, 0, dnssec_ok, 0, 0, 0]);
}

/// An answer to a message of which only the header could be read.
pub(in crate::dns) fn header_only(message: &[u8], code: ResponseCode) -> Vec<u8> {
    bare(wire::u16_at(message, 0).unwrap_or(0), wire::flags(message), code)
}

fn bare(id: u16, asked_flags: u16, code: ResponseCode) -> Vec<u8> {
    let kept = asked_flags & (wire::flag::OPCODE | wire::flag::RD);
    let flags = wire::flag::QR | kept | u16::from(code.low());
    [&id.to_be_bytes()[..], &flags.to_be_bytes(), &[0; 8]].concat()
}
