//! A route table and a request out of arbitrary bytes. Only what [`super::model`] understands; short strings of few letters, so that matches
//! and near misses are common. No regexes: they are the crate's, compiling one takes longer than all the rest of an input, and the crate's
//! own branches would lead libFuzzer away from ours.

#![expect(deprecated, reason = "deprecated header conditions are still sent by control planes")]

use arbitrary::{Arbitrary, Result, Unstructured};
use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3 as pb;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, Int64Range};
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::collections::BTreeMap;

/// A request, owned.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) authority: String,
    pub(super) scheme: &'static str,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) headers: HeaderMap,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) dice: u64,
}

/// Names of headers that requests carry.
const HEADERS: [&str; 4] = ["x", "y-y", "cookie", "n"];
/// Names in conditions.
const KEYS: [&str; 9] = ["x", "y-y", "cookie", "n", ":method", ":authority", ":path", ":scheme", "host"];
/// The last is where a pod's namespace is read from.
const LABELS: [&str; 3] = ["app", "version", "istio.io/namespace"];
const NUMBERS: [&str; 8] = ["0", "7", "-7", "+7", "007", "9223372036854775807", "9223372036854775808", "7x"];
const METHODS: [&str; 5] = ["GET", "POST", "get", "OPTIONS", "CONNECT"];

/// Up to `most` of something.
fn some<'a, T>(input: &mut Unstructured<'a>, most: usize, make: impl Fn(&mut Unstructured<'a>) -> Result<T>) -> Result<Vec<T>> {
    (0..input.int_in_range(0..=most)?).map(|_| make(input)).collect()
}

fn text(input: &mut Unstructured<'_>, letters: &[char], most: usize) -> Result<String> {
    some(input, most, |input| input.choose(letters).copied()).map(String::from_iter)
}

/// One of `chances` times.
fn once_in(input: &mut Unstructured<'_>, chances: u8) -> Result<bool> {
    Ok(input.int_in_range(1..=chances)? == chances)
}

fn host(input: &mut Unstructured<'_>) -> Result<String> {
    text(input, &['a', 'b', 'B', '.', '-'], 4)
}

fn port(input: &mut Unstructured<'_>) -> Result<&'static str> {
    Ok(*input.choose(&["", "", "", ":80", ":8", ":", ":8x"])?)
}

fn domain(input: &mut Unstructured<'_>) -> Result<String> {
    let host = host(input)?;
    Ok(match input.int_in_range(0..=7)? {
        0 => "*".to_owned(),
        1 => format!("*{host}"),
        2 => format!("{host}*"),
        3 => "[::1]".to_owned(),
        4 => format!("{host}{}", port(input)?),
        _ => host,
    })
}

fn path(input: &mut Unstructured<'_>) -> Result<String> {
    text(input, &['/', 'a', 'A', 'b', '.', 'é'], 6).map(|rest| format!("/{rest}"))
}

fn value(input: &mut Unstructured<'_>) -> Result<String> {
    if once_in(input, 5)? {
        return Ok((*input.choose(&NUMBERS)?).to_owned());
    }
    text(input, &['a', 'b', 'A', ',', '=', '1', 'é'], 4)
}

pub(super) fn table(input: &mut Unstructured<'_>) -> Result<pb::RouteConfiguration> {
    let mut virtual_hosts = some(input, 3, virtual_host)?;
    for (index, host) in virtual_hosts.iter_mut().enumerate() {
        for (place, route) in host.routes.iter_mut().enumerate() {
            route.name = format!("{index}.{place}");
        }
    }
    // Without a byte of its own, so that corpora keep their meaning.
    let ignore_port_in_host_matching = virtual_hosts.len() != 2;
    Ok(pb::RouteConfiguration { name: "t".to_owned(), virtual_hosts, ignore_port_in_host_matching, ..Default::default() })
}

fn virtual_host(input: &mut Unstructured<'_>) -> Result<pb::VirtualHost> {
    let domains = some(input, 3, domain)?;
    let routes = some(input, 4, route)?;
    Ok(pb::VirtualHost { domains, routes, ..Default::default() })
}

fn route(input: &mut Unstructured<'_>) -> Result<pb::Route> {
    let r#match = Some(condition(input)?);
    let action = match input.int_in_range(0..=7)? {
        0 => pb::route::Action::Redirect(redirect(input)?),
        1 => pb::route::Action::DirectResponse(pb::DirectResponseAction { status: 200, body: None, ..Default::default() }),
        _ => pb::route::Action::Route(forward(input)?),
    };
    Ok(pb::Route { r#match, action: Some(action), ..Default::default() })
}

fn redirect(input: &mut Unstructured<'_>) -> Result<pb::RedirectAction> {
    use pb::redirect_action::PathRewriteSpecifier as Path;
    let path_rewrite_specifier = match input.int_in_range(0..=2)? {
        0 => None,
        1 => Some(Path::PathRedirect(path(input)?)),
        _ => Some(Path::PrefixRewrite(path(input)?)),
    };
    let port_redirect = u32::from(bool::arbitrary(input)?) * 443;
    let host_redirect = host(input)?;
    Ok(pb::RedirectAction { host_redirect, port_redirect, path_rewrite_specifier, ..Default::default() })
}

fn forward(input: &mut Unstructured<'_>) -> Result<pb::RouteAction> {
    use pb::route_action::ClusterSpecifier as Spec;
    let specifier = if once_in(input, 4)? {
        let weight = |index: usize, weight| pb::weighted_cluster::ClusterWeight {
            name: format!("c{index}"),
            weight: Some(UInt32Value { value: weight }),
            ..Default::default()
        };
        let weights = some(input, 3, |input| input.int_in_range(0..=3))?;
        let mut clusters: Vec<_> = weights.into_iter().enumerate().map(|(index, value)| weight(index, value)).collect();
        clusters.push(weight(3, 1));
        Spec::WeightedClusters(pb::WeightedCluster { clusters, ..Default::default() })
    } else {
        Spec::Cluster("c".to_owned())
    };
    let prefix_rewrite = if once_in(input, 4)? { path(input)? } else { String::new() };
    Ok(pb::RouteAction { cluster_specifier: Some(specifier), prefix_rewrite, ..Default::default() })
}

fn condition(input: &mut Unstructured<'_>) -> Result<pb::RouteMatch> {
    use pb::route_match::PathSpecifier as Path;
    let specifier = match input.int_in_range(0..=8)? {
        0..=2 => Path::Prefix(path(input)?),
        3 | 4 => Path::Path(path(input)?),
        5 => Path::Path("/".to_owned()),
        6 => Path::PathSeparatedPrefix(path(input)?.trim_end_matches('/').to_owned() + "a"),
        7 => Path::ConnectMatcher(pb::route_match::ConnectMatcher {}),
        _ => Path::Prefix("/".to_owned()),
    };
    let fold = once_in(input, 4)?;
    let share = if once_in(input, 6)? { Some(share(input)?) } else { None };
    Ok(pb::RouteMatch {
        path_specifier: Some(specifier),
        case_sensitive: fold.then_some(BoolValue { value: false }),
        headers: if bool::arbitrary(input)? { some(input, 3, header)? } else { Vec::new() },
        query_parameters: if once_in(input, 3)? { some(input, 2, parameter)? } else { Vec::new() },
        dynamic_metadata: if once_in(input, 4)? { some(input, 2, source)? } else { Vec::new() },
        runtime_fraction: share,
        ..Default::default()
    })
}

fn string(input: &mut Unstructured<'_>) -> Result<matcher::StringMatcher> {
    use matcher::string_matcher::MatchPattern as Pattern;
    let pattern = match input.int_in_range(0..=8)? {
        0..=2 => Pattern::Exact(value(input)?),
        3 | 4 => Pattern::Prefix(value(input)?),
        5 => Pattern::Suffix(value(input)?),
        6 | 7 => Pattern::Contains(value(input)?),
        _ => Pattern::Exact(String::new()),
    };
    Ok(matcher::StringMatcher { ignore_case: once_in(input, 4)?, match_pattern: Some(pattern) })
}

fn header(input: &mut Unstructured<'_>) -> Result<pb::HeaderMatcher> {
    use pb::header_matcher::HeaderMatchSpecifier as Spec;
    let specifier = match input.int_in_range(0..=10)? {
        0 => None,
        1 => Some(Spec::PresentMatch(bool::arbitrary(input)?)),
        2 => Some(Spec::ExactMatch(value(input)?)),
        3 => Some(Spec::PrefixMatch(value(input)?)),
        4 => Some(Spec::SuffixMatch(value(input)?)),
        5 => Some(Spec::ContainsMatch(value(input)?)),
        7 => {
            let ends = [-7, 0, 7, 8, i64::MIN, i64::MAX];
            Some(Spec::RangeMatch(Int64Range { start: *input.choose(&ends)?, end: *input.choose(&ends)? }))
        }
        _ => Some(Spec::StringMatch(string(input)?)),
    };
    Ok(pb::HeaderMatcher {
        name: (*input.choose(&KEYS)?).to_owned(),
        invert_match: once_in(input, 4)?,
        treat_missing_header_as_empty: once_in(input, 4)?,
        header_match_specifier: specifier,
    })
}

fn parameter(input: &mut Unstructured<'_>) -> Result<pb::QueryParameterMatcher> {
    use pb::query_parameter_matcher::QueryParameterMatchSpecifier as Spec;
    let specifier = match input.int_in_range(0..=3)? {
        0 => None,
        1 => Some(Spec::PresentMatch(bool::arbitrary(input)?)),
        _ => Some(Spec::StringMatch(string(input)?)),
    };
    Ok(pb::QueryParameterMatcher {
        name: (*input.choose(&["a", "b", "A"])?).to_owned(),
        query_parameter_match_specifier: specifier,
    })
}

fn share(input: &mut Unstructured<'_>) -> Result<RuntimeFractionalPercent> {
    let (numerator, denominator) = *input.choose(&[(0, 0), (50, 0), (100, 0), (200, 0), (1, 1), (999_999, 2)])?;
    Ok(RuntimeFractionalPercent { default_value: Some(FractionalPercent { numerator, denominator }), runtime_key: String::new() })
}

/// On a label or the namespace of the pod that asks.
fn source(input: &mut Unstructured<'_>) -> Result<matcher::MetadataMatcher> {
    use matcher::{metadata_matcher, string_matcher, value_matcher};
    let (filter, key) = match input.choose(&LABELS)? {
        &"istio.io/namespace" => ("mesh.source.namespace", "namespace"),
        label => ("mesh.source.labels", *label),
    };
    let key = metadata_matcher::path_segment::Segment::Key(key.to_owned());
    let wanted = (*input.choose(&["a", "b", "", "default"])?).to_owned();
    let exact = matcher::StringMatcher { match_pattern: Some(string_matcher::MatchPattern::Exact(wanted)), ..Default::default() };
    let value = matcher::ValueMatcher { match_pattern: Some(value_matcher::MatchPattern::StringMatch(exact)) };
    Ok(matcher::MetadataMatcher {
        filter: filter.to_owned(),
        path: vec![metadata_matcher::PathSegment { segment: Some(key) }],
        value: Some(value),
        invert: false,
    })
}

pub(super) fn request(input: &mut Unstructured<'_>) -> Result<Request> {
    let method = (*input.choose(&METHODS)?).to_owned();
    let authority = if once_in(input, 8)? { "[::1]".to_owned() } else { host(input)? } + port(input)?;
    let mut headers = HeaderMap::new();
    for _ in 0..input.int_in_range(0..=4)? {
        let name = HeaderName::from_static(input.choose(&HEADERS)?);
        // Both are made of letters that may stand in a header.
        if let Ok(value) = HeaderValue::from_bytes(value(input)?.as_bytes()) {
            headers.append(name, value);
        }
    }
    Ok(Request {
        method,
        authority,
        scheme: input.choose(&["http", "https"])?,
        path: path(input)?,
        query: if bool::arbitrary(input)? { Some(text(input, &['a', 'b', 'A', '=', '&', '1'], 8)?) } else { None },
        headers,
        labels: some(input, 2, |input| Ok(((*input.choose(&LABELS)?).to_owned(), text(input, &['a', 'b'], 1)?)))?
            .into_iter()
            .collect(),
        dice: u64::arbitrary(input)?,
    })
}
