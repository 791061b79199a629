//! What VirtualServices say of requests, field by field.

use super::*;
use envoy::matcher;
use prost::Name;

/// The routes of reviews under one VirtualService with these http routes.
fn compiled_routes(http: Value) -> Vec<pb::Route> {
    let rules = [subsets("reviews", &["v1", "v2"]), virtual_service("reviews", 1, "reviews", http)];
    routes(&compiled(&reviews(&["v1", "v2"]), &rules), REVIEWS)
}

fn matched(block: Value) -> pb::RouteMatch {
    let routes = compiled_routes(json!([{"match": [block], "route": [to("reviews", "v1")]}]));
    routes.into_iter().next().and_then(|route| route.r#match).expect("match")
}

/// Conditions on the asking pod as `filter/key=value`.
fn sources(found: &pb::RouteMatch) -> Vec<String> {
    use matcher::{metadata_matcher::path_segment::Segment, string_matcher::MatchPattern, value_matcher};
    let text = |m: &matcher::MetadataMatcher| {
        let Some(Segment::Key(key)) = &m.path[0].segment else { panic!("a key") };
        let Some(value_matcher::MatchPattern::StringMatch(value)) = m.value.clone().and_then(|v| v.match_pattern) else {
            panic!("text")
        };
        let Some(MatchPattern::Exact(value)) = value.match_pattern else { panic!("exact") };
        format!("{}/{key}={value}", m.filter)
    };
    found.dynamic_metadata.iter().map(text).collect()
}

/// Which cluster, or which answer, and for whom.
fn outline(routes: &[pb::Route]) -> Vec<String> {
    let outcome = |route: &pb::Route| match &route.action {
        Some(Action::DirectResponse(answer)) => answer.status.to_string(),
        _ => cluster_of(route).split('|').nth(2).expect("subset").to_owned(),
    };
    let line = |route: &pb::Route| format!("{} -> {}", sources(route.r#match.as_ref().expect("match")).join(","), outcome(route));
    routes.iter().map(line).collect()
}

#[test]
fn conditions_on_the_path() {
    use pb::route_match::PathSpecifier::{Path, Prefix, SafeRegex};
    let regex = |text: &str| SafeRegex(envoy::regex(text));
    for (uri, expected) in [
        (json!({"exact": "/a"}), Path("/a".to_owned())),
        (json!({"prefix": "/a"}), Prefix("/a".to_owned())),
        (json!({"regex": "/a.*"}), regex("/a.*")),
    ] {
        let found = matched(json!({"uri": uri, "ignoreUriCase": true}));
        assert_eq!((found.path_specifier, found.case_sensitive.map(|b| b.value)), (Some(expected), Some(false)));
    }
    let found = matched(json!({"method": {"exact": "GET"}}));
    assert_eq!((found.path_specifier, found.case_sensitive), (Some(Prefix("/".to_owned())), None));
}

#[test]
fn conditions_on_headers_and_parameters() {
    use matcher::string_matcher::MatchPattern;
    use pb::header_matcher::HeaderMatchSpecifier::{PresentMatch, StringMatch};
    let found = matched(json!({
        "scheme": {"exact": "http"}, "method": {"regex": "G.*"}, "authority": {"prefix": "rev"},
        "headers": {"X-B": {}, "x-a": {"regex": "*"}, "cookie": {"regex": "^(.*?;)?(user=jason)(;.*)?$"}},
        "withoutHeaders": {"x-c": {"exact": "1"}, "x-d": {}},
        "queryParams": {"q": {"exact": "1"}, "r": {}, "s": {"prefix": "x"}, "t": {"regex": "*"}},
    }));
    let headers: Vec<_> =
        found.headers.iter().map(|h| (h.name.as_str(), h.invert_match, h.treat_missing_header_as_empty)).collect();
    assert_eq!(
        headers,
        [
            ("cookie", false, false),
            ("x-a", false, false),
            ("x-b", false, false),
            ("x-c", true, true),
            ("x-d", true, false),
            (":method", false, false),
            (":authority", false, false),
            (":scheme", false, false),
        ]
    );
    let specifier = |i: usize| found.headers[i].header_match_specifier.clone().expect("specifier");
    assert!(matches!(specifier(0), StringMatch(m) if matches!(m.match_pattern, Some(MatchPattern::SafeRegex(_)))));
    assert!([1, 2, 4].iter().all(|i| matches!(specifier(*i), PresentMatch(true))));
    assert!(matches!(specifier(6), StringMatch(m) if m.match_pattern == Some(MatchPattern::Prefix("rev".to_owned()))));
    let present: Vec<_> = found
        .query_parameters
        .iter()
        .map(|q| {
            matches!(
                q.query_parameter_match_specifier,
                Some(pb::query_parameter_matcher::QueryParameterMatchSpecifier::PresentMatch(_))
            )
        })
        .collect();
    assert_eq!(present, [false, true, false, true]);
}

#[test]
fn walkthrough_003_a_rule_for_some_pods_leaves_the_others_alone() {
    let only_curl = json!([{"match": [{"sourceLabels": {"app": "curl"}}], "route": [to("reviews", "v1")]}]);
    assert_eq!(outline(&compiled_routes(only_curl)), ["mesh.source.labels/app=curl -> v1", " -> "]);
}

#[test]
fn who_is_meant_by_a_rule_gets_404_where_none_of_its_routes_matches() {
    let some_paths = json!([
        {"match": [{"sourceLabels": {"app": "curl", "tier": "1"}, "uri": {"prefix": "/a"}}], "route": [to("reviews", "v1")]},
        {"match": [{"sourceNamespace": "prod"}, {"sourceLabels": {"app": "curl", "tier": "1"}, "uri": {"prefix": "/b"}}],
            "route": [to("reviews", "v2")]}]);
    assert_eq!(
        outline(&compiled_routes(some_paths)),
        [
            "mesh.source.labels/app=curl,mesh.source.labels/tier=1 -> v1",
            "mesh.source.namespace/namespace=prod -> v2",
            "mesh.source.labels/app=curl,mesh.source.labels/tier=1 -> v2",
            // The namespace has a route for all requests already.
            "mesh.source.labels/app=curl,mesh.source.labels/tier=1 -> 404",
            " -> ",
        ]
    );
    // A route for everybody: the rule has routes for every pod, so nobody falls through to the service.
    let mixed =
        json!([{"match": [{"sourceLabels": {"app": "curl"}}, {"uri": {"prefix": "/a"}}], "route": [to("reviews", "v1")]}]);
    assert_eq!(outline(&compiled_routes(mixed)), ["mesh.source.labels/app=curl -> v1", " -> v1"]);
    // Nothing behind a catch-all, but what is for some pods is none.
    let last = json!([{"match": [{"sourceLabels": {"app": "curl"}}], "route": [to("reviews", "v1")]}, {"route": [to("reviews", "v2")]},
        {"match": [{"uri": {"prefix": "/a"}}], "route": [to("reviews", "v1")]}]);
    assert_eq!(outline(&compiled_routes(last)), ["mesh.source.labels/app=curl -> v1", " -> v2"]);
}

#[test]
fn a_block_with_gateways_is_for_them_alone_and_asks_for_no_source() {
    let http = json!([
        {"match": [{"gateways": ["mesh"], "sourceLabels": {"app": "curl"}, "uri": {"prefix": "/a"}}, {"gateways": ["edge"]}], "route": [to("reviews", "v1")]},
        {"match": [{"port": 9080, "name": "p"}, {"port": 80}], "name": "n", "route": [to("reviews", "v2")]}]);
    let routes = compiled_routes(http);
    assert_eq!(outline(&routes), [" -> v1", " -> v2"]);
    assert_eq!(routes.iter().map(|route| route.name.as_str()).collect::<Vec<_>>(), ["", "n.p"]);
}

#[test]
fn a_proxy_that_does_not_know_namespaces_is_not_asked_for_them() {
    let http = json!([{"match": [{"sourceNamespace": "prod"}], "route": [to("reviews", "v1")]}]);
    let rules = config(&[subsets("reviews", &["v1"]), virtual_service("reviews", 1, "reviews", http)]);
    let weak = Settings { abilities: Abilities { source_namespace: false, ..Abilities::ALL }, ..settings() };
    let compiled = compile(&Arc::new(reviews(&["v1"])), &rules, &weak, &BTreeSet::new(), &Compiled::default());
    assert_eq!(outline(&routes(&compiled, REVIEWS)), [" -> "]);
    assert_eq!(compiled.unsupported[0].field, "spec.http[0].match[0].sourceNamespace");
}

#[test]
fn redirects_name_a_port_only_where_it_is_not_the_schemes_own() {
    for (redirect, port) in [
        (json!({"uri": "/x"}), 0),
        (json!({"port": 8080}), 8080),
        (json!({"port": 80}), 0),
        (json!({"port": 443}), 443),
        (json!({"port": 443, "scheme": "https"}), 0),
        (json!({"port": 80, "scheme": "https"}), 80),
        (json!({"derivePort": "FROM_REQUEST_PORT"}), 9080),
        (json!({"derivePort": "FROM_PROTOCOL_DEFAULT", "uri": "/x"}), 0),
    ] {
        let routes = compiled_routes(json!([{"redirect": redirect, "headers": {"response": {"add": {"x-a": "1"}}}}]));
        let Some(Action::Redirect(found)) = &routes[0].action else { panic!("a redirect") };
        assert_eq!((found.port_redirect, routes[0].response_headers_to_add.len()), (port, 1), "{redirect}");
    }
    for (code, name) in [(0, 0), (301, 0), (302, 1), (303, 2), (307, 3), (308, 4)] {
        let routes = compiled_routes(
            json!([{"redirect": {"prefixRewrite": "/y", "authority": "h", "scheme": "https", "redirectCode": code}}]),
        );
        let Some(Action::Redirect(found)) = &routes[0].action else { panic!("a redirect") };
        assert_eq!((found.response_code, found.host_redirect.as_str()), (name, "h"));
        assert_eq!(found.path_rewrite_specifier, Some(pb::redirect_action::PathRewriteSpecifier::PrefixRewrite("/y".to_owned())));
    }
}

#[test]
fn what_retries_mean() {
    let of = |retries: Value, default: RetryOnDefault| {
        let rules = config(&[virtual_service("r", 1, "reviews", json!([{"route": [to("reviews", "")], "retries": retries}]))]);
        let settings = Settings { retry_on_default: default, ..settings() };
        let compiled = compile(&Arc::new(reviews(&["v1"])), &rules, &settings, &BTreeSet::new(), &Compiled::default());
        action(&routes(&compiled, REVIEWS)[0]).retry_policy.clone()
    };
    use RetryOnDefault::{Current, Istio10};
    let current = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
    for (retries, default, expected) in [
        (json!({"attempts": 3}), Current, current),
        (json!({"attempts": 3}), Istio10, "5xx,connect-failure,refused-stream"),
        (json!({"attempts": 3, "retryOn": "reset"}), Istio10, "reset"),
        (json!({"attempts": 3, "retryOn": "503,reset,504"}), Current, "reset,retriable-status-codes"),
    ] {
        assert_eq!(of(retries.clone(), default).expect("retries").retry_on, expected, "{retries}");
    }
    assert_eq!(of(json!({"attempts": 0}), Istio10), None);
    let policy = of(
        json!({"attempts": 4, "perTryTimeout": "2s", "backoff": "0.1s", "retryIgnorePreviousHosts": false,
        "retryRemoteLocalities": true}),
        Current,
    )
    .expect("retries");
    let backoff = policy.retry_back_off.expect("back-off");
    assert_eq!((backoff.base_interval.map(|d| d.nanos), backoff.max_interval.map(|d| d.seconds)), (Some(100_000_000), Some(1)));
    assert_eq!((policy.num_retries.map(|n| n.value), policy.per_try_timeout.map(|d| d.seconds)), (Some(4), Some(2)));
    assert!(policy.retry_host_predicate.is_empty());
    assert_eq!(policy.retry_priority.expect("priority").name, "envoy.retry_priorities.previous_priorities");
}

#[test]
fn mirrors_have_shares() {
    let of = |more: Value| {
        let mut http = json!({"route": [to("reviews", "v1")]});
        http.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        let routes = compiled_routes(json!([http]));
        let share = |p: &pb::route_action::RequestMirrorPolicy| {
            p.runtime_fraction.as_ref().and_then(|f| f.default_value).map_or(0, |v| v.numerator)
        };
        action(&routes[0]).request_mirror_policies.iter().map(share).collect::<Vec<_>>()
    };
    let ratings = json!({"host": "ratings"});
    assert_eq!(of(json!({"mirror": ratings})), [1_000_000]);
    assert_eq!(of(json!({"mirror": ratings, "mirrorPercent": 25})), [250_000]);
    assert_eq!(of(json!({"mirror": ratings, "mirrorPercent": 25, "mirrorPercentage": {"value": 0.5}})), [5_000]);
    assert_eq!(of(json!({"mirror": ratings, "mirrorPercentage": {"value": 0.0}})), Vec::<u32>::new());
    assert_eq!(of(json!({"mirror": ratings, "mirror_percent": 10})), [100_000]);
    assert_eq!(
        of(json!({"mirrors": [{"destination": ratings}, {"destination": ratings, "percentage": {"value": 1.0}}]})),
        [1_000_000, 10_000]
    );
}

#[test]
fn hosts_and_headers_per_route_and_destination() {
    let changed = json!({"request": {"set": {"Host": "inner", "x-b": "2"}, "add": {"x-c": "3"}, "remove": ["x-d"]}, "response": {"remove": ["x-e"]}});
    let routes = compiled_routes(json!([
        {"match": [{"uri": {"prefix": "/one"}}], "route": [{"destination": {"host": "reviews"}, "headers": changed}],
            "headers": {"request": {"set": {"x-a": "1"}}}},
        {"match": [{"uri": {"prefix": "/both"}}], "route": [{"destination": {"host": "reviews"}, "headers": changed}],
            "headers": {"request": {"set": {":authority": "outer"}}}},
        {"match": [{"uri": {"prefix": "/rewrite"}}], "route": [{"destination": {"host": "reviews"}, "headers": changed}],
            "rewrite": {"authority": "rewritten", "uriRegexRewrite": {"match": "/(.*)", "rewrite": "/x/\\1"}}},
        {"route": [{"weight": 3, "destination": {"host": "reviews"}, "headers": changed}, {"weight": 1, "destination": {"host": "ratings"}}]},
    ]));
    let host = |route: &pb::Route| match &action(route).host_rewrite_specifier {
        Some(pb::route_action::HostRewriteSpecifier::HostRewriteLiteral(host)) => host.clone(),
        _ => String::new(),
    };
    assert_eq!(routes.iter().map(host).collect::<Vec<_>>(), ["inner", "outer", "rewritten", ""]);
    let added = |list: &[envoy::core::HeaderValueOption]| {
        list.iter().map(|o| (o.header.clone().expect("header").key, o.append_action)).collect::<Vec<_>>()
    };
    assert_eq!(added(&routes[0].request_headers_to_add), [("x-a".to_owned(), 2), ("x-b".to_owned(), 2), ("x-c".to_owned(), 0)]);
    assert_eq!(
        (routes[0].request_headers_to_remove.as_slice(), routes[0].response_headers_to_remove.len()),
        (["x-d".to_owned()].as_slice(), 1)
    );
    let rewrite = action(&routes[2]).regex_rewrite.as_ref().expect("regex rewrite");
    assert_eq!(rewrite.substitution, "/x/\\1");
    let Some(ClusterSpecifier::WeightedClusters(weighted)) = &action(&routes[3]).cluster_specifier else { panic!("weights") };
    assert_eq!(
        weighted.clusters[0].host_rewrite_specifier,
        Some(pb::weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral("inner".to_owned()))
    );
    assert_eq!(added(&weighted.clusters[0].request_headers_to_add), [("x-b".to_owned(), 2), ("x-c".to_owned(), 0)]);
}

#[test]
fn cross_origin_policies_and_faults_stand_side_by_side_in_a_fixed_order() {
    let http = json!([{"route": [to("reviews", "v1")], "fault": {"delay": {"percent": 1, "fixedDelay": "1s"}}, "corsPolicy": {
        "allowOrigins": [{"exact": "https://a"}, {"prefix": "https://b"}, {"regex": "https://c.*"}], "allowOrigin": ["https://old"],
        "allowMethods": ["GET", "POST"], "allowHeaders": ["x-a", "x-b"], "exposeHeaders": ["x-c"], "maxAge": "24h",
        "allowCredentials": true, "unmatchedPreflights": "IGNORE"}}]);
    let routes = compiled_routes(http.clone());
    let any = &routes[0].typed_per_filter_config["envoy.filters.http.cors"];
    assert!(any.type_url.ends_with(&envoy::cors::CorsPolicy::full_name()));
    let policy = envoy::cors::CorsPolicy::decode(any.value.as_slice()).expect("policy");
    assert_eq!(
        (
            policy.allow_origin_string_match.len(),
            policy.allow_methods.as_str(),
            policy.allow_headers.as_str(),
            policy.max_age.as_str()
        ),
        (3, "GET,POST", "x-a,x-b", "86400")
    );
    assert_eq!(policy.forward_not_matching_preflights.map(|b| b.value), Some(false));
    assert!(routes[0].typed_per_filter_config.contains_key("envoy.filters.http.fault"));
    let rules = [virtual_service("reviews", 1, "reviews", http)];
    let version = || {
        let compiled = compiled(&reviews(&["v1"]), &rules);
        compiled.snapshot(&node("node~10.0.0.0~n~mesh")).types[ROUTE]["9080"].version.clone()
    };
    let first = version();
    assert!((0..8).all(|_| version() == first), "two filters, one version");
}

#[test]
fn delegates_fill_in_and_stay_within() {
    let root = json!([
        {"name": "root", "match": [{"uri": {"prefix": "/r"}, "headers": {"x-a": {"exact": "1"}}}], "delegate": {"name": "inner"}, "timeout": "5s",
            "rewrite": {"uri": "/"}},
        {"match": [{"uri": {"prefix": "/gone"}}], "delegate": {"name": "nobody"}},
        {"match": [{"uri": {"prefix": "/private"}}], "delegate": {"name": "hidden", "namespace": "other"}},
        {"route": [to("reviews", "v2")]}]);
    let inner = json!([
        {"name": "deep", "match": [{"uri": {"exact": "/r/1"}, "headers": {"x-b": {}}}], "route": [to("reviews", "v1")]},
        {"match": [{"uri": {"prefix": "/else"}}], "route": [to("reviews", "v1")]},
        {"route": [to("reviews", "v1")], "timeout": "1s"}]);
    let mut hidden = rule("VirtualService", "hidden", 0, json!({"http": [{"route": [to("reviews", "v1")]}], "exportTo": ["."]}));
    hidden["metadata"]["namespace"] = json!("other");
    let rules = [
        subsets("reviews", &["v1", "v2"]),
        virtual_service("reviews", 1, "reviews", root),
        rule("VirtualService", "inner", 2, json!({"http": inner})),
        hidden,
    ];
    let compiled = compiled(&reviews(&["v1", "v2"]), &rules);
    let routes = routes(&compiled, REVIEWS);
    let names: Vec<_> = routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(names, ["root-deep", "root", ""]);
    let found = routes[0].r#match.as_ref().expect("match");
    assert_eq!(found.path_specifier, Some(pb::route_match::PathSpecifier::Path("/r/1".to_owned())));
    assert_eq!(found.headers.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(), ["x-a", "x-b"]);
    let timeouts: Vec<_> = routes.iter().map(|route| action(route).timeout.map(|t| t.seconds)).collect();
    assert_eq!(timeouts, [Some(5), Some(1), Some(0)]);
    assert_eq!(action(&routes[1]).prefix_rewrite, "/");
    let of_root = compiled.unsupported.iter().filter(|told| told.name == "reviews");
    let told: Vec<_> = of_root.map(|told| told.field.as_str()).collect();
    assert_eq!(told, ["spec.http[0].delegate", "spec.http[1].delegate", "spec.http[2].delegate"]);
}
