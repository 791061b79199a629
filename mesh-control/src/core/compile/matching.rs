//! An Istio match block into Envoy's route match.

use super::envoy::{BoolValue, matcher, regex, route};
use crate::istio::virtual_service::{HttpMatchRequest, StringMatch};
use route::header_matcher::HeaderMatchSpecifier;
use route::query_parameter_matcher::QueryParameterMatchSpecifier;
use route::route_match::PathSpecifier;

/// The match, or `None` if the block can never hold for requests to this port.
pub(super) fn request(block: &HttpMatchRequest, port: u16) -> Option<route::RouteMatch> {
    if !block.gateways.is_empty() && !block.gateways.iter().any(|gateway| gateway == "mesh") {
        return None;
    }
    // Istio ignores both conditions in a block that names gateways (sourceMatchHTTP). Else the block matches nothing, rather than
    // requests of workloads that it does not mean.
    if block.gateways.is_empty() && !(block.source_labels.is_empty() && block.source_namespace.is_empty()) {
        return None;
    }
    if block.port != 0 && u32::from(port) != block.port {
        return None;
    }
    let pseudo = [(":method", &block.method), (":authority", &block.authority), (":scheme", &block.scheme)];
    let pseudo = pseudo.into_iter().filter_map(|(name, value)| value.as_ref().map(|value| header(name, value, false)));
    let headers = block.headers.iter().map(|(name, value)| header(name, value, false));
    let without = block.without_headers.iter().map(|(name, value)| header(name, value, true));
    Some(route::RouteMatch {
        path_specifier: Some(path(block.uri.as_ref())),
        case_sensitive: block.ignore_uri_case.then_some(BoolValue { value: false }),
        headers: pseudo.chain(headers).chain(without).collect(),
        query_parameters: block.query_params.iter().map(|(name, value)| query(name, value)).collect(),
        ..Default::default()
    })
}

/// The match of a rule without blocks.
pub(super) fn everything() -> route::RouteMatch {
    route::RouteMatch { path_specifier: Some(path(None)), ..Default::default() }
}

/// Nothing after a route with such a match is ever reached.
pub(super) fn is_catch_all(found: &route::RouteMatch) -> bool {
    let any_path = match &found.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => prefix == "/",
        Some(PathSpecifier::SafeRegex(regex)) => matches!(regex.regex.as_str(), ".*" | "/.*"),
        _ => false,
    };
    any_path && found.headers.is_empty() && found.query_parameters.is_empty()
}

fn path(uri: Option<&StringMatch>) -> PathSpecifier {
    match uri {
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.clone()),
        // A plain prefix of the string: `/v2` matches `/v2example`, as in Istio.
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.clone()),
        Some(StringMatch::Regex(text)) => PathSpecifier::SafeRegex(regex(text)),
        None | Some(StringMatch::Present) => PathSpecifier::Prefix("/".to_owned()),
    }
}

fn header(name: &str, value: &StringMatch, invert: bool) -> route::HeaderMatcher {
    let specifier = string(value).map_or(HeaderMatchSpecifier::PresentMatch(true), HeaderMatchSpecifier::StringMatch);
    route::HeaderMatcher {
        name: name.to_ascii_lowercase(),
        invert_match: invert,
        // "Without x: y" holds for a request that has no x at all.
        treat_missing_header_as_empty: invert && !matches!(specifier, HeaderMatchSpecifier::PresentMatch(_)),
        header_match_specifier: Some(specifier),
    }
}

fn query(name: &str, value: &StringMatch) -> route::QueryParameterMatcher {
    let present = QueryParameterMatchSpecifier::PresentMatch(true);
    let specifier = string(value).map_or(present, QueryParameterMatchSpecifier::StringMatch);
    route::QueryParameterMatcher { name: name.to_owned(), query_parameter_match_specifier: Some(specifier) }
}

/// `None` is presence, which Istio also writes as regex `*`.
fn string(value: &StringMatch) -> Option<matcher::StringMatcher> {
    use matcher::string_matcher::MatchPattern;
    let pattern = match value {
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(text) if text != "*" => MatchPattern::SafeRegex(regex(text)),
        StringMatch::Regex(_) | StringMatch::Present => return None,
    };
    Some(matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() })
}
