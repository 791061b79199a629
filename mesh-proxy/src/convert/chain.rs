//! FilterChain: which connections it takes, whether TLS ends there, and its one network filter.

use super::at::{At, Invalid};
use super::common::unpack;
use super::hcm::{self, Http};
use super::{tcp, tls};
use crate::config::Tcp;
use crate::core::chain::{Match, Range, ServerName, Transport};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as pb;
use envoy_types::pb::google::protobuf::{Struct, value::Kind};
use std::mem::take;
use std::net::IpAddr;
use std::sync::Arc;

/// Keys of a chain's metadata that restrict it to some workloads: one proxy serves all pods of a node, and Envoy's conditions know no labels.
const SOURCE_LABELS: &str = "mesh.source.labels";
const SOURCE_NAMESPACE: &str = "mesh.source.namespace";

/// A way of serving connections.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// TLS ends here.
    pub tls: Option<Arc<tls::Downstream>>,
    /// What is inside.
    pub serve: Serve,
}

/// How connections are served.
#[derive(Clone, Debug)]
pub enum Serve {
    /// As HTTP.
    Http(Box<Http>),
    /// As TCP.
    Tcp(Arc<Tcp>),
}

/// A chain with its conditions.
pub(super) fn chain(at: &At<'_>, mut message: pb::FilterChain) -> Result<(Match, Chain), Invalid> {
    let condition = message.filter_chain_match.take().unwrap_or_default();
    let mut condition = filter_chain_match(&at.field("filter_chain_match"), condition)?;
    if let Some(metadata) = &mut message.metadata {
        workload(&at.field("metadata"), metadata, &mut condition)?;
    }
    Ok((condition, serving(at, message)?))
}

/// The chain of what no other takes: it has no conditions.
pub(super) fn default(at: &At<'_>, mut message: pb::FilterChain) -> Result<Chain, Invalid> {
    if let Some(condition) = message.filter_chain_match.take() {
        at.field("filter_chain_match").nothing_else(&condition)?;
    }
    serving(at, message)
}

fn serving(at: &At<'_>, mut message: pb::FilterChain) -> Result<Chain, Invalid> {
    let name = take(&mut message.name);
    message.metadata = None;
    let tls = match message.transport_socket.take() {
        Some(socket) => tls::downstream(&at.field("transport_socket"), socket)?.map(Arc::new),
        None => None,
    };
    let filters = at.field("filters");
    let [filter] = <[pb::Filter; 1]>::try_from(take(&mut message.filters))
        .map_err(|given| filters.value(format_args!("{} filters; exactly one is supported", given.len())))?;
    at.nothing_else(&message)?;
    let at = filters.index(0);
    let Some(pb::filter::ConfigType::TypedConfig(any)) = filter.config_type else {
        return Err(at.field("typed_config").missing());
    };
    let at = at.field("typed_config");
    let serve = match any.type_url.rsplit('/').next() {
        Some(tcp::TCP_PROXY) => Serve::Tcp(Arc::new(tcp::tcp_proxy(&at, unpack(&at, &any, tcp::TCP_PROXY)?)?)),
        _ => Serve::Http(Box::new(hcm::connection_manager(&at, &any)?)),
    };
    Ok(Chain { name, tls, serve })
}

fn filter_chain_match(at: &At<'_>, mut message: pb::FilterChainMatch) -> Result<Match, Invalid> {
    let mut condition = Match::default();
    if let Some(port) = message.destination_port.take() {
        let at = at.field("destination_port");
        condition.destination_port = Some(u16::try_from(port.value).map_err(|_too_big| at.value(port.value))?);
    }
    condition.destinations = ranges(&at.field("prefix_ranges"), take(&mut message.prefix_ranges))?;
    condition.sources = ranges(&at.field("source_prefix_ranges"), take(&mut message.source_prefix_ranges))?;
    for (index, port) in take(&mut message.source_ports).into_iter().enumerate() {
        let port = u16::try_from(port).map_err(|_too_big| at.field("source_ports").index(index).value(port))?;
        condition.source_ports.push(port);
    }
    for (index, name) in take(&mut message.server_names).into_iter().enumerate() {
        condition.server_names.push(server_name(&at.field("server_names").index(index), &name)?);
    }
    let transport = take(&mut message.transport_protocol);
    condition.transport = match transport.as_str() {
        "" => None,
        "raw_buffer" => Some(Transport::Raw),
        "tls" => Some(Transport::Tls),
        other => return Err(at.field("transport_protocol").value(format_args!("{other:?} is not raw_buffer or tls"))),
    };
    condition.protocols = take(&mut message.application_protocols);
    at.nothing_else(&message)?;
    Ok(condition)
}

fn server_name(at: &At<'_>, name: &str) -> Result<ServerName, Invalid> {
    let name = name.to_ascii_lowercase();
    match name.strip_prefix('*') {
        Some(suffix) if suffix.len() > 1 && suffix.starts_with('.') && !suffix.contains('*') => {
            Ok(ServerName::Suffix(suffix.to_owned()))
        }
        None if !name.is_empty() && !name.contains('*') => Ok(ServerName::Exact(name)),
        _ => Err(at.value(format_args!("{name:?}: a name, or *. in front of one"))),
    }
}

fn ranges(at: &At<'_>, messages: Vec<core::CidrRange>) -> Result<Vec<Range>, Invalid> {
    let range = |(index, message): (usize, core::CidrRange)| {
        let at = at.index(index);
        let text = message.address_prefix;
        let address: IpAddr =
            text.parse().map_err(|_none| at.field("address_prefix").value(format_args!("{text:?} is no address")))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = message.prefix_len.map_or(0, |bits| bits.value);
        match u8::try_from(bits) {
            Ok(bits) if bits <= most => Ok(Range { address, bits }),
            _ => Err(at.field("prefix_len").value(format_args!("{bits} is more than {most}"))),
        }
    };
    messages.into_iter().enumerate().map(range).collect()
}

fn workload(at: &At<'_>, metadata: &mut core::Metadata, condition: &mut Match) -> Result<(), Invalid> {
    let at = at.field("filter_metadata");
    if let Some(labels) = metadata.filter_metadata.remove(SOURCE_LABELS) {
        condition.labels = texts(&at.field(SOURCE_LABELS), labels)?;
        condition.labels.sort();
    }
    if let Some(namespace) = metadata.filter_metadata.remove(SOURCE_NAMESPACE) {
        let at = at.field(SOURCE_NAMESPACE);
        match <[(String, String); 1]>::try_from(texts(&at, namespace)?) {
            Ok([(key, namespace)]) if key == "namespace" => condition.namespace = Some(namespace),
            _ => return Err(at.value("not exactly the key namespace")),
        }
    }
    Ok(())
}

fn texts(at: &At<'_>, fields: Struct) -> Result<Vec<(String, String)>, Invalid> {
    let text = |(key, value): (String, envoy_types::pb::google::protobuf::Value)| match value.kind {
        Some(Kind::StringValue(text)) => Ok((key, text)),
        _ => Err(at.field(&key).value("no text")),
    };
    fields.fields.into_iter().map(text).collect()
}
