//! Generated actions: where a request goes, what is changed on its way, what is tried again, what is injected.

use super::fields::{add, boolean, header, inline, millis, number, percent, regex, runtime, string};
use super::generate::{Dice, VALUES};
use crate::world::any;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3 as common_fault;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3 as fault;
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, string_matcher::MatchPattern};
use rand::Rng;
use route::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
use route::route::Action;
use route::route_action::{ClusterSpecifier, HashPolicy, HostRewriteSpecifier, hash_policy};

const FAULT: &str = "envoy.filters.http.fault";
const CORS: &str = "envoy.filters.http.cors";

pub fn action(dice: &mut Dice<'_>, when: route::RouteMatch) -> route::Route {
    let mut made = route::Route { r#match: Some(when), ..Default::default() };
    made.action = Some(match dice.rng.random_range(0..10) {
        0 => Action::Redirect(redirect(dice)),
        1 => {
            dice.mark("direct response");
            let (status, body) = (dice.pick(&[200, 404, 418, 503]), Some(inline("direct")));
            Action::DirectResponse(route::DirectResponseAction { status, body, ..Default::default() })
        }
        _ => Action::Route(forward(dice)),
    });
    if dice.roll(0.25, "route header operations") {
        made.request_headers_to_add.push(add("x-route", dice.pick(&VALUES), dice.pick(&[0, 1, 2, 3])));
        made.request_headers_to_add.push(add("x-alpha", "added", dice.pick(&[0, 1, 2, 3])));
        made.request_headers_to_remove.push("x-beta".to_owned());
        made.response_headers_to_add.push(add("x-back", "route", dice.pick(&[0, 2])));
        made.response_headers_to_remove.push("x-backend".to_owned());
    }
    if dice.rng.random_bool(0.25) {
        let fault = injected(dice);
        made.typed_per_filter_config.insert(FAULT.to_owned(), any(&fault));
    }
    if dice.rng.random_bool(0.1) {
        made.typed_per_filter_config.insert(CORS.to_owned(), any(&cors(dice)));
    }
    made
}

/// What a virtual host has beside its routes.
pub fn of_host(dice: &mut Dice<'_>, host: &mut route::VirtualHost) {
    if dice.roll(0.15, "host header operations") {
        host.request_headers_to_add.push(add("x-host", "host", dice.pick(&[0, 2])));
        host.response_headers_to_add.push(add("x-back", "host", 0));
    }
    if dice.roll(0.1, "host retries") {
        host.retry_policy = Some(retries(dice));
    }
    if dice.rng.random_bool(0.1) {
        host.typed_per_filter_config.insert(CORS.to_owned(), any(&cors(dice)));
    }
}

fn redirect(dice: &mut Dice<'_>) -> route::RedirectAction {
    let mut redirect = route::RedirectAction::default();
    dice.mark("redirect");
    if dice.roll(0.4, "redirect authority") {
        redirect.host_redirect = "elsewhere.test".to_owned();
    }
    if dice.roll(0.3, "redirect port") {
        redirect.port_redirect = dice.pick(&[80, 8080]);
    }
    if dice.roll(0.3, "redirect scheme") {
        redirect.scheme_rewrite_specifier = Some(if dice.rng.random_bool(0.5) {
            SchemeRewriteSpecifier::HttpsRedirect(true)
        } else {
            SchemeRewriteSpecifier::SchemeRedirect("https".to_owned())
        });
    }
    redirect.response_code = dice.pick(&[0, 1, 2, 3, 4]);
    redirect.strip_query = dice.roll(0.3, "redirect strip query");
    redirect.path_rewrite_specifier = match dice.rng.random_range(0..3) {
        0 => Some(PathRewriteSpecifier::PathRedirect(dice.pick(&["/new", "/new?c=d"]).to_owned())),
        1 => Some(PathRewriteSpecifier::PrefixRewrite("/pre".to_owned())),
        _ => None,
    };
    redirect
}

fn forward(dice: &mut Dice<'_>) -> route::RouteAction {
    let mut action = route::RouteAction { cluster_specifier: Some(to(dice)), timeout: millis(0), ..Default::default() };
    if dice.timed {
        // Long enough for every answer that comes, also on a busy machine. One of the two is far longer than the other, so that nobody has to say
        // which came first.
        action.timeout = if dice.roll(0.5, "timeout") { millis(250) } else { millis(15_000) };
    }
    match dice.rng.random_range(0..6) {
        0 => {
            dice.mark("rewrite uri");
            action.prefix_rewrite = dice.pick(&["/", "/rewritten", "/r/"]).to_owned();
        }
        1 => {
            dice.mark("rewrite uri regex");
            let (pattern, substitution) =
                dice.pick(&[("^/a/(.*)$", "/\\1/a"), ("/", "/x/"), ("v([0-9])", "version-\\1"), ("nothing", "")]);
            let pattern = Some(regex(pattern));
            action.regex_rewrite = Some(RegexMatchAndSubstitute { pattern, substitution: substitution.to_owned() });
        }
        _ => {}
    }
    if dice.roll(0.12, "rewrite authority") {
        action.host_rewrite_specifier = Some(HostRewriteSpecifier::HostRewriteLiteral("rewritten.test".to_owned()));
    }
    if dice.rng.random_bool(0.4) {
        action.retry_policy = Some(retries(dice));
    }
    if dice.timed && action.timeout != millis(250) {
        dice.mark("retry per-try timeout");
        action.retry_policy.get_or_insert_with(Default::default).per_try_timeout = millis(120);
    }
    if dice.rng.random_bool(0.5) {
        action.hash_policy = hashes(dice);
    }
    // Which copies there are of requests that find no upstream differs (docs/design/0018).
    let upstream = !["no endpoint", "no cluster", "no connection"].iter().any(|field| dice.fields.contains(field));
    if upstream && !dice.timed && dice.roll(0.06, "mirror") {
        action.request_mirror_policies.push(mirror(dice));
        if dice.roll(0.7, "several mirrors") {
            action.request_mirror_policies.push(mirror(dice));
        }
    }
    action
}

fn mirror(dice: &mut Dice<'_>) -> route::route_action::RequestMirrorPolicy {
    let cluster = format!("one-{}", dice.rng.random_range(0..2));
    // Absent: all. Shares between none and all are shown by the statistical tests.
    let runtime_fraction = if dice.roll(0.7, "mirror percentage") { runtime(dice.pick(&[0, 100])) } else { None };
    let disable_shadow_host_suffix_append = dice.rng.random_bool(0.5);
    route::route_action::RequestMirrorPolicy {
        cluster,
        runtime_fraction,
        disable_shadow_host_suffix_append,
        ..Default::default()
    }
}

fn to(dice: &mut Dice<'_>) -> ClusterSpecifier {
    let pooled = dice.rng.random_range(0..dice.pool.len());
    let pooled = &dice.pool[pooled];
    let name = pooled.message.name.clone();
    dice.fields.extend(&pooled.fields);
    if dice.roll(0.04, "no cluster") {
        return ClusterSpecifier::Cluster("nowhere".to_owned());
    }
    if !dice.roll(0.25, "weights") {
        return ClusterSpecifier::Cluster(name);
    }
    // All on one: shares are shown by the statistical tests.
    let share = |name: &str, weight: u32| route::weighted_cluster::ClusterWeight {
        name: name.to_owned(),
        weight: number(weight),
        ..Default::default()
    };
    let mut chosen = share(&name, dice.pick(&[1, 50, 100]));
    if dice.roll(0.6, "destination header operations") {
        chosen.request_headers_to_add.push(add("x-alpha", "destination", dice.pick(&[0, 2])));
        chosen.request_headers_to_add.push(add("x-route", "destination", 0));
        chosen.request_headers_to_remove.push("end-user".to_owned());
        chosen.response_headers_to_add.push(add("x-back", "destination", dice.pick(&[0, 2])));
    }
    if dice.roll(0.4, "destination host") {
        chosen.host_rewrite_specifier = Some(route::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral(
            "destination.test".to_owned(),
        ));
    }
    let clusters = vec![share("one-0", 0), chosen, share("one-1", 0)];
    ClusterSpecifier::WeightedClusters(route::WeightedCluster { clusters, ..Default::default() })
}

fn retries(dice: &mut Dice<'_>) -> route::RetryPolicy {
    let conditions = [
        ("5xx", "retry 5xx"),
        ("gateway-error", "retry gateway-error"),
        ("reset", "retry reset"),
        ("connect-failure", "retry connect-failure"),
        ("envoy-ratelimited", "retry envoy-ratelimited"),
        ("retriable-4xx", "retry retriable-4xx"),
        ("refused-stream", "retry refused-stream"),
        ("retriable-status-codes", "retry status codes"),
        ("retriable-headers", "retry headers"),
        ("reset-before-request", "retry reset-before-request"),
        ("cancelled", "retry cancelled"),
        ("deadline-exceeded", "retry deadline-exceeded"),
        ("internal", "retry internal"),
        ("resource-exhausted", "retry resource-exhausted"),
        ("unavailable", "retry unavailable"),
    ];
    let chosen: Vec<_> = (0..dice.rng.random_range(1..4)).map(|_| dice.pick(&conditions)).collect();
    dice.fields.extend(chosen.iter().map(|(_, field)| *field));
    let retry_on = chosen.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(",");
    let mut policy = route::RetryPolicy { retry_on, ..Default::default() };
    if dice.roll(0.8, "retry attempts") {
        policy.num_retries = number(dice.rng.random_range(0..4));
    }
    if policy.retry_on.contains("status-codes") {
        policy.retriable_status_codes = vec![418, 503];
    }
    if policy.retry_on.contains("retriable-headers") {
        let present = route::header_matcher::HeaderMatchSpecifier::PresentMatch(true);
        policy.retriable_headers = vec![header("x-retry-me", present)];
    }
    policy.retry_back_off = Some(route::retry_policy::RetryBackOff { base_interval: millis(1), max_interval: millis(5) });
    dice.mark("retry back-off");
    if dice.roll(0.3, "retry previous hosts") {
        policy.retry_host_predicate = vec![previous_hosts()];
        policy.host_selection_retry_max_attempts = dice.pick(&[0, 1, 5]);
    }
    policy
}

/// Those that were tried are avoided.
fn previous_hosts() -> route::retry_policy::RetryHostPredicate {
    let config = route::retry_policy::retry_host_predicate::ConfigType::TypedConfig(any(&PreviousHostsPredicate {}));
    route::retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(config),
    }
}

fn hashes(dice: &mut Dice<'_>) -> Vec<HashPolicy> {
    use hash_policy::{ConnectionProperties, Cookie, Header, PolicySpecifier, QueryParameter};
    let specifier = match dice.rng.random_range(0..4) {
        0 => {
            dice.mark("hash cookie");
            let ttl = dice.roll(0.5, "hash cookie ttl").then(|| millis(dice.pick(&[0, 60_000]))).flatten();
            PolicySpecifier::Cookie(Cookie {
                name: dice.pick(&["usertype", "session"]).to_owned(),
                ttl,
                path: dice.pick(&["", "/p"]).to_owned(),
                ..Default::default()
            })
        }
        1 => {
            dice.mark("hash source address");
            PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
        }
        2 => {
            dice.mark("hash query");
            PolicySpecifier::QueryParameter(QueryParameter { name: "q".to_owned() })
        }
        _ => {
            dice.mark("hash header");
            PolicySpecifier::Header(Header { header_name: "x-alpha".to_owned(), ..Default::default() })
        }
    };
    vec![HashPolicy { policy_specifier: Some(specifier), terminal: dice.rng.random_bool(0.2) }]
}

fn injected(dice: &mut Dice<'_>) -> fault::HttpFault {
    use fault::fault_abort::ErrorType;
    let mut injected = fault::HttpFault::default();
    if dice.roll(0.3, "fault delay") {
        let delay = common_fault::fault_delay::FaultDelaySecifier::FixedDelay(millis(3).expect("a duration"));
        injected.delay =
            Some(common_fault::FaultDelay { fault_delay_secifier: Some(delay), percentage: percent(dice.pick(&[0, 100])) });
    }
    if dice.roll(0.5, "fault abort") {
        let error = if dice.roll(0.3, "fault abort grpc") {
            ErrorType::GrpcStatus(14)
        } else {
            ErrorType::HttpStatus(dice.pick(&[400, 500, 503]))
        };
        injected.abort =
            Some(fault::FaultAbort { error_type: Some(error), percentage: percent(dice.pick(&[0, 100])), ..Default::default() });
    }
    if dice.roll(0.4, "fault headers") {
        let exact =
            route::header_matcher::HeaderMatchSpecifier::StringMatch(string(MatchPattern::Exact("alpha".to_owned()), false));
        injected.headers.push(header("x-alpha", exact));
    }
    injected
}

fn cors(dice: &mut Dice<'_>) -> CorsPolicy {
    dice.mark("cors");
    let origin = MatchPattern::Exact("https://alpha.example".to_owned());
    CorsPolicy {
        allow_origin_string_match: vec![string(origin, false)],
        allow_methods: "GET,POST".to_owned(),
        allow_headers: "x-alpha".to_owned(),
        expose_headers: dice.pick(&["", "x-backend"]).to_owned(),
        max_age: dice.pick(&["", "600"]).to_owned(),
        allow_credentials: dice.roll(0.3, "cors credentials").then(|| boolean(true)).flatten(),
        forward_not_matching_preflights: dice
            .roll(0.4, "cors unmatched preflights")
            .then(|| boolean(dice.rng.random_bool(0.5)))
            .flatten(),
        ..Default::default()
    }
}
