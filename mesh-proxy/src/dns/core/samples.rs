//! Messages for tests, written by hickory: an independent second opinion on our own bytes.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::Ipv4Addr;

pub(in crate::dns) fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

/// A query as a stub resolver sends it.
pub(in crate::dns) fn query(id: u16, text: &str, kind: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind));
    message
}

pub(in crate::dns) fn query_bytes(id: u16, text: &str, kind: RecordType) -> Vec<u8> {
    query(id, text, kind).to_vec().expect("encodes")
}

pub(in crate::dns) fn query_edns(id: u16, text: &str, kind: RecordType, size: u16) -> Vec<u8> {
    let mut message = query(id, text, kind);
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.set_edns(edns);
    message.to_vec().expect("encodes")
}

/// The start of a resolver's answer to a query.
pub(in crate::dns) fn response(id: u16, text: &str, kind: RecordType) -> Message {
    let mut message = query(id, text, kind);
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    message
}

/// A resolver's answer with `count` addresses 203.0.113.0, .1, ...
pub(in crate::dns) fn addresses(id: u16, text: &str, count: u8, ttl: u32) -> Vec<u8> {
    let mut message = response(id, text, RecordType::A);
    for last in 0..count {
        let data = RData::A(A(Ipv4Addr::new(203, 0, 113, last)));
        message.add_answer(Record::from_rdata(name(text), ttl, data));
    }
    message.to_vec().expect("encodes")
}

/// A resolver's NXDOMAIN.
pub(in crate::dns) fn no_such_name(id: u16, text: &str, ttl: u32, minimum: u32) -> Vec<u8> {
    let mut message = response(id, text, RecordType::A);
    message.metadata.response_code = ResponseCode::NXDomain;
    let soa = SOA::new(name("ns.example.com."), name("root.example.com."), 1, 2, 3, 4, minimum);
    message.add_authority(Record::from_rdata(name("example.com."), ttl, RData::SOA(soa)));
    message.to_vec().expect("encodes")
}
