//! The gaps that two lists once had between them.

use serde_json::{Value, json};

use super::{Abilities, Kind, of_object};

fn told(kind: Kind, spec: &Value) -> Vec<String> {
    let object = json!({ "spec": spec });
    crate::istio::admit(kind, &object).expect("an admissible spec");
    of_object(kind, &object, Abilities::MESH_PROXY).into_iter().map(|(path, _)| path).collect()
}

#[test]
fn virtual_services() {
    let to = json!([{ "destination": { "host": "a" } }]);
    for (http, expected) in [
        (json!({ "route": to }), vec![]),
        (
            json!({ "route": to, "mirror": { "host": "b" }, "match": [{ "sourceLabels": { "a": "b" } }, { "statPrefix": "x" }] }),
            vec!["match[1].statPrefix"],
        ),
        (json!({ "redirect": { "uri": "/x", "derivePort": "FROM_REQUEST_PORT" } }), vec![]),
        (
            json!({ "route": to, "fault": { "abort": { "httpStatus": 500 }, "delay": { "percent": 0, "fixedDelay": "1s" } } }),
            vec!["fault.delay", "fault.abort"],
        ),
        (json!({ "route": to, "match": [{ "gateways": ["edge"] }] }), vec![]),
        (json!({ "route": to, "match": [{ "gateways": ["mesh"], "sourceNamespace": "x" }] }), vec!["match[0].sourceNamespace"]),
        (json!({ "route": to, "match": [{ "sourceNamespace": "x" }] }), vec![]),
    ] {
        let expected: Vec<_> = expected.into_iter().map(|field| format!("spec.http[0].{field}")).collect();
        assert_eq!(told(Kind::VirtualService, &json!({ "hosts": ["a"], "http": [http] })), expected, "{http}");
    }
    let spec = json!({ "hosts": ["a"], "gateways": ["edge", "mesh"], "http": [{ "route": to }], "exportTo": ["*"] });
    assert_eq!(told(Kind::VirtualService, &spec), Vec::<String>::new(), "what exists only the compiler knows");
}

#[test]
fn destination_rules() {
    let policy = json!({ "connectionPool": { "tcp": { "connectTimeout": "1s", "maxConnections": 3 } }, "tls": { "mode": "ISTIO_MUTUAL" } });
    let spec = json!({ "host": "a", "subsets": [{ "name": "v1", "trafficPolicy": policy }], "exportTo": ["."] });
    assert_eq!(
        told(Kind::DestinationRule, &spec),
        ["spec.subsets[0].trafficPolicy.tls.mode (ISTIO_MUTUAL)"],
        "a connect timeout and a limit are in force"
    );
}

#[test]
fn credentials_are_for_gateways_and_for_workloads_that_a_selector_chooses() {
    let policy = json!({ "tls": { "mode": "MUTUAL", "credentialName": "c" } });
    let mut spec = json!({ "host": "a", "trafficPolicy": policy });
    assert_eq!(told(Kind::DestinationRule, &spec), ["spec.trafficPolicy.tls.credentialName"]);
    spec["workloadSelector"] = json!({ "matchLabels": { "app": "b" } });
    assert_eq!(told(Kind::DestinationRule, &spec), Vec::<String>::new());
}

#[test]
fn service_entries() {
    let port = json!([{ "number": 80, "name": "http", "targetPort": 8080 }]);
    let spec = json!({ "hosts": ["a.b"], "ports": port, "location": "MESH_INTERNAL", "resolution": "DNS", "subjectAltNames": ["x"],
        "endpoints": [{ "address": "c.d", "weight": 1 }] });
    assert_eq!(
        told(Kind::ServiceEntry, &spec),
        [
            "spec.ports[0].targetPort",
            "spec.location",
            "spec.endpoints[0].address",
            "spec.endpoints[0].weight",
            "spec.subjectAltNames"
        ]
    );
    assert_eq!(told(Kind::ServiceEntry, &json!({ "hosts": ["a.b"] })), ["spec.ports"], "nothing is allowed without a port");
}
