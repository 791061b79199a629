//! Rolling deployments, step by step.

use super::*;
use crate::core::upgrade::{Bounds, bounds};
use crate::core::view;

fn with(instances: usize, minimum: f64, over: f64, version: &str) -> Value {
    let mut raw = sleeper("/a", instances);
    raw["upgradeStrategy"] = json!({"minimumHealthCapacity": minimum, "maximumOverCapacity": over});
    raw["labels"] = json!({"version": version});
    raw
}

fn unique(minimum: f64) -> Sim {
    let mut sim = Sim::new(2);
    let raw = |version: &str| {
        let mut raw = with(2, minimum, 0.0, version);
        raw["constraints"] = json!([["hostname", "UNIQUE"]]);
        app(raw)
    };
    sim.apply(Command::Create(raw("1"))).unwrap();
    sim.run();
    sim.done.clear();
    sim.story();
    sim.apply(Command::Update(raw("2"))).unwrap();
    sim
}

#[test]
fn the_bounds_are_marathons() {
    let of = |n, minimum, over| bounds(&app(with(n, minimum, over, "1")));
    assert_eq!(of(4, 1.0, 1.0), Bounds { ready: 4, exist: 8 });
    assert_eq!(of(3, 0.5, 0.5), Bounds { ready: 2, exist: 4 });
    assert_eq!(of(2, 0.0, 0.0), Bounds { ready: 0, exist: 2 });
    assert_eq!(of(2, 1.0, 0.0), Bounds { ready: 2, exist: 3 }, "gives way by one");
    let mut raw = with(1, 1.0, 0.0, "1");
    raw["container"] = json!({"type": "MESOS", "volumes": [{"containerPath": "data", "persistent": {"size": 1}}]});
    assert_eq!(bounds(&app(raw)), Bounds { ready: 0, exist: 1 }, "its volume cannot be used twice");
}

#[test]
fn new_ones_run_before_old_ones_go() {
    let mut sim = Sim::new(2);
    let mut raw = reviews();
    raw["scaling"]["instances"] = json!(2);
    sim.apply(Command::Create(pod(raw.clone()))).unwrap();
    sim.run();
    let old = sim.ids("/reviews-v2");
    let first = sim.core.spec("/reviews-v2", Kind::Pod).unwrap().version.clone();
    sim.done.clear();
    sim.story();
    raw["labels"]["version"] = json!("v3");
    let second = sim.apply(Command::Update(pod(raw))).unwrap();
    assert_eq!((sim.launches.len(), sim.ids("/reviews-v2").len()), (2, 4), "by default all new ones at once");
    assert!(!sim.done.iter().any(|d| d.starts_with("terminate")));
    let status = view::pod::status(&sim.core, sim.core.spec("/reviews-v2", Kind::Pod).unwrap());
    let of = |version: &str| {
        let reference = json!(format!("/v2/pods/reviews-v2::versions/{version}"));
        status["instances"].as_array().unwrap().iter().filter(|i| i["specReference"] == reference).count()
    };
    assert_eq!((of(&first), of(&second.version), &status["spec"]["version"]), (2, 2, &json!(second.version)));
    assert_eq!(
        sim.core.deployments[0].view()["currentActions"],
        json!([{"action": "RestartPod", "pod": "/reviews-v2", "readinessCheckResults": []}])
    );
    sim.run_one(0);
    let terminated: Vec<&String> = sim.done.iter().filter(|d| d.starts_with("terminate")).collect();
    assert_eq!(terminated.len(), 2, "the two containers of one instance: {terminated:?}");
    assert_eq!(sim.ready("/reviews-v2"), 2);
    sim.run();
    sim.obey();
    assert!(sim.ids("/reviews-v2").len() == 2 && old.iter().all(|id| !sim.ids("/reviews-v2").contains(id)));
    let story = sim.story();
    assert!(story.starts_with("group_change_success\ndeployment_info\n"), "{story}");
    assert!(story.ends_with("deployment_step_success\ndeployment_success"), "{story}");
}

#[test]
fn what_cannot_overlap_is_stopped_first() {
    let mut sim = unique(0.0);
    assert_eq!((sim.done.len(), sim.launches.len()), (2, 0), "both at once: {:?}", sim.done);
    assert!(sim.story().contains("status_update TASK_KILLING"), "told before the signal is sent");
    sim.obey();
    assert_eq!(sim.launches.len(), 2);
    sim.run();
    assert!(sim.core.deployments.is_empty());
}

#[test]
fn node_by_node() {
    let mut sim = unique(0.5);
    for _ in 0..2 {
        assert_eq!((sim.done.len(), sim.launches.len(), sim.ready("/a")), (1, 0, 1), "{:?}", sim.done);
        sim.obey();
        assert_eq!((sim.launches.len(), sim.core.deployments.len()), (1, 1));
        sim.run();
    }
    assert!(sim.core.deployments.is_empty() && sim.done.is_empty());
}

#[test]
fn what_cannot_be_placed_beside_the_old_one_waits_for_ever() {
    let mut sim = unique(1.0);
    sim.obey();
    sim.advance(600_000);
    assert_eq!((sim.core.deployments.len(), sim.ready("/a"), sim.launches.len()), (1, 2, 0), "as in Marathon");
}

#[test]
fn a_new_version_that_does_not_run_costs_nothing() {
    let mut sim = Sim::new(2);
    sim.apply(Command::Create(app(with(2, 1.0, 0.5, "1")))).unwrap();
    sim.run();
    let old = sim.ids("/a");
    sim.apply(Command::Update(app(with(2, 1.0, 0.5, "2")))).unwrap();
    for _ in 0..5 {
        assert_eq!(sim.launches.len(), 1, "one more than wanted");
        let task = sim.launches.remove(0).tasks.remove(0).0.id;
        sim.exit(&task, Outcome::Code(1));
        sim.obey();
        sim.advance(10_000);
        assert!(old.iter().all(|id| sim.ids("/a").contains(id)));
    }
    let locked = sim.apply(Command::Update(app(with(2, 1.0, 0.5, "3")))).unwrap_err();
    assert!(matches!(locked, Refused::Locked { .. }));
    sim.story();
    sim.apply_with(Command::Update(app(with(2, 1.0, 0.5, "3"))), true).unwrap();
    assert!(sim.story().starts_with("deployment_failed\ngroup_change_success\ndeployment_info"), "superseded");
    for _ in 0..6 {
        sim.obey();
        sim.run();
    }
    assert!(sim.core.deployments.is_empty());
    assert!(sim.core.instances_of("/a").all(|i| i.spec.labels["version"] == "3") && sim.ids("/a").len() == 2);
}

#[test]
fn a_restart_is_a_new_version() {
    let mut sim = Sim::new(1);
    sim.apply(Command::Create(app(sleeper("/a", 1)))).unwrap();
    sim.run();
    let old = sim.ids("/a");
    sim.apply(Command::Restart { id: "/a".into() }).unwrap();
    assert_eq!(sim.core.deployments[0].view()["currentActions"][0]["action"], "RestartApplication");
    assert_eq!(sim.ids("/a").len(), 2);
    sim.run();
    sim.obey();
    assert!(sim.ids("/a").len() == 1 && sim.ids("/a") != old && sim.core.deployments.is_empty());
}

#[test]
fn an_old_one_that_dies_is_not_started_again() {
    let mut sim = Sim::new(2);
    sim.apply(Command::Create(app(with(2, 1.0, 0.5, "1")))).unwrap();
    sim.run();
    let old = sim.ids("/a");
    sim.apply(Command::Update(app(with(2, 1.0, 0.5, "2")))).unwrap();
    sim.launches.clear();
    sim.exit(&format!("{}._app.1", old[0]), Outcome::Signal(9));
    sim.obey();
    assert!(!sim.ids("/a").contains(&old[0]));
    assert_eq!(sim.launches[0].instance.spec.labels["version"], "2", "its place is taken by the new version");
}
