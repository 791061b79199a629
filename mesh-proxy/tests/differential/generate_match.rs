//! Generated conditions: every form of a match on path, headers and query.

use super::fields::{boolean, header, pattern, range, regex, runtime, string};
use super::generate::{Dice, NAMES, PATHS, VALUES};
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use rand::Rng;
use route::header_matcher::HeaderMatchSpecifier as How;
use route::route_match::PathSpecifier;

pub fn matching(dice: &mut Dice<'_>) -> route::RouteMatch {
    let mut when = route::RouteMatch { path_specifier: Some(path(dice)), ..Default::default() };
    let insensitive = !matches!(when.path_specifier, Some(PathSpecifier::SafeRegex(_))) && dice.roll(0.2, "uri ignore case");
    if insensitive {
        when.case_sensitive = boolean(false);
    }
    if dice.rng.random_bool(0.5) {
        when.headers.push(on_header(dice));
    }
    if dice.rng.random_bool(0.15) {
        when.headers.push(pseudo(dice));
    }
    if dice.rng.random_bool(0.2) {
        when.query_parameters.push(query(dice));
    }
    if dice.roll(0.04, "source label") {
        let value = dice.pick(&["shop", "shop", "other"]);
        when.dynamic_metadata.push(source("mesh.source.labels", dice.pick(&["team", "team", "app"]), value));
    }
    if dice.roll(0.04, "source namespace") {
        when.dynamic_metadata.push(source("mesh.source.namespace", "namespace", dice.pick(&["default", "other"])));
    }
    if dice.roll(0.04, "share of requests") {
        // All or none: shares in between are shown by the statistical tests.
        when.runtime_fraction = runtime(dice.pick(&[0, 100]));
    }
    when
}

/// A condition on the pod that asks.
fn source(filter: &str, key: &str, value: &str) -> matcher::MetadataMatcher {
    use matcher::metadata_matcher::{PathSegment, path_segment::Segment};
    let exact = string(matcher::string_matcher::MatchPattern::Exact(value.to_owned()), false);
    let pattern = matcher::value_matcher::MatchPattern::StringMatch(exact);
    matcher::MetadataMatcher {
        filter: filter.to_owned(),
        path: vec![PathSegment { segment: Some(Segment::Key(key.to_owned())) }],
        value: Some(matcher::ValueMatcher { match_pattern: Some(pattern) }),
        invert: false,
    }
}

fn path(dice: &mut Dice<'_>) -> PathSpecifier {
    let path = dice.pick(&PATHS);
    match dice.rng.random_range(0..6) {
        0 => {
            dice.mark("uri exact");
            PathSpecifier::Path(path.to_owned())
        }
        1 => {
            dice.mark("uri regex");
            PathSpecifier::SafeRegex(regex(dice.pick(&["/a.*", "/api/v[0-9]+/x", "/(a|ab)", ".*b", "/[aA]/[bB]"])))
        }
        2 => {
            dice.mark("uri segments");
            PathSpecifier::PathSeparatedPrefix(dice.pick(&["/a", "/api/v1", "/v2", "/A"]).to_owned())
        }
        _ => {
            dice.mark("uri prefix");
            PathSpecifier::Prefix(if dice.rng.random_bool(0.5) { "/" } else { path }.to_owned())
        }
    }
}

fn on_header(dice: &mut Dice<'_>) -> route::HeaderMatcher {
    let (name, value) = (dice.pick(&NAMES), dice.pick(&VALUES));
    let how = match dice.rng.random_range(0..8) {
        0 => {
            dice.mark("header present");
            How::PresentMatch(dice.rng.random_bool(0.7))
        }
        1 => {
            dice.mark("header range");
            How::RangeMatch(range(7, 42))
        }
        2 => {
            dice.mark("header cookie regex");
            return header("cookie", How::StringMatch(string(regex_pattern("^(.*?;)?(usertype=tester)(;.*)?$"), false)));
        }
        kind => {
            let (pattern, form) = pattern(kind, value);
            let ignore_case = form != "regex" && dice.rng.random_bool(0.3);
            dice.mark(match (form, ignore_case) {
                (_, true) => "header ignore case",
                ("exact", _) => "header exact",
                ("prefix", _) => "header prefix",
                ("suffix", _) => "header suffix",
                ("contains", _) => "header contains",
                _ => "header regex",
            });
            How::StringMatch(string(pattern, ignore_case))
        }
    };
    let mut matcher = header(name, how);
    matcher.invert_match = dice.roll(0.3, "without header");
    matcher.treat_missing_header_as_empty = dice.roll(0.3, "missing header is empty");
    matcher
}

fn regex_pattern(text: &str) -> matcher::string_matcher::MatchPattern {
    matcher::string_matcher::MatchPattern::SafeRegex(regex(text))
}

fn pseudo(dice: &mut Dice<'_>) -> route::HeaderMatcher {
    let (name, value, field) = dice.pick(&[
        (":method", "GET", "method"),
        (":method", "POST", "method"),
        (":scheme", "http", "scheme"),
        (":scheme", "https", "scheme"),
        (":authority", "c", "authority"),
    ]);
    dice.mark(field);
    let kind = if field == "authority" { 1 } else { 0 };
    header(name, How::StringMatch(string(pattern(kind, value).0, false)))
}

fn query(dice: &mut Dice<'_>) -> route::QueryParameterMatcher {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as Query;
    let how = if dice.rng.random_bool(0.3) {
        dice.mark("query present");
        Query::PresentMatch(true)
    } else {
        dice.mark("query value");
        let kind = dice.rng.random_range(0..5);
        Query::StringMatch(string(pattern(kind, dice.pick(&["alpha", "beta", "42"])).0, false))
    };
    route::QueryParameterMatcher { name: dice.pick(&["q", "r", "Q"]).to_owned(), query_parameter_match_specifier: Some(how) }
}
