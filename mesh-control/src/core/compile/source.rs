//! Who may use a filter chain: metadata of the chain, which Envoy's conditions cannot say and mesh-proxy takes as one.
//!
//! A protobuf map in a message is written in the order of a hash map, so a listener whose chains have such metadata is put together from
//! parts here: fields of a message may come in pieces, and the pieces of a repeated one add up.

use super::envoy::{self, listener};
use super::matching;
use super::tcp::Source;
use envoy_types::pb::envoy::r#type::matcher::v3::MetadataMatcher;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use mesh_xds::server::Versioned;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

/// Key of the labels that the asking pod must have.
const LABELS: &str = "mesh.source.labels";
/// Key of the namespace that it must be in, and the one field there.
const NAMESPACE: (&str, &str) = ("mesh.source.namespace", "namespace");

/// `Listener.filter_chains`.
const FILTER_CHAINS: u32 = 3;
/// `FilterChain.metadata`.
const METADATA: u32 = 5;
/// `Metadata.filter_metadata`, a map: entries of key (1) and value (2).
const FILTER_METADATA: u32 = 1;

/// A listener with these chains, each for its source.
pub(super) fn versioned(listener: &listener::Listener, chains: &[listener::FilterChain], sources: &[Source]) -> Versioned {
    let mut body = listener.encode_to_vec();
    for (chain, source) in chains.iter().zip(sources) {
        let mut bytes = chain.encode_to_vec();
        if *source != Source::default() {
            field(&mut bytes, METADATA, &metadata(source));
        }
        field(&mut body, FILTER_CHAINS, &bytes);
    }
    envoy::version_of(body.into())
}

/// Do these conditions of a chain hold for a workload, of which all that hold are known?
pub(super) fn holds(metadata: &envoy::core::Metadata, known: &[MetadataMatcher]) -> bool {
    metadata.filter_metadata.iter().all(|(filter, fields)| {
        fields.fields.iter().all(|(key, value)| match &value.kind {
            Some(Kind::StringValue(text)) => known.contains(&matching::metadata(filter, key, text)),
            _ => false,
        })
    })
}

fn metadata(source: &Source) -> Vec<u8> {
    let mut metadata = Vec::new();
    if !source.labels.is_empty() {
        entry(&mut metadata, LABELS, source.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    }
    if !source.namespace.is_empty() {
        entry(&mut metadata, NAMESPACE.0, [(NAMESPACE.1, source.namespace.as_str())].into_iter());
    }
    metadata
}

fn entry<'t>(metadata: &mut Vec<u8>, key: &str, texts: impl Iterator<Item = (&'t str, &'t str)>) {
    let mut value = Vec::new();
    for (key, text) in texts {
        let text = Value { kind: Some(Kind::StringValue(text.to_owned())) };
        // One at a time: these are pieces of one struct.
        value.extend(Struct { fields: [(key.to_owned(), text)].into() }.encode_to_vec());
    }
    let mut entry = Vec::new();
    field(&mut entry, 1, key.as_bytes());
    field(&mut entry, 2, &value);
    field(metadata, FILTER_METADATA, &entry);
}

fn field(message: &mut Vec<u8>, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, message);
    encode_varint(content.len() as u64, message);
    message.extend_from_slice(content);
}
