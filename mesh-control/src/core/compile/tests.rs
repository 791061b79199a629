//! The rules of walkthrough 000 and what Envoy is told of them; what holds for all rules.

use super::envoy::{fault, route as pb};
use super::*;
use crate::core::allot::Allotment;
use crate::core::translate::translate;
use crate::istio::Kind;
use crate::marathon::types::{PodStatus, View};
use pb::route::Action;
use pb::route_action::ClusterSpecifier;
use prost::Message;
use serde_json::{Value, json};

const REVIEWS: &str = "reviews.marathon.l4lb.thisdcos.directory";

/// A pod per version of each service, in turns on nodes 10.0.0.0 and 10.0.0.1.
fn shop(pods: &[(&str, &str)], network: &str) -> Registry {
    shop_and(pods, network, &[])
}

fn shop_and(
    pods: &[(&str, &str)],
    network: &str,
    entries: &[Arc<crate::istio::Resource<crate::istio::ServiceEntry>>],
) -> Registry {
    let pod = |(n, (service, version)): (usize, &(&str, &str))| {
        let id = format!("/{service}-{version}");
        let status = json!({"id": id, "spec": {"id": id, "labels": {"version": version, "app": service, "zone": "a", "b": "c"},
                "containers": [{"name": "main", "endpoints": [{"name": "http-9080", "containerPort": 9080, "hostPort": 0,
                    "labels": {"VIP_0": format!("/{service}:9080")}}]}],
                "networks": [{"mode": "container", "name": network}]},
            "instances": [{"id": format!("{service}-{version}.instance-1"), "agentHostname": format!("10.0.0.{}", n % 2),
                "networks": [{"name": network, "addresses": [format!("9.0.{n}.1")]}],
                "containers": [{"name": "main", "status": "TASK_RUNNING", "endpoints": [{"name": "http-9080", "allocatedHostPort": 31000}]}]}]});
        (id, Arc::new(serde_json::from_value::<PodStatus>(status).expect("pod")))
    };
    let view = View { pods: pods.iter().enumerate().map(pod).collect(), ..Default::default() };
    translate([&view], entries, "marathon.l4lb.thisdcos.directory", &Allotment::default()).0
}

/// Some versions of reviews, and ratings.
pub(crate) fn reviews(versions: &[&str]) -> Registry {
    let pods: Vec<_> = std::iter::once(("ratings", "v1")).chain(versions.iter().map(|version| ("reviews", *version))).collect();
    shop(&pods, "dcos")
}

pub(crate) fn node(id: &str) -> Node {
    id.parse().expect("node id")
}

pub(crate) fn settings() -> Settings {
    Settings {
        vip_domain: "marathon.l4lb.thisdcos.directory".to_owned(),
        outbound: OutboundPolicy::RegistryOnly,
        default_lb: DefaultLb::default(),
        vip_ranges: vec!["11.0.0.0/8".to_owned()],
        zones: vec!["l4lb.thisdcos.directory".to_owned()],
        cluster: None,
        own_ports: vec![32010],
        own_addresses: Vec::new(),
        protect: vec!["10.9.9.9:8080".parse().expect("address")],
        retry_on_default: RetryOnDefault::default(),
        system_ca: "/system.pem".to_owned(),
        abilities: Abilities::ALL,
        detection_timeout: std::time::Duration::from_millis(100),
        telemetry: Telemetry::default(),
        default_retries: None,
        localities: None,
    }
}

fn config(rules: &[Value]) -> Config {
    let mut config = Config::default();
    for rule in rules {
        let kind = Kind::ALL.into_iter().find(|kind| Some(kind.name()) == rule["kind"].as_str()).expect("kind");
        config.add(kind, rule).expect("valid");
    }
    config.sort();
    config
}

pub(crate) fn compiled(registry: &Registry, rules: &[Value]) -> Compiled {
    compiled_by(registry, &config(rules))
}

pub(crate) fn compiled_by(registry: &Registry, config: &Config) -> Compiled {
    compile(&Arc::new(registry.clone()), config, &settings(), &BTreeSet::new(), &Compiled::default())
}

pub(crate) fn compiled_with(registry: &Registry, linger: &BTreeSet<PortKey>, before: &Compiled) -> Compiled {
    compile(&Arc::new(registry.clone()), &Config::default(), &settings(), linger, before)
}

fn rule(kind: &str, name: &str, created: u32, spec: Value) -> Value {
    let meta = json!({"name": name, "namespace": "default", "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z"), "uid": name});
    json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": kind, "metadata": meta, "spec": spec})
}

fn virtual_service(name: &str, created: u32, host: &str, http: Value) -> Value {
    rule("VirtualService", name, created, json!({"hosts": [host], "http": http}))
}

fn subsets(host: &str, versions: &[&str]) -> Value {
    let subsets: Vec<_> = versions.iter().map(|v| json!({"name": v, "labels": {"version": v}})).collect();
    rule("DestinationRule", host.split('.').next().expect("name"), 0, json!({"host": host, "subsets": subsets}))
}

fn to(host: &str, subset: &str) -> Value {
    json!({"destination": {"host": host, "subset": subset}})
}

pub(crate) fn decode<T: Message + Default>(compiled: &Compiled, type_url: &str, name: &str) -> T {
    let snapshot = compiled.snapshot(&node("node~10.0.0.0~n~mesh"));
    T::decode(snapshot.types[type_url][name].body.clone()).expect("decodes")
}

fn routes(compiled: &Compiled, service: &str) -> Vec<pb::Route> {
    let configuration: pb::RouteConfiguration = decode(compiled, ROUTE, "9080");
    let host = configuration.virtual_hosts.into_iter().find(|host| host.name == format!("{service}:9080"));
    host.expect("virtual host").routes
}

pub(crate) fn action(route: &pb::Route) -> &pb::RouteAction {
    match &route.action {
        Some(Action::Route(action)) => action,
        other => panic!("no route action: {other:?}"),
    }
}

fn cluster_of(route: &pb::Route) -> &str {
    match &action(route).cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => name,
        other => panic!("no single cluster: {other:?}"),
    }
}

#[test]
fn without_rules_a_service_has_one_route_and_takes_turns() {
    let compiled = compiled(&reviews(&["v1", "v2", "v3"]), &[]);
    let routes = routes(&compiled, REVIEWS);
    let name = format!("outbound|9080||{REVIEWS}");
    assert_eq!((routes.len(), cluster_of(&routes[0])), (1, name.as_str()));
    let retry = action(&routes[0]).retry_policy.as_ref().expect("default retries");
    assert_eq!((retry.num_retries.map(|n| n.value), retry.host_selection_retry_max_attempts), (Some(2), 5));
    let cluster: envoy::cluster::Cluster = decode(&compiled, CLUSTER, &name);
    assert_eq!(cluster.lb_policy(), envoy::cluster::cluster::LbPolicy::RoundRobin);
    let assignment: envoy::endpoint::ClusterLoadAssignment = decode(&compiled, ENDPOINT, &name);
    assert_eq!(assignment.endpoints[0].lb_endpoints.len(), 3);
    let configuration: pb::RouteConfiguration = decode(&compiled, ROUTE, "9080");
    let last = configuration.virtual_hosts.last().expect("catch-all");
    assert_eq!((last.name.as_str(), last.domains.as_slice()), ("block_all", ["*".to_owned()].as_slice()));
    let domains = &configuration.virtual_hosts.iter().find(|host| host.name.starts_with("reviews")).expect("reviews").domains;
    for domain in ["reviews", "reviews:9080", REVIEWS, "11.15.94.83:9080", "reviews.default.svc.cluster.local", "11.15.94.83"] {
        assert!(domains.iter().any(|d| d == domain), "{domain} in {domains:?}");
    }
}

#[test]
fn walkthrough_000_all_traffic_to_v1() {
    let rules =
        [subsets(REVIEWS, &["v1", "v2"]), virtual_service("reviews", 1, REVIEWS, json!([{"route": [to(REVIEWS, "v1")]}]))];
    let compiled = compiled(&reviews(&["v1", "v2"]), &rules);
    let name = format!("outbound|9080|v1|{REVIEWS}");
    assert_eq!(cluster_of(&routes(&compiled, REVIEWS)[0]), name);
    let assignment: envoy::endpoint::ClusterLoadAssignment = decode(&compiled, ENDPOINT, &name);
    assert_eq!(assignment.endpoints[0].lb_endpoints.len(), 1);
    assert_eq!(compiled.unsupported, []);
}

#[test]
fn walkthrough_000_delay_and_abort_for_one_user() {
    for (injected, delay, abort) in [
        (json!({"delay": {"percent": 100, "fixedDelay": "7s"}}), Some(7), None),
        (json!({"abort": {"percent": 100, "httpStatus": 500}}), None, Some(500)),
        (json!({"abort": {"percentage": {"value": 0.5}, "httpStatus": 503}}), None, Some(503)),
        (json!({"abort": {"httpStatus": 500}}), None, None),
    ] {
        let http = json!([{"match": [{"headers": {"end-user": {"exact": "jason"}}}], "fault": injected, "route": [to(REVIEWS, "v1")]},
            {"route": [to(REVIEWS, "v1")]}]);
        let rules = [subsets("reviews", &["v1"]), virtual_service("reviews", 1, "reviews", http)];
        let routes = routes(&compiled(&reviews(&["v1"]), &rules), REVIEWS);
        assert_eq!(routes.len(), 2);
        assert_eq!(routes[0].r#match.as_ref().expect("match").headers[0].name, "end-user");
        let found = routes[0].typed_per_filter_config.get("envoy.filters.http.fault");
        let found = found.map(|any| fault::HttpFault::decode(any.value.as_slice()).expect("fault")).unwrap_or_default();
        assert_eq!(
            found.delay.map(|d| match d.fault_delay_secifier {
                Some(envoy::fault_common::fault_delay::FaultDelaySecifier::FixedDelay(d)) => d.seconds,
                _ => 0,
            }),
            delay
        );
        let percent = found.abort.as_ref().and_then(|abort| abort.percentage).map(|p| p.numerator);
        assert_eq!(
            found.abort.map(|a| a.error_type),
            abort.map(|status| Some(fault::fault_abort::ErrorType::HttpStatus(status)))
        );
        assert!(percent.is_none() || percent == Some(1_000_000) || percent == Some(5_000), "{percent:?}");
        assert!(routes[1].typed_per_filter_config.is_empty());
    }
}

#[test]
fn the_oldest_rule_has_the_host_and_the_other_is_told() {
    let rules = [
        subsets("reviews", &["v1", "v2"]),
        virtual_service("b-older", 1, REVIEWS, json!([{"route": [to("reviews", "v2")]}])),
        virtual_service("a-newer", 2, "reviews.default.svc.cluster.local", json!([{"route": [to("reviews", "v1")]}])),
    ];
    let compiled = compiled(&reviews(&["v1", "v2"]), &rules);
    assert!(cluster_of(&routes(&compiled, REVIEWS)[0]).contains("|v2|"));
    let [told] = compiled.unsupported.as_slice() else { panic!("{:?}", compiled.unsupported) };
    assert_eq!((told.name.as_str(), told.field.as_str()), ("a-newer", "spec.hosts[0]"));
}

#[test]
fn weights_rewrites_retries_and_unknown_subsets() {
    let http = json!([
        {"match": [{"uri": {"prefix": "/old"}, "port": 9080}, {"uri": {"exact": "/x"}, "port": 1}], "rewrite": {"uri": "/new", "authority": "h"},
            "route": [{"weight": 90, "destination": {"host": "reviews", "subset": "v1"}}, {"weight": 10, "destination": {"host": "reviews", "subset": "v2"}},
                {"weight": 0, "destination": {"host": "reviews", "subset": "v3"}}],
            "timeout": "0.5s", "retries": {"attempts": 3, "perTryTimeout": "1s", "retryOn": "gateway-error,503"}},
        {"match": [{"withoutHeaders": {"x": {"prefix": "y"}}, "queryParams": {"q": {"regex": "a+"}}}], "redirect": {"uri": "/r", "redirectCode": 302}},
        {"match": [{"headers": {"cookie": {"regex": "^(.*?;)?(usertype=tester)(;.*)?$"}}}], "mirror": {"host": "ratings"}, "route": [to("reviews", "nope")],
            "headers": {"request": {"set": {"host": "elsewhere", "x-a": "1"}, "remove": ["x-b"]}}},
        {"directResponse": {"status": 418, "body": {"string": "tea"}}},
        {"route": [to("reviews", "v1")]},
    ]);
    let rules = [subsets("reviews", &["v1", "v2"]), virtual_service("reviews", 1, "reviews", http)];
    let compiled = compiled(&reviews(&["v1", "v2"]), &rules);
    let routes = routes(&compiled, REVIEWS);
    assert_eq!(routes.len(), 4, "a block for another port and what is behind a catch-all are left out");
    let Some(ClusterSpecifier::WeightedClusters(weighted)) = &action(&routes[0]).cluster_specifier else { panic!("weights") };
    assert_eq!(weighted.clusters.iter().map(|c| c.weight.map_or(0, |w| w.value)).collect::<Vec<_>>(), [90, 10]);
    let retry = action(&routes[0]).retry_policy.as_ref().expect("retries");
    assert_eq!(
        (retry.retry_on.as_str(), retry.retriable_status_codes.as_slice()),
        ("gateway-error,retriable-status-codes", [503].as_slice())
    );
    assert_eq!(
        (action(&routes[0]).prefix_rewrite.as_str(), action(&routes[0]).timeout.map(|t| t.nanos)),
        ("/new", Some(500_000_000))
    );
    assert!(matches!(&routes[1].action, Some(Action::Redirect(r)) if r.response_code == 1));
    let without = &routes[1].r#match.as_ref().expect("match").headers[0];
    assert!(without.invert_match && without.treat_missing_header_as_empty);
    assert!(cluster_of(&routes[2]).contains("|nope|"));
    assert_eq!(action(&routes[2]).request_mirror_policies[0].cluster, "outbound|9080||ratings.marathon.l4lb.thisdcos.directory");
    assert_eq!((routes[2].request_headers_to_add.len(), routes[2].request_headers_to_remove.len()), (1, 1));
    assert!(matches!(&routes[3].action, Some(Action::DirectResponse(answer)) if answer.status == 418));
    let snapshot = compiled.snapshot(&node("node~10.0.0.0~n~mesh"));
    assert!(!snapshot.types[CLUSTER].keys().any(|name| name.contains("nope")), "503 NC, as in Istio");
}

#[test]
fn what_is_not_in_force_is_told() {
    let http = json!([{"match": [{"port": 1}], "route": [to("reviews", "v1")]}]);
    let policy = json!({"host": "reviews", "subsets": [{"name": "v1", "labels": {"version": "v1"}}],
        "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}, "outlierDetection": {"outlierDetectionHttpErrorCodes": [418]}}});
    let rules = [
        rule("DestinationRule", "d", 0, policy),
        virtual_service("v", 1, "reviews", http),
        virtual_service("w", 1, "nowhere", json!([{"route": [to("x", "")]}])),
    ];
    let compiled = compiled(&reviews(&["v1"]), &rules);
    let told: Vec<_> = compiled.unsupported.iter().map(|u| (u.name.as_str(), u.field.as_str())).collect();
    assert_eq!(told, [("d", "spec.trafficPolicy.outlierDetection.outlierDetectionHttpErrorCodes"), ("w", "spec.hosts[0]"),]);
    let routes = routes(&compiled, REVIEWS);
    assert_eq!(cluster_of(&routes[0]), format!("outbound|9080||{REVIEWS}"), "the default route");
    let cluster: envoy::cluster::Cluster = decode(&compiled, CLUSTER, &format!("outbound|9080||{REVIEWS}"));
    assert_eq!(cluster.lb_policy(), envoy::cluster::cluster::LbPolicy::Random);
}

#[test]
fn a_bridge_endpoint_is_dialled_otherwise_at_home() {
    let compiled = compiled(&shop(&[("reviews", "v1"), ("reviews", "v2")], "mesos-bridge"), &[]);
    let backends = |id: &str| {
        let body = compiled.snapshot(&node(id)).types[SERVICE][REVIEWS].body.clone();
        let service = mesh_xds::agent::Service::decode(body).expect("service");
        service.ports[0].backends.iter().map(|b| format!("{}:{}", b.address, b.port)).collect::<Vec<_>>()
    };
    assert_eq!(backends("agent~10.0.0.0~a~mesh"), ["9.0.0.1:9080", "10.0.0.1:31000"]);
    assert_eq!(backends("agent~10.0.0.1~a~mesh"), ["10.0.0.0:31000", "9.0.1.1:9080"]);
    assert_eq!(backends("agent~10.0.0.9~a~mesh"), ["10.0.0.0:31000", "10.0.0.1:31000"]);
    assert_eq!(backends("dns~10.0.0.9~a~mesh"), Vec::<String>::new());
    let name = format!("outbound|9080||{REVIEWS}");
    let seen = |id: &str| compiled.snapshot(&node(id)).types[ENDPOINT][&name].version.clone();
    assert!(seen("node~10.0.0.0~a~mesh") != seen("node~10.0.0.1~a~mesh"));
}

#[test]
fn what_a_proxy_does_not_take_is_told_and_not_sent() {
    let http = json!([{"mirror": {"host": "ratings"}, "route": [
        {"weight": 1, "destination": {"host": "reviews"}, "headers": {"request": {"set": {"host": "x"}}}},
        {"weight": 1, "destination": {"host": "ratings"}}]}]);
    let registry = Arc::new(reviews(&["v1"]));
    let rules = config(&[virtual_service("v", 1, "reviews", http)]);
    let weak = Abilities { http2: false, mirror: false, host_per_destination: false, original_dst: false, ..Abilities::ALL };
    let ours = Settings { abilities: weak, outbound: OutboundPolicy::AllowAny, ..settings() };
    let compiled = compile(&registry, &rules, &ours, &BTreeSet::new(), &Compiled::default());
    let Some(Action::Route(action)) = &routes(&compiled, REVIEWS)[0].action else { panic!("a route") };
    assert!(action.request_mirror_policies.is_empty());
    let told: Vec<_> = compiled.unsupported.iter().map(|u| u.field.as_str()).collect();
    assert_eq!(told, ["spec.http[0].mirror", "spec.http[0].route[0].headers.request (host)"]);
    assert!(!compiled.snapshot(&node("node~10.0.0.0~n~mesh")).types[CLUSTER].contains_key(PASSTHROUGH));
    let mut registry = (*registry).clone();
    registry.services.get_mut(REVIEWS).expect("reviews").ports.get_mut(&(9080, Transport::Tcp)).expect("port").protocol =
        Protocol::Grpc;
    let compiled = compile(&Arc::new(registry), &Config::default(), &ours, &BTreeSet::new(), &Compiled::default());
    let snapshot = compiled.snapshot(&node("node~10.0.0.0~n~mesh"));
    assert_eq!(snapshot.types[LISTENER].keys().collect::<Vec<_>>(), ["0.0.0.0_9080", "11.15.94.83_9080"], "gRPC as opaque TCP");
}

#[test]
fn the_mesh_resource_protects_us_on_every_node() {
    let body = compiled(&reviews(&["v1"]), &[]).snapshot(&node("agent~10.0.0.0~a~mesh")).types[MESH][MESH_NAME].body.clone();
    let mesh = mesh_xds::agent::Mesh::decode(body).expect("mesh");
    let protected: Vec<_> = mesh.protected.iter().map(|e| format!("{}:{}", e.address, e.port)).collect();
    assert_eq!(protected, ["10.0.0.0:32010", "10.0.0.1:32010", "10.9.9.9:8080"]);
    assert_eq!((mesh.outbound_policy, mesh.vip_ranges.len(), mesh.zones.len()), (0, 1, 1));
}

#[test]
fn service_entries_are_what_nodes_let_out() {
    let port = |number: u32, protocol: &str| json!({"number": number, "name": format!("p{number}"), "protocol": protocol});
    // The walkthrough's shape: neither location nor resolution.
    let httpbin = json!({"hosts": ["HTTPBIN.org"], "ports": [port(80, "http")]});
    let fixed = json!({"hosts": ["db.example.com"], "addresses": ["203.0.113.7/24", "2001:db8::1"], "resolution": "STATIC",
        "endpoints": [{"address": "198.51.100.4"}], "ports": [port(5432, ""), port(53, "UDP")]});
    let ours = json!({"hosts": ["reviews", "*.l4lb.thisdcos.directory", "*.example.org"], "resolution": "DYNAMIC_DNS", "ports": [port(443, "TLS")]});
    let rules =
        [rule("ServiceEntry", "bin", 0, httpbin), rule("ServiceEntry", "db", 1, fixed), rule("ServiceEntry", "ours", 2, ours)];
    let config = config(&rules);
    let registry = Arc::new(shop_and(&[("reviews", "v1")], "dcos", &config.service_entries));
    let compiled = compile(&registry, &config, &settings(), &BTreeSet::new(), &Compiled::default());
    let egress = |id: &str, name: &str| {
        mesh_xds::agent::Egress::decode(compiled.snapshot(&node(id)).types[EGRESS][name].body.clone()).expect("egress")
    };
    let ports = |egress: &mesh_xds::agent::Egress| {
        egress.ports.iter().map(|p| format!("{} {} {}", p.port, p.transport, p.protocol)).collect::<Vec<_>>()
    };
    for id in ["agent~10.0.0.0~a~mesh", "dns~10.0.0.0~a~mesh"] {
        let bin = egress(id, "default/bin");
        assert_eq!(
            (bin.name.as_str(), bin.hosts.as_slice(), bin.learn),
            ("default/bin", ["httpbin.org".to_owned()].as_slice(), true)
        );
        assert_eq!((ports(&bin), bin.addresses.len()), (vec!["80 0 HTTP".to_owned()], 0));
        let db = egress(id, "default/db");
        assert_eq!(db.addresses, ["198.51.100.4", "2001:db8::1", "203.0.113.0/24"]);
        assert_eq!((ports(&db), db.learn), (vec!["53 1 UDP".to_owned(), "5432 0 TCP".to_owned()], false));
        assert_eq!(egress(id, "default/ours").hosts, ["*.example.org"], "the mesh's own names are not learned from elsewhere");
    }
    assert!(!compiled.snapshot(&node("node~10.0.0.0~a~mesh")).types.contains_key(EGRESS));
    let told: Vec<_> = compiled.unsupported.iter().map(|u| (u.name.as_str(), u.field.as_str())).collect();
    assert_eq!(told, [("ours", "spec.hosts[0]"), ("ours", "spec.hosts[1]")]);
}

mod credentials;
mod detect;
mod edge;
mod http;
mod near;
mod net;
mod order;
mod outside;
mod policy;
mod refs;
mod views;

mod properties {
    use super::*;
    use proptest::prelude::*;

    fn all_rules() -> Vec<Value> {
        let hosts = ["reviews", "ratings", REVIEWS, "*.marathon.l4lb.thisdcos.directory", "nowhere"];
        let mut rules = Vec::new();
        for (i, host) in hosts.iter().enumerate() {
            let i = u32::try_from(i).expect("small");
            let route = json!([{"match": [{"uri": {"prefix": "/p"}}], "route": [to("reviews", "v2")], "mirror": {"host": "ratings"}}, {"route": [to(host.trim_start_matches("*."), "v1")]}]);
            rules.push(virtual_service(&format!("v{i}"), i % 3, host, route));
            let subsets = json!({"host": host, "subsets": [{"name": "v1", "labels": {"version": "v1"}}, {"name": format!("s{i}"), "labels": {"app": "reviews"}}]});
            rules.push(rule("DestinationRule", &format!("d{i}"), i % 2, subsets));
        }
        rules
    }

    fn shuffled() -> impl Strategy<Value = Vec<Value>> {
        let rules = all_rules();
        (Just(rules.clone()).prop_shuffle(), 0..=rules.len()).prop_map(|(mut rules, keep)| {
            rules.truncate(keep);
            rules
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..Default::default() })]

        #[test]
        fn rules_in_any_order_give_the_same_snapshot(rules in shuffled()) {
            let registry = reviews(&["v1", "v2"]);
            let mut reversed = rules.clone();
            reversed.reverse();
            let (one, other) = (compiled(&registry, &rules), compiled(&registry, &reversed));
            for id in ["node~10.0.0.1~n~mesh", "agent~10.0.0.1~n~mesh", "dns~10.0.0.1~n~mesh"] {
                prop_assert_eq!(one.snapshot(&node(id)).types, other.snapshot(&node(id)).types);
            }
            prop_assert_eq!(&one.unsupported, &other.unsupported);
        }

        #[test]
        fn a_snapshot_contains_what_it_refers_to(rules in shuffled()) {
            let compiled = compiled(&reviews(&["v1", "v2"]), &rules);
            let types = compiled.snapshot(&node("node~10.0.0.1~n~mesh")).types;
            for listener in types[LISTENER].keys().filter_map(|name| name.strip_prefix("0.0.0.0_")) {
                prop_assert!(types[ROUTE].contains_key(listener));
            }
            prop_assert_eq!(types[CLUSTER].keys().collect::<Vec<_>>(), types[ENDPOINT].keys().collect::<Vec<_>>());
            let body = types[ROUTE]["9080"].body.clone();
            let configuration = pb::RouteConfiguration::decode(body).expect("decodes");
            let mut domains: Vec<_> = configuration.virtual_hosts.iter().flat_map(|host| host.domains.clone()).collect();
            let all = domains.len();
            domains.sort();
            domains.dedup();
            prop_assert_eq!(domains.len(), all, "Envoy refuses a domain that two virtual hosts have");
        }

        #[test]
        fn what_did_not_change_keeps_its_map(rules in shuffled()) {
            let registry = Arc::new(reviews(&["v1", "v2"]));
            let before = compile(&registry, &config(&rules), &settings(), &BTreeSet::new(), &Compiled::default());
            let after = compile(&registry, &config(&rules), &settings(), &BTreeSet::new(), &before);
            let id = node("node~10.0.0.1~n~mesh");
            let (before, after) = (before.snapshot(&id), after.snapshot(&id));
            prop_assert!(before.types.iter().all(|(name, map)| Arc::ptr_eq(map, &after.types[name])));
        }
    }
}
