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
    let best = claims.filter_map(|(host, domain)| Some((claim(domain, &request.authority)?, host))).max_by_key(|(rank, _)| *rank);
    let route = best?.1.routes.iter().find(|route| route.r#match.as_ref().is_some_and(|when| holds(when, request)))?;
    Some(&route.name)
}

/// How good a claim a domain has; `None`: none. Exact, exact with the port, suffix, prefix, any; the longer the better.
fn claim(domain: &str, authority: &str) -> Option<(u8, usize)> {
    let (domain, authority) = (domain.to_ascii_lowercase(), authority.to_ascii_lowercase());
    let host = without_port(&authority);
    let star = domain.strip_prefix('*').map(|suffix| host.len() > suffix.len() && host.ends_with(suffix));
    match star {
        _ if domain == "*" => Some((0, 0)),
        Some(matches) => matches.then_some((2, domain.len())),
        None => match domain.strip_suffix('*') {
            Some(prefix) => (host.len() > prefix.len() && host.starts_with(prefix)).then_some((1, domain.len())),
            None if domain == host => Some((4, 0)),
            None => (domain == authority).then_some((3, 0)),
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
    let value = match condition.name.as_str() {
        ":method" => Some(request.method.clone()),
        ":authority" | "host" => Some(request.authority.clone()),
        ":scheme" => Some(request.scheme.to_owned()),
        ":path" => Some(format!("{}{query}", request.path)),
        name => {
            let values: Vec<_> =
                request.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
            (!values.is_empty()).then(|| values.join(if name == "cookie" { "; " } else { "," }))
        }
    };
    let missing = value.is_none() && !condition.treat_missing_header_as_empty;
    let text = value.clone().unwrap_or_default();
    let matched = match condition.header_match_specifier.as_ref() {
        None => return value.is_some() != condition.invert_match,
        Some(Spec::PresentMatch(present)) => return (value.is_some() == *present) != condition.invert_match,
        Some(_) if missing => return false,
        // As Envoy: nothing wanted is satisfied by anything.
        Some(Spec::ExactMatch(wanted)) => wanted.is_empty() || text == *wanted,
        Some(Spec::PrefixMatch(wanted)) => text.starts_with(wanted),
        Some(Spec::SuffixMatch(wanted)) => text.ends_with(wanted),
        Some(Spec::ContainsMatch(wanted)) => text.contains(wanted),
        Some(Spec::SafeRegexMatch(_)) => panic!("no scenario has a regex"),
        Some(Spec::StringMatch(string_match)) => string(string_match, &text),
        Some(Spec::RangeMatch(range)) => text.parse::<i64>().is_ok_and(|number| range.start <= number && number < range.end),
    };
    matched != condition.invert_match
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
