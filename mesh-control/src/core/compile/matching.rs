//! An Istio match block into Envoy's route match.
//!
//! What a sidecar's control plane settles when it compiles, because it compiles for one workload, is a condition here: which pod asks is
//! known per request only. It stands in the match as metadata that mesh-proxy fills in.

use super::entrance::{At, Entrance};
use super::envoy::{BoolValue, matcher, regex, route};
use super::views::Clients;
use crate::istio::enforced::Abilities;
use crate::istio::virtual_service::{HttpMatchRequest, StringMatch};
use route::header_matcher::HeaderMatchSpecifier;
use route::query_parameter_matcher::QueryParameterMatchSpecifier;
use route::route_match::PathSpecifier;

/// Metadata of the asking pod: a label, by its key.
const SOURCE_LABELS: &str = "mesh.source.labels";
/// Metadata of the asking pod: its namespace, by [`NAMESPACE`].
const SOURCE_NAMESPACE: &str = "mesh.source.namespace";
const NAMESPACE: &str = "namespace";

/// The match, or `None` if a block of a rule in `namespace` can never hold for requests that come in here.
pub(super) fn request(
    block: &HttpMatchRequest,
    here: &Entrance<'_>,
    namespace: &str,
    can: Abilities,
) -> Option<route::RouteMatch> {
    if block.port != 0 && u32::from(here.port) != block.port {
        return None;
    }
    let dynamic_metadata = source(block, here, namespace, can)?;
    let headers = block.headers.iter().map(|(name, value)| header(name, value, false));
    let without = block.without_headers.iter().map(|(name, value)| header(name, value, true));
    let mut headers: Vec<_> = headers.chain(without).collect();
    // By name, as Istio has it; a request's headers are looked up one by one, so the order decides nothing.
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    let pseudo = [(":method", &block.method), (":authority", &block.authority), (":scheme", &block.scheme)];
    headers.extend(pseudo.into_iter().filter_map(|(name, value)| value.as_ref().map(|value| header(name, value, false))));
    Some(route::RouteMatch {
        path_specifier: Some(path(block.uri.as_ref())),
        case_sensitive: block.ignore_uri_case.then_some(BoolValue { value: false }),
        headers,
        query_parameters: block.query_params.iter().map(|(name, value)| query(name, value)).collect(),
        dynamic_metadata,
        ..Default::default()
    })
}

/// The conditions on who asks, as far as they are open; `None` if they cannot hold here.
fn source(
    block: &HttpMatchRequest,
    here: &Entrance<'_>,
    namespace: &str,
    can: Abilities,
) -> Option<Vec<matcher::MetadataMatcher>> {
    // Istio does not look at the other two conditions in a block that names gateways (sourceMatchHTTP).
    if !block.gateways.is_empty() {
        return here.is_in(&block.gateways, namespace).then(Vec::new);
    }
    if let At::Gateway { labels, .. } = here.at {
        let holds = block.source_labels.iter().all(|(key, value)| labels.get(key) == Some(value));
        return (holds && block.source_namespace.is_empty()).then(Vec::new);
    }
    let mut open: Vec<_> = block.source_labels.iter().map(|(key, value)| metadata(SOURCE_LABELS, key, value)).collect();
    if !block.source_namespace.is_empty() {
        // Rather nothing than requests of workloads that it does not mean.
        can.source_namespace.then(|| open.push(metadata(SOURCE_NAMESPACE, NAMESPACE, &block.source_namespace)))?;
    }
    Some(open)
}

pub(super) fn metadata(filter: &str, key: &str, value: &str) -> matcher::MetadataMatcher {
    use matcher::metadata_matcher::{PathSegment, path_segment::Segment};
    let exact = matcher::string_matcher::MatchPattern::Exact(value.to_owned());
    let exact = matcher::StringMatcher { match_pattern: Some(exact), ..Default::default() };
    matcher::MetadataMatcher {
        filter: filter.to_owned(),
        path: vec![PathSegment { segment: Some(Segment::Key(key.to_owned())) }],
        value: Some(matcher::ValueMatcher { match_pattern: Some(matcher::value_matcher::MatchPattern::StringMatch(exact)) }),
        invert: false,
    }
}

/// A route as it is for some clients only; `None` if it is not for any of them.
pub(super) fn only(route: &route::Route, clients: &Clients) -> Option<route::Route> {
    let mut route = route.clone();
    let found = route.r#match.as_mut()?;
    let home = metadata(SOURCE_NAMESPACE, NAMESPACE, &clients.namespace);
    if found.dynamic_metadata.iter().any(|known| known.filter == SOURCE_NAMESPACE && *known != home) {
        return None;
    }
    let labels = clients.labels.iter().map(|(key, value)| metadata(SOURCE_LABELS, key, value));
    for condition in labels.chain([home]) {
        if !found.dynamic_metadata.contains(&condition) {
            found.dynamic_metadata.push(condition);
        }
    }
    Some(route)
}

/// All conditions on who asks that hold for a workload.
pub(super) fn metadata_of<'l>(
    namespace: &str,
    labels: impl Iterator<Item = (&'l String, &'l String)>,
) -> Vec<matcher::MetadataMatcher> {
    let labels = labels.map(|(key, value)| metadata(SOURCE_LABELS, key, value));
    labels.chain([metadata(SOURCE_NAMESPACE, NAMESPACE, namespace)]).collect()
}

/// The match of a rule without blocks.
pub(super) fn everything() -> route::RouteMatch {
    route::RouteMatch { path_specifier: Some(path(None)), ..Default::default() }
}

/// Nothing after a route with such a match is ever reached.
pub(super) fn is_catch_all(found: &route::RouteMatch) -> bool {
    found.dynamic_metadata.is_empty() && is_for_all_requests(found)
}

/// Whether it holds for every request of those for whom it is.
pub(super) fn is_for_all_requests(found: &route::RouteMatch) -> bool {
    let any_path = match &found.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => prefix == "/",
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex == ".*",
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
