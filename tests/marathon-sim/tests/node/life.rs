//! The life of services on real nodes: scaling, rolling deployments, health checks, restarts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::Sim;

const SERVER: &str = "touch healthy; exec python3 -m http.server 9080 --bind 0.0.0.0";
const INTERVAL: f64 = 0.3;

fn web(instances: usize, version: &str) -> Value {
    json!({
        "id": "/web", "labels": {"version": version}, "scaling": {"kind": "fixed", "instances": instances},
        "containers": [{
            "name": "web", "exec": {"command": {"shell": SERVER}}, "lifecycle": {"killGracePeriodSeconds": 1},
            "endpoints": [{"name": "http", "containerPort": 9080, "protocol": ["tcp"]}],
            "healthCheck": {"http": {"endpoint": "http", "path": "/healthy"}, "delaySeconds": 0, "gracePeriodSeconds": 20,
                            "intervalSeconds": INTERVAL, "timeoutSeconds": 1, "maxConsecutiveFailures": 3}}],
        "networks": [{"name": "dcos", "mode": "container"}]
    })
}

fn status(sim: &Sim) -> Value {
    sim.call("GET", "/v2/pods/web::status", &Value::Null)
}

fn stable(status: &Value) -> BTreeSet<String> {
    let all = status["instances"].as_array().unwrap().iter();
    all.filter(|i| i["status"] == "STABLE").map(|i| i["id"].as_str().unwrap().to_owned()).collect()
}

/// Waits until no deployment is left; `look` sees each status on the way.
fn deployed(sim: &Sim, mut look: impl FnMut(&Value)) -> Value {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let status = status(sim);
        look(&status);
        if sim.call("GET", "/v2/deployments", &Value::Null) == json!([]) {
            return self::status(sim);
        }
        assert!(Instant::now() < until, "{status:#}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn life_of_a_service() {
    let sim = Sim::start("life");
    sim.post("/v2/pods", &web(1, "v1"));
    let first = stable(&deployed(&sim, |_| {}));
    scaling(&sim, &first);
    upgrade(&sim);
    health(&sim);
    killed(&sim);
    command_checks_and_grace(&sim);
    let faults = |args: &[&str]| String::from_utf8(sim.client("faults", args).stdout).unwrap();
    assert!(faults(&[r#"{"events":"drop"}"#]).contains(r#""events":"drop""#));
    assert!(faults(&[]).contains(r#""events":"drop""#) && faults(&["{}"]).contains(r#""events":"pass""#));
    let state = sim.down();
    std::fs::remove_dir_all(state).unwrap();
}

fn scaling(sim: &Sim, first: &BTreeSet<String>) {
    sim.call("PUT", "/v2/pods/web", &web(3, "v1"));
    let up = stable(&deployed(sim, |s| assert!(first.is_subset(&stable(s)), "{s:#}")));
    assert!(up.len() == 3 && up.is_superset(first));
    sim.call("PUT", "/v2/pods/web", &web(2, "v1"));
    let down = stable(&deployed(sim, |_| {}));
    assert!(down.len() == 2 && down.is_superset(first), "the youngest goes");
    let doomed = down.difference(first).next().unwrap();
    let events = sim.listen();
    sim.call("DELETE", &format!("/v2/pods/web::instances/{doomed}"), &Value::Null);
    let of = |status: &'static str| move |e: &Value| e["taskStatus"] == status;
    let (killing, killed) = (events.find("killing", of("TASK_KILLING")).0, events.find("killed", of("TASK_KILLED")).0);
    assert!(killing < killed && killed < events.find("replaced", of("TASK_RUNNING")).0);
    sim.wait_for("its replacement", |all| all.iter().filter(|i| i["healthy"] == true).count() == 2);
}

fn upgrade(sim: &Sim) {
    let events = sim.listen();
    let before = stable(&status(sim));
    sim.call("PUT", "/v2/pods/web", &web(2, "v2"));
    let mut references = BTreeSet::new();
    let after = deployed(sim, |status| {
        assert!(stable(status).len() >= 2, "minimumHealthCapacity is 1: {status:#}");
        for instance in status["instances"].as_array().unwrap() {
            references.insert(instance["specReference"].as_str().unwrap().to_owned());
        }
    });
    assert!(stable(&after).len() == 2 && stable(&after).is_disjoint(&before));
    let version = |reference: &String| sim.call("GET", reference, &Value::Null)["labels"]["version"].to_string();
    let labels: BTreeSet<String> = references.iter().map(version).collect();
    assert_eq!(labels.len(), 2, "both versions were there, and both definitions are served");
    let kind = |kind: &'static str| move |e: &Value| e["eventType"] == kind;
    let order = ["deployment_info", "deployment_step_success", "deployment_success"];
    let places: Vec<usize> = order.iter().map(|k| events.find(k, kind(k)).0).collect();
    assert!(places.is_sorted(), "{places:?}");
    let healthy = events.find("a new one is healthy", |e| e["healthy"] == true).0;
    assert!(healthy < events.find("an old one ends", |e| e["taskStatus"] == "TASK_KILLING").0);
}

fn health(sim: &Sim) {
    let id = stable(&status(sim)).pop_first().unwrap();
    let events = sim.listen();
    let begun = Instant::now();
    sim.exec(&id, "rm /mnt/mesos/sandbox/healthy");
    let unhealthy = events.find("told", |e| e["eventType"] == "instance_health_changed_event" && e["healthy"] == false);
    let took = unhealthy.1.duration_since(begun).as_secs_f64();
    assert!(took < INTERVAL + 1.0, "told after {took} s");
    let kill = events.find("killed", |e| e["eventType"] == "unhealthy_instance_kill_event" && e["instanceId"] == *id);
    assert!(unhealthy.0 < kill.0 && kill.0 < events.find("ends", |e| e["taskStatus"] == "TASK_KILLING").0);
    let after = sim.wait_for("it is well again", |all| all.iter().any(|i| i["id"] == *id && i["healthy"] == true));
    let again = after.iter().find(|i| i["id"] == *id).unwrap();
    assert!(again["containers"][0]["task"].as_str().unwrap().ends_with(".web.2"));
    assert!(again["lastFailure"].as_str().unwrap().contains("status 404"), "{again:#}");
}

/// What had run for longer than its back-off runs again within a second.
fn killed(sim: &Sim) {
    sim.post("/v2/apps", &json!({"id": "/sleeper", "cmd": "exec sleep 1000"}));
    let all = sim.wait_for("it runs", |all| all.iter().any(|i| i["app"] == "/sleeper" && i["running"] == true));
    let ran = Instant::now();
    let pid = all.iter().find(|i| i["app"] == "/sleeper").unwrap()["containers"][0]["pid"].as_i64().unwrap();
    sim.wait_for("the back-off has passed", |_| ran.elapsed() > Duration::from_secs(1));
    let events = sim.listen();
    let killed = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(killed, nix::sys::signal::Signal::SIGKILL).unwrap();
    let begun = Instant::now();
    let again = events.find("runs again", |e| e["appId"] == "/sleeper" && e["taskStatus"] == "TASK_RUNNING").1;
    let took = again.duration_since(begun);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// A task that ignores SIGTERM lives for its grace period; one node after the other.
fn command_checks_and_grace(sim: &Sim) {
    let app = |version: &str| {
        json!({
            "id": "/stubborn", "cmd": "trap '' TERM; touch ok; while :; do sleep 0.1; done", "instances": 2, "labels": {"version": version},
            "networks": [{"mode": "host"}], "constraints": [["hostname", "UNIQUE"]], "taskKillGracePeriodSeconds": 0.5,
            "upgradeStrategy": {"minimumHealthCapacity": 0.5, "maximumOverCapacity": 0},
            "healthChecks": [{"protocol": "COMMAND", "command": {"value": "test -e /mnt/mesos/sandbox/ok"}, "delaySeconds": 0,
                              "intervalSeconds": INTERVAL, "gracePeriodSeconds": 20}],
        })
    };
    sim.post("/v2/apps", &app("v1"));
    deployed(sim, |_| {});
    let events = sim.listen();
    sim.call("PUT", "/v2/apps/stubborn", &app("v2"));
    deployed(sim, |_| {
        let app = sim.call("GET", "/v2/apps/stubborn", &Value::Null);
        let running = app["app"]["tasks"].as_array().unwrap().iter().filter(|t| t["state"] == "TASK_RUNNING").count();
        assert!(running >= 1, "{app:#}");
    });
    let of = |status: &'static str| move |e: &Value| e["appId"] == "/stubborn" && e["taskStatus"] == status;
    let (killing, killed) = (events.find("killing", of("TASK_KILLING")).1, events.find("killed", of("TASK_KILLED")).1);
    let grace = killed.duration_since(killing).as_secs_f64();
    assert!((0.45..1.5).contains(&grace), "{grace} s of grace");
    let view = sim.call("GET", "/v2/apps/stubborn", &Value::Null);
    assert_eq!((&view["app"]["tasksHealthy"], &view["app"]["tasksRunning"]), (&json!(2), &json!(2)));
    assert_eq!(view["app"]["tasks"][0]["healthCheckResults"][0]["alive"], true);
}
