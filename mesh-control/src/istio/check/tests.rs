//! A table of what is refused, with the exact words; and what is accepted decodes.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::istio::{Kind, Resource, VirtualService, admit};

mod messages;

fn http(route: Value) -> Value {
    let mut rule = json!({ "route": [{ "destination": { "host": "a" } }] });
    json_patch::merge(&mut rule, &route);
    json!({ "spec": { "hosts": ["a"], "http": [rule] } })
}

fn says(kind: Kind, object: &Value) -> String {
    admit(kind, object).map_or_else(|problems| problems.to_string(), |()| "ok".to_owned())
}

#[test]
fn virtual_services_are_refused_in_istios_words() {
    for (route, expected) in [
        (json!({}), "ok"),
        (json!({ "route": null }), "spec.http[0]: Required value: HTTP route, redirect or direct_response is required"),
        (
            json!({ "redirect": { "uri": "/x" } }),
            "spec.http[0].route: Forbidden: HTTP route cannot contain both route and redirect",
        ),
        (
            json!({ "fault": { "abort": { "percent": 100, "httpStatus": 999 } } }),
            "spec.http[0].fault.abort.httpStatus: Invalid value: 999: HTTP status 999 is not in range 200-599",
        ),
        (
            json!({ "fault": { "delay": { "percent": 101, "fixedDelay": "7s" } } }),
            "spec.http[0].fault.delay.percent: Invalid value: 101: percentage 101 is not in range 0..100",
        ),
        (
            json!({ "fault": { "delay": { "percentage": { "value": 100.5 }, "fixedDelay": "7s" } } }),
            "spec.http[0].fault.delay.percentage.value: Invalid value: 100.5: percentage 100.5 is neither 0.0, nor in range [0.0001, 100.0]",
        ),
        (
            json!({ "fault": { "delay": { "fixedDelay": "7" } } }),
            "spec.http[0].fault.delay.fixedDelay: Invalid value: \"7\": must be a valid duration, for example 7s, 0.5s, 100ms or 1m30s",
        ),
        (
            json!({ "match": [{ "uri": { "exact": "/a", "prefix": "/b" } }] }),
            "spec.http[0].match[0].uri: Invalid value: \"\": \"spec.http[0].match[0].uri\" must validate one and only one schema (oneOf). \
             Found 2 valid alternatives",
        ),
        (
            json!({ "match": [{ "headers": { "end-user": { "regex": "(" } } }] }),
            "spec.http[0].match[0].headers[end-user]: Invalid value: \"(\": \"headers\": unclosed group; Istio uses RE2 style regex-based \
             match (https://github.com/google/re2/wiki/Syntax)",
        ),
        (json!({ "match": [{ "headers": { "x": { "regex": "*" }, "y": {} } }] }), "ok"),
        (json!({ "match": [{ "headers": { ":method": { "exact": "GET" } } }] }), "ok"),
        (
            json!({ "retries": { "attempts": 1, "retryOn": "5xx, reset" } }),
            "spec.http[0].retries.retryOn: Invalid value: \"5xx, reset\": \" reset\" is not a valid retryOn policy",
        ),
        (
            json!({ "retries": { "perTryTimeout": "1s" } }),
            "spec.http[0].retries.attempts: Invalid value: 0: http retry policy configured when attempts are set to 0 (disabled)",
        ),
        (
            json!({ "route": [{ "destination": { "host": "*", "subset": "v_1", "port": { "number": 70000 } } }] }),
            "[spec.http[0].route[0].destination.host: Invalid value: \"*\": invalid destination host *, \
             spec.http[0].route[0].destination.subset: Invalid value: \"v_1\": subset name is invalid: v_1, \
             spec.http[0].route[0].destination.port.number: Invalid value: 70000: port number 70000 must be in the range 1..65535]",
        ),
        (
            json!({ "route": [{ "destination": { "host": "a" } }, { "destination": { "host": "b" }, "weight": 0 }] }),
            "spec.http[0].route: Invalid value: 0: total destination weight = 0",
        ),
        (json!({ "route": [{ "destination": {} }] }), "spec.http[0].route[0].destination.host: Required value"),
        (json!({ "headers": { "request": { "set": { "x": "%REQ(x-user?:path):9% 100%%" } } } }), "ok"),
        (
            json!({ "headers": { "request": { "add": { "x-home": "%ENVIRONMENT(HOME)%" } } } }),
            "spec.http[0].headers.request.add[x-home]: Invalid value: \"%ENVIRONMENT(HOME)%\": header value \"%ENVIRONMENT(HOME)%\": \
             %ENVIRONMENT(HOME)% is not supported",
        ),
        (
            json!({ "headers": { "response": { "set": { "x-sale": "50% off" } } } }),
            "spec.http[0].headers.response.set[x-sale]: Invalid value: \"50% off\": header value \"50% off\": a % without its end; write %% for \
             a percent sign",
        ),
        (
            json!({ "headers": { "response": { "set": { "host": "x" } } } }),
            "spec.http[0].headers.response.set: Invalid value: \"host\": invalid header \"host\": cannot set Host header",
        ),
        (
            json!({ "timeout": 5 }),
            "spec.http[0].timeout: Invalid value: \"integer\": spec.http[0].timeout in body must be of type string: \"integer\"",
        ),
    ] {
        assert_eq!(says(Kind::VirtualService, &http(route.clone())), expected, "{route}");
    }
}

#[test]
fn hosts_are_checked() {
    let rule = json!([{ "route": [{ "destination": { "host": "a" } }] }]);
    for (spec, expected) in [
        (
            json!({ "hosts": ["*"], "http": rule }),
            "spec.hosts[0]: Invalid value: \"*\": wildcard host * is not allowed for virtual services bound to the mesh gateway",
        ),
        (json!({ "hosts": ["*"], "gateways": ["gw"], "http": rule }), "ok"),
        (
            json!({ "hosts": ["a.b", "*.b"], "http": rule }),
            "spec.hosts[1]: Invalid value: \"*.b\": duplicate hosts in virtual service: a.b & *.b",
        ),
        (
            json!({ "hosts": ["a_b.c"], "http": rule }),
            "spec.hosts[0]: Invalid value: \"a_b.c\": domain name \"a_b.c\" invalid (label \"a_b\" invalid)",
        ),
        (json!({ "hosts": ["9.0.1.1"], "http": rule }), "ok"),
        (json!({ "hosts": ["a"] }), "spec: Required value: http, tcp or tls must be provided in virtual service"),
        (
            json!({ "hosts": ["a.b"], "tls": [{ "match": [{ "sniHosts": ["c.b"] }], "route": [{ "destination": { "host": "a" } }] }] }),
            "spec.tls[0].match[0].sniHosts[0]: Invalid value: \"c.b\": SNI host \"c.b\" is not a compatible subset of any of the virtual \
             service hosts: [a.b]",
        ),
    ] {
        assert_eq!(says(Kind::VirtualService, &json!({ "spec": spec })), expected, "{spec}");
    }
}

#[test]
fn destination_rules_are_refused_in_istios_words() {
    for (spec, expected) in [
        (json!({ "host": "a", "subsets": [{ "name": "v1", "labels": { "version": "v1" } }] }), "ok"),
        (json!({}), "spec.host: Required value"),
        (json!({ "host": 1 }), "spec.host: Invalid value: \"integer\": spec.host in body must be of type string: \"integer\""),
        (
            json!({ "host": "a", "trafficPolicy": {} }),
            "spec.trafficPolicy: Required value: traffic policy must have at least one field",
        ),
        (
            json!({ "host": "a", "subsets": [{ "name": "v1" }, { "name": "v1" }] }),
            "spec.subsets[1].name: Invalid value: \"v1\": duplicate subset names: v1",
        ),
        (
            json!({ "host": "a", "trafficPolicy": { "loadBalancer": { "simple": "FOO" } } }),
            "spec.trafficPolicy.loadBalancer.simple: Unsupported value: \"FOO\": supported values: \"UNSPECIFIED\", \"LEAST_CONN\", \
             \"RANDOM\", \"PASSTHROUGH\", \"ROUND_ROBIN\", \"LEAST_REQUEST\"",
        ),
        (
            json!({ "host": "a", "trafficPolicy": { "connectionPool": { "tcp": { "maxConnections": -1 } } } }),
            "spec.trafficPolicy.connectionPool.tcp.maxConnections: Invalid value: -1: max connections must be non-negative",
        ),
        (
            json!({ "host": "a", "trafficPolicy": { "outlierDetection": { "consecutive5xxErrors": -1 } } }),
            "spec.trafficPolicy.outlierDetection.consecutive5xxErrors: Invalid value: -1: \
             spec.trafficPolicy.outlierDetection.consecutive5xxErrors in body should be greater than or equal to 0",
        ),
        (
            json!({ "host": "a", "trafficPolicy": { "tls": { "mode": "MUTUAL" } } }),
            "[spec.trafficPolicy.tls.clientCertificate: Required value: client certificate required for mutual tls, \
             spec.trafficPolicy.tls.privateKey: Required value: private key required for mutual tls]",
        ),
        (json!({ "host": "a", "bogus": { "x": 1 } }), "unknown field \"spec.bogus\""),
    ] {
        assert_eq!(says(Kind::DestinationRule, &json!({ "spec": spec })), expected, "{spec}");
    }
}

#[test]
fn service_entries_are_refused_in_istios_words() {
    let http = json!([{ "number": 80, "name": "http", "protocol": "HTTP" }]);
    let tcp = json!([{ "number": 80, "name": "tcp", "protocol": "TCP" }]);
    for (spec, expected) in [
        (json!({ "hosts": ["httpbin.org"], "ports": http }), "ok"),
        (json!({ "hosts": ["*.example.com"], "ports": http, "resolution": "DYNAMIC_DNS", "location": "MESH_EXTERNAL" }), "ok"),
        (json!({ "hosts": ["a.b"], "resolution": "STATIC", "endpoints": [{ "address": "203.0.113.9" }], "ports": tcp }), "ok"),
        (json!({ "hosts": ["a.b"], "resolution": "DNS", "endpoints": [{ "address": "c.d" }], "ports": tcp }), "ok"),
        (json!({ "ports": http }), "spec.hosts: Required value"),
        (json!({ "hosts": [] }), "spec.hosts: Required value: service entry must have at least one host"),
        (json!({ "hosts": ["*"] }), "spec.hosts[0]: Invalid value: \"*\": hostname cannot be wildcard"),
        (
            json!({ "hosts": ["a_b"] }),
            "spec.hosts[0]: Invalid value: \"a_b\": domain name \"a_b\" invalid (label \"a_b\" invalid)",
        ),
        (
            json!({ "hosts": ["*-a.b"] }),
            "spec.hosts[0]: Invalid value: \"*-a.b\": *-a.b: a wildcard must be the whole first label, as in *.example.com",
        ),
        (
            json!({ "hosts": ["*.b"], "resolution": "DNS" }),
            "spec.hosts[0]: Invalid value: \"*.b\": hosts must be FQDN or contain only prefix wildcards if no endpoints are provided for \
             resolution mode DNS, domain name \"*.b\" invalid (label \"*\" invalid)",
        ),
        (
            json!({ "hosts": ["a", "b"], "resolution": "DNS", "ports": tcp }),
            "spec.hosts: Forbidden: multiple hosts provided with non-HTTP, non-TLS ports",
        ),
        (json!({ "hosts": ["a", "b"], "ports": tcp }), "ok"),
        (
            json!({ "hosts": ["a"], "addresses": ["1.2.3.4", "1.2.3.0/33"] }),
            "spec.addresses[1]: Invalid value: \"1.2.3.0/33\": 1.2.3.0/33 is not a valid IP address or CIDR block",
        ),
        (
            json!({ "hosts": ["a"], "addresses": ["1.2.3.0/24"], "resolution": "DNS" }),
            "spec.addresses: Forbidden: CIDR addresses are allowed only for NONE/STATIC resolution types",
        ),
        (
            json!({ "hosts": ["a"], "ports": [{ "number": 80, "name": "x" }, { "number": 80, "name": "x" }] }),
            "[spec.ports[1].number: Invalid value: 80: port number cannot be duplicated, \
             spec.ports[1].name: Invalid value: \"x\": service entry port name \"x\" already defined]",
        ),
        (
            json!({ "hosts": ["a"], "ports": [{ "number": 0, "name": "x", "protocol": "SMTP" }] }),
            "[spec.ports[0].number: Invalid value: 0: port number 0 must be in the range 1..65535, \
             spec.ports[0].protocol: Invalid value: \"SMTP\": unsupported protocol: SMTP]",
        ),
        (json!({ "hosts": ["a"], "ports": [{ "number": 80 }] }), "spec.ports[0].name: Required value"),
        (
            json!({ "hosts": ["a"], "endpoints": [{ "address": "1.2.3.4" }] }),
            "spec.endpoints: Forbidden: NONE mode cannot set endpoints",
        ),
        (
            json!({ "hosts": ["a"], "resolution": "STATIC" }),
            "spec.endpoints: Required value: endpoints must be provided if service entry resolution mode is static",
        ),
        (
            json!({ "hosts": ["a"], "resolution": "STATIC", "endpoints": [{ "address": "b.c", "ports": { "x": 1 } }, {}] }),
            "[spec.endpoints[0].address: Invalid value: \"b.c\": endpoint address \"b.c\" is not a valid IP address, \
             spec.endpoints[0].ports[x]: Invalid value: 1: endpoint port 1 is not defined by the service entry, \
             spec.endpoints[1].address: Required value: Address is required]",
        ),
        (
            json!({ "hosts": ["a"], "resolution": "DNS_ROUND_ROBIN", "endpoints": [{ "address": "b" }, { "address": "c" }] }),
            "spec.endpoints: Forbidden: DNS_ROUND_ROBIN mode cannot have multiple endpoints",
        ),
        (
            json!({ "hosts": ["a"], "resolution": "DNS", "endpoints": [{ "address": "b" }], "workloadSelector": { "labels": { "a": "b" } } }),
            "spec: Forbidden: only one of WorkloadSelector or Endpoints can be set",
        ),
        (
            json!({ "hosts": ["a"], "resolution": "FOO" }),
            "spec.resolution: Unsupported value: \"FOO\": supported values: \"NONE\", \"STATIC\", \"DNS\", \"DNS_ROUND_ROBIN\", \
             \"DYNAMIC_DNS\"",
        ),
    ] {
        assert_eq!(says(Kind::ServiceEntry, &json!({ "spec": spec })), expected, "{spec}");
    }
}

#[test]
fn durations_are_gos() {
    use crate::istio::decode::parse_duration;
    use std::time::Duration;
    for (text, millis) in
        [("7s", 7_000), ("0.5s", 500), ("1m30s", 90_000), ("1h", 3_600_000), ("100ms", 100), (".5s", 500), ("0", 0)]
    {
        assert_eq!(parse_duration(text), Some(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "7", "s", "-1s", "1d", "1 s", "99999999999999h", "1.s.", "."] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        prop::sample::select(vec!["a", "1s", "*", "", "v1", "(", "GET"]).prop_map(Value::from),
    ];
    let names = vec![
        "hosts",
        "http",
        "match",
        "route",
        "destination",
        "host",
        "uri",
        "exact",
        "regex",
        "fault",
        "delay",
        "abort",
        "percent",
        "httpStatus",
        "fixedDelay",
        "timeout",
        "retries",
        "attempts",
        "headers",
        "set",
        "weight",
        "subset",
    ];
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(prop::sample::select(names.clone()), inner, 0..4).prop_map(|map| map
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v))
                .collect::<serde_json::Map<_, _>>()
                .into()),
        ]
    })
}

proptest! {
    /// Nothing panics; a refusal names a field; what is admitted is what the compiler gets.
    #[test]
    fn accepted_objects_parse(spec in anything(), timeout in "[0-9]{1,3}(ms|s|m)", status in 100_i32..700) {
        let mut rule = http(json!({ "timeout": timeout, "fault": { "abort": { "percent": 1, "httpStatus": status } } }));
        let admitted = admit(Kind::VirtualService, &rule).is_ok();
        prop_assert_eq!(admitted, Resource::<VirtualService>::try_from(&rule).is_ok());
        if let Ok(parsed) = Resource::<VirtualService>::try_from(&rule) {
            prop_assert_eq!(parsed.spec.http[0].fault.as_ref().unwrap().abort.as_ref().unwrap().http_status, Some(status));
        }
        rule["spec"]["http"][0] = spec.clone();
        for object in [json!({ "spec": spec }), rule] {
            if let Err(problems) = admit(Kind::VirtualService, &object) {
                prop_assert!(problems.iter().all(|p| p.field.starts_with("spec")));
            }
        }
    }
}
