//! JSON against the shapes that Marathon was seen to answer with (research/marathon.md 1.2, 1.4, 1.5, 1.6).

use super::*;
use crate::core::view;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn contains(value: &Value, wanted: &[&str]) {
    for key in wanted {
        assert!(value.get(*key).is_some(), "{key} is missing in {value:#}");
    }
}

#[test]
fn pod_status() {
    let mut sim = Sim::new(1);
    let accepted = sim.apply(Command::Create(pod(reviews()))).unwrap();
    let spec = sim.core.spec("/reviews-v2", Kind::Pod).unwrap().clone();
    let early = view::pod::status(&sim.core, &spec);
    assert_eq!((&early["status"], &early["instances"][0]["networks"]), (&json!("DEGRADED"), &json!([])));
    sim.run();
    let status = view::pod::status(&sim.core, &spec);
    assert_eq!(
        keys(&status),
        ["id", "spec", "status", "statusSince", "instances", "terminationHistory", "lastUpdated", "lastChanged"]
    );
    assert_eq!(status["status"], "STABLE");
    let instance = &status["instances"][0];
    let wanted =
        ["id", "status", "statusSince", "conditions", "agentHostname", "agentId", "agentRegion", "agentZone", "localVolumes"];
    contains(instance, &wanted);
    assert_eq!(instance["networks"], json!([{"name": "dcos", "addresses": ["9.0.1.2"]}]));
    assert_eq!(instance["agentHostname"], "198.18.0.11");
    assert_eq!(instance["specReference"], format!("/v2/pods/reviews-v2::versions/{}", accepted.version));
    let container = &instance["containers"][0];
    assert_eq!(container["containerId"], format!("{}.reviews.1", instance["id"].as_str().unwrap()), "the task's id");
    let endpoints = json!([{"name": "http-9080", "allocatedHostPort": 31000}, {"name": "admin"}]);
    assert_eq!(container["endpoints"], endpoints, "those with a host port come first, whatever the definition's order");
    assert_eq!(instance["containers"][1]["endpoints"], json!([]));
}

#[test]
fn an_old_instance_refers_to_its_own_version() {
    let mut sim = Sim::new(1);
    let first = sim.apply(Command::Create(pod(reviews()))).unwrap();
    sim.run();
    let mut changed = reviews();
    changed["labels"]["version"] = json!("v3");
    let second = sim.apply(Command::Update(pod(changed))).unwrap();
    assert!(second.version > first.version);
    let spec = sim.core.spec("/reviews-v2", Kind::Pod).unwrap();
    let status = view::pod::status(&sim.core, spec);
    assert_eq!(status["spec"]["labels"]["version"], "v3");
    assert!(status["instances"][0]["specReference"].as_str().unwrap().ends_with(&first.version));
    assert_eq!(sim.core.specs["/reviews-v2"].versions.len(), 2);
}

fn task_of(raw: Value) -> Value {
    let mut sim = Sim::new(1);
    let id = raw["id"].as_str().unwrap().to_owned();
    sim.apply(Command::Create(app(raw))).unwrap();
    sim.run();
    let spec = sim.core.spec(&id, Kind::App).unwrap();
    let app = view::app::app(&sim.core, spec, view::app::Embed::SINGLE);
    assert_eq!((&app["tasksRunning"], &app["deployments"]), (&json!(1), &json!([])));
    app["tasks"][0].clone()
}

#[test]
fn tasks_of_all_networks() {
    let mapping = |host: Value| json!([{"containerPort": 80, "hostPort": 31999, "name": "admin"}, {"containerPort": 81, "hostPort": host, "name": "web"}]);
    let of = |network: Value, host: Value| {
        task_of(json!({"id": "/g/a", "cmd": "x", "networks": [network], "container": {"portMappings": mapping(host)}}))
    };
    let overlay = of(json!({"mode": "container", "name": "dcos"}), Value::Null);
    contains(&overlay, &["id", "appId", "host", "state", "ports", "slaveId", "stagedAt", "startedAt", "version", "ipAddresses"]);
    assert_eq!(overlay["ports"], json!([31999]), "of those mappings only that have a host port");
    assert_eq!(overlay["ipAddresses"], json!([{"ipAddress": "9.0.1.2", "protocol": "IPv4"}]));
    assert!(overlay["id"].as_str().unwrap().starts_with("g_a.instance-"));
    assert!(overlay["id"].as_str().unwrap().ends_with("._app.1"));
    let bridge = of(json!({"mode": "container/bridge"}), Value::Null);
    assert_eq!(bridge["ports"], json!([31999, 31000]), "a bridge gives each mapping a host port");
    assert_eq!(bridge["ipAddresses"][0]["ipAddress"], "172.31.254.2");
    let host = task_of(json!({"id": "/h", "cmd": "x", "portDefinitions": [{"port": 10000}], "networks": [{"mode": "host"}]}));
    assert_eq!(host["ports"], json!([31000]), "without requirePorts the number is a service port");
    assert_eq!(host["ipAddresses"][0]["ipAddress"], "198.18.0.11");
    let fixed = task_of(json!({"id": "/h", "cmd": "x", "requirePorts": true, "portDefinitions": [{"port": 10000}]}));
    assert_eq!(fixed["ports"], json!([10000]));
    let six = task_of(json!({"id": "/six", "cmd": "x", "networks": [{"mode": "container", "name": "dcos6"}]}));
    assert_eq!(six["ipAddresses"], json!([{"ipAddress": "fd01:d:0:1::2", "protocol": "IPv6"}]));
}

#[test]
fn events() {
    let mut sim = Sim::new(1);
    sim.apply(Command::Create(pod(reviews()))).unwrap();
    sim.run();
    let find = |kind: &str| sim.events.iter().rfind(|e| e["eventType"] == kind).unwrap();
    let update = find("status_update_event");
    let wanted = [
        "slaveId",
        "taskId",
        "taskStatus",
        "message",
        "appId",
        "host",
        "ipAddresses",
        "ports",
        "version",
        "eventType",
        "timestamp",
    ];
    assert_eq!(keys(update), wanted);
    assert_eq!(update["ipAddresses"], json!([{"ipAddress": "9.0.1.2", "protocol": "IPv4"}]));
    let wanted = ["instanceId", "condition", "runSpecId", "agentId", "host", "runSpecVersion", "eventType", "timestamp"];
    assert_eq!(keys(find("instance_changed_event")), wanted);
    let scheduled = sim.events.iter().find(|e| e["condition"] == "Scheduled").unwrap();
    assert_eq!((&scheduled["agentId"], &scheduled["host"]), (&Value::Null, &Value::Null));
    let staging = sim.events.iter().find(|e| e["taskStatus"] == "TASK_STAGING").unwrap();
    assert_eq!(staging["ipAddresses"], json!([]), "Mesos knows them from TASK_RUNNING on");
    let info = find("deployment_info");
    assert_eq!(keys(info), ["plan", "currentStep", "eventType", "timestamp"]);
    assert_eq!(keys(&info["plan"]), ["id", "version", "steps"], "the light form");
    assert_eq!(info["currentStep"]["actions"], json!([{"action": "ScalePod", "pod": "/reviews-v2"}]));
    assert_eq!(keys(find("deployment_success")), ["id", "plan", "eventType", "timestamp"]);
    assert_eq!(find("deployment_success")["timestamp"], "2026-01-01T00:00:00.001Z");
}

#[test]
fn deployments() {
    let mut sim = Sim::new(1);
    sim.apply(Command::Create(app(sleeper("/a", 1)))).unwrap();
    let view = sim.core.deployments[0].view();
    let wanted = ["id", "version", "affectedApps", "affectedPods", "steps", "currentActions", "currentStep", "totalSteps"];
    assert_eq!(keys(&view), wanted);
    assert_eq!((&view["affectedApps"], &view["affectedPods"]), (&json!(["/a"]), &json!([])));
    assert_eq!(view["steps"][0]["actions"][0], json!({"action": "StartApplication", "app": "/a"}));
    assert_eq!((&view["currentStep"], &view["totalSteps"]), (&json!(2), &json!(2)));
}

#[test]
fn environment() {
    let mut sim = Sim::new(1);
    sim.apply(Command::Create(pod(reviews()))).unwrap();
    let launch = sim.launches.remove(0);
    let env = &launch.tasks[1].2;
    let wanted = [
        ("MARATHON_APP_ID", "/reviews-v2"),
        ("MARATHON_APP_LABEL_VERSION", "v2"),
        ("HOST", "198.18.0.11"),
        ("MESOS_CONTAINER_IP", "9.0.1.2"),
        ("EP_HOST_HTTP_9080", "31000"),
        ("EP_CONTAINER_HTTP_9080", "9080"),
        ("ENDPOINT_ADMIN", "9901"),
        ("SERVICES_DOMAIN", "marathon.l4lb.thisdcos.directory"),
    ];
    for (key, value) in wanted {
        assert_eq!(env.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert_eq!(env["MESOS_TASK_ID"], launch.tasks[1].0.id);
    let raw = json!({"id": "/h", "cmd": "x", "requirePorts": true, "env": {"PORT": "mine"},
                     "portDefinitions": [{"port": 9000, "name": "web"}, {"port": 0}]});
    sim.apply(Command::Create(app(raw))).unwrap();
    let env = &sim.launches[0].tasks[0].2;
    assert_eq!((&*env["PORT"], &*env["PORT0"], &*env["PORT_WEB"], &*env["PORTS"]), ("mine", "9000", "9000", "9000,31001"));
}

#[test]
fn names() {
    let mut sim = Sim::new(1);
    sim.apply(Command::Create(pod(reviews()))).unwrap();
    let outside = [("httpbin.org".to_owned(), vec!["203.0.113.20".parse().unwrap()])].into();
    let master = "198.18.0.1".parse().unwrap();
    let ask = |sim: &Sim, name: &str| {
        let found = crate::core::names::lookup(&sim.core, &outside, master, name)?;
        Some(found.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
    };
    assert_eq!(ask(&sim, "reviews-v2.marathon.mesos."), None, "running tasks only");
    sim.run();
    for (name, address) in [
        ("reviews-v2.marathon.mesos.", "9.0.1.2"),
        ("Reviews-v2.marathon.containerip.dcos.thisdcos.directory", "9.0.1.2"),
        ("reviews-v2.marathon.agentip.dcos.thisdcos.directory", "198.18.0.11"),
        ("reviews-v2.marathon.autoip.dcos.thisdcos.directory", "198.18.0.11"),
        ("leader.mesos", "198.18.0.1"),
        ("httpbin.org.", "203.0.113.20"),
    ] {
        assert_eq!(ask(&sim, name).as_deref(), Some(address), "{name}");
    }
    assert_eq!(ask(&sim, "example.org"), None);
}

#[test]
fn a_mesos_agent() {
    let mut sim = Sim::new(1);
    sim.apply(Command::Create(pod(reviews()))).unwrap();
    sim.run();
    let state = view::agent::state(&sim.core, 0);
    let task = &state["get_state"]["get_tasks"]["launched_tasks"][0];
    assert!(task["task_id"]["value"].as_str().unwrap().ends_with(".reviews.1"));
    assert!(task["executor_id"]["value"].as_str().unwrap().starts_with("instance-reviews-v2.00000000-"));
    let status = &task["statuses"][0]["container_status"];
    assert_eq!(status["network_infos"][0]["ip_addresses"], json!([{"protocol": "IPv4", "ip_address": "9.0.1.2"}]));
    assert_eq!(status["executor_pid"], 7);
    let ports = &task["discovery"]["ports"]["ports"];
    assert_eq!((&ports[1]["number"], &ports[1]["labels"]["labels"][1]["value"]), (&json!(31000), &json!("host")));
    let containers = view::agent::containers(&sim.core, 0, true);
    assert_eq!(containers.len(), 3, "the executor and two nested ones");
    assert_eq!(containers[1]["container_id"]["parent"], containers[0]["container_id"]);
    assert_eq!(view::agent::containers(&sim.core, 0, false).len(), 1);
}
