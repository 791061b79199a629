//! Who sees which DestinationRule, and which cluster each client's requests go to.

use super::*;
use envoy::{listener, tcp_proxy};

/// reviews and ratings of the namespace `shop`, and clients there and in `default` and `other`.
fn registry() -> Registry {
    let mut registry = reviews(&["v1", "v2"]);
    for service in registry.services.values_mut() {
        "shop".clone_into(&mut service.namespace);
    }
    let mut ids = registry.workloads.values_mut();
    for namespace in ["shop", "other", "default"] {
        namespace.clone_into(&mut ids.next().expect("three").namespace);
    }
    registry
}

/// A rule of a namespace that is told by its limit of requests, with subset v1.
fn limit(namespace: &str, limit: u32, more: Value) -> Value {
    let mut spec = json!({"host": "reviews", "subsets": [{"name": "v1", "labels": {"version": "v1"}}],
        "trafficPolicy": {"connectionPool": {"http": {"http2MaxRequests": limit}}}});
    spec.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
    let mut rule = rule("DestinationRule", &format!("d{limit}"), limit, spec);
    rule["metadata"]["namespace"] = json!(namespace);
    rule
}

/// Of each route for reviews: whom it is for, the cluster, and its limit (`None`: no limit).
fn seen(rules: &[Value]) -> Vec<(String, String, Option<u32>)> {
    let compiled = compiled(&registry(), rules);
    let value = |matcher: &envoy::matcher::MetadataMatcher| {
        use envoy::matcher::{string_matcher::MatchPattern, value_matcher::MatchPattern as Pattern};
        match matcher.value.as_ref().and_then(|value| value.match_pattern.as_ref()) {
            Some(Pattern::StringMatch(text)) => match &text.match_pattern {
                Some(MatchPattern::Exact(text)) => text.clone(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    };
    let all = routes(&compiled, REVIEWS).into_iter().map(|route| {
        let whom: Vec<_> = route.r#match.as_ref().expect("a match").dynamic_metadata.iter().map(value).collect();
        let name = cluster_of(&route).to_owned();
        let cluster: envoy::cluster::Cluster = decode(&compiled, CLUSTER, &name);
        let most = cluster.circuit_breakers.expect("limits").thresholds[0].max_requests.map(|most| most.value);
        assert!(compiled.snapshot(&node("node~10.0.0.0~n~mesh")).types[ENDPOINT].contains_key(&name), "{name}");
        (whom.join(" "), name, most.filter(|most| *most != u32::MAX))
    });
    all.collect()
}

fn cluster(scope: &str) -> String {
    let name = format!("outbound|9080||{REVIEWS}");
    if scope.is_empty() { name } else { format!("{name}|{scope}") }
}

#[test]
fn a_client_looks_in_its_own_namespace_then_the_services_then_the_root() {
    let (shop, root) = (limit("shop", 1, json!({})), limit("istio-system", 2, json!({})));
    let (other, private) = (limit("other", 3, json!({})), limit("shop", 4, json!({"exportTo": ["."]})));
    let everybody = |limit| vec![(String::new(), cluster(""), limit)];
    let and =
        |whom: &str, own: u32, limit| vec![(whom.to_owned(), cluster(whom), Some(own)), (String::new(), cluster(""), limit)];
    for (rules, want) in [
        (vec![], everybody(None)),
        (vec![shop.clone()], everybody(Some(1))),
        (vec![root.clone()], everybody(Some(2))),
        (vec![shop.clone(), root.clone()], everybody(Some(1))),
        (vec![other.clone()], and("other", 3, None)),
        (vec![shop.clone(), other.clone()], and("other", 3, Some(1))),
        (vec![root.clone(), private.clone()], and("shop", 4, Some(2))),
        (vec![limit("shop", 5, json!({"exportTo": ["other"]})), limit("istio-system", 6, json!({"exportTo": ["~"]}))], {
            let mut seen = and("other", 5, None);
            seen.insert(1, ("shop".to_owned(), cluster("shop"), Some(5)));
            seen
        }),
    ] {
        assert_eq!(seen(&rules), want, "{rules:?}");
    }
}

#[test]
fn a_workload_selector_goes_before_the_rest_of_its_namespace() {
    let chosen = limit("shop", 7, json!({"workloadSelector": {"matchLabels": {"app": "curl"}}}));
    let of_curl = ("curl shop".to_owned(), cluster("shop,app=curl"), Some(7));
    assert_eq!(seen(std::slice::from_ref(&chosen)), [of_curl.clone(), (String::new(), cluster(""), None)]);
    let both = seen(&[chosen, limit("other", 3, json!({})), limit("shop", 1, json!({"exportTo": ["."]}))]);
    let whom: Vec<_> = both.iter().map(|(whom, _, limit)| (whom.as_str(), *limit)).collect();
    assert_eq!(whom, [("curl shop", Some(7)), ("other", Some(3)), ("shop", Some(1)), ("", None)]);
}

#[test]
fn conditions_of_rules_and_of_clients_hold_together() {
    let block = |namespace: &str| json!({"match": [{"sourceNamespace": namespace}], "route": [to("reviews", "")]});
    let rule = virtual_service("v", 9, "reviews", json!([block("other"), block("default"), {"route": [to("reviews", "")]}]));
    let found = seen(&[rule, limit("other", 3, json!({}))]);
    let whom: Vec<_> = found.iter().map(|(whom, _, limit)| (whom.as_str(), *limit)).collect();
    assert_eq!(whom, [("other", Some(3)), ("other", None), ("default", None), ("other", Some(3)), ("", None)]);
}

#[test]
fn opaque_connections_have_chains_of_their_own() {
    let mut registry = registry();
    for port in registry.services.values_mut().flat_map(|service| service.ports.values_mut()) {
        (port.protocol, port.mode) = (Protocol::Mysql, Mode::Proxy);
    }
    let compiled = compiled(&registry, &[limit("other", 3, json!({}))]);
    let found: listener::Listener = decode(&compiled, LISTENER, "11.15.94.83_9080");
    let chains = found.filter_chains.iter().map(|chain| {
        let Some(listener::filter::ConfigType::TypedConfig(any)) = &chain.filters[0].config_type else { panic!("no filter") };
        let proxy = tcp_proxy::TcpProxy::decode(any.value.as_slice()).expect("TcpProxy");
        let whom = chain.metadata.as_ref().map(|metadata| metadata.filter_metadata.len()).unwrap_or_default();
        (whom, proxy.cluster_specifier.expect("a cluster"))
    });
    let to = |scope: &str| tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(cluster(scope));
    assert_eq!(chains.collect::<Vec<_>>(), [(1, to("other")), (0, to(""))]);
}

#[test]
fn a_rule_that_nobody_sees_is_told() {
    let told = |rule: Value| {
        let compiled = compiled(&registry(), &[rule]);
        compiled.unsupported.iter().map(|one| one.field.clone()).collect::<Vec<_>>()
    };
    assert_eq!(told(limit("elsewhere", 1, json!({}))), ["metadata.namespace"]);
    assert_eq!(told(limit("other", 1, json!({}))), Vec::<String>::new());
}
