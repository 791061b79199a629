//! Rules on single values: names, numbers, durations, regular expressions.

use std::collections::BTreeMap;
use std::time::Duration;

use mesh_xds::operators;

use super::super::problem::{Path, Problems};
use super::super::virtual_service::Percent;

pub(super) type Verdict = Result<(), String>;

/// A DNS label, in either case.
pub(super) fn is_label(text: &str) -> bool {
    let inner = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    inner && !text.is_empty() && text.len() <= 63 && !text.starts_with('-') && !text.ends_with('-')
}

fn labels_of(whole: &str, rest: &str) -> Verdict {
    // One trailing dot is the root.
    let rest = rest.strip_suffix('.').unwrap_or(rest);
    match rest.split('.').find(|label| !is_label(label)) {
        Some(label) => Err(format!("domain name {whole:?} invalid (label {label:?} invalid)")),
        None => Ok(()),
    }
}

fn length(name: &str) -> Verdict {
    match name.len() {
        0 => Err("empty domain name not allowed".to_owned()),
        256.. => Err(format!("domain name {name:?} too long (max 255)")),
        _ => Ok(()),
    }
}

/// A full name without wildcard.
pub(super) fn fqdn(name: &str) -> Verdict {
    length(name)?;
    labels_of(name, name)
}

/// A name whose first label may be `*` or begin with it.
pub(super) fn domain(name: &str) -> Verdict {
    length(name)?;
    let (first, rest) = name.split_once('.').map_or((name, None), |(first, rest)| (first, Some(rest)));
    let wild = first.strip_prefix('*').map_or(first, |after| after.strip_prefix('-').unwrap_or(after));
    if !(first == "*" || is_label(wild)) {
        return Err(format!("domain name {name:?} invalid (label {first:?} invalid)"));
    }
    rest.map_or(Ok(()), |rest| labels_of(name, rest))
}

/// Whether some host is meant by both.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    match (one.strip_prefix('*'), other.strip_prefix('*')) {
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
        (Some(suffix), None) => other.ends_with(suffix),
        (None, Some(suffix)) => one.ends_with(suffix),
        (None, None) => one == other,
    }
}

/// Whether every host of `inner` is one of `outer`.
pub(super) fn is_subset(inner: &str, outer: &str) -> bool {
    match (inner.strip_prefix('*'), outer.strip_prefix('*')) {
        (_, Some(suffix)) => inner.strip_prefix('*').unwrap_or(inner).ends_with(suffix),
        (Some(_), None) => false,
        (None, None) => inner == outer,
    }
}

/// A subset's name.
pub(super) fn subset(name: &str) -> Verdict {
    if is_label(name) { Ok(()) } else { Err(format!("subset name is invalid: {name}")) }
}

/// A TCP port.
pub(super) fn port(number: u32) -> Verdict {
    if (1..=65_535).contains(&number) { Ok(()) } else { Err(format!("port number {number} must be in the range 1..65535")) }
}

/// An address, or a network as `ADDRESS/LENGTH`.
pub(super) fn subnet(text: &str) -> Verdict {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let bits = match address.parse() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return Err(format!("{text} is not a valid IP address or CIDR block")),
    };
    if length.is_none_or(|length| length.parse::<u8>().is_ok_and(|length| length <= bits)) {
        Ok(())
    } else {
        Err(format!("{text} is not a valid IP address or CIDR block"))
    }
}

/// A status that a response may have.
pub(super) fn http_status(status: i64) -> Verdict {
    if (200..600).contains(&status) { Ok(()) } else { Err(format!("HTTP status {status} is not in range 200-599")) }
}

/// At least a millisecond, and whole ones.
pub(super) fn duration(duration: Duration) -> Verdict {
    if duration < Duration::from_millis(1) {
        Err("duration must be greater than 1ms".to_owned())
    } else if !duration.subsec_nanos().is_multiple_of(1_000_000) {
        Err("only durations to ms precision are supported".to_owned())
    } else {
        Ok(())
    }
}

/// Checks a duration if it is given.
pub(super) fn optional_duration(given: Option<Duration>, at: &Path<'_>, problems: &mut Problems) {
    if let Some(given) = given {
        problems.judge(at, format!("{given:?}"), duration(given));
    }
}

/// Envoy counts millionths.
pub(super) fn percent(percent: Option<&Percent>, at: &Path<'_>, problems: &mut Problems) {
    let Some(Percent { value }) = percent else { return };
    let verdict = if *value == 0.0 || (0.0001..=100.0).contains(value) {
        Ok(())
    } else {
        Err(format!("percentage {value} is neither 0.0, nor in range [0.0001, 100.0]"))
    };
    problems.judge(&at.field("value"), *value, verdict);
}

/// Whole per cent.
pub(super) fn whole_percent(percent: i32) -> Verdict {
    if (0..=100).contains(&percent) { Ok(()) } else { Err(format!("percentage {percent} is not in range 0..100")) }
}

/// RE2, of which the regex crate reads what matters here.
pub(super) fn regex(text: &str, what: &str) -> Verdict {
    if text.is_empty() {
        return Err(format!("{what:?}: regex string match should not be empty"));
    }
    if text.len() > 1024 {
        return Err(format!("{what:?}: regex is too large, max length allowed is 1024"));
    }
    regex::Regex::new(text).map(drop).map_err(|error| {
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("{what:?}: {reason}; Istio uses RE2 style regex-based match (https://github.com/google/re2/wiki/Syntax)")
    })
}

/// The name of a header to look at; pseudo headers are allowed.
pub(super) fn matched_header(name: &str) -> Verdict {
    if name.is_empty() {
        Err("header name cannot be empty".to_owned())
    } else if [":method", ":scheme", ":authority", ":path", ":status"].contains(&name)
        || http::HeaderName::from_bytes(name.as_bytes()).is_ok()
    {
        Ok(())
    } else {
        Err(format!("header name {name} is not a valid header name"))
    }
}

/// The name of a header to change. `authority`: whether the request's authority may be.
pub(super) fn changed_header(name: &str, authority: bool) -> Verdict {
    let is_host = name.eq_ignore_ascii_case("host");
    if name.is_empty() {
        Err("header name cannot be empty".to_owned())
    } else if authority && (is_host || name.eq_ignore_ascii_case(":authority")) {
        Ok(())
    } else if is_host {
        Err(format!("invalid header {name:?}: cannot set Host header"))
    } else if name.starts_with(':') {
        Err(format!("invalid header {name:?}: header cannot have \":\" prefix"))
    } else if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        Err(format!("header name {name} is not a valid header name"))
    } else {
        Ok(())
    }
}

/// No control characters, and no operator that proxies do not know: they would refuse the routes of the whole port.
pub(super) fn header_value(value: &str) -> Verdict {
    operators::header_value(value).map_err(|unknown| format!("header value {value:?}: {unknown}"))?;
    if value.chars().any(|c| c.is_ascii_control() && c != '\t') {
        Err(format!("header value configuration {} is invalid", value.escape_default()))
    } else {
        Ok(())
    }
}

/// Labels of workloads.
pub(super) fn labels(labels: &BTreeMap<String, String>, at: &Path<'_>, problems: &mut Problems) {
    let plain = |text: &str, extra: &[u8]| text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b));
    for (key, value) in labels {
        if key.is_empty() || key.len() > 253 || !plain(key, b"-_./") {
            problems.judge(at, key.as_str(), Err(format!("invalid tag key: {key:?}")));
        }
        if value.len() > 63 || !plain(value, b"-_.") {
            problems.judge(&at.key(key), value.as_str(), Err(format!("invalid tag value: {value:?}")));
        }
    }
}
