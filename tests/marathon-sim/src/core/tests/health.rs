//! Health checks: when they are made, what they change, whom they kill.

use super::*;
use crate::core::health::Target;
use crate::core::view;

fn bad() -> Result<(), String> {
    Err("503".into())
}

fn checked_pod(check: Value) -> Value {
    let mut raw = reviews();
    raw["containers"][0]["healthCheck"] = check;
    raw
}

fn timing() -> Value {
    json!({"http": {"endpoint": "http-9080", "path": "/health"}, "delaySeconds": 0.5, "intervalSeconds": 2, "timeoutSeconds": 1,
           "gracePeriodSeconds": 5, "maxConsecutiveFailures": 2})
}

fn status(sim: &Sim) -> Value {
    view::pod::status(&sim.core, sim.core.spec("/reviews-v2", Kind::Pod).unwrap())
}

#[test]
fn a_pod_from_unknown_to_killed() {
    let mut sim = Sim::new(1);
    sim.apply(Command::Create(pod(checked_pod(timing())))).unwrap();
    sim.run();
    let view = status(&sim);
    let instance = &view["instances"][0];
    assert_eq!((&view["status"], &instance["status"]), (&json!("DEGRADED"), &json!("DEGRADED")));
    let condition = &instance["containers"][0]["conditions"][0];
    assert_eq!((&condition["value"], &condition["reason"]), (&json!("false"), &json!("health-unreported-by-mesos")));
    assert_eq!(sim.core.deployments.len(), 1, "a deployment waits for health");
    sim.advance(499);
    assert!(sim.probes.is_empty());
    sim.advance(1);
    assert_eq!(sim.probes[0].target, Target::Http { port: 9080, path: "/health".into() });
    sim.story();
    sim.answer(&bad());
    assert_eq!(sim.story(), "", "within the grace period");
    sim.advance(1999);
    assert!(sim.probes.is_empty());
    sim.advance(1);
    sim.answer(&Ok(()));
    assert_eq!(sim.story(), "instance_health_changed\ndeployment_step_success\ndeployment_success");
    let view = status(&sim);
    let container = &view["instances"][0]["containers"][0];
    assert_eq!((&view["status"], &view["instances"][0]["status"]), (&json!("STABLE"), &json!("STABLE")));
    assert_eq!(container["conditions"][0]["reason"], "health-reported-by-mesos");
    assert_eq!(container["endpoints"][1], json!({"name": "http-9080", "allocatedHostPort": 31000, "healthy": true}), "last");
    sim.advance(2000);
    sim.answer(&bad());
    assert_eq!(sim.events.last().unwrap()["healthy"], false, "the first failure after a success counts, and is told");
    assert_eq!(sim.story(), "instance_health_changed");
    let view = status(&sim);
    let container = &view["instances"][0]["containers"][0];
    assert_eq!((&container["conditions"][0]["value"], &container["endpoints"][1]["healthy"]), (&json!("false"), &json!(false)));
    assert_eq!(view["instances"][0]["status"], "DEGRADED");
    sim.done.clear();
    sim.advance(2000);
    sim.answer(&bad());
    let story = sim.story();
    assert!(story.starts_with("unhealthy_instance_kill\nstatus_update TASK_KILLING"), "{story}");
    assert_eq!(sim.done.len(), 2);
    sim.obey();
    let id = sim.ids("/reviews-v2").remove(0);
    assert_eq!(sim.core.instances[&id].incarnation, 2, "started again");
    assert!(sim.core.instances[&id].last_failure.as_ref().unwrap().contains("2 consecutive failures of its health check: 503"));
}

#[test]
fn an_app_recovers() {
    let mut sim = Sim::new(1);
    let mut raw = sleeper("/a", 1);
    raw["container"] = json!({"type": "MESOS", "portMappings": [{"containerPort": 8080, "hostPort": 0}]});
    raw["healthChecks"] = json!([
        {"protocol": "MESOS_HTTP", "path": "/", "portIndex": 0, "delaySeconds": 0, "gracePeriodSeconds": 0, "intervalSeconds": 1, "maxConsecutiveFailures": 10},
        {"protocol": "COMMAND", "command": {"value": "true"}, "delaySeconds": 0, "intervalSeconds": 1}]);
    sim.apply(Command::Create(app(raw))).unwrap();
    sim.run();
    let view = |sim: &Sim| view::app::app(&sim.core, sim.core.spec("/a", Kind::App).unwrap(), view::app::Embed::SINGLE);
    let counts = |sim: &Sim| {
        let view = view(sim);
        ["tasksRunning", "tasksHealthy", "tasksUnhealthy"].map(|key| view[key].as_u64().unwrap())
    };
    assert_eq!(counts(&sim), [1, 0, 0]);
    assert!(view(&sim)["tasks"][0].get("healthCheckResults").is_none());
    sim.advance(0);
    let targets: Vec<Target> = sim.probes.iter().map(|p| p.target.clone()).collect();
    let shell = ["/bin/sh", "-c", "true"].map(str::to_owned).to_vec();
    assert_eq!(targets, [Target::Http { port: 8080, path: "/".into() }, Target::Exec(shell)]);
    sim.answer(&Ok(()));
    assert_eq!(counts(&sim), [1, 1, 0]);
    let state = view::agent::state(&sim.core, 0);
    assert_eq!(state["get_state"]["get_tasks"]["launched_tasks"][0]["statuses"][0]["healthy"], true, "the agent knows it too");
    for (result, expected) in [(bad(), [1, 0, 1]), (Ok(()), [1, 1, 0])] {
        sim.story();
        sim.advance(1000);
        sim.answer(&result);
        let kinds: Vec<String> = sim.story().lines().map(str::to_owned).collect();
        assert!(
            kinds.contains(&"health_status_changed".into()) && kinds.contains(&"instance_health_changed".into()),
            "{kinds:?}"
        );
        assert_eq!(kinds.contains(&"failed_health_check".into()), result.is_err());
        assert_eq!(counts(&sim), expected);
    }
    let result = &view(&sim)["tasks"][0]["healthCheckResults"][0];
    assert_eq!((&result["alive"], &result["consecutiveFailures"]), (&json!(true), &json!(0)));
    assert!(result["lastFailureCause"] == "503" && result["firstSuccess"].is_string());
}

#[test]
fn zero_failures_mean_at_once_to_mesos_and_never_to_marathon() {
    for (protocol, killed) in [("MESOS_TCP", true), ("TCP", false)] {
        let mut sim = Sim::new(1);
        let check = json!({"protocol": protocol, "delaySeconds": 0, "gracePeriodSeconds": 0, "intervalSeconds": 1, "maxConsecutiveFailures": 0});
        let raw = json!({"id": "/a", "cmd": "x", "portDefinitions": [{"port": 0}], "healthChecks": [check]});
        sim.apply(Command::Create(app(raw))).unwrap();
        sim.run();
        sim.done.clear();
        for _ in 0..5 {
            sim.advance(1000);
            assert!(killed || sim.probes[0].target == Target::Tcp { port: 31000 }, "the allocated port of the host network");
            sim.answer(&bad());
        }
        assert_eq!(!sim.done.is_empty(), killed, "{protocol}");
    }
}

#[test]
fn an_upgrade_waits_for_health() {
    let mut sim = Sim::new(2);
    sim.apply(Command::Create(pod(checked_pod(timing())))).unwrap();
    sim.run();
    sim.advance(500);
    sim.answer(&Ok(()));
    let old = sim.ids("/reviews-v2");
    let mut raw = checked_pod(timing());
    raw["labels"]["version"] = json!("v3");
    sim.apply(Command::Update(pod(raw))).unwrap();
    sim.run();
    sim.done.clear();
    sim.advance(499);
    assert!(sim.done.is_empty() && sim.ids("/reviews-v2").len() == 2, "it runs, but nobody knows whether it is healthy");
    sim.advance(1);
    sim.answer(&Ok(()));
    assert!(sim.done.iter().all(|d| d.contains(&old[0])) && sim.done.len() == 2);
    sim.obey();
    assert!(sim.core.deployments.is_empty());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = |check: Value| spec::pod::parse(checked_pod(check)).unwrap_err().remove(0);
    assert_eq!(refused(json!({"tcp": {"endpoint": "nope"}})).path, "/containers(0)/healthCheck");
    assert_eq!(refused(json!({})).error, "exactly one of 'http', 'tcp' and 'exec' must be given");
    assert!(refused(json!({"http": {"endpoint": "admin", "scheme": "HTTPS"}})).error.contains("no HTTPS"));
    let app =
        |check: Value| spec::app::parse(json!({"id": "/a", "cmd": "x", "healthChecks": [check]})).unwrap_err().remove(0).path;
    assert_eq!(app(json!({"protocol": "MESOS_HTTP", "portIndex": 1})), "/healthChecks(0)/portIndex");
    assert_eq!(app(json!({"protocol": "GRPC"})), "/healthChecks(0)/protocol");
}
