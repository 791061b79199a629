//! Rules on HTTP routes.

use std::collections::BTreeMap;

use base64::Engine;

use super::super::problem::{Path, Problems};
use super::super::virtual_service::{
    CorsPolicy, HeaderOperations, Headers, HttpDirectResponse, HttpMatchRequest, HttpRedirect, HttpRewrite, HttpRoute, Percent,
    StringMatch,
};
use super::text::{self, Verdict};
use super::{fault, gateways, tcp};

/// One route.
pub(super) fn route(route: &HttpRoute, is_delegate: bool, at: &Path<'_>, problems: &mut Problems) {
    exclusions(route, is_delegate, at, problems);
    for (i, condition) in route.r#match.iter().enumerate() {
        request(condition, &at.field("match").index(i), problems);
    }
    headers(route.headers.as_ref(), &at.field("headers"), problems);
    authority(route, at, problems);
    if let Some(cors) = &route.cors_policy {
        cors_policy(cors, &at.field("corsPolicy"), problems);
    }
    if let Some(injected) = &route.fault {
        fault::fault(injected, &at.field("fault"), problems);
    }
    mirrors(route, at, problems);
    if let Some(elsewhere) = &route.redirect {
        redirect(elsewhere, &route.r#match, &at.field("redirect"), problems);
    }
    if let Some(response) = &route.direct_response {
        direct_response(response, &at.field("directResponse"), problems);
    }
    if let Some(retry) = &route.retries {
        fault::retries(retry, &at.field("retries"), problems);
    }
    if let Some(changed) = &route.rewrite {
        rewrite(changed, &at.field("rewrite"), problems);
    }
    let destinations = at.field("route");
    for (i, share) in route.route.iter().enumerate() {
        let at = destinations.index(i);
        tcp::destination(&share.destination, &at.field("destination"), problems);
        headers(share.headers.as_ref(), &at.field("headers"), problems);
    }
    tcp::weights(route.route.iter().map(|share| share.weight), &destinations, problems);
    text::optional_duration(route.timeout, &at.field("timeout"), problems);
}

/// What a route cannot have at the same time.
fn exclusions(route: &HttpRoute, is_delegate: bool, at: &Path<'_>, problems: &mut Problems) {
    let (redirect, direct) = (route.redirect.is_some(), route.direct_response.is_some());
    let mut refuse = |wrong: bool, field: &str, why: &str| {
        if wrong {
            problems.forbidden(&at.field(field), why);
        }
    };
    refuse(route.mirror.is_some() && !route.mirrors.is_empty(), "mirrors", "HTTP route cannot contain both mirror and mirrors");
    if route.delegate.is_some() && !is_delegate {
        let name = &route.name;
        refuse(redirect, "redirect", &format!("root HTTP route {name} must not specify redirect"));
        refuse(!route.route.is_empty(), "route", &format!("root HTTP route {name} must not specify route"));
        return;
    }
    refuse(route.delegate.is_some(), "delegate", "delegate HTTP route cannot contain delegate");
    if redirect {
        refuse(!route.route.is_empty(), "route", "HTTP route cannot contain both route and redirect");
        refuse(route.fault.is_some(), "fault", "HTTP route cannot contain both fault and redirect");
        refuse(route.rewrite.is_some(), "rewrite", "HTTP route rule cannot contain both rewrite and redirect");
        refuse(direct, "directResponse", "HTTP route rule cannot contain both direct_response and redirect");
    } else if direct {
        refuse(!route.route.is_empty(), "route", "HTTP route cannot contain both route and direct_response");
        refuse(route.fault.is_some(), "fault", "HTTP route cannot contain both fault and direct_response");
        refuse(route.rewrite.is_some(), "rewrite", "HTTP route rule cannot contain both rewrite and direct_response");
    } else if route.route.is_empty() {
        problems.required(at, "HTTP route, redirect or direct_response is required");
    }
}

fn request(condition: &HttpMatchRequest, at: &Path<'_>, problems: &mut Problems) {
    for (what, given) in [
        ("uri", &condition.uri),
        ("scheme", &condition.scheme),
        ("method", &condition.method),
        ("authority", &condition.authority),
    ] {
        let at = at.field(what);
        match given {
            None => {}
            // Ours: Istio takes it for no condition at all.
            Some(StringMatch::Present) => problems.required(&at, "one of exact, prefix, regex"),
            Some(StringMatch::Prefix(text)) if text.is_empty() && what == "uri" => {}
            Some(given) => problems.judge(&at, shown(given), string(given, what)),
        }
    }
    for (what, map, is_header) in [
        ("headers", &condition.headers, true),
        ("withoutHeaders", &condition.without_headers, true),
        ("queryParams", &condition.query_params, false),
    ] {
        let at = at.field(what);
        for (name, given) in map {
            if is_header {
                problems.judge(&at, name.as_str(), text::matched_header(name));
            }
            // `*` is no regex but Istio's way to say "present".
            if *given != StringMatch::Regex("*".to_owned()) {
                problems.judge(&at.key(name), shown(given), string(given, what));
            }
        }
    }
    if condition.port != 0 {
        problems.judge(&at.field("port"), condition.port, text::port(condition.port));
    }
    text::labels(&condition.source_labels, &at.field("sourceLabels"), problems);
    gateways(&condition.gateways, &at.field("gateways"), problems);
    let namespace = condition.source_namespace.as_str();
    if !namespace.is_empty() && !text::is_label(namespace) {
        let why = format!("sourceNamespace match {namespace} is invalid");
        problems.judge(&at.field("sourceNamespace"), namespace, Err(why));
    }
}

fn shown(given: &StringMatch) -> &str {
    match given {
        StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Regex(text) => text,
        StringMatch::Present => "",
    }
}

fn string(given: &StringMatch, what: &str) -> Verdict {
    match given {
        StringMatch::Prefix(text) if text.is_empty() => Err(format!("{what:?}: prefix string match should not be empty")),
        StringMatch::Regex(text) => text::regex(text, what),
        _ => Ok(()),
    }
}

fn headers(given: Option<&Headers>, at: &Path<'_>, problems: &mut Problems) {
    let Some(Headers { request, response }) = given else { return };
    for (name, operations, authority) in [("request", request, true), ("response", response, false)] {
        let Some(HeaderOperations { set, add, remove }) = operations else { continue };
        let at = at.field(name);
        for (name, map) in [("set", set), ("add", add)] {
            changed(map, authority, &at.field(name), problems);
        }
        for (i, name) in remove.iter().enumerate() {
            problems.judge(&at.field("remove").index(i), name.as_str(), text::changed_header(name, false));
        }
    }
}

fn changed(map: &BTreeMap<String, String>, authority: bool, at: &Path<'_>, problems: &mut Problems) {
    for (name, value) in map {
        problems.judge(at, name.as_str(), text::changed_header(name, authority));
        problems.judge(&at.key(name), value.as_str(), text::header_value(value));
    }
}

/// The authority can be rewritten in one place only.
fn authority(route: &HttpRoute, at: &Path<'_>, problems: &mut Problems) {
    let mut current = route.rewrite.as_ref().map(|r| r.authority.as_str()).filter(|a| !a.is_empty());
    let Some(request) = route.headers.as_ref().and_then(|h| h.request.as_ref()) else { return };
    let headers = at.field("headers");
    let at = headers.field("request");
    for (what, map) in [("set", &request.set), ("add", &request.add)] {
        for (name, value) in map {
            if !(name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")) {
                continue;
            }
            if let Some(have) = current {
                let why = format!("authority header cannot be set multiple times: have {have:?}, attempting to set {value:?}");
                problems.judge(&at.field(what).key(name), value.as_str(), Err(why));
            }
            current = Some(value);
        }
    }
}

fn cors_policy(cors: &CorsPolicy, at: &Path<'_>, problems: &mut Problems) {
    for (i, origin) in cors.allow_origins.iter().enumerate() {
        let verdict = match origin {
            StringMatch::Regex(regex) if !regex.is_empty() => text::regex(regex, "corsPolicy.allowOrigins"),
            other if shown(other).is_empty() => Err("'' is not a valid match type for CORS allow origins".to_owned()),
            _ => Ok(()),
        };
        problems.judge(&at.field("allowOrigins").index(i), shown(origin), verdict);
    }
    for (i, method) in cors.allow_methods.iter().enumerate() {
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];
        let verdict =
            if known.contains(&method.as_str()) { Ok(()) } else { Err(format!("{method:?} is not a supported HTTP method")) };
        problems.judge(&at.field("allowMethods").index(i), method.as_str(), verdict);
    }
    for (what, names) in [("allowHeaders", &cors.allow_headers), ("exposeHeaders", &cors.expose_headers)] {
        for (i, name) in names.iter().enumerate().filter(|(_, name)| *name != "*") {
            problems.judge(&at.field(what).index(i), name.as_str(), text::changed_header(name, true));
        }
    }
    text::optional_duration(cors.max_age, &at.field("maxAge"), problems);
    if let Some(age) = cors.max_age.filter(|age| age.subsec_nanos() > 0) {
        let why = "max_age duration is accurate only to seconds precision".to_owned();
        problems.judge(&at.field("maxAge"), format!("{age:?}"), Err(why));
    }
}

fn mirrors(route: &HttpRoute, at: &Path<'_>, problems: &mut Problems) {
    for (field, given) in [("mirrorPercent", route.mirror_percent), ("mirror_percent", route.mirror_percent_)] {
        if let Some(value) = given.filter(|value| *value > 100) {
            let why = format!("mirror_percent must have a max value of 100 (it has {value})");
            problems.judge(&at.field(field), value, Err(why));
        }
    }
    mirror_percentage(route.mirror_percentage.as_ref(), "mirror_percentage", &at.field("mirrorPercentage"), problems);
    if let Some(mirror) = &route.mirror {
        tcp::destination(mirror, &at.field("mirror"), problems);
    }
    for (i, mirror) in route.mirrors.iter().enumerate() {
        let mirrors = at.field("mirrors");
        let at = mirrors.index(i);
        tcp::destination(&mirror.destination, &at.field("destination"), problems);
        mirror_percentage(mirror.percentage.as_ref(), "mirror percentage", &at.field("percentage"), problems);
    }
}

fn mirror_percentage(given: Option<&Percent>, what: &str, at: &Path<'_>, problems: &mut Problems) {
    let Some(Percent { value }) = given else { return };
    let verdict = if *value > 100.0 {
        Err(format!("{what} must have a max value of 100 (it has {value:.6})"))
    } else if *value < 0.0 {
        Err(format!("{what} must have a min value of 0 (it has {value:.6})"))
    } else {
        Ok(())
    };
    problems.judge(&at.field("value"), *value, verdict);
}

fn redirect(redirect: &HttpRedirect, matches: &[HttpMatchRequest], at: &Path<'_>, problems: &mut Problems) {
    let HttpRedirect { uri, authority, port, derive_port, scheme, redirect_code, prefix_rewrite } = redirect;
    let not_prefix = |m: &HttpMatchRequest| m.uri.as_ref().is_some_and(|uri| !matches!(uri, StringMatch::Prefix(_)));
    if !uri.is_empty() && !prefix_rewrite.is_empty() {
        problems.forbidden(at, "redirect may only specify one of uri or prefix_rewrite");
    } else if !prefix_rewrite.is_empty() && matches.iter().any(not_prefix) {
        problems.forbidden(at, "redirect prefix_rewrite requires all URI matches to use prefix match type");
    }
    let no_port = port.is_none() && derive_port.is_none();
    if uri.is_empty() && prefix_rewrite.is_empty() && authority.is_empty() && no_port && scheme.is_empty() {
        problems.required(at, "redirect must specify URI, authority, scheme, or port");
    }
    // Istio takes any 3xx; Envoy has only these.
    if *redirect_code != 0 && ![301, 302, 303, 307, 308].contains(redirect_code) {
        let why = format!("{redirect_code} is not a valid redirect code, must be 3xx");
        problems.judge(&at.field("redirectCode"), *redirect_code, Err(why));
    }
    if !["", "http", "https"].contains(&scheme.as_str()) {
        let why = "invalid redirect scheme, must be \"http\" or \"https\"".to_owned();
        problems.judge(&at.field("scheme"), scheme.as_str(), Err(why));
    }
    if let Some(port) = *port {
        problems.judge(&at.field("port"), port, text::port(port));
    }
}

fn direct_response(response: &HttpDirectResponse, at: &Path<'_>, problems: &mut Problems) {
    problems.judge(&at.field("status"), response.status, text::http_status(i64::from(response.status)));
    let Some(bytes) = response.body.as_ref().and_then(|body| body.bytes.as_ref()) else { return };
    if base64::prelude::BASE64_STANDARD.decode(bytes).is_err() {
        let why = "must be base64".to_owned();
        problems.judge(&at.field("body").field("bytes"), bytes.as_str(), Err(why));
    }
}

fn rewrite(rewrite: &HttpRewrite, at: &Path<'_>, problems: &mut Problems) {
    let HttpRewrite { uri, authority, uri_regex_rewrite } = rewrite;
    if !uri.is_empty() && uri_regex_rewrite.is_some() {
        problems.forbidden(at, "rewrite may only contain one of URI or UriRegexRewrite");
    }
    if uri.is_empty() && uri_regex_rewrite.is_none() && authority.is_empty() {
        let why = "rewrite must specify at least one of URI, UriRegexRewrite, or authority. Only one of URI or UriRegexRewrite may be \
                   specified";
        problems.required(at, why);
    }
    let Some(regex) = uri_regex_rewrite else { return };
    let at = at.field("uriRegexRewrite");
    if regex.r#match.is_empty() || regex.rewrite.is_empty() {
        problems.required(&at, "UriRegexRewrite requires both Rewrite and Match fields to be specified");
    } else {
        let verdict = text::regex(&regex.r#match, "HTTPRewrite.UriRegexRewrite.Match");
        problems.judge(&at.field("match"), regex.r#match.as_str(), verdict);
    }
}
