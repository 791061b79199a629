//! Gateways: who gets what, whose routes, which certificate.

use super::*;
use crate::secret::{Secret, tests::pem};
use envoy::{hcm, listener};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as tls;

const HTTP: &str = "gateway_0.0.0.0_80";
const HTTPS: &str = "gateway_0.0.0.0_443";

fn edge_node() -> Node {
    let labels = [("istio", "ingressgateway"), ("zone", "a")].map(|(key, value)| (key.to_owned(), value.to_owned()));
    Node { labels: labels.into(), ..node("node~10.0.0.0~n~mesh") }
}

fn server(port: u32, protocol: &str, hosts: &[&str]) -> Value {
    json!({"port": {"number": port, "name": format!("p{port}"), "protocol": protocol}, "hosts": hosts})
}

fn gateway(name: &str, created: u32, servers: &[Value]) -> Value {
    rule("Gateway", name, created, json!({"selector": {"istio": "ingressgateway"}, "servers": servers}))
}

fn bound(name: &str, created: u32, host: &str, gateways: &[&str], http: Value) -> Value {
    rule("VirtualService", name, created, json!({"hosts": [host], "gateways": gateways, "http": http}))
}

fn at_edge<T: Message + Default>(compiled: &Compiled, type_url: &str, name: &str) -> T {
    let snapshot = compiled.snapshot(&edge_node());
    let resource =
        snapshot.types[type_url].get(name).unwrap_or_else(|| panic!("{name} in {:?}", snapshot.types[type_url].keys()));
    T::decode(resource.body.clone()).expect("decodes")
}

fn hosts(compiled: &Compiled, name: &str) -> Vec<(String, Vec<String>)> {
    let found: pb::RouteConfiguration = at_edge(compiled, ROUTE, name);
    let clusters = |host: &pb::VirtualHost| host.routes.iter().map(|route| cluster_of(route).to_owned()).collect();
    found.virtual_hosts.iter().map(|host| (host.domains[0].clone(), clusters(host))).collect()
}

fn cluster(service: &str, subset: &str) -> String {
    format!("outbound|9080|{subset}|{service}.marathon.l4lb.thisdcos.directory")
}

fn with_secrets(rules: &[Value], secrets: &[(&str, Value)]) -> Compiled {
    let mut config = config(rules);
    for (name, secret) in secrets {
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        let secret = Arc::new(Secret::read(secret).expect("valid"));
        config.secrets.insert((namespace.to_owned(), name.to_owned()), secret);
    }
    compile(&Arc::new(reviews(&["v1", "v2"])), &config, &settings(), &BTreeSet::new(), &Compiled::default())
}

fn certificate(name: &str) -> Value {
    let (certificate, key) = pem(name);
    json!({"type": "kubernetes.io/tls", "stringData": {"tls.crt": certificate, "tls.key": key}})
}

#[test]
fn walkthrough_004_half_and_half_through_a_gateway_for_all_hosts() {
    let http = json!([{"route": [{"weight": 50, "destination": {"host": "reviews", "subset": "v1"}}, {"weight": 50, "destination": {"host": "reviews", "subset": "v2"}}]}]);
    let rules = [
        gateway("app-gateway", 1, &[server(80, "HTTP", &["*"])]),
        subsets("reviews", &["v1", "v2"]),
        bound("app", 1, "*", &["app-gateway"], http),
    ];
    let compiled = compiled(&reviews(&["v1", "v2"]), &rules);
    assert_eq!(compiled.unsupported, []);
    let found: listener::Listener = at_edge(&compiled, LISTENER, HTTP);
    assert!(found.bind_to_port.is_some_and(|bind| bind.value));
    let Some(listener::filter::ConfigType::TypedConfig(any)) = &found.filter_chains[0].filters[0].config_type else {
        panic!("no filter")
    };
    let manager = hcm::HttpConnectionManager::decode(any.value.as_slice()).expect("a manager");
    assert!(manager.use_remote_address.is_some_and(|on| on.value) && manager.server_name == "istio-envoy");
    assert!(manager.proxy_100_continue, "as in Istio since 1.24, an endpoint says itself whether it wants a body");
    let routes: pb::RouteConfiguration = at_edge(&compiled, ROUTE, "http.80");
    let [host] = routes.virtual_hosts.as_slice() else { panic!("{routes:?}") };
    assert_eq!(host.domains, ["*"]);
    assert!(
        matches!(&action(&host.routes[0]).cluster_specifier, Some(ClusterSpecifier::WeightedClusters(w)) if w.clusters.len() == 2)
    );
    // Only proxies with the labels open the port; the clusters are everybody's.
    for labels in [vec![], vec![("istio", "egressgateway")], vec![("zone", "a")]] {
        let labels = labels.into_iter().map(|(key, value): (&str, &str)| (key.to_owned(), value.to_owned())).collect();
        let plain = compiled.snapshot(&Node { labels, ..node("node~10.0.0.0~n~mesh") });
        assert_eq!(plain.types[LISTENER].keys().collect::<Vec<_>>(), ["0.0.0.0_9080"]);
        assert!(plain.types[CLUSTER].contains_key(&cluster("reviews", "v2")));
    }
}

#[test]
fn rules_with_one_host_are_one_virtual_host_and_catch_alls_come_last() {
    let route = |subset: &str| json!([{"route": [to("reviews", subset)]}]);
    let path = json!([{"match": [{"uri": {"prefix": "/ratings"}}], "route": [to("ratings", "")]}]);
    let rules = [
        gateway("edge", 1, &[server(80, "HTTP", &["*.shop.com", "default/only.here", "other/not.here"])]),
        bound("a", 1, "www.shop.com", &["edge"], route("")),
        bound("b", 2, "www.shop.com", &["default/edge"], path),
        bound("c", 3, "only.here", &["./edge"], route("")),
        bound("d", 4, "not.here", &["edge"], route("")),
        bound("e", 5, "*", &["edge.default.svc.cluster.local"], route("")),
        bound("mesh", 6, "api.shop.com", &["mesh"], route("")),
        bound("lost", 7, "api.shop.com", &["nowhere"], route("")),
    ];
    let compiled = compiled(&reviews(&["v1"]), &rules);
    let all = vec![cluster("reviews", "")];
    assert_eq!(
        hosts(&compiled, "http.80"),
        [
            ("*.shop.com".to_owned(), all.clone()),
            ("only.here".to_owned(), [all.clone(), all.clone()].concat()),
            ("www.shop.com".to_owned(), vec![cluster("ratings", ""), cluster("reviews", "")]),
        ]
    );
    let told: Vec<_> = compiled.unsupported.iter().map(|u| (u.name.as_str(), u.field.as_str())).collect();
    assert_eq!(told, [("lost", "spec.gateways[0]"), ("mesh", "spec.hosts[0]")]);
}

#[test]
fn blocks_for_gateways_hold_at_theirs_only() {
    let block = |block: Value, subset: &str| json!({"match": [block], "route": [to("reviews", subset)]});
    let http = json!([
        block(json!({"gateways": ["mesh"]}), "mesh"),
        block(json!({"gateways": ["other"]}), "other"),
        block(json!({"port": 81}), "port"),
        block(json!({"sourceLabels": {"istio": "egressgateway"}, "uri": {"prefix": "/a"}}), "labels"),
        block(json!({"gateways": ["edge"], "sourceLabels": {"app": "x"}, "uri": {"prefix": "/b"}}), "v1"),
        block(json!({"port": 80}), "v2"),
    ]);
    let rules = [
        gateway("edge", 1, &[server(80, "HTTP", &["*"])]),
        subsets("reviews", &["v1", "v2"]),
        bound("v", 1, "reviews", &["edge", "mesh"], http),
    ];
    let compiled = compiled(&reviews(&["v1", "v2"]), &rules);
    let at_gateway = hosts(&compiled, "http.80");
    assert_eq!(at_gateway, [(REVIEWS.to_owned(), vec![cluster("reviews", "v1"), cluster("reviews", "v2")])]);
    let in_mesh: Vec<_> = routes(&compiled, REVIEWS).iter().map(cluster_of).map(str::to_owned).collect();
    assert_eq!(in_mesh[0], cluster("reviews", "mesh"));
}

#[test]
fn certificates_go_to_the_servers_that_name_them() {
    let https = |name: &str, host: &str, mode: &str| json!({"port": {"number": 443, "name": name, "protocol": "HTTPS"}, "hosts": [host], "tls": {"mode": mode, "credentialName": name}});
    let to_https =
        json!({"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["a.com"], "tls": {"httpsRedirect": true}});
    let servers = [https("one", "a.com", "SIMPLE"), https("two", "b.com", "MUTUAL"), https("gone", "c.com", "SIMPLE"), to_https];
    let rules = [
        gateway("edge", 1, &servers),
        gateway("late", 2, &[https("one", "a.com", "SIMPLE")]),
        bound("v", 1, "*", &["edge"], json!([{"route": [to("reviews", "")]}])),
    ];
    let (authority, _) = pem("clients");
    let secrets = [
        ("default/one", certificate("a.com")),
        ("istio-system/one", certificate("not.this")),
        ("istio-system/two", certificate("b.com")),
        ("istio-system/two-cacert", json!({"stringData": {"cacert": authority}})),
        ("default/unused", certificate("x")),
    ];
    let compiled = with_secrets(&rules, &secrets);
    let names: Vec<_> = compiled.snapshot(&edge_node()).types[SECRET].keys().cloned().collect();
    let wanted = ["default/one", "istio-system/two", "istio-system/two-cacert"];
    assert_eq!(names, wanted.map(|name| format!("kubernetes-gateway://{name}")));
    assert!(compiled.snapshot(&node("node~10.0.0.0~n~mesh")).types[SECRET].is_empty(), "nobody else has them");
    let found: listener::Listener = at_edge(&compiled, LISTENER, HTTPS);
    let chains: Vec<_> =
        found.filter_chains.iter().map(|c| c.filter_chain_match.as_ref().expect("a match").server_names.clone()).collect();
    assert_eq!(chains, [["a.com"], ["b.com"]]);
    let Some(envoy::core::transport_socket::ConfigType::TypedConfig(any)) =
        &found.filter_chains[1].transport_socket.as_ref().expect("TLS").config_type
    else {
        panic!("no context")
    };
    let context = tls::DownstreamTlsContext::decode(any.value.as_slice()).expect("a context");
    let common = context.common_tls_context.expect("common");
    assert!(context.require_client_certificate.is_some_and(|require| require.value));
    assert_eq!(
        (common.alpn_protocols, common.validation_context_type.is_some()),
        (vec!["h2".to_owned(), "http/1.1".to_owned()], true)
    );
    assert_eq!(hosts(&compiled, "https.443.one.edge.default"), [("a.com".to_owned(), vec![cluster("reviews", "")])]);
    let plain: pb::RouteConfiguration = at_edge(&compiled, ROUTE, "http.80");
    assert_eq!(plain.virtual_hosts[0].require_tls(), pb::virtual_host::TlsRequirementType::All);
    let told: Vec<_> = compiled.unsupported.iter().map(|u| (u.name.as_str(), u.field.as_str())).collect();
    assert_eq!(told, [("edge", "spec.servers[2].tls.credentialName"), ("late", "spec.servers[0].hosts")]);

    let mut renewed = secrets.clone();
    renewed[0].1 = certificate("a.com");
    let after = with_secrets(&rules, &renewed);
    let version =
        |compiled: &Compiled, type_url: &str, name: &str| compiled.snapshot(&edge_node()).types[type_url][name].version.clone();
    assert_ne!(version(&compiled, SECRET, &names[0]), version(&after, SECRET, &names[0]));
    assert_eq!(version(&compiled, SECRET, &names[1]), version(&after, SECRET, &names[1]));
    assert_eq!(version(&compiled, LISTENER, HTTPS), version(&after, LISTENER, HTTPS), "connections stay");
}

#[test]
fn tls_passes_by_server_name_and_tcp_by_port() {
    let mut passing = server(443, "TLS", &["*.db.com"]);
    passing["tls"] = json!({"mode": "PASSTHROUGH"});
    let sni = |host: &str, subset: &str| json!({"match": [{"port": 443, "sniHosts": [host]}], "route": [to("reviews", subset)]});
    let tls = json!({"hosts": ["*.db.com"], "gateways": ["edge"],
        "tls": [sni("a.db.com", "v1"), sni("*.db.com", "v2"), sni("a.db.com", "v2")]});
    let tcp = json!({"hosts": ["*"], "gateways": ["edge"], "tcp": [
        {"match": [{"port": 1}], "route": [to("reviews", "v2")]}, {"match": [{"port": 3306}], "route": [to("reviews", "v1")]}]});
    let rules = [
        gateway("edge", 1, &[passing, server(3306, "MYSQL", &["*"]), server(6379, "REDIS", &["*"])]),
        gateway("late", 2, &[server(3306, "HTTP", &["*"])]),
        subsets("reviews", &["v1", "v2"]),
        rule("VirtualService", "tls", 1, tls),
        rule("VirtualService", "tcp", 2, tcp),
    ];
    let compiled = compiled(&reviews(&["v1", "v2"]), &rules);
    let found: listener::Listener = at_edge(&compiled, LISTENER, HTTPS);
    let chains: Vec<_> =
        found.filter_chains.iter().map(|c| c.filter_chain_match.as_ref().expect("a match").server_names.clone()).collect();
    assert_eq!(chains, [["a.db.com"], ["*.db.com"]]);
    assert!(found.filter_chains.iter().all(|chain| chain.transport_socket.is_none()));
    let found: listener::Listener = at_edge(&compiled, LISTENER, "gateway_0.0.0.0_3306");
    assert_eq!((found.filter_chains.len(), found.listener_filters.len()), (1, 0));
    assert!(!compiled.snapshot(&edge_node()).types[LISTENER].contains_key("gateway_0.0.0.0_6379"), "nothing is behind it");
    let told: Vec<_> = compiled.unsupported.iter().map(|u| (u.name.as_str(), u.field.as_str())).collect();
    assert_eq!(told, [("edge", "spec.servers[2]"), ("late", "spec.servers[0].port")]);
}

#[test]
fn a_host_that_no_rule_has_is_no_route() {
    let compiled = compiled(&reviews(&["v1"]), &[gateway("edge", 1, &[server(80, "HTTP", &["a.com"])])]);
    assert_eq!(hosts(&compiled, "http.80"), [("*".to_owned(), vec![])]);
}

#[test]
fn gateways_are_traced_as_hops_of_their_own() {
    use crate::core::compile::telemetry::{AccessLog, Telemetry};
    use envoy_types::pb::envoy::config::trace::v3 as trace;
    let telemetry =
        Telemetry { zipkin: Some("reviews:9080".parse().expect("address")), sampling: 10.0, access_log: AccessLog::Off };
    let rules = [gateway("edge", 1, &[server(80, "HTTP", &["*"])])];
    let settings = Settings { telemetry, ..settings() };
    let compiled = compile(&Arc::new(reviews(&["v1"])), &config(&rules), &settings, &BTreeSet::new(), &Compiled::default());
    let found: listener::Listener = at_edge(&compiled, LISTENER, HTTP);
    let Some(listener::filter::ConfigType::TypedConfig(any)) = &found.filter_chains[0].filters[0].config_type else {
        panic!("no filter")
    };
    let manager = hcm::HttpConnectionManager::decode(any.value.as_slice()).expect("a manager");
    let tracing = manager.tracing.expect("traced");
    assert!(tracing.spawn_upstream_span.is_some_and(|on| on.value));
    let Some(trace::tracing::http::ConfigType::TypedConfig(any)) = tracing.provider.and_then(|provider| provider.config_type)
    else {
        panic!("no provider")
    };
    let zipkin = trace::ZipkinConfig::decode(any.value.as_slice()).expect("Zipkin");
    // mesh-proxy takes such spans only if they are not shared with the client.
    assert!(zipkin.shared_span_context.is_some_and(|shared| !shared.value));
    assert!(compiled.snapshot(&edge_node()).types[CLUSTER].contains_key(&zipkin.collector_cluster));
}
