//! Small builders for the protobuf messages of routes, so that the generator reads as what it generates.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, Int64Range};
use envoy_types::pb::google::protobuf::{BoolValue, Duration, UInt32Value};
use matcher::string_matcher::MatchPattern;

pub fn millis(millis: i32) -> Option<Duration> {
    Some(Duration { seconds: i64::from(millis / 1000), nanos: millis % 1000 * 1_000_000 })
}

pub fn regex(text: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: text.to_owned(), ..Default::default() }
}

pub fn string(pattern: MatchPattern, ignore_case: bool) -> matcher::StringMatcher {
    matcher::StringMatcher { match_pattern: Some(pattern), ignore_case }
}

/// One of the five ways in which a string is matched, by number.
pub fn pattern(kind: usize, text: &str) -> (MatchPattern, &'static str) {
    match kind % 5 {
        0 => (MatchPattern::Exact(text.to_owned()), "exact"),
        1 => (MatchPattern::Prefix(text[..text.len() / 2 + 1].to_owned()), "prefix"),
        2 => (MatchPattern::Suffix(text[text.len() / 2..].to_owned()), "suffix"),
        3 => (MatchPattern::Contains(text[text.len() / 3..].to_owned()), "contains"),
        _ => (MatchPattern::SafeRegex(regex(&format!("{}.*", &text[..1]))), "regex"),
    }
}

pub fn header(name: &str, how: route::header_matcher::HeaderMatchSpecifier) -> route::HeaderMatcher {
    route::HeaderMatcher { name: name.to_owned(), header_match_specifier: Some(how), ..Default::default() }
}

pub fn range(start: i64, end: i64) -> Int64Range {
    Int64Range { start, end }
}

pub fn percent(numerator: u32) -> Option<FractionalPercent> {
    Some(FractionalPercent { numerator, denominator: 0 })
}

pub fn runtime(numerator: u32) -> Option<core::RuntimeFractionalPercent> {
    Some(core::RuntimeFractionalPercent { default_value: percent(numerator), runtime_key: String::new() })
}

/// `action`: 0 appends, 1 adds if absent, 2 overwrites or adds, 3 overwrites if there.
pub fn add(name: &str, value: &str, action: i32) -> core::HeaderValueOption {
    let header = core::HeaderValue { key: name.to_owned(), value: value.to_owned(), ..Default::default() };
    core::HeaderValueOption { header: Some(header), append_action: action, ..Default::default() }
}

pub fn boolean(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

pub fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub fn inline(text: &str) -> core::DataSource {
    let specifier = core::data_source::Specifier::InlineString(text.to_owned());
    core::DataSource { specifier: Some(specifier), ..Default::default() }
}
