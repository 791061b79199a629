//! Certificates towards endpoints that come as Secrets: who connects with them, and which nodes get them.

use super::*;
use crate::secret::{Secret, tests::pem};
use envoy::tls;

/// `ratings-v1` runs on node 0 and `reviews-v1` on node 1; both are enrolled and of the namespace `default`.
fn registry() -> Registry {
    let mut registry = reviews(&["v1"]);
    registry.workloads.values_mut().for_each(|workload| workload.enrol = true);
    registry
}

/// A DestinationRule for reviews with TLS of the Secret `client`.
fn secured(namespace: &str, mode: &str, selector: Option<(&str, &str)>) -> Value {
    let policy =
        json!({"tls": {"mode": mode, "credentialName": "client", "sni": "reviews", "subjectAltNames": ["r.example.com"]}});
    let mut spec = json!({"host": "reviews", "trafficPolicy": policy});
    if let Some((key, value)) = selector {
        spec["workloadSelector"] = json!({"matchLabels": {key: value}});
    }
    let mut rule = rule("DestinationRule", "secured", 1, spec);
    rule["metadata"]["namespace"] = json!(namespace);
    rule
}

fn with(registry: &Registry, rules: &[Value], secrets: &[(&str, Value)]) -> Compiled {
    let mut config = config(rules);
    for (name, secret) in secrets {
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        let secret = Arc::new(Secret::read(secret).expect("valid"));
        config.secrets.insert((namespace.to_owned(), name.to_owned()), secret);
    }
    compiled_by(registry, &config)
}

fn pair() -> Value {
    let (certificate, key) = pem("client");
    json!({"stringData": {"tls.crt": certificate, "tls.key": key, "ca.crt": certificate}})
}

fn secrets(compiled: &Compiled, node: &Node) -> Vec<String> {
    compiled.snapshot(node).types[SECRET].keys().cloned().collect()
}

/// The SDS names of a cluster's certificate and authorities; `None`: plain.
fn context(compiled: &Compiled, cluster: &str) -> Option<(Vec<String>, Option<String>)> {
    use tls::common_tls_context::ValidationContextType::CombinedValidationContext as Combined;
    let found: envoy::cluster::Cluster = decode(compiled, CLUSTER, cluster);
    let Some(envoy::core::transport_socket::ConfigType::TypedConfig(any)) = found.transport_socket?.config_type else {
        panic!("no context")
    };
    let common = tls::UpstreamTlsContext::decode(any.value.as_slice()).expect("a context").common_tls_context.expect("common");
    let shown = common.tls_certificate_sds_secret_configs.into_iter().map(|config| config.name).collect();
    let believed = common.validation_context_type.map(|believed| match believed {
        Combined(combined) => {
            let names = combined.default_validation_context.expect("names").match_typed_subject_alt_names;
            assert_eq!(names.len(), 1);
            combined.validation_context_sds_secret_config.expect("authorities").name
        }
        other => panic!("{other:?}"),
    });
    Some((shown, believed))
}

fn cluster(scope: &str) -> String {
    let name = format!("outbound|9080||{REVIEWS}");
    if scope.is_empty() { name } else { format!("{name}|{scope}") }
}

fn plain_node(n: u8) -> Node {
    node(&format!("node~10.0.0.{n}~n~mesh"))
}

fn gateway_node(more: &[(&str, &str)]) -> Node {
    let labels = [("istio", "ingressgateway")].iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    Node { labels: labels.collect(), ..node("node~10.0.0.9~n~mesh") }
}

fn gateway() -> [Value; 2] {
    let server = json!({"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]});
    let edge = rule("Gateway", "edge", 1, json!({"selector": {"istio": "ingressgateway"}, "servers": [server]}));
    let http = json!([{"route": [to("reviews", "")]}]);
    [edge, rule("VirtualService", "v", 1, json!({"hosts": ["*"], "gateways": ["edge"], "http": http}))]
}

const BOTH: [&str; 2] = ["kubernetes://default/client", "kubernetes://default/client-cacert"];

#[test]
fn keys_go_to_the_nodes_of_the_workloads_that_the_selector_chooses() {
    let rule = secured("default", "MUTUAL", Some(("app", "ratings")));
    let compiled = with(&registry(), std::slice::from_ref(&rule), &[("default/client", pair())]);
    assert_eq!(compiled.unsupported, []);
    let own = cluster("default,app=ratings");
    assert_eq!(context(&compiled, &own), Some((vec![BOTH[0].to_owned()], Some(BOTH[1].to_owned()))));
    assert_eq!(context(&compiled, &cluster("")), None, "everybody else's");
    assert_eq!(secrets(&compiled, &plain_node(0)), BOTH);
    assert_eq!(secrets(&compiled, &plain_node(1)), [""; 0], "no workload there is chosen");
    assert_eq!(secrets(&compiled, &gateway_node(&[])), [""; 0]);
    // Only who is in the mesh is served by its proxy.
    let mut left = registry();
    left.workloads.values_mut().for_each(|workload| workload.enrol = false);
    let compiled = with(&left, &[rule], &[("default/client", pair())]);
    assert_eq!(secrets(&compiled, &plain_node(0)), [""; 0]);
    let simple = with(&registry(), &[secured("default", "SIMPLE", Some(("app", "ratings")))], &[("default/client", pair())]);
    assert_eq!(context(&simple, &own), Some((vec![], Some(BOTH[1].to_owned()))), "SIMPLE shows nothing");
    assert_eq!(secrets(&simple, &plain_node(0)), BOTH[1..]);
}

#[test]
fn without_a_selector_they_are_for_gateways() {
    let rules = [&gateway()[..], &[secured("default", "MUTUAL", None)]].concat();
    let compiled = with(&registry(), &rules, &[("default/client", pair())]);
    assert_eq!(secrets(&compiled, &gateway_node(&[])), BOTH);
    assert_eq!(secrets(&compiled, &gateway_node(&[("zone", "a")])), BOTH, "with more labels");
    assert_eq!((secrets(&compiled, &plain_node(0)), secrets(&compiled, &plain_node(1))), (vec![], vec![]));
    assert_eq!(context(&compiled, &cluster("")), None, "pods connect in plain text, as in Istio");
    assert!(context(&compiled, &cluster("istio-system,gateways")).is_some());
    let told: Vec<_> = compiled.unsupported.iter().map(|u| u.field.as_str()).collect();
    assert_eq!(told, ["spec.trafficPolicy.tls.credentialName"]);
    let routes: pb::RouteConfiguration = {
        let snapshot = compiled.snapshot(&gateway_node(&[]));
        pb::RouteConfiguration::decode(snapshot.types[ROUTE]["http.80"].body.clone()).expect("decodes")
    };
    assert_eq!(cluster_of(&routes.virtual_hosts[0].routes[0]), cluster("istio-system,gateways"));
}

#[test]
fn a_selector_chooses_gateways_by_their_labels() {
    let rules = [&gateway()[..], &[secured("istio-system", "SIMPLE", Some(("zone", "a")))]].concat();
    let compiled = with(&registry(), &rules, &[("istio-system/client", pair())]);
    let name = "kubernetes://istio-system/client-cacert";
    assert_eq!(secrets(&compiled, &gateway_node(&[("zone", "a")])), [name]);
    assert_eq!(secrets(&compiled, &gateway_node(&[("zone", "b")])), [""; 0]);
    assert!(context(&compiled, &cluster("istio-system,zone=a")).is_some(), "although no Gateway names the label");
}

#[test]
fn secrets_are_the_rules_namespaces_and_for_gateways_the_root_namespaces_too() {
    let at_gateway = |secrets: &[(&str, Value)]| {
        let compiled = with(&registry(), &[&gateway()[..], &[secured("default", "SIMPLE", None)]].concat(), secrets);
        (self::secrets(&compiled, &gateway_node(&[])), compiled.unsupported.iter().map(|u| u.reason.clone()).collect::<Vec<_>>())
    };
    let (found, _) = at_gateway(&[("istio-system/client", pair())]);
    assert_eq!(found, ["kubernetes://istio-system/client-cacert"]);
    let apart = json!({"stringData": {"cacert": pem("ca").0}});
    let (found, _) = at_gateway(&[("istio-system/client", pair()), ("default/client-cacert", apart)]);
    assert_eq!(found, BOTH[1..], "authorities may be a Secret of their own");
    let (found, told) = at_gateway(&[("other/client", pair())]);
    assert_eq!(found, [""; 0]);
    let missing = "client: there is no such Secret in default or istio-system, so connections fail";
    assert!(told.iter().any(|why| why == missing), "{told:?}");
    // The gateways' keys are not for who may write rules in any namespace.
    let chosen = secured("default", "MUTUAL", Some(("app", "ratings")));
    let compiled = with(&registry(), &[chosen], &[("istio-system/client", pair())]);
    assert_eq!(secrets(&compiled, &plain_node(0)), [""; 0]);
    assert_eq!(context(&compiled, &cluster("default,app=ratings")).expect("TLS").0, BOTH[..1], "which fails, and is not plain");
    let told: Vec<_> = compiled.unsupported.iter().map(|u| u.reason.as_str()).collect();
    assert_eq!(told, ["client: there is no such Secret in default, so connections fail"]);
}

#[test]
fn a_renewed_secret_changes_no_cluster() {
    let rule = [secured("default", "MUTUAL", Some(("app", "ratings")))];
    let (before, after) =
        (with(&registry(), &rule, &[("default/client", pair())]), with(&registry(), &rule, &[("default/client", pair())]));
    let version =
        |compiled: &Compiled, kind: &str, name: &str| compiled.snapshot(&plain_node(0)).types[kind][name].version.clone();
    assert_ne!(version(&before, SECRET, BOTH[0]), version(&after, SECRET, BOTH[0]));
    let own = cluster("default,app=ratings");
    assert_eq!(version(&before, CLUSTER, &own), version(&after, CLUSTER, &own));
}
