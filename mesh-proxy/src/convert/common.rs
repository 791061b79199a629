//! Pieces that several resources share: durations, string and header conditions, percentages, addresses, `Any`.

#![expect(deprecated, reason = "deprecated fields are still part of the API: taken, not refused")]

use super::at::{At, Invalid};
use crate::core::fault::PerMillion;
use crate::core::matching::{HeaderKey, HeaderMatch, HeaderTest, Pattern, QueryMatch, StringMatch, full_match};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::envoy::r#type::v3 as kind;
use envoy_types::pb::google::protobuf;
use prost::Message;
use regex::Regex;
use std::mem::take;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A duration that is not negative.
pub(super) fn duration(at: &At<'_>, value: &protobuf::Duration) -> Result<Duration, Invalid> {
    let seconds = u64::try_from(value.seconds).ok();
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        (Some(seconds), Some(nanos)) => Ok(Duration::new(seconds, nanos)),
        _ => Err(at.value("not a duration from 0 up")),
    }
}

/// A duration where 0 means: no limit.
pub(super) fn limit(
    at: &At<'_>,
    value: Option<protobuf::Duration>,
    default: Option<Duration>,
) -> Result<Option<Duration>, Invalid> {
    match value {
        None => Ok(default),
        Some(value) => Ok(Some(duration(at, &value)?).filter(|limit| !limit.is_zero())),
    }
}

/// The message in an `Any`, if its type is `type_name`.
pub(super) fn unpack<M: Message + Default>(at: &At<'_>, any: &protobuf::Any, type_name: &str) -> Result<M, Invalid> {
    if any.type_url.rsplit('/').next() != Some(type_name) {
        return Err(at.value(format_args!("type {} is not supported; {type_name} is", any.type_url)));
    }
    M::decode(any.value.as_slice()).map_err(|error| at.decode(error))
}

pub(super) fn regex(at: &At<'_>, mut message: matcher::RegexMatcher) -> Result<Regex, Invalid> {
    let pattern = take(&mut message.regex);
    // The only engine is RE2, whatever is said of it.
    message.engine_type = None;
    at.nothing_else(&message)?;
    full_match(&pattern).map_err(|error| at.value(error))
}

pub(super) fn string(at: &At<'_>, message: matcher::StringMatcher) -> Result<StringMatch, Invalid> {
    use matcher::string_matcher::MatchPattern;
    let pattern = match at.field("match_pattern").required(message.match_pattern)? {
        MatchPattern::Exact(text) => Pattern::Exact(text),
        MatchPattern::Prefix(text) => Pattern::Prefix(text),
        MatchPattern::Suffix(text) => Pattern::Suffix(text),
        MatchPattern::Contains(text) => Pattern::Contains(text),
        MatchPattern::SafeRegex(message) => Pattern::Regex(regex(&at.field("safe_regex"), message)?),
        MatchPattern::Custom(_) => return Err(at.field("custom").unsupported()),
    };
    Ok(StringMatch { pattern, ignore_case: message.ignore_case })
}

/// A header by its name, or a pseudo header.
pub(super) fn header_key(at: &At<'_>, name: &str) -> Result<HeaderKey, Invalid> {
    Ok(match name {
        ":method" => HeaderKey::Method,
        ":authority" | "host" => HeaderKey::Authority,
        ":path" => HeaderKey::Path,
        ":scheme" => HeaderKey::Scheme,
        name => HeaderKey::Name(name.parse().map_err(|_invalid| at.value(format_args!("{name:?} is no header name")))?),
    })
}

pub(super) fn header_match(at: &At<'_>, message: route::HeaderMatcher) -> Result<HeaderMatch, Invalid> {
    use route::header_matcher::HeaderMatchSpecifier as Spec;
    let key = header_key(&at.field("name"), &message.name)?;
    let value = |pattern| HeaderTest::Value(StringMatch::new(pattern));
    let test = match message.header_match_specifier {
        None => HeaderTest::Present(true),
        Some(Spec::PresentMatch(present)) => HeaderTest::Present(present),
        // As Envoy: without a text any value will do, so long as there is one.
        Some(Spec::ExactMatch(text)) if text.is_empty() => value(Pattern::Prefix(text)),
        Some(Spec::ExactMatch(text)) => value(Pattern::Exact(text)),
        Some(Spec::PrefixMatch(text)) => value(Pattern::Prefix(text)),
        Some(Spec::SuffixMatch(text)) => value(Pattern::Suffix(text)),
        Some(Spec::ContainsMatch(text)) => value(Pattern::Contains(text)),
        Some(Spec::SafeRegexMatch(message)) => value(Pattern::Regex(regex(&at.field("safe_regex_match"), message)?)),
        Some(Spec::StringMatch(message)) => HeaderTest::Value(string(&at.field("string_match"), message)?),
        Some(Spec::RangeMatch(range)) => HeaderTest::Range(range.start, range.end),
    };
    Ok(HeaderMatch { key, test, invert: message.invert_match, missing_is_empty: message.treat_missing_header_as_empty })
}

pub(super) fn header_matches(at: &At<'_>, messages: Vec<route::HeaderMatcher>) -> Result<Vec<HeaderMatch>, Invalid> {
    messages.into_iter().enumerate().map(|(index, message)| header_match(&at.index(index), message)).collect()
}

pub(super) fn query_match(at: &At<'_>, message: route::QueryParameterMatcher) -> Result<QueryMatch, Invalid> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as Spec;
    let test = match message.query_parameter_match_specifier {
        None => Err(true),
        Some(Spec::PresentMatch(present)) => Err(present),
        Some(Spec::StringMatch(message)) => Ok(string(&at.field("string_match"), message)?),
    };
    Ok(QueryMatch { name: message.name, test })
}

/// A percentage of Envoy's.
pub(super) fn percent(at: &At<'_>, value: &kind::FractionalPercent) -> Result<PerMillion, Invalid> {
    let denominator = match kind::fractional_percent::DenominatorType::try_from(value.denominator) {
        Ok(kind::fractional_percent::DenominatorType::Hundred) => 100,
        Ok(kind::fractional_percent::DenominatorType::TenThousand) => 10_000,
        Ok(kind::fractional_percent::DenominatorType::Million) => 1_000_000,
        Err(_) => return Err(at.field("denominator").value(value.denominator)),
    };
    Ok(PerMillion::new(value.numerator, denominator))
}

/// The same with a key by which a runtime could change it. There is none here: the default is the value.
pub(super) fn fraction(at: &At<'_>, message: Option<core::RuntimeFractionalPercent>) -> Result<Option<PerMillion>, Invalid> {
    let Some(mut message) = message else { return Ok(None) };
    message.runtime_key.clear();
    let share = percent(&at.field("default_value"), &message.default_value.take().unwrap_or_default())?;
    at.nothing_else(&message)?;
    Ok(Some(share))
}

/// An IP address and port over TCP.
pub(super) fn address(at: &At<'_>, address: Option<core::Address>) -> Result<SocketAddr, Invalid> {
    use core::socket_address::PortSpecifier;
    let at = at.field("address");
    let Some(core::address::Address::SocketAddress(mut socket)) = at.required(address)?.address else {
        return Err(at.value("only socket_address is supported"));
    };
    let at = at.field("socket_address");
    let text = take(&mut socket.address);
    let ip: IpAddr = text.parse().map_err(|_invalid| at.field("address").value(format_args!("{text:?} is no IP address")))?;
    let port = match socket.port_specifier.take() {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port).map_err(|_invalid| at.field("port_value").value(port))?,
        _ => return Err(at.field("port_value").missing()),
    };
    at.nothing_else(&socket)?;
    Ok(SocketAddr::new(ip, port))
}

/// A configuration source must be the stream that this came on.
pub(super) fn over_ads(at: &At<'_>, source: Option<core::ConfigSource>) -> Result<(), Invalid> {
    use core::config_source::ConfigSourceSpecifier as Spec;
    let mut source = at.required(source)?;
    match source.config_source_specifier.take() {
        Some(Spec::Ads(_) | Spec::Self_(_)) => {}
        _ => return Err(at.value("only ads is supported")),
    }
    source.resource_api_version = 0;
    source.initial_fetch_timeout = None;
    at.nothing_else(&source)
}
