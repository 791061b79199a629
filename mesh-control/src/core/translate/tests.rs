//! Fixtures are written afresh in the shapes that research of Marathon's source and real answers found.

use super::*;
use crate::core::registry::Health;
use crate::marathon::types::{App, Pod, PodStatus};
use mesh_xds::agent::OutboundPolicy;
use serde_json::{Value, json};
use std::sync::Arc;

const DOMAIN: &str = "marathon.l4lb.thisdcos.directory";

fn view(apps: &[Value], pods: &[Value], versions: &[(&str, Value)]) -> View {
    let app = |json: &Value| serde_json::from_value::<App>(json.clone()).expect("app");
    let pod = |json: &Value| serde_json::from_value::<PodStatus>(json.clone()).expect("pod");
    let version = |json: &Value| serde_json::from_value::<Pod>(json.clone()).expect("version");
    View {
        apps: apps.iter().map(app).map(|a| (a.id.clone(), Arc::new(a))).collect(),
        pods: pods.iter().map(pod).map(|p| (p.id.clone(), Arc::new(p))).collect(),
        versions: versions.iter().map(|(name, v)| ((*name).to_owned(), Arc::new(version(v)))).collect(),
        hosts: BTreeMap::from([("agent-7.example".to_owned(), "10.0.0.7".parse().expect("ip"))]),
        bridge_name: "mesos-bridge".to_owned(),
    }
}

fn registry(view: &View) -> Registry {
    translate([view], &[], DOMAIN, &Allotment::default()).0
}

fn spec(id: &str, version: &str, network: &Value, endpoint: &Value) -> Value {
    json!({"id": id, "labels": {"version": version, "sidecar.istio.io/inject": "true"}, "version": format!("2026-01-01T00:00:00.{version}Z"),
        "containers": [{"name": "main", "endpoints": [endpoint]}, {"name": "helper"}], "networks": [network],
        "scaling": {"kind": "fixed", "instances": 1}, "somethingNew": [1, {"x": null}]})
}

fn reviews(id: &str, version: &str) -> Value {
    spec(
        id,
        version,
        &json!({"name": "dcos", "mode": "container"}),
        &json!({"name": "http-9080", "containerPort": 9080, "hostPort": 31180,
        "protocol": ["tcp"], "labels": {"VIP_0": "/reviews:9080"}}),
    )
}

fn instance(id: &str, address: &str, state: &str, endpoint: &Value) -> Value {
    json!({"id": id, "status": "STABLE", "agentHostname": "10.0.0.165", "networks": [{"name": "dcos", "addresses": [address]}],
        "containers": [{"name": "helper", "status": "TASK_RUNNING", "endpoints": []},
            {"name": "main", "status": state, "conditions": [], "endpoints": [{"name": "other", "allocatedHostPort": 1}, endpoint]}]})
}

fn pod(spec: &Value, instances: &[Value]) -> Value {
    json!({"id": spec["id"], "spec": spec, "status": "STABLE", "instances": instances})
}

fn endpoints(registry: &Registry, name: &str, port: u16) -> Vec<String> {
    let port = &registry.services[name].ports[&(port, Transport::Tcp)];
    let show = |e: &Endpoint| {
        let elsewhere = e.elsewhere.map_or_else(|| "-".to_owned(), |a| a.to_string());
        format!("{} {} w{} {}", e.at_home, elsewhere, port.weight(e), e.labels.get("version").map_or("", String::as_str))
    };
    port.endpoints.iter().map(show).collect()
}

const REVIEWS: &str = "reviews.marathon.l4lb.thisdcos.directory";

#[test]
fn pods_with_one_vip_are_one_service_with_the_overlay_addresses() {
    let port = json!({"name": "http-9080", "allocatedHostPort": 31180});
    let one = pod(&reviews("/reviews-v1", "v1"), &[instance("reviews-v1.instance-a", "9.0.1.1", "TASK_RUNNING", &port)]);
    let two = pod(
        &reviews("/reviews-v2", "v2"),
        &[
            instance("reviews-v2.instance-b", "9.0.2.1", "TASK_RUNNING", &port),
            instance("reviews-v2.instance-c", "9.0.2.2", "TASK_KILLING", &port),
            instance("reviews-v2.instance-d", "9.0.2.3", "TASK_STAGING", &port),
        ],
    );
    let none = pod(&reviews("/reviews-v3", "v3"), &[]);
    let registry = registry(&view(&[], &[one, two, none], &[]));
    assert_eq!(
        endpoints(&registry, REVIEWS, 9080),
        ["9.0.1.1:9080 9.0.1.1:9080 w1 v1", "9.0.2.1:9080 9.0.2.1:9080 w1 v2", "9.0.2.2:9080 9.0.2.2:9080 w0 v2",]
    );
    let service = &registry.services[REVIEWS];
    assert_eq!(service.addresses, ["11.15.94.83".parse::<IpAddr>().expect("ip")]);
    assert!(service.names.contains("reviews") && service.names.contains("reviews.default.svc.cluster.local"));
    let port = &service.ports[&(9080, Transport::Tcp)];
    assert_eq!((port.protocol, port.mode), (Protocol::Http, Mode::Proxy));
    let workload = &registry.workloads["reviews-v2.instance-b"];
    assert!(workload.enrol && !workload.host_network && workload.namespace == "default");
    assert_eq!((workload.node.as_str(), workload.app.as_str()), ("10.0.0.165", "/reviews-v2"));
    assert_eq!(registry.problems, BTreeSet::new());
}

#[test]
fn an_old_instance_has_the_labels_of_its_own_version() {
    let port = json!({"name": "http-9080", "allocatedHostPort": 31180});
    let reference = "/v2/pods/reviews::versions/2026-01-01T00:00:00.v1Z";
    let mut old = instance("reviews.instance-a", "9.0.1.1", "TASK_RUNNING", &port);
    old["specReference"] = json!(reference);
    let mut new = instance("reviews.instance-b", "9.0.1.2", "TASK_RUNNING", &port);
    new["specReference"] = json!("/v2/pods/reviews::versions/2026-01-01T00:00:00.v2Z");
    let status = pod(&reviews("/reviews", "v2"), &[old, new]);
    let with = registry(&view(&[], std::slice::from_ref(&status), &[(reference, reviews("/reviews", "v1"))]));
    assert_eq!(endpoints(&with, REVIEWS, 9080), ["9.0.1.1:9080 9.0.1.1:9080 w1 v1", "9.0.1.2:9080 9.0.1.2:9080 w1 v2"]);
    assert_eq!(registry(&view(&[], &[status], &[])).problems.len(), 1, "an unknown version is named");
}

#[test]
fn health_of_pods() {
    let registry_of = |states: &[(Option<bool>, &str)]| {
        let instances = states.iter().enumerate().map(|(i, (healthy, reason))| {
            let mut json = instance(
                &format!("i{i}"),
                &format!("9.0.0.{i}"),
                "TASK_RUNNING",
                &json!({"name": "http-9080", "healthy": healthy}),
            );
            let value = if *healthy == Some(true) { "true" } else { "false" };
            json["containers"][1]["conditions"] = json!([{"name": "healthy", "value": value, "reason": reason}]);
            json
        });
        registry(&view(&[], &[pod(&reviews("/reviews", "v1"), &instances.collect::<Vec<_>>())], &[]))
    };
    let (good, bad, silent) =
        ((Some(true), "health-reported-by-mesos"), (Some(false), "x"), (Some(false), "health-unreported-by-mesos"));
    let weights = |states: &[(Option<bool>, &str)]| {
        let registry = registry_of(states);
        let port = &registry.services[REVIEWS].ports[&(9080, Transport::Tcp)];
        port.endpoints.iter().map(|e| port.weight(e)).collect::<Vec<_>>()
    };
    assert_eq!(weights(&[good, bad, silent]), [1, 0, 0]);
    assert_eq!(weights(&[silent, bad, silent]), [1, 0, 1], "a service is not emptied because Marathon knows nothing");
    assert_eq!(weights(&[bad, bad]), [1, 1], "nor because everything is unhealthy");
    assert_eq!(registry_of(&[bad, bad]).problems.len(), 1, "which is told");
    assert_eq!(registry_of(&[bad, silent]).problems.len(), 0);
    assert_eq!(weights(&[(None, "x"), good]), [0, 1], "a container's check holds for its endpoints");
}

#[test]
fn apps_on_every_network() {
    let task = |id: &str, ports: Value, address: &str| json!({"id": id, "host": "10.0.2.148", "state": "TASK_RUNNING", "ports": ports, "ipAddresses": [{"ipAddress": address, "protocol": "IPv4"}]});
    let overlay = json!({"id": "/mygroup/myapp", "networks": [{"mode": "container", "name": "dcos"}], "labels": null,
        "container": {"type": "MESOS", "portMappings": [{"containerPort": 80, "name": "web", "protocol": "tcp", "labels": {"VIP_0": "/mygroup/myapp:80"}},
            {"containerPort": 81, "hostPort": 0, "name": "http-admin", "protocol": "tcp", "labels": {"VIP_0": "/mygroup/myapp:81"}}]},
        "tasks": [task("mygroup_myapp.instance-x._app.1", json!([31000]), "9.0.2.130"), {"id": "lost", "state": "TASK_UNREACHABLE", "ports": []}]});
    let bridge = json!({"id": "/web", "networks": [{"mode": "container/bridge"}], "container": {"type": "DOCKER", "portMappings":
            [{"containerPort": 80, "hostPort": 0, "protocol": "tcp", "labels": {"VIP_0": "/web:80"}}]},
        "tasks": [task("web.8cad6a69", json!([1565]), "172.17.0.2")]});
    let host = json!({"id": "/host", "networks": [{"mode": "host"}], "portDefinitions": [{"port": 0, "protocol": "tcp", "labels": {"VIP_0": "/l4lbtest:5000", "VIP_1": "/app-0:80"}}],
        "tasks": [{"id": "host.1", "host": "agent-7.example", "state": "TASK_RUNNING", "ports": [2000]}]});
    let legacy = json!({"id": "/old", "container": {"docker": {"network": "BRIDGE", "portMappings": [{"containerPort": 0, "protocol": "udp,tcp", "labels": {"VIP_0": "1.2.3.4:53"}}]}},
        "tasks": [task("old.1", json!([3000]), "172.17.0.3")]});
    let registry = registry(&view(&[overlay, bridge, host, legacy], &[], &[]));
    let of = |name: &str, port| endpoints(&registry, name, port);
    assert_eq!(of("mygroupmyapp.marathon.l4lb.thisdcos.directory", 80), ["9.0.2.130:80 9.0.2.130:80 w1 "]);
    assert_eq!(of("mygroupmyapp.marathon.l4lb.thisdcos.directory", 81), ["9.0.2.130:81 9.0.2.130:81 w1 "]);
    assert_eq!(of("web.marathon.l4lb.thisdcos.directory", 80), ["172.17.0.2:80 10.0.2.148:1565 w1 "]);
    assert_eq!(of("l4lbtest.marathon.l4lb.thisdcos.directory", 5000), ["10.0.0.7:2000 10.0.0.7:2000 w1 "]);
    assert_eq!(of("app-0.marathon.l4lb.thisdcos.directory", 80), ["10.0.0.7:2000 10.0.0.7:2000 w1 "]);
    assert_eq!(of("1.2.3.4", 53), ["172.17.0.3:3000 10.0.2.148:3000 w1 "]);
    let dns = &registry.services["1.2.3.4"];
    assert_eq!((dns.addresses[0].to_string().as_str(), dns.ports[&(53, Transport::Udp)].mode), ("1.2.3.4", Mode::Kernel));
    assert!(registry.workloads["mygroup_myapp.instance-x"].addresses.len() == 1 && registry.workloads["host.1"].host_network);
    assert!(!registry.workloads.contains_key("lost") && !registry.workloads["web.8cad6a69"].enrol);
}

#[test]
fn app_health_needs_a_result_where_there_is_a_check() {
    let app = |results: Value| {
        let app = json!({"id": "/a", "healthChecks": [{"protocol": "HTTP"}], "portDefinitions": [{"labels": {"VIP_0": "a:80"}}], "tasks":
            [{"id": "a.1", "host": "10.0.0.1", "state": "TASK_RUNNING", "ports": [1000], "healthCheckResults": results}]});
        let registry = registry(&view(&[app], &[], &[]));
        registry.services["a.marathon.l4lb.thisdcos.directory"].ports[&(80, Transport::Tcp)].endpoints[0].health
    };
    assert_eq!(app(json!([])), Health::Unknown);
    assert_eq!(app(json!([{"alive": true}])), Health::Healthy);
    assert_eq!(app(json!([{"alive": true}, {"alive": false}])), Health::Unhealthy);
}

#[test]
fn a_task_that_is_not_ready_waits_for_its_deployment_and_lost_agents_are_the_last_resort() {
    let weights = |tasks: &[(&str, &str)], deployments: Value, ready: Value| {
        let task = |(i, (state, version)): (usize, &(&str, &str))| json!({"id": format!("a.{i}"), "host": "10.0.0.1", "state": state, "ports": [1000 + i], "version": version});
        let app = json!({"id": "/a", "version": "2", "readinessChecks": [{"name": "r"}], "readinessCheckResults": ready, "deployments": deployments,
            "portDefinitions": [{"labels": {"VIP_0": "a:80"}}], "tasks": tasks.iter().enumerate().map(task).collect::<Vec<_>>()});
        let registry = registry(&view(&[app], &[], &[]));
        let port = &registry.services["a.marathon.l4lb.thisdcos.directory"].ports[&(80, Transport::Tcp)];
        port.endpoints.iter().map(|e| port.weight(e)).collect::<Vec<_>>()
    };
    let (old, new, lost) = (("TASK_RUNNING", "1"), ("TASK_RUNNING", "2"), ("TASK_UNREACHABLE", "1"));
    let (none, under_way) = (json!([]), json!([{"id": "d"}]));
    assert_eq!(weights(&[old, new], under_way.clone(), none.clone()), [1, 0], "the new one has no result yet");
    assert_eq!(weights(&[old, new], under_way.clone(), json!([{"taskId": "a.1", "ready": false}])), [1, 0]);
    assert_eq!(weights(&[old, new], under_way.clone(), json!([{"taskId": "a.1", "ready": true}])), [1, 1]);
    assert_eq!(weights(&[old, new], none.clone(), none.clone()), [1, 1], "without a deployment nobody waits");
    assert_eq!(weights(&[new], under_way.clone(), none.clone()), [0], "a first start is not ready either");
    assert_eq!(
        weights(&[("TASK_KILLING", "1"), new], under_way, none.clone()),
        [0, 1],
        "Marathon ends the old one when it knows better"
    );
    assert_eq!(weights(&[old, lost], none.clone(), none.clone()), [1, 0]);
    assert_eq!(weights(&[lost, lost], none.clone(), none), [1, 1], "all agents at once: rather a partition of Marathon's");
}

#[test]
fn the_older_conventions_and_the_bridge_name() {
    let network = json!({"name": "mesos-bridge", "mode": "container"});
    let port = json!({"name": "p", "containerPort": 9080, "hostPort": 0, "protocol": ["http"]});
    let mut gen_b = spec("/reviews", "v1", &network, &port);
    gen_b["labels"] = json!({"ISTIO_SERVICE_NAME": "reviews", "istio.io/namespace": "shop"});
    let mut gen_c =
        spec("/other", "v1", &network, &json!({"name": "tcp-1", "containerPort": 1, "labels": {"VIP_0": "/details:1"}}));
    gen_c["labels"] = json!({"istio": "details, extra"});
    let port = json!({"name": "p", "allocatedHostPort": 31000});
    let mut b = instance("r.i", "172.31.254.2", "TASK_RUNNING", &port);
    b["networks"][0]["name"] = json!("mesos-bridge");
    let c = instance("o.i", "172.31.254.3", "TASK_RUNNING", &json!({"name": "tcp-1"}));
    let registry = registry(&view(&[], &[pod(&gen_b, &[b]), pod(&gen_c, &[c])], &[]));
    assert_eq!(endpoints(&registry, REVIEWS, 9080), ["172.31.254.2:9080 10.0.0.165:31000 w1 "]);
    assert_eq!(registry.services[REVIEWS].ports[&(9080, Transport::Tcp)].protocol, Protocol::Http);
    assert!(registry.services[REVIEWS].names.contains("reviews.shop.svc.cluster.local"));
    for name in ["details", "extra"] {
        assert_eq!(endpoints(&registry, &format!("{name}.{DOMAIN}"), 1), ["172.31.254.3:1 - w1 "], "{name}");
    }
}

#[test]
fn modes_and_protocols_by_label_and_name() {
    for (name, protocols, labels, pod_label, want) in [
        ("http-9080", json!(["tcp"]), json!({}), None, (Protocol::Http, Mode::Proxy)),
        ("grpc", json!(["tcp"]), json!({}), None, (Protocol::Grpc, Mode::Proxy)),
        ("grpc-web-1", json!(null), json!({}), None, (Protocol::Http, Mode::Proxy)),
        ("https-1", json!(["tcp"]), json!({}), None, (Protocol::Https, Mode::Kernel)),
        ("x", json!(["HTTP2"]), json!({}), None, (Protocol::Http2, Mode::Proxy)),
        ("x", json!(["tcp"]), json!({"mesh.io/mode": "proxy"}), Some("direct"), (Protocol::Undeclared, Mode::Proxy)),
        ("http", json!(["tcp"]), json!({}), Some("kernel"), (Protocol::Http, Mode::Kernel)),
        ("http", json!(["tcp"]), json!({"mesh.io/mode": "direct"}), Some("kernel"), (Protocol::Http, Mode::Direct)),
        ("http", json!(["tcp"]), json!({"mesh.io/mode": "kernel"}), Some("proxy"), (Protocol::Http, Mode::Kernel)),
        ("tcp-redis", json!(["tcp"]), json!({}), None, (Protocol::Tcp, Mode::Kernel)),
        ("tcp-redis", json!(["tcp"]), json!({}), Some("proxy"), (Protocol::Tcp, Mode::Proxy)),
        ("tcp-redis", json!(["tcp"]), json!({}), Some("direct"), (Protocol::Tcp, Mode::Direct)),
        ("redis", json!(["tcp"]), json!({}), None, (Protocol::Redis, Mode::Kernel)),
        ("http", json!(["tcp"]), json!({}), Some("fast"), (Protocol::Http, Mode::Proxy)),
    ] {
        let mut labels = labels;
        labels["VIP_0"] = json!("/reviews:9080");
        let endpoint = json!({"name": name, "containerPort": 1, "protocol": protocols, "labels": labels});
        let mut spec = spec("/r", "v1", &json!({"mode": "container", "name": "dcos"}), &endpoint);
        if let Some(mode) = pod_label {
            spec["labels"]["mesh.io/mode"] = json!(mode);
        }
        let registry = registry(&view(&[], &[pod(&spec, &[])], &[]));
        let port = &registry.services[REVIEWS].ports[&(9080, Transport::Tcp)];
        assert_eq!((port.protocol, port.mode), want, "{name} {protocols} {pod_label:?}");
        assert_eq!(registry.problems.len(), usize::from(pod_label == Some("fast")));
    }
}

#[test]
fn a_workloads_outbound_policy_by_its_label() {
    for (label, want, problems) in [
        (None, None, 0),
        (Some("AUDIT"), Some(OutboundPolicy::Audit), 0),
        (Some("allow_any"), Some(OutboundPolicy::AllowAny), 0),
        (Some("REGISTRY_ONLY"), Some(OutboundPolicy::RegistryOnly), 0),
        (Some("OPEN"), None, 1),
    ] {
        let mut spec = spec("/r", "v1", &json!({"mode": "container", "name": "dcos"}), &json!({"name": "x", "containerPort": 1}));
        if let Some(label) = label {
            spec["labels"]["mesh.io/outbound-traffic-policy"] = json!(label);
        }
        let instance = instance("r.instance-a", "9.0.1.1", "TASK_RUNNING", &json!({"name": "x", "allocatedHostPort": 1}));
        let registry = registry(&view(&[], &[pod(&spec, &[instance])], &[]));
        assert_eq!(registry.workloads.values().map(|workload| workload.outbound).collect::<Vec<_>>(), [want], "{label:?}");
        assert_eq!(registry.problems.len(), problems);
    }
}

#[test]
fn the_kernels_choice_by_label_of_the_port_or_the_pod() {
    for (port_label, pod_label, want, problems) in [
        (None, None, Balance::LeastConnections, 0),
        (None, Some("random"), Balance::Random, 0),
        (Some("source"), Some("random"), Balance::Source, 0),
        (None, Some("fairly"), Balance::LeastConnections, 1),
    ] {
        let mut labels = json!({"VIP_0": "/reviews:9080"});
        if let Some(balance) = port_label {
            labels["mesh.io/balance"] = json!(balance);
        }
        let endpoint = json!({"name": "redis", "containerPort": 1, "protocol": ["tcp"], "labels": labels});
        let mut spec = spec("/r", "v1", &json!({"mode": "container", "name": "dcos"}), &endpoint);
        if let Some(balance) = pod_label {
            spec["labels"]["mesh.io/balance"] = json!(balance);
        }
        let registry = registry(&view(&[], &[pod(&spec, &[])], &[]));
        assert_eq!(registry.services[REVIEWS].ports[&(9080, Transport::Tcp)].balance, want);
        assert_eq!(registry.problems.len(), problems);
    }
}

#[test]
fn near_backends_by_istios_label_of_the_port_or_the_app() {
    use crate::core::registry::Near;
    const LABEL: &str = "networking.istio.io/traffic-distribution";
    for (port_label, app_label, want, problems) in [
        (None, None, None, 0),
        (None, Some("PreferClose"), Some(Near::Zone), 0),
        (None, Some("PreferSameZone"), Some(Near::Zone), 0),
        (Some("PreferSameNode"), Some("PreferClose"), Some(Near::Node), 0),
        (Some("Any"), Some("PreferClose"), None, 0),
        (None, Some("Nearest"), None, 1),
    ] {
        let mut definition = json!({"labels": {"VIP_0": "/reviews:9080"}});
        definition["labels"][LABEL] = json!(port_label);
        let app = json!({"id": "/r", "labels": {LABEL: app_label}, "portDefinitions": [definition]});
        let app: Value =
            serde_json::from_str(&app.to_string().replace(&format!("\"{LABEL}\":null"), "\"x\":\"\"")).expect("JSON");
        let registry = registry(&view(&[app], &[], &[]));
        assert_eq!(registry.services[REVIEWS].ports[&(9080, Transport::Tcp)].near, want, "{port_label:?} {app_label:?}");
        assert_eq!(registry.problems.len(), problems, "{:?}", registry.problems);
    }
}

#[test]
fn what_is_wrong_is_left_out_and_named() {
    let apps: Vec<_> = ["nonsense", "/:80", "/a:0"]
        .iter()
        .map(|vip| json!({"id": format!("/{vip}"), "portDefinitions": [{"labels": {"VIP_0": vip}}]}))
        .collect();
    let registry = registry(&view(&apps, &[], &[]));
    assert_eq!((registry.services.len(), registry.problems.len()), (0, 3), "{:?}", registry.problems);
    let apps: crate::marathon::types::Apps =
        serde_json::from_value(json!({"apps": [{"id": 7}, {"id": "/b", "tasks": [{"id": []}, {"id": "t"}]}]})).expect("lenient");
    assert_eq!((apps.apps.len(), apps.apps[0].tasks.len()), (1, 1));
}

#[test]
fn captured_ports_are_those_that_labels_name_and_of_pods_only() {
    let port = json!({"name": "http-9080", "allocatedHostPort": 31180});
    let captured = |labels: &[(&str, &str)]| {
        let mut spec = reviews("/reviews", "v1");
        for (label, text) in labels {
            spec["labels"][*label] = json!(text);
        }
        let registry =
            registry(&view(&[], &[pod(&spec, &[instance("reviews.instance-1", "9.0.1.2", "TASK_RUNNING", &port)])], &[]));
        let ports: Vec<u16> = registry.workloads["reviews.instance-1"].inbound.iter().copied().collect();
        (ports, registry.problems.into_iter().collect::<Vec<_>>().join("; "))
    };
    const INCLUDE: &str = "traffic.sidecar.istio.io/includeInboundPorts";
    assert_eq!(captured(&[]), (vec![], String::new()));
    assert_eq!(captured(&[(INCLUDE, "*")]).0, [9080]);
    assert_eq!(captured(&[(INCLUDE, "8080, 9080"), ("traffic.sidecar.istio.io/excludeInboundPorts", "9080")]).0, [8080]);
    let (ports, problems) = captured(&[(INCLUDE, "http")]);
    assert!(ports.is_empty() && problems.contains("\"http\" is no port"), "{problems}");
}
