//! Route matching as docs/xds.md tells it, read from the protobuf messages: slow, and without anything of mesh-proxy's.

#![expect(deprecated, reason = "deprecated header conditions are still sent by control planes")]

use super::scenario::Request;
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use std::collections::BTreeSet;

/// Whether two virtual hosts claim the same domain, or one does twice.
pub(super) fn repeats_a_domain(table: &pb::RouteConfiguration) -> bool {
    let mut seen = BTreeSet::new();
    !table.virtual_hosts.iter().flat_map(|host| &host.domains).all(|domain| seen.insert(domain.to_ascii_lowercase()))
}

/// The name of the route that decides.
pub(super) fn find<'a>(table: &'a pb::RouteConfiguration, request: &Request) -> Option<&'a str> {
    let claims = table.virtual_hosts.iter().flat_map(|host| host.domains.iter().map(move |domain| (host, domain)));
    let best = claims
        .filter_map(|(host, domain)| Some((claim(domain, &request.authority, table.ignore_port_in_host_matching)?, host)))
        .max_by_key(|(rank, _)| *rank);
    let route = best?.1.routes.iter().find(|route| route.r#match.as_ref().is_some_and(|when| holds(when, request)))?;
    Some(&route.name)
}

/// How good a claim a domain has; `None`: none. Exact, suffix, prefix, any; the longer the better.
fn claim(domain: &str, authority: &str, ignore_port: bool) -> Option<(u8, usize)> {
    let (domain, authority) = (domain.to_ascii_lowercase(), authority.to_ascii_lowercase());
    let host = if ignore_port { without_port(&authority) } else { &authority };
    let star = domain.strip_prefix('*').map(|suffix| host.len() > suffix.len() && host.ends_with(suffix));
    match star {
        _ if domain == "*" => Some((0, 0)),
        Some(matches) => matches.then_some((2, domain.len())),
        None => match domain.strip_suffix('*') {
            Some(prefix) => (host.len() > prefix.len() && host.starts_with(prefix)).then_some((1, domain.len())),
            None => (domain == host).then_some((3, 0)),
        },
    }
}

fn without_port(authority: &str) -> &str {
    let digits = authority.trim_end_matches(|c: char| c.is_ascii_digit());
    match digits.strip_suffix(':') {
        Some(host) if digits.len() < authority.len() && (host.ends_with(']') || !host.contains(':')) => host,
        _ => authority,
    }
}

fn holds(when: &pb::RouteMatch, request: &Request) -> bool {
    let fold = when.case_sensitive.is_some_and(|sensitive| !sensitive.value);
    let share = when.runtime_fraction.as_ref().and_then(|fraction| fraction.default_value);
    path(when, request, fold)
        && share.is_none_or(|share| lucky(share, request.dice))
        && when.headers.iter().all(|condition| header(condition, request))
        && when.query_parameters.iter().all(|condition| parameter(condition, request.query.as_deref()))
        && when.dynamic_metadata.iter().all(|condition| source(condition, request))
}

/// Of a million requests, as many as the fraction says.
fn lucky(share: FractionalPercent, dice: u64) -> bool {
    let parts = [10_000, 100, 1][usize::try_from(share.denominator).expect("a denominator")];
    dice % 1_000_000 < u64::from(share.numerator) * parts
}

fn path(when: &pb::RouteMatch, request: &Request, fold: bool) -> bool {
    use pb::route_match::PathSpecifier as Path;
    let path = &request.path;
    if request.method == "CONNECT" {
        return matches!(when.path_specifier, Some(Path::ConnectMatcher(_)));
    }
    let case = |text: &str| if fold { text.to_ascii_lowercase() } else { text.to_owned() };
    match when.path_specifier.as_ref() {
        Some(Path::Prefix(text)) => case(path).starts_with(&case(text)),
        Some(Path::Path(text)) => case(path) == case(text),
        Some(Path::PathSeparatedPrefix(text)) => format!("{}/", case(path)).starts_with(&format!("{}/", case(text))),
        Some(Path::ConnectMatcher(_)) => false,
        other => panic!("no scenario has {other:?}"),
    }
}

fn string(condition: &matcher::StringMatcher, text: &str) -> bool {
    use matcher::string_matcher::MatchPattern as Pattern;
    let case = |text: &str| if condition.ignore_case { text.to_ascii_lowercase() } else { text.to_owned() };
    match condition.match_pattern.as_ref() {
        Some(Pattern::Exact(wanted)) => case(text) == case(wanted),
        Some(Pattern::Prefix(wanted)) => case(text).starts_with(&case(wanted)),
        Some(Pattern::Suffix(wanted)) => case(text).ends_with(&case(wanted)),
        Some(Pattern::Contains(wanted)) => case(text).contains(&case(wanted)),
        other => panic!("no scenario has {other:?}"),
    }
}

fn header(condition: &pb::HeaderMatcher, request: &Request) -> bool {
    use pb::header_matcher::HeaderMatchSpecifier as Spec;
    let query = request.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let mut values = match condition.name.as_str() {
        ":method" => vec![request.method.clone()],
        ":authority" | "host" => vec![request.authority.clone()],
        ":scheme" => vec![request.scheme.to_owned()],
        ":path" => vec![format!("{}{query}", request.path)],
        name => {
            request.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
        }
    };
    if condition.name == "cookie" && !values.is_empty() {
        values = vec![values.join("; ")];
    }
    if values.is_empty() && condition.treat_missing_header_as_empty {
        values.push(String::new());
    }
    let there = !values.is_empty();
    match condition.header_match_specifier.as_ref() {
        None => there != condition.invert_match,
        Some(Spec::PresentMatch(present)) => (there == *present) != condition.invert_match,
        Some(_) if !there => false,
        // Each value by itself: one that passes is enough.
        Some(how) => values.iter().any(|text| value(how, text)) != condition.invert_match,
    }
}

fn value(how: &pb::header_matcher::HeaderMatchSpecifier, text: &str) -> bool {
    use pb::header_matcher::HeaderMatchSpecifier as Spec;
    match how {
        // As Envoy: nothing wanted is satisfied by anything.
        Spec::ExactMatch(wanted) => wanted.is_empty() || text == wanted,
        Spec::PrefixMatch(wanted) => text.starts_with(wanted.as_str()),
        Spec::SuffixMatch(wanted) => text.ends_with(wanted.as_str()),
        Spec::ContainsMatch(wanted) => text.contains(wanted.as_str()),
        Spec::SafeRegexMatch(_) => panic!("no scenario has a regex"),
        Spec::StringMatch(string_match) => string(string_match, text),
        Spec::RangeMatch(range) => text.parse::<i64>().is_ok_and(|number| range.start <= number && number < range.end),
        Spec::PresentMatch(_) => panic!("presence is not a matter of the value"),
    }
}

fn parameter(condition: &pb::QueryParameterMatcher, query: Option<&str>) -> bool {
    use pb::query_parameter_matcher::QueryParameterMatchSpecifier as Spec;
    let mut found = None;
    for pair in query.unwrap_or_default().split('&').rev() {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name == condition.name {
            found = Some(value);
        }
    }
    match condition.query_parameter_match_specifier.as_ref() {
        None => found.is_some(),
        Some(Spec::PresentMatch(present)) => found.is_some() == *present,
        Some(Spec::StringMatch(wanted)) => found.is_some_and(|value| string(wanted, value)),
    }
}

fn source(condition: &matcher::MetadataMatcher, request: &Request) -> bool {
    use matcher::{metadata_matcher::path_segment::Segment, string_matcher, value_matcher};
    let Some(Segment::Key(key)) = condition.path.first().and_then(|segment| segment.segment.as_ref()) else { return false };
    let value = condition.value.as_ref().and_then(|value| value.match_pattern.as_ref());
    let Some(value_matcher::MatchPattern::StringMatch(text)) = value else { return false };
    let Some(string_matcher::MatchPattern::Exact(wanted)) = text.match_pattern.as_ref() else { return false };
    if condition.filter == "mesh.source.namespace" {
        return request.labels.get("istio.io/namespace").map_or("default", String::as_str) == wanted;
    }
    request.labels.get(key) == Some(wanted)
}
