//! `hash_policy` of a route or of a TCP proxy: what the balancer's hash is made of.

use super::at::{At, Invalid};
use super::common::{duration, header_key};
use crate::core::hash::{Cookie, HashOf, HashPolicy};
use envoy_types::pb::envoy::config::route::v3::route_action as pb;
use envoy_types::pb::envoy::r#type::v3 as kind;
use http::HeaderValue;
use std::mem::take;

/// All of them, in order.
pub(super) fn policies(at: &At<'_>, messages: Vec<pb::HashPolicy>) -> Result<Vec<HashPolicy>, Invalid> {
    messages.into_iter().enumerate().map(|(index, message)| policy(&at.index(index), message)).collect()
}

/// The policy of a TCP proxy: the client's address, or none.
pub(super) fn of_connection(at: &At<'_>, messages: Vec<kind::HashPolicy>) -> Result<bool, Invalid> {
    use kind::hash_policy::PolicySpecifier as Of;
    let mut messages = messages.into_iter();
    match (messages.next().map(|message| message.policy_specifier), messages.next()) {
        (None, _) => Ok(false),
        (Some(Some(Of::SourceIp(_))), None) => Ok(true),
        (Some(Some(Of::FilterState(_))), None) => Err(at.index(0).field("filter_state").unsupported()),
        (Some(None), None) => Err(at.index(0).field("policy_specifier").missing()),
        (Some(_), Some(_)) => Err(at.value("more than one")),
    }
}

fn policy(at: &At<'_>, message: pb::HashPolicy) -> Result<HashPolicy, Invalid> {
    use pb::hash_policy::PolicySpecifier as Of;
    let of = match at.field("policy_specifier").required(message.policy_specifier)? {
        Of::Header(mut header) => {
            let at = at.field("header");
            let key = header_key(&at.field("header_name"), &take(&mut header.header_name))?;
            at.nothing_else(&header)?;
            HashOf::Header(key)
        }
        Of::Cookie(message) => HashOf::Cookie(cookie(&at.field("cookie"), message)?),
        Of::ConnectionProperties(properties) if properties.source_ip => HashOf::SourceIp,
        Of::ConnectionProperties(_) => return Err(at.field("connection_properties.source_ip").missing()),
        Of::QueryParameter(parameter) if parameter.name.is_empty() => return Err(at.field("query_parameter.name").missing()),
        Of::QueryParameter(parameter) => HashOf::Query(parameter.name),
        Of::FilterState(_) => return Err(at.field("filter_state").unsupported()),
    };
    Ok(HashPolicy { of, terminal: message.terminal })
}

fn cookie(at: &At<'_>, message: pb::hash_policy::Cookie) -> Result<Cookie, Invalid> {
    if message.name.is_empty() {
        return Err(at.field("name").missing());
    }
    let ttl = message.ttl.as_ref().map(|ttl| duration(&at.field("ttl"), ttl)).transpose()?;
    let attributes = message.attributes.into_iter().map(|attribute| (attribute.name, attribute.value)).collect();
    let cookie = Cookie { name: message.name, ttl, path: message.path, attributes };
    // All of it ends up in one header.
    let texts = cookie.attributes.iter().flat_map(|(name, value)| [name, value]).chain([&cookie.name, &cookie.path]);
    if let Some(text) = texts.into_iter().find(|text| text.contains(';') || HeaderValue::from_str(text).is_err()) {
        return Err(at.value(format_args!("{text:?} cannot stand in a cookie")));
    }
    Ok(cookie)
}
