//! `envoy.extensions.filters.http.cors.v3.CorsPolicy`.

use super::at::{At, Invalid};
use super::common::{fraction, string, unpack};
use crate::core::cors::Cors;
use crate::core::fault::PerMillion;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3 as pb;
use envoy_types::pb::google::protobuf::Any;
use http::HeaderValue;
use std::mem::take;

/// Name of the filter.
pub(super) const FILTER: &str = "envoy.filters.http.cors";
const TYPE: &str = "envoy.extensions.filters.http.cors.v3.CorsPolicy";
const FILTER_TYPE: &str = "envoy.extensions.filters.http.cors.v3.Cors";

/// The filter itself says nothing.
pub(super) fn filter(at: &At<'_>, any: &Any) -> Result<(), Invalid> {
    at.nothing_else(&unpack::<pb::Cors>(at, any, FILTER_TYPE)?)
}

/// A level's policy.
pub(super) fn policy(at: &At<'_>, any: &Any) -> Result<Cors, Invalid> {
    let mut message: pb::CorsPolicy = unpack(at, any, TYPE)?;
    let mut origins = Vec::new();
    for (index, origin) in take(&mut message.allow_origin_string_match).into_iter().enumerate() {
        origins.push(string(&at.field("allow_origin_string_match").index(index), origin)?);
    }
    let value = |name: &str, text: String| -> Result<Option<HeaderValue>, Invalid> {
        if text.is_empty() {
            return Ok(None);
        }
        HeaderValue::try_from(text).map(Some).map_err(|_invalid| at.field(name).value("no valid header value"))
    };
    let all = PerMillion::new(100, 100);
    let enabled = fraction(&at.field("filter_enabled"), message.filter_enabled.take())?.unwrap_or(all);
    let cors = Cors {
        enabled,
        origins,
        methods: value("allow_methods", take(&mut message.allow_methods))?,
        headers: value("allow_headers", take(&mut message.allow_headers))?,
        expose: value("expose_headers", take(&mut message.expose_headers))?,
        max_age: value("max_age", take(&mut message.max_age))?,
        credentials: message.allow_credentials.take().map(|on| on.value),
        private_network: message.allow_private_network_access.take().map(|on| on.value),
        forward_strangers: message.forward_not_matching_preflights.take().map(|on| on.value),
    };
    at.nothing_else(&message)?;
    Ok(cors)
}
