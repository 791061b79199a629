//! Hosts outside the mesh that only DNS knows: what is told of them with rules and without.

use super::*;
use mesh_xds::agent::Egress;

/// Walkthrough 1's entry: neither location nor resolution.
fn httpbin() -> Value {
    rule(
        "ServiceEntry",
        "httpbin-ext",
        0,
        json!({"hosts": ["httpbin.org"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}]}),
    )
}

fn slow() -> Value {
    let http = json!([{"timeout": "3s", "retries": {"attempts": 2}, "fault": {"delay": {"percent": 100, "fixedDelay": "1s"}},
        "route": [to("httpbin.org", "")]}]);
    virtual_service("httpbin", 1, "httpbin.org", http)
}

fn compiled_of(rules: &[Value]) -> Compiled {
    compiled_after(rules, &BTreeSet::new(), &Compiled::default())
}

fn compiled_after(rules: &[Value], linger: &BTreeSet<PortKey>, before: &Compiled) -> Compiled {
    let config = config(rules);
    let registry = shop_and(&[("reviews", "v1")], "dcos", &config.service_entries);
    compile(&Arc::new(registry), &config, &settings(), linger, before)
}

fn egress_in(compiled: &Compiled, name: &str, modes: &Arc<Modes>) -> Vec<(u32, Mode)> {
    let snapshot = compiled.snapshot_in(&node("agent~10.0.0.0~a~mesh"), modes);
    let egress = Egress::decode(snapshot.types[EGRESS][name].body.clone()).expect("egress");
    egress.ports.iter().map(|port| (port.port, port.mode())).collect()
}

fn egress(compiled: &Compiled, name: &str) -> Vec<(u32, Mode)> {
    egress_in(compiled, name, &compiled.modes)
}

fn hosts(compiled: &Compiled, port: &str) -> Vec<pb::VirtualHost> {
    let configuration: pb::RouteConfiguration = decode(compiled, ROUTE, port);
    configuration.virtual_hosts
}

fn told(compiled: &Compiled) -> Vec<(&str, &str)> {
    compiled.unsupported.iter().map(|one| (one.field.as_str(), one.reason.as_str())).collect()
}

#[test]
fn walkthrough_001_a_rule_on_an_outside_name_takes_its_requests_to_the_proxy() {
    let plain = compiled_of(&[httpbin()]);
    assert_eq!(egress(&plain, "default/httpbin-ext"), [(80, Mode::Direct)], "without a rule it is the kernel's alone");
    let ruled = compiled_of(&[httpbin(), slow()]);
    assert_eq!(told(&ruled), []);
    assert_eq!(egress(&ruled, "default/httpbin-ext"), [(80, Mode::Proxy)]);
    let found = hosts(&ruled, "80");
    let names: Vec<_> = found.iter().map(|host| host.name.as_str()).collect();
    assert_eq!(names, ["httpbin.org:80", "block_all"], "a request for another host is answered 502");
    assert_eq!(found[0].domains, ["httpbin.org", "httpbin.org:80"]);
    let route = &found[0].routes[0];
    assert_eq!((cluster_of(route), route.typed_per_filter_config.len()), ("outbound|80||httpbin.org", 1));
    assert_eq!(action(route).timeout.map(|timeout| timeout.seconds), Some(3));
    #[expect(deprecated, reason = "what Istio sets")]
    let grpc = action(route).max_grpc_timeout;
    assert_eq!(grpc, action(route).timeout, "a gRPC client's own limit counts below it");
    let cluster: envoy::cluster::Cluster = decode(&ruled, CLUSTER, "outbound|80||httpbin.org");
    assert_eq!(cluster.lb_policy(), envoy::cluster::cluster::LbPolicy::ClusterProvided);
    let kind = cluster.cluster_discovery_type.expect("a type");
    let original = envoy::cluster::cluster::DiscoveryType::OriginalDst;
    assert_eq!(kind, envoy::cluster::cluster::ClusterDiscoveryType::Type(original.into()));
    let snapshot = ruled.snapshot(&node("node~10.0.0.0~n~mesh"));
    assert!(
        snapshot.types[LISTENER].contains_key("0.0.0.0_80") && !snapshot.types[ENDPOINT].contains_key("outbound|80||httpbin.org")
    );
    let dns = ruled.snapshot(&node("dns~10.0.0.0~n~mesh"));
    assert!(!dns.types[SERVICE].contains_key("httpbin.org"), "its addresses are DNS' to say");
}

#[test]
fn a_port_is_handed_over_when_the_proxy_serves_it_and_served_until_the_kernel_lets_go() {
    let key = PortKey { service: "httpbin.org".to_owned(), port: 80 };
    let ruled = compiled_of(&[httpbin(), slow()]);
    assert_eq!(ruled.carried[&key], crate::core::flip::Carriage::Http);
    let plain = compiled_after(&[httpbin()], &BTreeSet::new(), &ruled);
    assert_eq!((plain.modes[&key], plain.carried[&key]), (Mode::Kernel, crate::core::flip::Carriage::Standby));
    assert_eq!(hosts(&plain, "80")[0].routes[0].name, "default", "old connections go on, without the rule");
    // While the proxy is waited for.
    assert_eq!(egress_in(&ruled, "default/httpbin-ext", &plain.modes), [(80, Mode::Direct)]);
    assert_eq!(egress_in(&ruled, "default/httpbin-ext", &Arc::default()), [], "a new port is not there before");
    // The entry goes while a kernel may still hand over.
    let gone = compiled_after(&[], &BTreeSet::from([key.clone()]), &ruled);
    assert!(!gone.modes.contains_key(&key) && gone.carried.contains_key(&key));
    assert_eq!(hosts(&gone, "80")[0].name, "httpbin.org:80");
    assert!(!compiled_after(&[], &BTreeSet::new(), &gone).carried.contains_key(&key));
}

#[test]
fn only_ports_with_requests_and_rules_for_them_are_the_proxys() {
    let ports = json!([{"number": 80, "name": "http", "protocol": "HTTP"}, {"number": 443, "name": "tls", "protocol": "TLS"},
        {"number": 50051, "name": "grpc", "protocol": "GRPC"}, {"number": 53, "name": "udp", "protocol": "UDP"}]);
    let entry = rule("ServiceEntry", "all", 0, json!({"hosts": ["*.example.com", "other.org"], "ports": ports}));
    let ways = |rules: &[Value]| egress(&compiled_of(&[std::slice::from_ref(&entry), rules].concat()), "default/all");
    let (direct, proxy) = (Mode::Direct, Mode::Proxy);
    let ruled = [(53, direct), (80, proxy), (443, direct), (50051, proxy)];
    assert!(ways(&[]).iter().all(|(_, mode)| *mode == direct));
    let route = |host: &str| virtual_service("v", 1, host, json!([{"route": [to(host, "")]}]));
    for host in ["a.example.com", "*.example.com", "other.org"] {
        assert_eq!(ways(&[route(host)]), ruled, "{host}");
    }
    let policy = json!({"host": "other.org", "trafficPolicy": {"connectionPool": {"http": {"http1MaxPendingRequests": 1}}}});
    assert_eq!(ways(&[rule("DestinationRule", "d", 1, policy)]), ruled);
    assert!(ways(&[route("reviews")]).iter().all(|(_, mode)| *mode == direct));

    let compiled = compiled_of(&[entry.clone(), route("a.example.com")]);
    let found = hosts(&compiled, "80");
    let routes: Vec<_> = found.iter().map(|host| (host.domains[0].as_str(), host.routes[0].name.as_str())).collect();
    assert_eq!(routes[..3], [("*.example.com", "default"), ("other.org", "default"), ("a.example.com", "")]);
    assert_eq!(cluster_of(&found[2].routes[0]), "outbound|80||a.example.com");
    let _: envoy::cluster::Cluster = decode(&compiled, CLUSTER, "outbound|80||a.example.com");
}

#[test]
fn what_has_no_effect_outside_is_told() {
    let spec = json!({"hosts": ["httpbin.org"], "tcp": [{"route": [to("httpbin.org", "")]}]});
    let tcp = compiled_of(&[httpbin(), rule("VirtualService", "v", 1, spec)]);
    assert!(told(&tcp).iter().any(|(field, why)| *field == "spec.tcp" && why.contains("outside the mesh")), "{:?}", told(&tcp));
    let lb = json!({"host": "httpbin.org", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}});
    let balanced = compiled_of(&[httpbin(), rule("DestinationRule", "d", 1, lb)]);
    assert_eq!(told(&balanced)[0].0, "spec.trafficPolicy.loadBalancer");
    let elsewhere = virtual_service("r", 1, "reviews", json!([{"route": [to("httpbin.org", "")]}]));
    let sent = compiled_of(&[httpbin(), elsewhere]);
    assert_eq!(told(&sent)[0].0, "spec.http[0].route[0].destination.host");
    let quiet =
        rule("ServiceEntry", "db", 0, json!({"hosts": ["db.org"], "ports": [{"number": 5432, "name": "db", "protocol": "TCP"}]}));
    let policy = rule("DestinationRule", "d", 1, json!({"host": "db.org", "trafficPolicy": {"tls": {"mode": "SIMPLE"}}}));
    assert_eq!(told(&compiled_of(&[quiet, policy]))[0].0, "spec.host");
}

#[test]
fn an_entry_is_for_the_namespaces_that_it_is_exported_to() {
    let exported = |to_whom: Value| {
        let port = json!([{"number": 80, "name": "http", "protocol": "HTTP"}]);
        let named = json!({"hosts": ["a.org"], "ports": port, "exportTo": to_whom});
        let fixed = json!({"hosts": ["b.org"], "ports": port, "exportTo": to_whom, "resolution": "STATIC", "endpoints": [{"address": "203.0.113.9"}]});
        let route = virtual_service("v", 1, "a.org", json!([{"route": [to("a.org", "")]}]));
        compiled_of(&[rule("ServiceEntry", "named", 0, named), rule("ServiceEntry", "fixed", 0, fixed), route])
    };
    let told = |compiled: &Compiled, name: &str| {
        let snapshot = compiled.snapshot(&node("agent~10.0.0.0~a~mesh"));
        let body = snapshot.types[EGRESS].get(name).map(|resource| resource.body.clone());
        body.map(|body| Egress::decode(body).expect("egress").namespaces)
    };
    let vip = |compiled: &Compiled| {
        let snapshot = compiled.snapshot(&node("agent~10.0.0.0~a~mesh"));
        let body = snapshot.types[SERVICE].get("b.org").map(|resource| resource.body.clone());
        body.map(|body| mesh_xds::agent::Service::decode(body).expect("service").ports[0].namespaces.clone())
    };
    let names = |compiled: &Compiled, host: &str| {
        let found = hosts(compiled, "80").into_iter().find(|found| found.name == format!("{host}:80"));
        let routes = found.map(|found| found.routes).unwrap_or_default();
        let scoped = |route: &pb::Route| !route.r#match.as_ref().expect("a match").dynamic_metadata.is_empty();
        routes.iter().map(|route| (route.name.clone(), scoped(route))).collect::<Vec<_>>()
    };
    for whom in [json!([]), json!(["*"]), json!([".", "*"])] {
        let all = exported(whom);
        assert_eq!(all.unsupported, []);
        assert_eq!(
            (told(&all, "default/named"), told(&all, "default/fixed"), vip(&all)),
            (Some(vec![]), Some(vec![]), Some(vec![]))
        );
        assert!(names(&all, "a.org").iter().chain(&names(&all, "b.org")).all(|(_, scoped)| !scoped));
    }
    let some = exported(json!([".", "shop"]));
    assert_eq!(some.unsupported, []);
    let both = Some(vec!["default".to_owned(), "shop".to_owned()]);
    assert_eq!((told(&some, "default/named"), told(&some, "default/fixed"), vip(&some)), (both.clone(), both.clone(), both));
    for (host, route) in [("a.org", ""), ("b.org", "default")] {
        let want = [(route, true), (route, true), ("block_all", false)].map(|(name, scoped)| (name.to_owned(), scoped));
        assert_eq!(names(&some, host), want, "two namespaces, and nothing for others");
    }
    let nobody = exported(json!(["~"]));
    assert_eq!((told(&nobody, "default/named"), told(&nobody, "default/fixed"), vip(&nobody)), (None, None, None));
}

#[test]
fn entries_for_one_host_and_different_namespaces_are_told_that_they_share() {
    let entry = |name: &str, created: u32, port: u32, to_whom: Value| {
        let ports = json!([{"number": port, "name": "tcp", "protocol": "TCP"}]);
        let spec = json!({"hosts": ["b.org"], "ports": ports, "exportTo": to_whom, "resolution": "STATIC", "endpoints": [{"address": "203.0.113.9"}]});
        rule("ServiceEntry", name, created, spec)
    };
    let of_two = |port: u32, to_whom: Value| {
        let compiled = compiled_of(&[entry("one", 1, 80, json!(["shop"])), entry("two", 2, port, to_whom)]);
        compiled.unsupported.iter().map(|one| (one.name.clone(), one.reason.clone())).collect::<Vec<_>>()
    };
    let why =
        "default/one has b.org on port 80 too, for others: whoever sees one of the two gets the endpoints of both by its VIP";
    assert_eq!(of_two(80, json!(["other"])), [("two".to_owned(), why.to_owned())]);
    assert_eq!(of_two(80, json!([])), [("two".to_owned(), why.to_owned())], "everybody is other than some");
    assert_eq!(of_two(81, json!(["other"])), [], "another port has endpoints of its own");
    assert_eq!(of_two(80, json!(["shop"])), [], "for the same");
}
