//! Every message of Istio's webhook that the other tables do not have, with its exact words.

use super::{http, says};
use crate::istio::Kind;
use serde_json::{Value, json};

#[test]
fn what_a_route_cannot_have_at_once() {
    let redirect = json!({ "uri": "/x" });
    let abort = json!({ "abort": { "percent": 1, "httpStatus": 500 } });
    let direct = json!({ "status": 200 });
    for (route, field, message) in [
        (json!({ "redirect": redirect, "fault": abort }), "fault", "HTTP route cannot contain both fault and redirect"),
        (
            json!({ "redirect": redirect, "rewrite": { "uri": "/" } }),
            "rewrite",
            "HTTP route rule cannot contain both rewrite and redirect",
        ),
        (
            json!({ "redirect": redirect, "directResponse": direct }),
            "directResponse",
            "HTTP route rule cannot contain both direct_response and redirect",
        ),
        (
            json!({ "directResponse": direct, "fault": abort }),
            "fault",
            "HTTP route cannot contain both fault and direct_response",
        ),
        (
            json!({ "directResponse": direct, "rewrite": { "uri": "/" } }),
            "rewrite",
            "HTTP route rule cannot contain both rewrite and direct_response",
        ),
    ] {
        let mut without = route.clone();
        without["route"] = Value::Null;
        let expected = format!("spec.http[0].{field}: Forbidden: {message}");
        assert_eq!(says(Kind::VirtualService, &http(without)), expected, "{route}");
    }
    let both = json!({ "mirror": { "host": "b" }, "mirrors": [{ "destination": { "host": "c" } }] });
    let expected = "spec.http[0].mirrors: Forbidden: HTTP route cannot contain both mirror and mirrors";
    assert_eq!(says(Kind::VirtualService, &http(both)), expected);
    let direct = http(json!({ "directResponse": direct }));
    let expected = "spec.http[0].route: Forbidden: HTTP route cannot contain both route and direct_response";
    assert_eq!(says(Kind::VirtualService, &direct), expected);
}

#[test]
fn single_values_of_routes() {
    let long = "a".repeat(1025);
    for (route, expected) in [
        (json!({ "route": [{ "destination": { "host": "a" }, "weight": -1 }] }), "route[0].weight: Invalid value: -1: weight -1 < 0".to_owned()),
        (json!({ "route": [{ "weight": 1 }] }), "route[0].destination: Required value".to_owned()),
        (
            json!({ "mirror": { "host": "b" }, "mirrorPercentage": { "value": 100.5 } }),
            "mirrorPercentage.value: Invalid value: 100.5: mirror_percentage must have a max value of 100 (it has 100.500000)".to_owned(),
        ),
        (
            json!({ "mirror": { "host": "b" }, "mirror_percent": 101 }),
            "mirror_percent: Invalid value: 101: mirror_percent must have a max value of 100 (it has 101)".to_owned(),
        ),
        (json!({ "retries": { "attempts": -1 } }), "retries.attempts: Invalid value: -1: attempts cannot be negative".to_owned()),
        (
            json!({ "retries": { "attempts": 1, "retryOn": "sometimes" } }),
            "retries.retryOn: Invalid value: \"sometimes\": \"sometimes\" is not a valid retryOn policy".to_owned(),
        ),
        (json!({ "timeout": "0.5ms" }), "timeout: Invalid value: \"500µs\": duration must be greater than 1ms".to_owned()),
        (json!({ "timeout": "1.5ms" }), "timeout: Invalid value: \"1.5ms\": only durations to ms precision are supported".to_owned()),
        (
            json!({ "match": [{ "uri": { "regex": "" } }] }),
            "match[0].uri: Invalid value: \"\": \"uri\": regex string match should not be empty".to_owned(),
        ),
        (
            json!({ "match": [{ "method": { "prefix": "" } }] }),
            "match[0].method: Invalid value: \"\": \"method\": prefix string match should not be empty".to_owned(),
        ),
        (
            json!({ "match": [{ "headers": { "": { "exact": "x" } } }] }),
            "match[0].headers: Invalid value: \"\": header name cannot be empty".to_owned(),
        ),
        (
            json!({ "headers": { "request": { "set": { ":path": "x" } } } }),
            "headers.request.set: Invalid value: \":path\": invalid header \":path\": header cannot have \":\" prefix".to_owned(),
        ),
        (
            json!({ "rewrite": { "authority": "x" }, "headers": { "request": { "set": { "host": "y" } } } }),
            "headers.request.set[host]: Invalid value: \"y\": authority header cannot be set multiple times: have \"x\", attempting to set \"y\""
                .to_owned(),
        ),
        (
            json!({ "rewrite": {} }),
            "rewrite: Required value: rewrite must specify at least one of URI, UriRegexRewrite, or authority. Only one of URI or UriRegexRewrite may be specified".to_owned(),
        ),
        (
            json!({ "corsPolicy": { "allowMethods": ["FETCH"] } }),
            "corsPolicy.allowMethods[0]: Invalid value: \"FETCH\": \"FETCH\" is not a supported HTTP method".to_owned(),
        ),
        (
            json!({ "fault": { "abort": { "percent": 1 } } }),
            "fault.abort: Required value: abort configured, but error type not set".to_owned(),
        ),
    ] {
        assert_eq!(says(Kind::VirtualService, &http(route.clone())), format!("spec.http[0].{expected}"), "{route}");
    }
    let said = says(Kind::VirtualService, &http(json!({ "match": [{ "uri": { "regex": long } }] })));
    assert!(said.ends_with(": \"uri\": regex is too large, max length allowed is 1024"), "{said}");
    let elsewhere = http(json!({ "route": null, "redirect": { "uri": "/x", "redirectCode": 200 } }));
    let expected = "spec.http[0].redirect.redirectCode: Invalid value: 200: 200 is not a valid redirect code, must be 3xx";
    assert_eq!(says(Kind::VirtualService, &elsewhere), expected);
}

#[test]
fn virtual_services_as_a_whole() {
    let to = json!([{ "destination": { "host": "a" } }]);
    for (spec, expected) in [
        (
            json!({ "gateways": ["g"], "http": [{ "route": to }] }),
            "spec.gateways: Forbidden: delegate virtual service must have no gateways specified",
        ),
        (
            json!({ "hosts": ["a"], "tls": [{ "match": [{ "sniHosts": [] }], "route": to }] }),
            "spec.tls[0].match[0].sniHosts: Required value: TLS match must have at least one SNI host",
        ),
        (
            json!({ "hosts": ["a"], "http": [{ "route": to }], "exportTo": [".", "."] }),
            "spec.exportTo[1]: Invalid value: \".\": duplicate entries in exportTo for entry .",
        ),
    ] {
        assert_eq!(says(Kind::VirtualService, &json!({ "spec": spec })), expected, "{spec}");
    }
}

#[test]
fn destination_rules() {
    for (policy, expected) in [
        (json!({ "connectionPool": {} }), "connectionPool: Required value: connection pool must have at least one field"),
        (
            json!({ "outlierDetection": { "maxEjectionPercent": 101 } }),
            "outlierDetection.maxEjectionPercent: Invalid value: 101: percentage 101 is not in range 0..100",
        ),
        (
            json!({ "outlierDetection": { "consecutiveLocalOriginFailures": 1 } }),
            "outlierDetection.consecutiveLocalOriginFailures: Forbidden: outlier detection consecutive local origin failures is specified, but \
             split external local origin errors is set to false",
        ),
        (
            json!({ "loadBalancer": { "consistentHash": { "useSourceIp": true, "maglev": { "tableSize": 4 } } } }),
            "loadBalancer.consistentHash.maglev.tableSize: Invalid value: 4: tableSize must be a prime number for maglev",
        ),
        (
            json!({ "loadBalancer": { "consistentHash": { "httpCookie": { "ttl": "0s" } } } }),
            "loadBalancer.consistentHash.httpCookie.name: Required value",
        ),
        (
            json!({ "portLevelSettings": [{ "loadBalancer": { "simple": "RANDOM" } }] }),
            "portLevelSettings[0].port: Required value: portTrafficPolicy must have valid port",
        ),
        (
            json!({ "loadBalancer": { "simple": "RANDOM", "localityLbSetting": { "distribute": [{ "from": "a", "to": { "b": 50 } }] } } }),
            "loadBalancer.localityLbSetting.distribute[0].to: Invalid value: 50: total locality weight 50 != 100",
        ),
        (
            json!({ "loadBalancer": { "simple": "RANDOM", "localityLbSetting": { "distribute": [{ "from": "a", "to": { "b": 100 } }],
                "failover": [{ "from": "a", "to": "b" }] } } }),
            "loadBalancer.localityLbSetting: Forbidden: can not simultaneously specify 'distribute' and 'failover'",
        ),
        (
            json!({ "connectionPool": { "http": { "maxRetries": -1 } } }),
            "connectionPool.http.maxRetries: Invalid value: -1: max retries must be non-negative",
        ),
        (
            json!({ "connectionPool": { "http": { "http1MaxPendingRequests": -1 } } }),
            "connectionPool.http.http1MaxPendingRequests: Invalid value: -1: http1 max pending requests must be non-negative",
        ),
    ] {
        let spec = json!({ "spec": { "host": "a", "trafficPolicy": policy } });
        assert_eq!(says(Kind::DestinationRule, &spec), format!("spec.trafficPolicy.{expected}"), "{policy}");
    }
}

#[test]
fn gateways() {
    let server = |port: Value, more: Value| {
        let mut server = json!({ "port": { "number": 443, "name": "p", "protocol": "HTTPS" }, "hosts": ["*"] });
        json_patch::merge(&mut server, &json!({ "port": port }));
        json_patch::merge(&mut server, &more);
        server
    };
    let http = json!({ "number": 80, "protocol": "HTTP" });
    let simple = json!({ "tls": { "mode": "SIMPLE", "credentialName": "c" } });
    for (servers, expected) in [
        (vec![], "spec.servers: Required value: gateway must have at least one server"),
        (
            vec![server(json!({}), json!({}))],
            "spec.servers[0].tls: Required value: server must have TLS settings for HTTPS/TLS protocols",
        ),
        (
            vec![server(http.clone(), simple.clone())],
            "spec.servers[0].tls: Forbidden: server cannot have TLS settings for plain text HTTP ports",
        ),
        (
            vec![server(json!({}), simple.clone()), server(http, json!({}))],
            "spec.servers[1].port.name: Invalid value: \"p\": port names in servers must be unique: duplicate name p",
        ),
        (vec![server(json!({ "name": null }), simple.clone())], "spec.servers[0].port.name: Required value"),
        (
            vec![server(json!({ "protocol": "SMTP" }), json!({}))],
            "spec.servers[0].port.protocol: Invalid value: \"SMTP\": invalid protocol \"SMTP\", supported protocols are HTTP, HTTP2, GRPC, \
             GRPC-WEB, MONGO, REDIS, MYSQL, TCP",
        ),
        (
            vec![server(json!({}), json!({ "tls": { "mode": "SIMPLE" } }))],
            "[spec.servers[0].tls.serverCertificate: Required value: SIMPLE TLS requires a server certificate, \
             spec.servers[0].tls.privateKey: Required value: SIMPLE TLS requires a private key]",
        ),
        (
            vec![server(json!({}), json!({ "tls": { "mode": "MUTUAL", "serverCertificate": "c", "privateKey": "k" } }))],
            "spec.servers[0].tls.caCertificates: Required value: MUTUAL TLS requires a client CA bundle",
        ),
        (vec![server(json!({}), simple)], "ok"),
    ] {
        assert_eq!(says(Kind::Gateway, &json!({ "spec": { "servers": servers } })), expected, "{servers:?}");
    }
}
