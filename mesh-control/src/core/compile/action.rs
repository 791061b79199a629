//! What happens to a request that matched: destinations, retries, mirrors, header changes, redirects, answers.

use super::Compiler;
use super::envoy::{BoolValue, PreviousHostsPredicate, matcher};
use super::envoy::{core, duration, pack_any, percent, regex, route, uint};
use crate::istio::virtual_service::{Destination, Headers, HttpRetry, HttpRoute, HttpRouteDestination, Percent};
use base64::Engine;
use route::route_action::{ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy};
use std::time::Duration;

/// Istio's default (pilot/pkg/networking/core/route/retry/retry.go), with no status codes.
const RETRY_ON: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
const RETRIES: u32 = 2;

/// A route to a service for which no rule speaks.
pub(super) fn plain(cluster: String) -> route::RouteAction {
    route::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        // Disabled, as Istio has it; Envoy's own default is 15 s.
        timeout: Some(duration(Duration::ZERO)),
        retry_policy: Some(default_retries()),
        ..Default::default()
    }
}

/// The action of a rule, and the header changes that belong to the route.
pub(super) fn forward(c: &mut Compiler<'_, '_>, rule: &HttpRoute, port: u16) -> route::Route {
    let mut found = route::Route::default();
    let mut host = change_headers(&mut Changed::of_route(&mut found), rule.headers.as_ref());
    let live: Vec<_> = rule.route.iter().filter(|to| rule.route.len() == 1 || to.weight > 0).collect();
    let specifier = match live.as_slice() {
        [only] => {
            let own = change_headers(&mut Changed::of_route(&mut found), only.headers.as_ref());
            host = host.or(own);
            ClusterSpecifier::Cluster(c.destination(&only.destination, port))
        }
        several => {
            let clusters = several.iter().map(|to| weighted(c, to, port)).collect();
            ClusterSpecifier::WeightedClusters(route::WeightedCluster { clusters, ..Default::default() })
        }
    };
    let mut action = plain(String::new());
    action.cluster_specifier = Some(specifier);
    action.timeout = Some(duration(rule.timeout.unwrap_or_default()));
    if let Some(retries) = &rule.retries {
        action.retry_policy = retry(retries);
    }
    if c.settings.abilities.mirror {
        action.request_mirror_policies = mirrors(c, rule, port);
    }
    if let Some(rewrite) = &rule.rewrite {
        action.prefix_rewrite.clone_from(&rewrite.uri);
        action.regex_rewrite = rewrite.uri_regex_rewrite.as_ref().map(|rewrite| matcher::RegexMatchAndSubstitute {
            pattern: Some(regex(&rewrite.r#match)),
            substitution: rewrite.rewrite.clone(),
        });
        host = Some(rewrite.authority.clone()).filter(|authority| !authority.is_empty()).or(host);
    }
    action.host_rewrite_specifier = host.map(HostRewriteSpecifier::HostRewriteLiteral);
    found.action = Some(route::route::Action::Route(action));
    found
}

fn weighted(c: &mut Compiler<'_, '_>, to: &HttpRouteDestination, port: u16) -> route::weighted_cluster::ClusterWeight {
    use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let mut weight = route::weighted_cluster::ClusterWeight {
        name: c.destination(&to.destination, port),
        weight: uint(u32::try_from(to.weight).unwrap_or_default()),
        ..Default::default()
    };
    let host = change_headers(&mut Changed::of_weight(&mut weight), to.headers.as_ref());
    let taken = c.settings.abilities.host_per_destination;
    weight.host_rewrite_specifier = host.filter(|_| taken).map(HostRewriteSpecifier::HostRewriteLiteral);
    weight
}

/// The four lists of header changes, which routes and weighted clusters both have.
struct Changed<'a> {
    add: [&'a mut Vec<core::HeaderValueOption>; 2],
    remove: [&'a mut Vec<String>; 2],
}

impl<'a> Changed<'a> {
    fn of_route(to: &'a mut route::Route) -> Self {
        Self {
            add: [&mut to.request_headers_to_add, &mut to.response_headers_to_add],
            remove: [&mut to.request_headers_to_remove, &mut to.response_headers_to_remove],
        }
    }

    fn of_weight(to: &'a mut route::weighted_cluster::ClusterWeight) -> Self {
        Self {
            add: [&mut to.request_headers_to_add, &mut to.response_headers_to_add],
            remove: [&mut to.request_headers_to_remove, &mut to.response_headers_to_remove],
        }
    }
}

/// Header operations into Envoy's lists. The host is no header to Envoy: a change of it is returned, and removing it is no change.
fn change_headers(to: &mut Changed<'_>, headers: Option<&Headers>) -> Option<String> {
    use core::header_value_option::HeaderAppendAction;
    let headers = headers?;
    let (mut host, is_host) = (None, |name: &str| name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority"));
    for (i, operations) in [&headers.request, &headers.response].into_iter().enumerate() {
        let Some(operations) = operations else { continue };
        let set = operations.set.iter().map(|pair| (pair, HeaderAppendAction::OverwriteIfExistsOrAdd));
        let add = operations.add.iter().map(|pair| (pair, HeaderAppendAction::AppendIfExistsOrAdd));
        for ((name, value), action) in set.chain(add) {
            if i == 0 && is_host(name) {
                host = host.or_else(|| Some(value.clone()));
            } else if !name.starts_with(':') {
                let header = core::HeaderValue { key: name.clone(), value: value.clone(), ..Default::default() };
                to.add[i].push(core::HeaderValueOption {
                    header: Some(header),
                    append_action: action.into(),
                    ..Default::default()
                });
            }
        }
        to.remove[i].extend(operations.remove.iter().filter(|name| !name.starts_with(':') && !is_host(name)).cloned());
    }
    host
}

fn default_retries() -> route::RetryPolicy {
    let predicate = route::retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(pack_any(
            PreviousHostsPredicate {},
        ))),
    };
    route::RetryPolicy {
        retry_on: RETRY_ON.to_owned(),
        num_retries: uint(RETRIES),
        retry_host_predicate: vec![predicate],
        host_selection_retry_max_attempts: 5,
        ..Default::default()
    }
}

/// `None` if retries are off.
fn retry(retries: &HttpRetry) -> Option<route::RetryPolicy> {
    let attempts = u32::try_from(retries.attempts).ok().filter(|attempts| *attempts > 0)?;
    let mut policy = default_retries();
    policy.num_retries = uint(attempts);
    policy.per_try_timeout = retries.per_try_timeout.map(duration);
    if !retries.retry_on.is_empty() {
        let (codes, mut names): (Vec<_>, Vec<_>) = retries.retry_on.split(',').partition(|term| term.parse::<u32>().is_ok());
        policy.retriable_status_codes = codes.iter().filter_map(|code| code.parse().ok()).collect();
        if !codes.is_empty() && !names.contains(&"retriable-status-codes") {
            names.push("retriable-status-codes");
        }
        policy.retry_on = names.join(",");
    }
    if retries.retry_ignore_previous_hosts == Some(false) {
        policy.retry_host_predicate.clear();
        policy.host_selection_retry_max_attempts = 0;
    }
    policy.retry_back_off = retries.backoff.map(|base| route::retry_policy::RetryBackOff {
        base_interval: Some(duration(base)),
        max_interval: Some(duration(base.saturating_mul(10))),
    });
    Some(policy)
}

fn mirrors(c: &mut Compiler<'_, '_>, rule: &HttpRoute, port: u16) -> Vec<RequestMirrorPolicy> {
    let legacy = rule.mirror_percent.map(f64::from);
    let share = |given: Option<&Percent>, legacy: Option<f64>| given.map(|percent| percent.value).or(legacy).unwrap_or(100.0);
    let single = rule.mirror.iter().map(|to| (to, share(rule.mirror_percentage.as_ref(), legacy)));
    let list = rule.mirrors.iter().map(|mirror| (&mirror.destination, share(mirror.percentage.as_ref(), None)));
    let wanted: Vec<(&Destination, f64)> = single.chain(list).filter(|(_, share)| *share > 0.0).collect();
    let policy = |(to, share): (&Destination, f64)| RequestMirrorPolicy {
        cluster: c.destination(to, port),
        runtime_fraction: Some(core::RuntimeFractionalPercent { default_value: Some(percent(share)), ..Default::default() }),
        trace_sampled: Some(BoolValue { value: false }),
        // As Istio does today: the copy has the host of the original.
        disable_shadow_host_suffix_append: true,
        ..Default::default()
    };
    wanted.into_iter().map(policy).collect()
}

/// A redirect.
pub(super) fn redirect(rule: &crate::istio::virtual_service::HttpRedirect) -> route::RedirectAction {
    use route::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let code = match rule.redirect_code {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    let path = match (rule.uri.as_str(), rule.prefix_rewrite.as_str()) {
        ("", "") => None,
        ("", prefix) => Some(PathRewriteSpecifier::PrefixRewrite(prefix.to_owned())),
        (uri, _) => Some(PathRewriteSpecifier::PathRedirect(uri.to_owned())),
    };
    route::RedirectAction {
        host_redirect: rule.authority.clone(),
        port_redirect: rule.port.unwrap_or_default(),
        response_code: code.into(),
        scheme_rewrite_specifier: (!rule.scheme.is_empty()).then(|| SchemeRewriteSpecifier::SchemeRedirect(rule.scheme.clone())),
        path_rewrite_specifier: path,
        ..Default::default()
    }
}

/// An answer from the rule itself.
pub(super) fn answer(rule: &crate::istio::virtual_service::HttpDirectResponse) -> route::DirectResponseAction {
    use core::data_source::Specifier;
    let body = rule.body.as_ref().and_then(|body| match (&body.string, &body.bytes) {
        (Some(text), _) => Some(Specifier::InlineString(text.clone())),
        (None, Some(encoded)) => base64::engine::general_purpose::STANDARD.decode(encoded).ok().map(Specifier::InlineBytes),
        (None, None) => None,
    });
    let body = body.map(|specifier| core::DataSource { specifier: Some(specifier), ..Default::default() });
    route::DirectResponseAction { status: rule.status, body, ..Default::default() }
}
