//! Who takes new connections: readiness, health, ends and lost agents, as Marathon tells of them.

use crate::Case;
use crate::kit::{Control, Marathon, SOON, app};
use anyhow::{Context, Result, ensure};
use mesh_tests::eventually;
use serde_json::{Value, json};

pub(crate) const CASES: &[Case] = &[
    ("health::a killed task takes nothing new from TASK_KILLING on", killing),
    ("health::a deployment that stops an app drains it", stopped),
    ("health::unhealthy is out, and what Marathon forgets empties nothing", forgotten),
    ("health::a task that is not ready waits", unready),
    ("health::tasks of a lost agent are the last resort", unreachable),
    ("health::during a rolling upgrade each instance has the labels of its own version", upgrade),
];

fn weights(control: &Control, what: &str, want: &[u64]) -> Result<()> {
    eventually(what, SOON, || {
        let seen = control.each_endpoint(|_, _, endpoint| endpoint["weight"].as_u64().unwrap_or_default())?;
        ensure!(seen == want, "{:?} instead of {want:?}", control.endpoints()?);
        Ok(())
    })
}

/// One of two apps of the service `s`; their endpoints are in the order of their ports, which is that of their creation.
fn of_service(id: &str) -> Value {
    let mut app = app(id);
    app["portDefinitions"][0]["labels"]["VIP_0"] = json!("/s:80");
    app["healthChecks"] = json!([{"protocol": "HTTP", "path": "/", "portIndex": 0, "intervalSeconds": 1, "gracePeriodSeconds": 0,
        "delaySeconds": 0, "maxConsecutiveFailures": 0}]);
    app
}

fn killing() -> Result<()> {
    let marathon = Marathon::start_with(&["--kill-ms", "60000", "--agent", "198.18.0.11"])?;
    let control = Control::start(&[&marathon.url()], &[])?;
    let mut two = app("a");
    two["instances"] = json!(2);
    two["taskKillGracePeriodSeconds"] = json!(60);
    marathon.create(&two)?;
    weights(&control, "both serve", &[1, 1])?;
    let tasks: Value = serde_json::from_str(&marathon.call("GET", "/v2/apps/a/tasks", &Value::Null)?)?;
    let first = tasks["tasks"].as_array().and_then(|tasks| tasks.iter().min_by_key(|task| task["ports"][0].as_u64()));
    let first = first.and_then(|task| task["id"].as_str()).context("a task")?;
    marathon.call("DELETE", &format!("/v2/apps/a/tasks/{first}?force=true"), &Value::Null)?;
    weights(&control, "it drains as long as it lives", &[0, 1])
}

fn stopped() -> Result<()> {
    let marathon = Marathon::start_with(&["--kill-ms", "60000"])?;
    let control = Control::start(&[&marathon.url()], &[])?;
    let mut a = app("a");
    a["taskKillGracePeriodSeconds"] = json!(60);
    marathon.create(&a)?;
    weights(&control, "it serves", &[1])?;
    // An answer that comes late cannot be what says it.
    marathon.faults(&json!({"slowMs": 60000}))?;
    marathon.call("DELETE", "/v2/apps/a?force=true", &Value::Null)?;
    weights(&control, "it drains", &[0])
}

/// The second is one to a question that was asked after this was called.
fn two_answers(control: &Control) -> Result<()> {
    let snapshots = control.marathon("an answer", |_| true)?["snapshots"].as_u64();
    control.marathon("two answers later", |marathon| marathon["snapshots"].as_u64() > snapshots.map(|n| n + 1)).map(drop)
}

fn forgotten() -> Result<()> {
    let marathon = Marathon::start_with(&["--agent", "198.18.0.11"])?;
    let mut control = Control::start(&[&marathon.url()], &["--marathon-resync", "200ms"])?;
    marathon.create(&of_service("a"))?;
    weights(&control, "one", &[1])?;
    marathon.create(&of_service("b"))?;
    weights(&control, "both are healthy", &[1, 1])?;
    // As Marathon says too, and as the control plane has heard.
    eventually("both have reported", SOON, || {
        let apps: Value = serde_json::from_str(&marathon.call("GET", "/v2/apps?embed=apps.counts", &Value::Null)?)?;
        ensure!([0, 1].iter().all(|i: &usize| apps["apps"][*i]["tasksHealthy"] == 1), "{apps}");
        Ok(())
    })?;
    two_answers(&control)?;
    marathon.faults(&json!({"unhealthy": ["/b"]}))?;
    weights(&control, "the sick one is out", &[1, 0])?;
    marathon.faults(&json!({"unhealthy": ["/b"], "forgetsHealth": true}))?;
    two_answers(&control)?;
    weights(&control, "what was known is known still", &[1, 0])?;
    // A control plane that knows nothing either: unknown is not unhealthy.
    control.kill();
    control.serve()?;
    weights(&control, "all are tried", &[1, 1])?;
    marathon.faults(&json!({"unhealthy": ["/a", "/b"]}))?;
    eventually("it is said that all are sick", SOON, || {
        let problems = control.status()?["problems"].to_string();
        ensure!(problems.contains("every instance is unhealthy"), "{problems}");
        Ok(())
    })?;
    weights(&control, "and all are tried", &[1, 1])
}

fn unready() -> Result<()> {
    let marathon = Marathon::start_with(&["--agent", "198.18.0.11"])?;
    let control = Control::start(&[&marathon.url()], &[])?;
    let mut a = app("a");
    a["readinessChecks"] = json!([{"name": "ready", "portName": "http"}]);
    marathon.create(&a)?;
    weights(&control, "one", &[1])?;
    marathon.faults(&json!({"unready": ["/a"]}))?;
    marathon.call("PUT", "/v2/apps/a?force=true", &json!({"instances": 2}))?;
    weights(&control, "the new one waits", &[1, 0])?;
    // No event tells of it.
    marathon.faults(&json!({"events": "drop"}))?;
    weights(&control, "both", &[1, 1])
}

fn unreachable() -> Result<()> {
    let marathon = Marathon::start()?;
    let control = Control::start(&[&marathon.url()], &["--marathon-resync", "200ms"])?;
    let mut a = app("a");
    a["instances"] = json!(2);
    marathon.create(&a)?;
    weights(&control, "one on each agent", &[1, 1])?;
    marathon.faults(&json!({"unreachable": ["198.18.0.12"]}))?;
    weights(&control, "one agent is lost", &[1, 0])?;
    marathon.faults(&json!({"unreachable": ["198.18.0.11", "198.18.0.12"]}))?;
    weights(&control, "both are, or Mesos is mistaken", &[1, 1])?;
    marathon.faults(&json!({}))?;
    weights(&control, "back", &[1, 1])
}

fn upgrade() -> Result<()> {
    let marathon = Marathon::start_with(&["--kill-ms", "60000", "--agent", "198.18.0.11"])?;
    let control = Control::start(&[&marathon.url()], &[])?;
    let pod = |version: &str| {
        let endpoint =
            json!({"name": "http", "containerPort": 9080, "hostPort": 0, "protocol": ["tcp"], "labels": {"VIP_0": "/s:80"}});
        json!({"id": "/s", "labels": {"version": version}, "networks": [{"mode": "container", "name": "dcos"}],
            "containers": [{"name": "c", "exec": {"command": {"shell": "serve"}}, "endpoints": [endpoint], "lifecycle": {"killGracePeriodSeconds": 60}}],
            "scaling": {"kind": "fixed", "instances": 1}})
    };
    let seen = |what: &str, want: &[&str]| {
        eventually(what, SOON, || {
            let line = |_: &str, _: &Value, endpoint: &Value| {
                format!("{} {}", endpoint["labels"]["version"].as_str().unwrap_or_default(), endpoint["weight"])
            };
            let mut seen = control.each_endpoint(line)?;
            seen.sort();
            ensure!(seen == want, "{seen:?} instead of {want:?}");
            Ok(())
        })
    };
    marathon.call("POST", "/v2/pods", &pod("v1"))?;
    seen("the first version", &["v1 1"])?;
    eventually("its deployment ends", SOON, || marathon.call("PUT", "/v2/pods/s", &pod("v2")).map(drop))?;
    seen("both versions, the old one on its way out", &["v1 0", "v2 1"])
}
