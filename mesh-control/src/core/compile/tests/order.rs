//! What is in force is a function of what was applied: not of the order, nor of what was there before. And a change changes what depends on it
//! and nothing else.

use super::*;
use proptest::prelude::*;

/// Rules that meet: two for one host, subsets of two rules, an old policy, a gateway, hosts outside.
fn rules() -> Vec<Value> {
    vec![
        virtual_service("first", 1, "reviews", json!([{"route": [to("reviews", "v1")]}])),
        virtual_service("second", 2, "reviews", json!([{"route": [to("reviews", "v2")]}])),
        virtual_service(
            "source",
            3,
            "ratings",
            json!([{"match": [{"sourceLabels": {"app": "reviews"}}], "fault": {"abort": {"httpStatus": 500, "percentage": {"value": 100}}},
                "route": [to("ratings", "")]}]),
        ),
        subsets("reviews", &["v1", "v2"]),
        rule(
            "DestinationRule",
            "more",
            4,
            json!({"host": "reviews", "subsets": [{"name": "v3", "labels": {"version": "v3"}}],
            "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}),
        ),
        rule(
            "Gateway",
            "edge",
            5,
            json!({"selector": {"istio": "ingressgateway"}, "servers": [{"port": {"number": 80, "name": "http",
            "protocol": "HTTP"}, "hosts": ["*"]}]}),
        ),
        rule(
            "VirtualService",
            "edge",
            6,
            json!({"hosts": ["shop.example"], "gateways": ["edge"], "http": [{"route": [to("reviews", "v2")]}]}),
        ),
        rule(
            "ServiceEntry",
            "outside",
            7,
            json!({"hosts": ["example.com"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
            "resolution": "DNS"}),
        ),
    ]
}

/// Versions by type and name.
type Held = BTreeMap<&'static str, BTreeMap<String, String>>;

/// All that nodes of every sort hold.
fn held(compiled: &Compiled) -> Vec<(String, Held)> {
    let edge = Node { labels: [("istio".to_owned(), "ingressgateway".to_owned())].into(), ..node("gateway~10.0.0.1~g~mesh") };
    let nodes = ["agent", "dns", "node", "sidecar"].map(|role| node(&format!("{role}~10.0.0.0~n~mesh")));
    let versions = |node: &Node| {
        let types = compiled.snapshot(node).types.into_iter();
        let of = |all: Resources| all.iter().map(|(name, resource)| (name.clone(), resource.version.clone())).collect();
        types.map(|(url, all)| (url, of(all))).collect()
    };
    nodes.iter().chain([&edge]).map(|node| (node.to_string(), versions(node))).collect()
}

fn next(registry: &Arc<Registry>, rules: &[Value], before: &Compiled) -> Compiled {
    compile(registry, &config(rules), &settings(), &BTreeSet::new(), before)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_order_and_any_history_end_the_same(
        order in Just((0..rules().len()).collect::<Vec<_>>()).prop_shuffle(),
        left in proptest::collection::vec(any::<bool>(), rules().len()),
    ) {
        let (all, registry) = (rules(), Arc::new(reviews(&["v1", "v2", "v3"])));
        let mut applied: Vec<Value> = Vec::new();
        let mut compiled = Compiled::default();
        for i in &order {
            applied.push(all[*i].clone());
            compiled = next(&registry, &applied, &compiled);
        }
        // Some are deleted again.
        applied.retain(|rule| all.iter().position(|one| one == rule).is_none_or(|i| left[i]));
        compiled = next(&registry, &applied, &compiled);
        let kept: Vec<Value> = all.iter().zip(&left).filter(|(_, left)| **left).map(|(rule, _)| rule.clone()).collect();
        prop_assert_eq!(held(&compiled), held(&next(&registry, &kept, &Compiled::default())));
    }
}

/// Names of what differs, by the last word of the type.
fn changed(before: &Compiled, after: &Compiled, who: &str) -> Vec<String> {
    let (before, after) = (before.snapshot(&node(who)).types, after.snapshot(&node(who)).types);
    let mut names = Vec::new();
    for (url, now) in &after {
        let was = &before[url];
        let kind = url.rsplit('.').next().unwrap_or(url);
        names.extend(
            now.iter().filter(|(name, resource)| was.get(*name) != Some(resource)).map(|(name, _)| format!("{kind} {name}")),
        );
        names.extend(was.keys().filter(|name| !now.contains_key(*name)).map(|name| format!("{kind} -{name}")));
        assert!(was != now || Arc::ptr_eq(was, now) || !who.starts_with("node~"), "{kind}: what is equal is shared");
    }
    names
}

#[test]
fn one_rules_change_and_one_endpoints_change_reach_what_depends_on_them() {
    let registry = Arc::new(reviews(&["v1", "v2"]));
    let all_to = |subset: &str| {
        [virtual_service("r", 1, "reviews", json!([{"route": [to("reviews", subset)]}])), subsets("reviews", &["v1", "v2"])]
    };
    let first = next(&registry, &all_to("v1"), &Compiled::default());
    let (proxy, agent) = ("node~10.0.0.0~n~mesh", "agent~10.0.0.0~n~mesh");
    let [v1, v2] = ["v1", "v2"].map(|subset| format!("outbound|9080|{subset}|{REVIEWS}"));
    let second = next(&registry, &all_to("v2"), &first);
    let want = [
        format!("Cluster {v2}"),
        format!("Cluster -{v1}"),
        format!("ClusterLoadAssignment {v2}"),
        format!("ClusterLoadAssignment -{v1}"),
        "RouteConfiguration 9080".to_owned(),
    ];
    assert_eq!(changed(&first, &second, proxy), want);
    assert_eq!(changed(&first, &second, agent), [""; 0], "no kernel looks at subsets");

    let mut moved = (*registry).clone();
    let port = moved.services.get_mut(REVIEWS).and_then(|service| service.ports.values_mut().next()).expect("a port");
    let endpoint = port.endpoints.iter_mut().find(|endpoint| endpoint.labels["version"] == "v2").expect("of v2");
    endpoint.at_home = "9.0.7.7:9080".parse().expect("address");
    endpoint.elsewhere = Some(endpoint.at_home);
    let third = next(&Arc::new(moved), &all_to("v2"), &second);
    assert_eq!(changed(&second, &third, proxy), [format!("ClusterLoadAssignment {v2}")]);
    assert_eq!(changed(&second, &third, agent), [format!("Service {REVIEWS}")]);
}

#[test]
fn a_sidecar_gets_what_is_for_its_workload_and_nothing_that_an_envoy_does_not_know() {
    let registry = reviews(&["v1", "v2"]);
    let compiled = compiled(
        &registry,
        &[virtual_service(
            "r",
            1,
            "ratings",
            json!([{"match": [{"sourceLabels": {"version": "v2"}}], "directResponse": {"status": 418}}]),
        )],
    );
    let statuses = |id: &str| {
        let body = compiled.snapshot(&node(id)).types[ROUTE]["9080"].body.clone();
        let configuration = pb::RouteConfiguration::decode(body).expect("decodes");
        let host = configuration.virtual_hosts.into_iter().find(|host| host.name.starts_with("ratings.")).expect("ratings");
        assert!(host.routes.iter().flat_map(|route| &route.r#match).all(|found| found.dynamic_metadata.is_empty()));
        let status = |route: pb::Route| match route.action {
            Some(Action::DirectResponse(answer)) => answer.status,
            _ => 0,
        };
        host.routes.into_iter().map(status).collect::<Vec<_>>()
    };
    assert_eq!(statuses("sidecar~9.9.9.9~reviews-v2.instance-1.main.3~d"), [418, 0], "by its task's id");
    assert_eq!(statuses("sidecar~9.0.2.1~anything~d"), [418, 0], "by its address");
    assert_eq!(statuses("sidecar~9.0.1.1~anything~d"), [0], "the rule is not for v1");
    assert_eq!(statuses("sidecar~9.9.9.9~nobody~d"), [0]);
    let names = |node: &Node| compiled.snapshot(node).types[LISTENER].keys().cloned().collect::<Vec<_>>();
    let plain = node("sidecar~9.0.1.1~x~d");
    assert_eq!(names(&plain), ["0.0.0.0_9080", "virtualOutbound"]);
    let bound = Node { labels: [("INTERCEPTION_MODE".to_owned(), "NONE".to_owned())].into(), ..plain };
    assert_eq!(names(&bound), ["0.0.0.0_9080"]);
}
