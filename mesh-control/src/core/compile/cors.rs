//! Requests from pages of other origins.

use super::envoy::{BoolValue, core, cors, matcher, percent, regex};
use crate::istio::virtual_service::{CorsPolicy, StringMatch, UnmatchedPreflights};

/// The per-route configuration of Envoy's CORS filter.
pub(super) fn policy(rule: &CorsPolicy) -> cors::CorsPolicy {
    let exact = |text: &String| StringMatch::Exact(text.clone());
    let legacy: Vec<_> = rule.allow_origin.iter().map(exact).collect();
    // The old list counts only where the new one is not given.
    let origins = if rule.allow_origins.is_empty() { &legacy } else { &rule.allow_origins };
    cors::CorsPolicy {
        allow_origin_string_match: origins.iter().filter_map(origin).collect(),
        allow_methods: rule.allow_methods.join(","),
        allow_headers: rule.allow_headers.join(","),
        expose_headers: rule.expose_headers.join(","),
        max_age: rule.max_age.map(|age| age.as_secs().to_string()).unwrap_or_default(),
        allow_credentials: rule.allow_credentials.map(|value| BoolValue { value }),
        filter_enabled: Some(core::RuntimeFractionalPercent { default_value: Some(percent(100.0)), ..Default::default() }),
        // A preflight that does not match is the application's to answer, unless the rule says otherwise.
        forward_not_matching_preflights: Some(BoolValue { value: rule.unmatched_preflights != UnmatchedPreflights::Ignore }),
        ..Default::default()
    }
}

fn origin(origin: &StringMatch) -> Option<matcher::StringMatcher> {
    use matcher::string_matcher::MatchPattern;
    let pattern = match origin {
        StringMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.clone()),
        StringMatch::Regex(text) => MatchPattern::SafeRegex(regex(text)),
        // Admission lets none pass.
        StringMatch::Present => return None,
    };
    Some(matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() })
}
