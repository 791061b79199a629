//! Changes of headers, at every level of a RouteConfiguration.

#![expect(deprecated, reason = "deprecated fields are still part of the API: taken, not refused")]

use super::at::{At, Invalid};
use crate::core::format::Format;
use crate::core::headers::{Addition, Existing, HeaderOps};
use envoy_types::pb::envoy::config::core::v3 as core;
use http::HeaderName;
use std::mem::take;
use std::sync::Arc;

/// Request and response changes of one level.
#[derive(Clone, Default)]
pub(super) struct Changes {
    pub(super) request: Option<Arc<HeaderOps>>,
    pub(super) response: Option<Arc<HeaderOps>>,
}

/// What one message says about one direction.
pub(super) type Said<'a> = (&'a mut Vec<core::HeaderValueOption>, &'a mut Vec<String>);

impl Changes {
    pub(super) fn read(at: &At<'_>, request: Said<'_>, response: Said<'_>) -> Result<Self, Invalid> {
        Ok(Self {
            request: ops(at, ("request_headers_to_add", "request_headers_to_remove"), request)?,
            response: ops(at, ("response_headers_to_add", "response_headers_to_remove"), response)?,
        })
    }

    /// What all levels do to requests and to responses, in the order in which it is done.
    pub(super) fn chain<'a>(levels: impl Iterator<Item = &'a Self> + Clone) -> (Vec<Arc<HeaderOps>>, Vec<Arc<HeaderOps>>) {
        let request = levels.clone().filter_map(|level| level.request.clone()).collect();
        (request, levels.filter_map(|level| level.response.clone()).collect())
    }
}

/// Reads the four fields that a table, virtual host, route and weighted cluster have.
macro_rules! changes {
    ($at:expr, $message:expr) => {
        $crate::convert::headers::Changes::read(
            $at,
            (&mut $message.request_headers_to_add, &mut $message.request_headers_to_remove),
            (&mut $message.response_headers_to_add, &mut $message.response_headers_to_remove),
        )
    };
}
pub(super) use changes;

fn ops(at: &At<'_>, (add_name, remove_name): (&str, &str), (add, remove): Said<'_>) -> Result<Option<Arc<HeaderOps>>, Invalid> {
    if add.is_empty() && remove.is_empty() {
        return Ok(None);
    }
    let mut ops = HeaderOps::default();
    for (index, option) in take(add).into_iter().enumerate() {
        ops.add.push(addition(&at.field(add_name).index(index), option)?);
    }
    for (index, name) in take(remove).into_iter().enumerate() {
        ops.remove.push(header_name(&at.field(remove_name).index(index), &name)?);
    }
    Ok(Some(Arc::new(ops)))
}

/// A header that a route may change: not `host`, as in Envoy.
fn header_name(at: &At<'_>, name: &str) -> Result<HeaderName, Invalid> {
    match name.parse::<HeaderName>() {
        Ok(header) if header == http::header::HOST => Err(at.value("host cannot be changed this way")),
        Ok(header) => Ok(header),
        Err(_) => Err(at.value(format_args!("{name:?} is no header name that can be changed"))),
    }
}

fn addition(at: &At<'_>, mut option: core::HeaderValueOption) -> Result<Addition, Invalid> {
    use core::header_value_option::HeaderAppendAction as Append;
    let mut header = at.field("header").required(option.header.take())?;
    let at_header = at.field("header");
    let name = header_name(&at_header.field("key"), &take(&mut header.key))?;
    let text = take(&mut header.value);
    at_header.nothing_else(&header)?;
    let value = Format::parse(&text).map_err(|unknown| at_header.field("value").value(unknown))?;
    let append = option.append.take().map(|append| append.value);
    let existing = match (append, Append::try_from(take(&mut option.append_action))) {
        (Some(false), _) | (None, Ok(Append::OverwriteIfExistsOrAdd)) => Existing::Overwrite,
        (Some(true), _) | (None, Ok(Append::AppendIfExistsOrAdd)) => Existing::Append,
        (None, Ok(Append::AddIfAbsent)) => Existing::Keep,
        (None, Ok(Append::OverwriteIfExists)) => Existing::OverwriteOnly,
        (None, Err(_)) => return Err(at.field("append_action").value("unknown")),
    };
    let keep_empty = take(&mut option.keep_empty_value);
    if text.is_empty() && !keep_empty {
        return Err(at_header.field("value").value("empty, without keep_empty_value"));
    }
    at.nothing_else(&option)?;
    Ok(Addition { name, value, existing, keep_empty })
}
