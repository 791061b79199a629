//! TCP routes, and rules that move a port from the kernel to the proxy.

use super::*;
use crate::core::flip::Carriage;
use envoy::{listener, tcp_proxy};
use tcp_proxy::tcp_proxy::ClusterSpecifier as Tcp;

const LISTENER_NAME: &str = "11.15.94.83_9080";

/// The shop with ports of another protocol, in the mode that is the protocol's own.
pub(super) fn speaking(protocol: Protocol) -> Registry {
    let mut registry = reviews(&["v1", "v2"]);
    for port in registry.services.values_mut().flat_map(|service| service.ports.values_mut()) {
        (port.protocol, port.mode) = (protocol, protocol.default_mode());
    }
    registry
}

/// The shop with HTTP ports that a label has given a mode.
fn reviews_in(mode: Mode) -> Registry {
    let mut registry = reviews(&["v1"]);
    registry.services.values_mut().flat_map(|service| service.ports.values_mut()).for_each(|port| port.mode = mode);
    registry
}

fn mode(compiled: &Compiled, service: &str) -> Mode {
    compiled.modes[&PortKey { service: service.to_owned(), port: 9080 }]
}

fn tcp_rule(tcp: Value) -> Value {
    rule("VirtualService", "tcp", 1, json!({"hosts": ["reviews"], "tcp": tcp}))
}

fn filter(compiled: &Compiled) -> Tcp {
    let found: listener::Listener = decode(compiled, LISTENER, LISTENER_NAME);
    let Some(listener::filter::ConfigType::TypedConfig(any)) = &found.filter_chains[0].filters[0].config_type else {
        panic!("no filter")
    };
    let proxy = tcp_proxy::TcpProxy::decode(any.value.as_slice()).expect("TcpProxy");
    proxy.cluster_specifier.expect("a cluster")
}

#[test]
fn a_tcp_rule_takes_its_port_to_the_proxy_and_leaves_it_when_it_goes() {
    let registry = Arc::new(speaking(Protocol::Redis));
    let with = config(&[subsets("reviews", &["v1"]), tcp_rule(json!([{"route": [to("reviews", "v1")]}]))]);
    let mut before = Compiled::default();
    for _ in 0..2 {
        let ruled = compile(&registry, &with, &settings(), &BTreeSet::new(), &before);
        assert_eq!((mode(&ruled, REVIEWS), ruled.modes.len()), (Mode::Proxy, 2));
        assert_eq!(mode(&ruled, "ratings.marathon.l4lb.thisdcos.directory"), Mode::Kernel, "nobody else's");
        let Tcp::Cluster(cluster) = filter(&ruled) else { panic!("one cluster") };
        assert_eq!(cluster, format!("outbound|9080|v1|{REVIEWS}"));
        assert_eq!(ruled.unsupported, []);
        let plain = compile(&registry, &Config::default(), &settings(), &BTreeSet::new(), &ruled);
        assert_eq!(mode(&plain, REVIEWS), Mode::Kernel);
        // What was handed over before is still served, by no rule.
        assert_eq!(plain.carried.values().collect::<Vec<_>>(), [&Carriage::Standby]);
        let Tcp::Cluster(cluster) = filter(&plain) else { panic!("one cluster") };
        assert_eq!(cluster, format!("outbound|9080||{REVIEWS}"));
        before = plain;
    }
}

#[test]
fn requests_on_old_connections_find_a_port_that_is_the_kernels() {
    let registry = reviews_in(Mode::Kernel);
    let plain = compiled(&registry, &[]);
    assert!(plain.carried.values().all(|how| *how == Carriage::Standby) && !plain.carried.is_empty());
    let routes: envoy::route::RouteConfiguration = decode(&plain, ROUTE, "9080");
    assert!(routes.virtual_hosts.iter().any(|host| host.name == format!("{REVIEWS}:9080")), "{:?}", routes.virtual_hosts);
    let rule = virtual_service("http", 1, "reviews", json!([{"route": [to("reviews", "")]}]));
    let ruled = compiled(&registry, std::slice::from_ref(&rule));
    assert_eq!(ruled.carried[&PortKey { service: REVIEWS.to_owned(), port: 9080 }], Carriage::Http);
    // Standby is no effect: who opts out with a rule is told so.
    let told = compiled(&reviews_in(Mode::Direct), &[rule]).unsupported;
    assert!(told.iter().any(|one| one.field == "spec.hosts[0]" && one.reason.contains("no HTTP port")), "{told:?}");
}

#[test]
fn only_what_the_proxy_alone_can_do_moves_a_port() {
    let http = virtual_service("http", 1, "reviews", json!([{"route": [to("reviews", "")]}]));
    let policy = |policy: Value| rule("DestinationRule", "d", 1, json!({"host": "reviews", "trafficPolicy": policy}));
    let limit = json!({"connectionPool": {"tcp": {"maxConnections": 1}}});
    let port = |number: u32| json!({"port": {"number": number}, "connectionPool": {"tcp": {"maxConnections": 1}}});
    for (rule, tcp, labelled) in [
        (http, Mode::Kernel, Mode::Proxy),
        (tcp_rule(json!([{"route": [to("reviews", "")]}])), Mode::Proxy, Mode::Kernel),
        (subsets("reviews", &["v1"]), Mode::Kernel, Mode::Kernel),
        (policy(json!({"tls": {"mode": "DISABLE"}})), Mode::Kernel, Mode::Kernel),
        (policy(limit), Mode::Proxy, Mode::Proxy),
        (policy(json!({"portLevelSettings": [port(9080)]})), Mode::Proxy, Mode::Proxy),
        (policy(json!({"portLevelSettings": [port(9081)]})), Mode::Kernel, Mode::Kernel),
    ] {
        let at = |registry: &Registry| mode(&compiled(registry, std::slice::from_ref(&rule)), REVIEWS);
        let mut http = speaking(Protocol::Http);
        http.services.get_mut(REVIEWS).expect("reviews").ports.values_mut().for_each(|port| port.mode = Mode::Kernel);
        assert_eq!((at(&speaking(Protocol::Tcp)), at(&http)), (tcp, labelled), "{rule}");
        http.services.get_mut(REVIEWS).expect("reviews").ports.values_mut().for_each(|port| port.mode = Mode::Direct);
        assert_eq!(at(&http), Mode::Direct, "an opt-out stays");
    }
}

#[test]
fn the_kernel_chooses_as_a_rule_says_and_the_proxy_where_the_kernel_cannot() {
    use mesh_xds::agent::Balance;
    let seen = |protocol: Protocol, rules: &[Value]| {
        let compiled = compiled(&speaking(protocol), rules);
        let body = compiled.snapshot(&node("agent~10.0.0.9~n~mesh")).types[SERVICE][REVIEWS].body.clone();
        let service = mesh_xds::agent::Service::decode(body).expect("service");
        let port = service.ports.into_iter().find(|port| port.port == 9080).expect("the port");
        (Mode::try_from(port.mode).expect("a mode"), Balance::try_from(port.balance).expect("a balance"))
    };
    let spec = |balancer: Value| json!({"host": "reviews", "trafficPolicy": {"loadBalancer": balancer}});
    let of = |spec: Value| rule("DestinationRule", "d", 1, spec);
    let lb = |name: &str| json!({"simple": name});
    let (kernel, least) = (Mode::Kernel, Balance::LeastConnections);
    let source = json!({"consistentHash": {"useSourceIp": true}});
    for (balancer, want) in [
        (lb("RANDOM"), (kernel, Balance::Random)),
        (lb("LEAST_REQUEST"), (kernel, least)),
        (lb("LEAST_CONN"), (kernel, least)),
        (source.clone(), (kernel, Balance::Source)),
        (lb("ROUND_ROBIN"), (Mode::Proxy, least)),
        (json!({"consistentHash": {"httpHeaderName": "user"}}), (Mode::Proxy, least)),
        (json!({"consistentHash": {"useSourceIp": true, "ringHash": {"minimumRingSize": 9}}}), (Mode::Proxy, least)),
        (json!({"simple": "LEAST_REQUEST", "warmupDurationSecs": "9s"}), (Mode::Proxy, least)),
    ] {
        assert_eq!(seen(Protocol::Redis, &[of(spec(balancer.clone()))]), want, "{balancer}");
    }
    // A port's own settings go before the host's; another port's do not concern it.
    let port = |number: u32| {
        json!({"host": "reviews", "trafficPolicy": {"loadBalancer": lb("RANDOM"),
        "portLevelSettings": [{"port": {"number": number}, "loadBalancer": source}]}})
    };
    assert_eq!(seen(Protocol::Tcp, &[of(port(9080))]), (kernel, Balance::Source));
    assert_eq!(seen(Protocol::Tcp, &[of(port(9081))]), (kernel, Balance::Random));
    // Requests, limits, other rules, and rules for some clients are the proxy's.
    assert_eq!(seen(Protocol::Http, &[of(spec(lb("RANDOM")))]).0, Mode::Proxy);
    assert_eq!(seen(Protocol::Undeclared, &[of(spec(lb("RANDOM")))]).0, Mode::Proxy);
    let mut limited = spec(lb("RANDOM"));
    limited["trafficPolicy"]["connectionPool"] = json!({"tcp": {"maxConnections": 1}});
    let mut scoped = spec(lb("RANDOM"));
    scoped["exportTo"] = json!(["."]);
    for other in [limited, scoped] {
        assert_eq!(seen(Protocol::Tcp, &[of(other.clone())]).0, Mode::Proxy, "{other}");
    }
    let shares = tcp_rule(json!([{"route": [to("reviews", "")]}]));
    assert_eq!(seen(Protocol::Tcp, &[of(spec(lb("RANDOM"))), shares]).0, Mode::Proxy);
}

#[test]
fn the_first_tcp_route_that_holds_is_taken() {
    let only = |block: Value, subset: &str| json!({"match": [block], "route": [to("reviews", subset)]});
    let shares = json!({"route": [
        {"weight": 3, "destination": {"host": "reviews", "subset": "v1"}}, {"weight": 1, "destination": {"host": "reviews", "subset": "v2"}},
        {"weight": 0, "destination": {"host": "ratings"}}]});
    for (first, want) in [
        (only(json!({"port": 9080}), "v2"), "v2"),
        (only(json!({"port": 9081}), "v2"), "shares"),
        (only(json!({"destinationSubnets": ["11.0.0.0/8"]}), "v2"), "v2"),
        (only(json!({"destinationSubnets": ["12.0.0.0/8", "11.15.94.84"]}), "v2"), "shares"),
        (only(json!({"gateways": ["edge"]}), "v2"), "shares"),
        (only(json!({"gateways": ["mesh"], "sourceLabels": {"app": "x"}}), "v2"), "v2"),
    ] {
        let rules = [subsets("reviews", &["v1", "v2"]), tcp_rule(json!([first, shares]))];
        let found = match filter(&compiled(&speaking(Protocol::Mysql), &rules)) {
            Tcp::Cluster(cluster) => cluster,
            Tcp::WeightedClusters(several) => {
                let weights: Vec<_> = several.clusters.iter().map(|c| (c.name.as_str(), c.weight)).collect();
                let name = |subset: &str| format!("outbound|9080|{subset}|{REVIEWS}");
                assert_eq!(weights, [(name("v1").as_str(), 3), (name("v2").as_str(), 1)]);
                "shares".to_owned()
            }
        };
        assert!(found == want || found.contains(&format!("|{want}|")), "{first}: {found}");
    }
}

#[test]
fn a_policy_limits_and_hashes_tcp_connections() {
    let proxy = |rules: &[Value]| {
        let compiled = compiled(&speaking(Protocol::Mysql), rules);
        let found: listener::Listener = decode(&compiled, LISTENER, LISTENER_NAME);
        let Some(listener::filter::ConfigType::TypedConfig(any)) = &found.filter_chains[0].filters[0].config_type else {
            panic!("no filter")
        };
        tcp_proxy::TcpProxy::decode(any.value.as_slice()).expect("TcpProxy")
    };
    let policy = |policy: Value| rule("DestinationRule", "d", 1, json!({"host": "reviews", "trafficPolicy": policy}));
    let limited = policy(json!({"connectionPool": {"tcp": {"idleTimeout": "7s", "maxConnectionDuration": "9s"}}}));
    let found = proxy(std::slice::from_ref(&limited));
    let seconds = |span: Option<envoy::Duration>| span.map(|span| span.seconds);
    assert_eq!((seconds(found.idle_timeout), seconds(found.max_downstream_connection_duration)), (Some(7), Some(9)));
    assert!(found.hash_policy.is_empty());
    let shares = json!([{"route": [{"weight": 1, "destination": {"host": "ratings"}}, {"weight": 1, "destination": {"host": "reviews"}}]}]);
    let found = proxy(&[limited, tcp_rule(shares)]);
    assert_eq!(seconds(found.idle_timeout), Some(7), "the first destination with a policy speaks");
    let hash = json!({"loadBalancer": {"consistentHash": {"useSourceIp": true}}, "outlierDetection": {}});
    let found = proxy(&[policy(hash)]);
    assert_eq!((found.hash_policy.len(), found.idle_timeout), (1, None));
}

#[test]
fn server_names_and_sources_choose_chains() {
    let sni = |host: &str, subset: &str| json!({"match": [{"sniHosts": [host]}], "route": [to("reviews", subset)]});
    let labels = json!({"app": "x", "b": "1", "c": "2", "d": "3", "e": "4"});
    let own = json!({"match": [{"sourceLabels": labels}, {"sourceNamespace": "shop"}], "route": [to("reviews", "v1")]});
    let spec = json!({"hosts": ["reviews"], "tls": [sni("reviews", "v1"), sni("reviews", "v2")], "tcp": [own]});
    let rules = [subsets("reviews", &["v1", "v2"]), rule("VirtualService", "v", 1, spec)];
    let chains = |protocol: Protocol| {
        let compiled = compiled(&speaking(protocol), &rules);
        decode::<listener::Listener>(&compiled, LISTENER, LISTENER_NAME).filter_chains
    };
    let names = |chain: &listener::FilterChain| chain.filter_chain_match.as_ref().map(|found| found.server_names.clone());
    let tls = chains(Protocol::Tls);
    assert_eq!(tls.iter().map(names).collect::<Vec<_>>(), [Some(vec!["reviews".to_owned()]), None, None, None]);
    let opaque = chains(Protocol::Mysql);
    assert_eq!(opaque.len(), 3, "nobody looks for server names where no TLS is spoken");
    let metadata: Vec<_> = opaque.iter().map(|chain| chain.metadata.clone().unwrap_or_default().filter_metadata).collect();
    assert_eq!(metadata[0]["mesh.source.labels"].fields.len(), 5);
    assert_eq!(metadata[1]["mesh.source.namespace"].fields.keys().collect::<Vec<_>>(), ["namespace"]);
    assert!(metadata[2].is_empty());
    let version = || {
        compiled(&speaking(Protocol::Mysql), &rules).snapshot(&node("node~10.0.0.0~n~mesh")).types[LISTENER][LISTENER_NAME]
            .version
            .clone()
    };
    assert_eq!(version(), version(), "whatever order a map has");
    let other = Settings { abilities: Abilities { filter_chains: false, ..Abilities::ALL }, ..settings() };
    let plain = compile(&Arc::new(speaking(Protocol::Tls)), &config(&rules), &other, &BTreeSet::new(), &Compiled::default());
    assert_eq!(decode::<listener::Listener>(&plain, LISTENER, LISTENER_NAME).filter_chains.len(), 1);
}

#[test]
fn an_entry_with_endpoints_is_a_service_with_rules() {
    let endpoint =
        |address: &str, version: &str| json!({"address": address, "labels": {"version": version}, "ports": {"web": 8080}});
    let ports = json!([{"number": 80, "name": "web", "protocol": "HTTP"}, {"number": 5432, "name": "db", "protocol": "TCP", "targetPort": 5433}]);
    let spec = |hosts: Value| {
        json!({"hosts": hosts, "resolution": "STATIC", "location": "MESH_EXTERNAL", "ports": ports,
        "endpoints": [endpoint("203.0.113.7", "v1"), endpoint("203.0.113.8", "v2")]})
    };
    let entry = rule("ServiceEntry", "bin", 0, spec(json!(["httpbin.org"])));
    let hijack = rule("ServiceEntry", "hijack", 1, spec(json!(["reviews.default"])));
    let chosen = rule(
        "ServiceEntry",
        "chosen",
        2,
        json!({"hosts": ["chosen.org"], "addresses": ["203.0.113.99"], "resolution": "STATIC",
        "location": "MESH_INTERNAL", "workloadSelector": {"labels": {"app": "ratings"}}, "ports": [{"number": 80, "name": "web", "protocol": "HTTP"}]}),
    );
    let fault =
        json!([{"timeout": "2s", "fault": {"delay": {"percent": 100, "fixedDelay": "1s"}}, "route": [to("httpbin.org", "v1")]}]);
    let rules = [entry, hijack, chosen, subsets("httpbin.org", &["v1"]), virtual_service("bin", 1, "httpbin.org", fault)];
    let config = config(&rules);
    let registry = shop_and(&[("ratings", "v1"), ("reviews", "v1")], "dcos", &config.service_entries);
    assert_eq!(
        registry.problems.iter().collect::<Vec<_>>(),
        ["reviews.default: a ServiceEntry names a service of the mesh, which stays as it is"]
    );
    let compiled = compile(&Arc::new(registry), &config, &settings(), &BTreeSet::new(), &Compiled::default());
    let told: Vec<_> = compiled.unsupported.iter().map(|u| (u.name.as_str(), u.field.as_str())).collect();
    assert_eq!(told, [("hijack", "spec.hosts[0]")]);

    let configuration: pb::RouteConfiguration = decode(&compiled, ROUTE, "80");
    let host = configuration.virtual_hosts.iter().find(|host| host.name == "httpbin.org:80").expect("a virtual host");
    assert_eq!((cluster_of(&host.routes[0]), host.routes[0].typed_per_filter_config.len()), ("outbound|80|v1|httpbin.org", 1));
    let dialled = |cluster: &str| {
        let found: envoy::endpoint::ClusterLoadAssignment = decode(&compiled, ENDPOINT, cluster);
        let socket = |e: &envoy::endpoint::LbEndpoint| match &e.host_identifier {
            Some(envoy::endpoint::lb_endpoint::HostIdentifier::Endpoint(e)) => format!("{:?}", e.address),
            other => panic!("{other:?}"),
        };
        found.endpoints.iter().flat_map(|l| &l.lb_endpoints).map(socket).collect::<Vec<_>>()
    };
    let v1 = dialled("outbound|80|v1|httpbin.org");
    assert!(v1.len() == 1 && v1[0].contains("203.0.113.7") && v1[0].contains("8080"), "{v1:?}");
    assert!(dialled("outbound|80||chosen.org")[0].contains("9.0.0.1"), "the selected workload");

    let snapshot = compiled.snapshot(&node("agent~10.0.0.0~a~mesh"));
    let service = mesh_xds::agent::Service::decode(snapshot.types[SERVICE]["httpbin.org"].body.clone()).expect("service");
    assert!(service.names == ["httpbin.org"] && service.addresses[0].starts_with("11."), "{service:?}");
    let db = service.ports.iter().find(|port| port.port == 5432).expect("db");
    assert_eq!((db.mode, db.backends.len(), db.backends[0].port), (Mode::Kernel.into(), 2, 5433));
    let fixed = mesh_xds::agent::Service::decode(snapshot.types[SERVICE]["chosen.org"].body.clone()).expect("service");
    assert_eq!(fixed.addresses, ["203.0.113.99"]);
    let egress = mesh_xds::agent::Egress::decode(snapshot.types[EGRESS]["default/bin"].body.clone()).expect("egress");
    assert_eq!((egress.hosts.len(), egress.learn), (0, false));
    assert_eq!(egress.addresses, ["203.0.113.7", "203.0.113.8"]);
    assert_eq!(egress.ports.iter().map(|port| port.port).collect::<Vec<_>>(), [5433, 8080]);
}

#[test]
fn a_rule_exported_to_some_namespaces_is_for_their_pods() {
    let conditions = |export: &[&str], http: Value| {
        let spec = json!({"hosts": ["reviews"], "exportTo": export, "http": http});
        let compiled = compiled(&reviews(&["v1"]), &[subsets("reviews", &["v1"]), rule("VirtualService", "v", 1, spec)]);
        assert!(compiled.unsupported.iter().all(|told| told.field != "spec.exportTo"));
        let namespace = |route: &pb::Route| {
            let found = &route.r#match.as_ref().expect("a match").dynamic_metadata;
            found.iter().map(|m| format!("{} {:?}", m.filter, m.value)).collect::<String>()
        };
        let seen = routes(&compiled, REVIEWS);
        seen.iter().map(|route| (route.name.clone(), namespace(route))).collect::<Vec<_>>()
    };
    let all = json!([{"name": "all", "route": [to("reviews", "v1")]}]);
    let own = conditions(&["."], all.clone());
    assert!(own[0].0 == "all" && own[0].1.contains("mesh.source.namespace") && own[0].1.contains("\"default\""), "{own:?}");
    assert_eq!((own.len(), own[1].0.as_str(), own[1].1.as_str()), (2, "default", ""), "the others have no rule");
    assert_eq!(conditions(&["shop", "."], all.clone()).len(), 3);
    assert_eq!(conditions(&["*"], all.clone()), [("all".to_owned(), String::new())]);
    assert_eq!(conditions(&["~"], all)[0].0, "default");
    let block = |block: Value| json!([{"match": [block], "route": [to("reviews", "v1")]}]);
    let named =
        conditions(&["shop"], block(json!({"gateways": ["mesh"], "sourceNamespace": "other", "sourceLabels": {"a": "b"}})));
    assert!(named[0].1.contains("\"shop\"") && !named[0].1.contains("mesh.source.labels"), "{named:?}");
    let never = conditions(&["shop"], block(json!({"sourceNamespace": "other"})));
    assert_eq!(never.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["default"]);
}

#[test]
fn walkthrough_001_the_old_breaker_limits_the_cluster() {
    let spec =
        json!({"destination": {"name": "reviews"}, "circuitBreaker": {"simpleCb": {"httpMaxRequests": 1, "sleepWindow": "5s"}}});
    let compiled = compiled(&reviews(&["v1"]), &[rule("DestinationPolicy", "p", 1, spec)]);
    let cluster: envoy::cluster::Cluster = decode(&compiled, CLUSTER, &format!("outbound|9080||{REVIEWS}"));
    let thresholds = &cluster.circuit_breakers.expect("breakers").thresholds[0];
    assert_eq!(thresholds.max_requests.map(|limit| limit.value), Some(1));
    let ejects = cluster.outlier_detection.expect("ejection").base_ejection_time.map(|time| time.seconds);
    assert_eq!(ejects, Some(5));
}
