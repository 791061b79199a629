//! What DestinationRules say of connections, field by field.

use super::*;
use crate::core::compile::envoy::{cluster as cds, core as base, upstreams};
use cds::cluster::LbPolicy;

/// The cluster of reviews (of a subset of it) under one DestinationRule.
fn of_rule(spec: Value, subset: &str) -> cds::Cluster {
    of_port(&reviews(&["v1"]), spec, subset)
}

fn of_port(registry: &Registry, mut spec: Value, subset: &str) -> cds::Cluster {
    spec["host"] = json!("reviews");
    if spec["subsets"].is_null() {
        spec["subsets"] = json!([{"name": "v1", "labels": {"version": "v1"}}]);
    }
    let rules =
        [rule("DestinationRule", "d", 0, spec), virtual_service("v", 1, "reviews", json!([{"route": [to("reviews", subset)]}]))];
    let compiled = compiled(registry, &rules);
    decode(&compiled, CLUSTER, &format!("outbound|9080|{subset}|{REVIEWS}"))
}

fn policy(policy: Value) -> cds::Cluster {
    of_rule(json!({"trafficPolicy": policy}), "")
}

fn http_options(cluster: &cds::Cluster) -> Option<upstreams::HttpProtocolOptions> {
    let any = cluster.typed_extension_protocol_options.get("envoy.extensions.upstreams.http.v3.HttpProtocolOptions")?;
    Some(upstreams::HttpProtocolOptions::decode(any.value.as_slice()).expect("options"))
}

/// Connections, waiting requests, requests, retries.
fn limits(cluster: &cds::Cluster) -> [u32; 4] {
    let thresholds = &cluster.circuit_breakers.as_ref().expect("breakers").thresholds[0];
    let all = [thresholds.max_connections, thresholds.max_pending_requests, thresholds.max_requests, thresholds.max_retries];
    all.map(|value| value.expect("said aloud").value)
}

const NONE: u32 = u32::MAX;

#[test]
fn the_inner_level_wins_block_by_block_and_a_port_wholesale() {
    let pool = |n: u32| json!({"tcp": {"maxConnections": n}});
    let lb = |simple: &str| json!({"simple": simple});
    let port = |policy: Value| {
        let mut policy = policy;
        policy["port"] = json!({"number": 9080});
        json!([policy])
    };
    let random = LbPolicy::Random;
    for (top, subset, expected) in [
        (json!({"connectionPool": pool(1), "loadBalancer": lb("RANDOM")}), Value::Null, (1, random)),
        (json!({"connectionPool": pool(1), "loadBalancer": lb("RANDOM")}), json!({"connectionPool": pool(2)}), (2, random)),
        // A port's own settings forget the rest of their level.
        (
            json!({"connectionPool": pool(1), "loadBalancer": lb("RANDOM"), "portLevelSettings": port(json!({"connectionPool": pool(3)}))}),
            Value::Null,
            (3, LbPolicy::RoundRobin),
        ),
        (
            json!({"connectionPool": pool(1), "portLevelSettings": port(json!({"connectionPool": pool(3)}))}),
            json!({"loadBalancer": lb("RANDOM")}),
            (3, random),
        ),
        (
            json!({"connectionPool": pool(1), "loadBalancer": lb("RANDOM")}),
            json!({"connectionPool": pool(2), "portLevelSettings": port(json!({"loadBalancer": lb("LEAST_REQUEST")}))}),
            (NONE, LbPolicy::LeastRequest),
        ),
        (
            json!({"connectionPool": pool(1), "portLevelSettings": [{"port": {"number": 1}, "connectionPool": pool(3)}]}),
            Value::Null,
            (1, LbPolicy::RoundRobin),
        ),
    ] {
        let mut named = json!({"name": "v1", "labels": {"version": "v1"}});
        if !subset.is_null() {
            named["trafficPolicy"] = subset.clone();
        }
        let cluster = of_rule(json!({"trafficPolicy": top, "subsets": [named]}), "v1");
        assert_eq!((limits(&cluster)[0], cluster.lb_policy()), expected, "{top} {subset}");
    }
}

#[test]
fn balancers() {
    for (name, policy_is) in [
        ("ROUND_ROBIN", LbPolicy::RoundRobin),
        ("LEAST_REQUEST", LbPolicy::LeastRequest),
        ("LEAST_CONN", LbPolicy::LeastRequest),
        ("RANDOM", LbPolicy::Random),
        ("UNSPECIFIED", LbPolicy::RoundRobin),
    ] {
        let cluster = policy(json!({"loadBalancer": {"simple": name}}));
        assert_eq!((cluster.lb_policy(), &cluster.lb_config), (policy_is, &None), "{name}");
    }
    let passed = policy(json!({"loadBalancer": {"simple": "PASSTHROUGH"}}));
    assert_eq!((passed.lb_policy(), &passed.eds_cluster_config), (LbPolicy::ClusterProvided, &None));
    let warm = policy(
        json!({"loadBalancer": {"simple": "LEAST_REQUEST", "warmup": {"duration": "30s", "minimumPercent": 5, "aggression": 2}}}),
    );
    let Some(cds::cluster::LbConfig::LeastRequestLbConfig(config)) = warm.lb_config else { panic!("{:?}", warm.lb_config) };
    let slow = config.slow_start_config.expect("slow start");
    assert_eq!(
        (
            slow.slow_start_window.map(|w| w.seconds),
            slow.min_weight_percent.map(|p| p.value),
            slow.aggression.map(|a| a.default_value)
        ),
        (Some(30), Some(5.0), Some(2.0))
    );
    let old = policy(json!({"loadBalancer": {"simple": "ROUND_ROBIN", "warmupDurationSecs": "9s"}}));
    assert!(matches!(old.lb_config, Some(cds::cluster::LbConfig::RoundRobinLbConfig(c)) if c.slow_start_config.is_some()));
}

#[test]
fn hashes_are_of_the_route_and_tables_of_the_cluster() {
    use cds::cluster::LbConfig::{MaglevLbConfig, RingHashLbConfig};
    use pb::route_action::hash_policy::PolicySpecifier;
    let of = |hash: Value| {
        let spec = json!({"host": "reviews", "trafficPolicy": {"loadBalancer": {"consistentHash": hash}}});
        let compiled = compiled(&reviews(&["v1"]), &[rule("DestinationRule", "d", 0, spec)]);
        let policies = action(&routes(&compiled, REVIEWS)[0]).hash_policy.clone();
        let cluster: cds::Cluster = decode(&compiled, CLUSTER, &format!("outbound|9080||{REVIEWS}"));
        let [policy] = policies.as_slice() else { panic!("{policies:?}") };
        (policy.policy_specifier.clone().expect("key"), cluster)
    };
    let (key, cluster) = of(json!({"httpHeaderName": "User"}));
    assert!(matches!(key, PolicySpecifier::Header(h) if h.header_name == "User"), "also on the default route");
    assert_eq!(cluster.lb_policy(), LbPolicy::RingHash);
    assert!(matches!(cluster.lb_config, Some(RingHashLbConfig(c)) if c.minimum_ring_size.map(|s| s.value) == Some(1024)));
    let (key, cluster) =
        of(json!({"httpCookie": {"name": "c", "path": "/p", "ttl": "0s", "attributes": [{"name": "SameSite", "value": "Lax"}]},
        "ringHash": {"minimumRingSize": 7}}));
    let PolicySpecifier::Cookie(cookie) = key else { panic!("{key:?}") };
    assert_eq!(
        (cookie.name.as_str(), cookie.path.as_str(), cookie.ttl.map(|t| t.seconds), cookie.attributes.len()),
        ("c", "/p", Some(0), 1)
    );
    assert!(matches!(cluster.lb_config, Some(RingHashLbConfig(c)) if c.minimum_ring_size.map(|s| s.value) == Some(7)));
    let (key, cluster) = of(json!({"useSourceIp": true, "minimumRingSize": 9}));
    assert!(matches!(key, PolicySpecifier::ConnectionProperties(p) if p.source_ip));
    assert!(matches!(cluster.lb_config, Some(RingHashLbConfig(c)) if c.minimum_ring_size.map(|s| s.value) == Some(9)));
    let (key, cluster) = of(json!({"httpQueryParameterName": "q", "maglev": {"tableSize": 65537}}));
    assert!(matches!(key, PolicySpecifier::QueryParameter(q) if q.name == "q"));
    assert!(matches!(cluster.lb_config, Some(MaglevLbConfig(c)) if c.table_size.map(|s| s.value) == Some(65_537)));
}

#[test]
fn a_hash_is_not_escaped_by_a_retry_unless_the_rule_says_so() {
    let spec = json!({"host": "reviews", "trafficPolicy": {"loadBalancer": {"consistentHash": {"httpHeaderName": "u"}}},
        "subsets": [{"name": "v1", "labels": {"version": "v1"}, "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}}}]});
    for (http, hashes, others) in [
        (json!({"route": [to("reviews", "")]}), 1, 0),
        (json!({"route": [to("reviews", "")], "retries": {"attempts": 1, "retryIgnorePreviousHosts": true}}), 1, 1),
        (json!({"route": [to("reviews", "v1")]}), 0, 1),
        (
            json!({"route": [{"weight": 1, "destination": {"host": "reviews"}}, {"weight": 1, "destination": {"host": "ratings"}}]}),
            1,
            1,
        ),
    ] {
        let rules = [rule("DestinationRule", "d", 0, spec.clone()), virtual_service("v", 1, "reviews", json!([http]))];
        let routes = routes(&compiled(&reviews(&["v1"]), &rules), REVIEWS);
        let found = action(&routes[0]);
        let predicates = found.retry_policy.as_ref().expect("retries").retry_host_predicate.len();
        assert_eq!((found.hash_policy.len(), predicates), (hashes, others), "{http}");
    }
}

#[test]
fn limits_default_to_none_and_zero_is_unset() {
    assert_eq!(limits(&policy(json!({"loadBalancer": {"simple": "RANDOM"}}))), [NONE; 4]);
    let zero = json!({"connectionPool": {"tcp": {"maxConnections": 0}, "http": {"http1MaxPendingRequests": 0, "http2MaxRequests": 0, "maxRetries": 0}}});
    assert_eq!(limits(&policy(zero)), [NONE; 4]);
    let all = json!({"connectionPool": {"tcp": {"maxConnections": 1}, "http": {"http1MaxPendingRequests": 2, "http2MaxRequests": 3, "maxRetries": 4}},
        "retryBudget": {"percent": 25.5, "minRetryConcurrency": 6}});
    let cluster = policy(all);
    assert_eq!(limits(&cluster), [1, 2, 3, 4]);
    let thresholds = &cluster.circuit_breakers.as_ref().expect("breakers").thresholds[0];
    let budget = thresholds.retry_budget.as_ref().expect("budget");
    assert_eq!((budget.budget_percent.map(|p| p.value), budget.min_retry_concurrency.map(|c| c.value)), (Some(25.5), Some(6)));
    assert!(thresholds.track_remaining);
}

#[test]
fn how_long_connections_are_used_and_what_is_spoken() {
    use upstreams::http_protocol_options::UpstreamProtocolOptions::{ExplicitHttpConfig, UseDownstreamProtocolConfig};
    use upstreams::http_protocol_options::explicit_http_config::ProtocolConfig::{Http2ProtocolOptions, HttpProtocolOptions};
    assert_eq!(http_options(&policy(json!({"loadBalancer": {"simple": "RANDOM"}}))), None);
    let tcp = json!({"connectTimeout": "3s", "idleTimeout": "9s", "maxConnectionDuration": "60s", "tcpKeepalive": {"probes": 3, "time": "7s", "interval": "0.5s"}});
    let cluster = policy(json!({"connectionPool": {"tcp": tcp, "http": {"maxRequestsPerConnection": 1}}}));
    let options = http_options(&cluster).expect("options");
    let common = options.common_http_protocol_options.expect("common");
    assert_eq!(
        (
            common.idle_timeout.map(|t| t.seconds),
            common.max_connection_duration.map(|t| t.seconds),
            common.max_requests_per_connection.map(|n| n.value)
        ),
        (Some(9), Some(60), Some(1))
    );
    assert!(
        matches!(options.upstream_protocol_options, Some(ExplicitHttpConfig(c)) if matches!(c.protocol_config, Some(HttpProtocolOptions(_))))
    );
    let keepalive = cluster.upstream_connection_options.and_then(|options| options.tcp_keepalive).expect("keep-alive");
    let values = [keepalive.keepalive_probes, keepalive.keepalive_time, keepalive.keepalive_interval].map(|v| v.map(|v| v.value));
    assert_eq!((values, cluster.connect_timeout.map(|t| t.seconds)), ([Some(3), Some(7), Some(1)], Some(3)));

    let pool = |http: Value| {
        http_options(&policy(json!({"connectionPool": {"tcp": {"idleTimeout": "9s"}, "http": http}}))).expect("options")
    };
    let never = policy(json!({"connectionPool": {"tcp": {"idleTimeout": "0s"}}}));
    let common = http_options(&never).and_then(|options| options.common_http_protocol_options);
    assert_eq!(common.and_then(|common| common.idle_timeout).map(|t| t.seconds), Some(0));
    let upgraded = pool(
        json!({"h2UpgradePolicy": "UPGRADE", "maxConcurrentStreams": 5, "http2KeepAlive": {"interval": "1s", "timeout": "2s"}}),
    );
    let Some(ExplicitHttpConfig(config)) = upgraded.upstream_protocol_options else { panic!("explicit") };
    let Some(Http2ProtocolOptions(http2)) = config.protocol_config else { panic!("HTTP/2") };
    assert_eq!(
        (http2.max_concurrent_streams.map(|n| n.value), http2.connection_keepalive.and_then(|k| k.timeout).map(|t| t.seconds)),
        (Some(5), Some(2))
    );
    let client = pool(json!({"useClientProtocol": true}));
    assert!(
        matches!(client.upstream_protocol_options, Some(UseDownstreamProtocolConfig(c)) if c.http2_protocol_options.is_some())
    );

    let mut grpc = reviews(&["v1"]);
    grpc.services.get_mut(REVIEWS).expect("reviews").ports.get_mut(&(9080, Transport::Tcp)).expect("port").protocol =
        Protocol::Grpc;
    let options = http_options(&of_port(&grpc, json!({}), "v1")).expect("options");
    assert!(
        matches!(options.upstream_protocol_options, Some(ExplicitHttpConfig(c)) if matches!(c.protocol_config, Some(Http2ProtocolOptions(_))))
    );
}

#[test]
fn outliers() {
    let of = |detection: Value| policy(json!({"outlierDetection": detection}));
    let value = |v: Option<envoy::UInt32Value>| v.map(|v| v.value);
    let detection = |cluster: cds::Cluster| cluster.outlier_detection.expect("detection");
    let bare = detection(of(json!({"interval": "1s", "baseEjectionTime": "3m", "maxEjectionPercent": 100})));
    assert_eq!(
        (value(bare.consecutive_5xx), value(bare.enforcing_consecutive_5xx), value(bare.enforcing_success_rate)),
        (None, None, Some(0))
    );
    assert_eq!(
        (bare.interval.map(|t| t.seconds), bare.base_ejection_time.map(|t| t.seconds), value(bare.max_ejection_percent)),
        (Some(1), Some(180), Some(100))
    );
    let both = detection(of(json!({"consecutive5xxErrors": 0, "consecutiveGatewayErrors": 3, "consecutiveErrors": 9})));
    assert_eq!((value(both.consecutive_5xx), value(both.enforcing_consecutive_5xx)), (Some(0), Some(0)));
    assert_eq!(
        (value(both.consecutive_gateway_failure), value(both.enforcing_consecutive_gateway_failure)),
        (Some(3), Some(100))
    );
    let old = detection(of(json!({"consecutiveErrors": 2})));
    assert_eq!(
        (value(old.consecutive_gateway_failure), value(old.enforcing_consecutive_gateway_failure)),
        (Some(2), Some(100)),
        "as Istio 1.0"
    );
    assert_eq!((value(old.consecutive_5xx), value(old.enforcing_consecutive_5xx)), (None, Some(0)));
    let split = detection(of(json!({"splitExternalLocalOriginErrors": true, "consecutiveLocalOriginFailures": 4})));
    assert_eq!((split.split_external_local_origin_errors, value(split.consecutive_local_origin_failure)), (true, Some(4)));
    assert_eq!(
        (value(split.enforcing_consecutive_local_origin_failure), value(split.enforcing_local_origin_success_rate)),
        (Some(100), Some(0))
    );
    let panic = |cluster: cds::Cluster| cluster.common_lb_config.and_then(|c| c.healthy_panic_threshold).map(|p| p.value);
    assert_eq!(panic(of(json!({"consecutive5xxErrors": 1, "minHealthPercent": 30}))), Some(30.0));
    assert_eq!(panic(of(json!({"consecutive5xxErrors": 1}))), Some(0.0));
    assert_eq!(panic(policy(json!({"loadBalancer": {"simple": "RANDOM"}}))), Some(0.0), "Envoy's own would be 50");
}

#[test]
fn encryption() {
    use envoy::tls::{UpstreamTlsContext, common_tls_context::ValidationContextType::ValidationContext};
    let context = |cluster: &cds::Cluster| {
        let config = cluster.transport_socket.as_ref()?.config_type.as_ref()?;
        let base::transport_socket::ConfigType::TypedConfig(any) = config;
        Some(UpstreamTlsContext::decode(any.value.as_slice()).expect("context"))
    };
    let file = |source: Option<base::DataSource>| match source.and_then(|source| source.specifier) {
        Some(base::data_source::Specifier::Filename(name)) => name,
        other => panic!("{other:?}"),
    };
    let of = |tls: Value| policy(json!({"tls": tls}));
    assert_eq!(context(&of(json!({"mode": "DISABLE"}))), None);
    assert_eq!(context(&of(json!({"mode": "ISTIO_MUTUAL"}))), None, "reported");
    assert_eq!(context(&of(json!({"mode": "SIMPLE", "credentialName": "x"}))), None, "reported");

    let simple = of(json!({"mode": "SIMPLE"}));
    let found = context(&simple).expect("TLS").common_tls_context.expect("common");
    let Some(ValidationContext(validation)) = found.validation_context_type else { panic!("validation") };
    assert_eq!(file(validation.trusted_ca), "/system.pem");
    let names = http_options(&simple).and_then(|options| options.upstream_http_protocol_options).expect("names");
    assert!(names.auto_sni && names.auto_san_validation);

    let mutual = of(
        json!({"mode": "MUTUAL", "clientCertificate": "/c.pem", "privateKey": "/k.pem", "caCertificates": "/ca.pem", "sni": "s",
        "subjectAltNames": ["a.b", "spiffe://x/y"]}),
    );
    assert_eq!(http_options(&mutual), None);
    let found = context(&mutual).expect("TLS");
    let common = found.common_tls_context.expect("common");
    let pair = common.tls_certificates[0].clone();
    assert_eq!(
        (found.sni.as_str(), file(pair.certificate_chain), file(pair.private_key)),
        ("s", "/c.pem".to_owned(), "/k.pem".to_owned())
    );
    let Some(ValidationContext(validation)) = common.validation_context_type else { panic!("validation") };
    assert_eq!(validation.match_typed_subject_alt_names.iter().map(|san| san.san_type).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(file(validation.trusted_ca), "/ca.pem");

    let trusting = of(json!({"mode": "SIMPLE", "insecureSkipVerify": true}));
    assert_eq!(context(&trusting).expect("TLS").common_tls_context.expect("common").validation_context_type, None);
    let names = http_options(&trusting).and_then(|options| options.upstream_http_protocol_options).expect("names");
    assert!(names.auto_sni && !names.auto_san_validation);
    let h2 = policy(json!({"tls": {"mode": "SIMPLE"}, "connectionPool": {"http": {"h2UpgradePolicy": "UPGRADE"}}}));
    assert_eq!(context(&h2).expect("TLS").common_tls_context.expect("common").alpn_protocols, ["h2"]);
}

#[test]
fn nodes_of_a_place_see_what_is_near_to_them() {
    let mut registry = reviews(&["v1", "v2"]);
    let place = |node: &str| Arc::new(Locality::new("aws/r1", &format!("aws/{node}")));
    for workload in registry.workloads.values_mut() {
        workload.place = place(if workload.node == "10.0.0.0" { "a" } else { "b" });
    }
    let port = registry.services.get_mut(REVIEWS).expect("reviews").ports.get_mut(&(9080, Transport::Tcp)).expect("port");
    for endpoint in &mut port.endpoints {
        endpoint.place = place(if endpoint.node == "10.0.0.0".parse().ok() { "a" } else { "b" });
    }
    let first = |policy: Value, node: &str| {
        let spec = json!({"host": "reviews", "trafficPolicy": policy});
        let compiled = compiled(&registry, &[rule("DestinationRule", "d", 0, spec)]);
        let name = format!("outbound|9080||{REVIEWS}");
        let body = compiled.snapshot(&super::node(&format!("node~{node}~n~mesh"))).types[ENDPOINT][&name].body.clone();
        let assignment = envoy::endpoint::ClusterLoadAssignment::decode(body).expect("assignment");
        let cluster: cds::Cluster = decode(&compiled, CLUSTER, &name);
        let weighs = cluster.common_lb_config.is_some_and(|config| config.locality_config_specifier.is_some());
        let place = |group: &envoy::endpoint::LocalityLbEndpoints| group.locality.clone().unwrap_or_default().zone;
        (assignment.endpoints.iter().map(|group| (place(group), group.priority)).collect::<Vec<_>>(), weighs)
    };
    let row = |zone: &str, priority: u32| (zone.to_owned(), priority);
    let detects = json!({"outlierDetection": {"consecutive5xxErrors": 1}});
    assert_eq!(first(detects.clone(), "10.0.0.0"), (vec![row("a", 0), row("b", 1)], false));
    assert_eq!(first(detects.clone(), "10.0.0.1"), (vec![row("b", 0), row("a", 1)], false));
    assert_eq!(first(detects, "10.0.0.9").0.len(), 2, "a node of which nothing is known");
    assert_eq!(first(json!({"loadBalancer": {"simple": "RANDOM"}}), "10.0.0.0"), (vec![row("", 0)], false));
    let off = json!({"outlierDetection": {"consecutive5xxErrors": 1}, "loadBalancer": {"localityLbSetting": {"enabled": false}}});
    assert_eq!(first(off, "10.0.0.0"), (vec![row("", 0)], false));
    let shares = json!({"loadBalancer": {"localityLbSetting": {"distribute": [{"from": "r1/a", "to": {"r1/b": 100}}]}}});
    assert_eq!(first(shares, "10.0.0.0"), (vec![row("b", 0)], true));
}
