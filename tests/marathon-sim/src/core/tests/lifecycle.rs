//! From STAGING to the end and round again.

use super::*;

#[test]
fn an_app_from_post_to_delete() {
    let mut sim = Sim::new(2);
    sim.apply(Command::Create(app(sleeper("/a", 1)))).unwrap();
    sim.run();
    assert_eq!(
        sim.story(),
        "group_change_success\ndeployment_info\ninstance_changed Scheduled\ninstance_changed Provisioned\n\
         status_update TASK_STAGING\ninstance_changed Staging\ndeployment_step_success\ndeployment_info\n\
         status_update TASK_STARTING\ninstance_changed Starting\nstatus_update TASK_RUNNING\ninstance_changed Running\n\
         deployment_step_success\ndeployment_success"
    );
    sim.done.clear();
    sim.apply(Command::Delete { id: "/a".into(), kind: Kind::App }).unwrap();
    let id = sim.ids("/a").remove(0);
    assert_eq!(sim.done, [format!("terminate {id}._app.1")]);
    sim.advance(2999);
    assert_eq!(sim.done.len(), 1, "the grace period is three seconds");
    sim.advance(1);
    assert_eq!(sim.done[1], format!("kill {id}._app.1"));
    sim.exit(&format!("{id}._app.1"), Outcome::Signal(9));
    assert_eq!(sim.done[2], format!("cleanup {id}"));
    assert!(!sim.core.specs.is_empty(), "an app is there until its last instance is gone");
    sim.obey();
    assert!(sim.core.specs.is_empty() && sim.core.instances.is_empty() && sim.core.deployments.is_empty());
    assert_eq!(
        sim.story(),
        "group_change_success\ndeployment_info\nstatus_update TASK_KILLING\ninstance_changed Killing\n\
         status_update TASK_KILLED\ninstance_changed Killed\ndeployment_step_success\ndeployment_success\napp_terminated"
    );
}

#[test]
fn what_dies_comes_back_later_each_time() {
    let mut sim = Sim::new(1);
    sim.apply(Command::Create(app(sleeper("/a", 1)))).unwrap();
    sim.run();
    let id = sim.ids("/a").remove(0);
    let first = sim.core.instances[&id].v4;
    sim.done.clear();
    sim.exit(&format!("{id}._app.1"), Outcome::Code(3));
    sim.event(Event::Gone { instance: id.clone() });
    assert_eq!(sim.core.instances[&id].last_failure.as_deref(), Some(&*format!("{id}._app.1: Command exited with status 3")));
    sim.advance(999);
    assert!(sim.launches.is_empty(), "backoffSeconds is 1 by default");
    sim.advance(1);
    let again = &sim.launches[0].instance;
    assert_eq!((again.id.as_str(), again.incarnation), (id.as_str(), 2), "the instance id stays, the task id changes");
    assert_ne!(again.v4, first, "another address");
    sim.exit(&format!("{id}._app.2"), Outcome::NotLaunched("no such image".into()));
    sim.event(Event::Gone { instance: id.clone() });
    sim.launches.clear();
    sim.advance(1149);
    assert!(sim.launches.is_empty(), "backoffFactor is 1.15");
    sim.advance(1);
    assert_eq!(sim.launches.len(), 1);
}

#[test]
fn what_ran_for_a_while_comes_back_at_once() {
    let mut sim = Sim::new(1);
    sim.apply(Command::Create(app(sleeper("/a", 1)))).unwrap();
    for (lived, wait) in [(1500, 0), (100, 1050), (11_000, 0), (400, 750)] {
        sim.run();
        sim.advance(lived);
        let id = sim.ids("/a").remove(0);
        let task = sim.core.instances[&id].tasks[0].id.clone();
        sim.exit(&task, Outcome::Signal(9));
        sim.event(Event::Gone { instance: id });
        sim.advance(wait - 1);
        assert_eq!(sim.launches.len(), usize::from(wait == 0), "{lived} ms: launches are a back-off apart");
        sim.advance(1);
        assert_eq!(sim.launches.len(), 1, "after {lived} ms; a long life forgets what was before");
    }
}

#[test]
fn scaling_touches_no_other() {
    let mut sim = Sim::new(2);
    sim.apply(Command::Create(pod(reviews()))).unwrap();
    sim.run();
    let first = sim.ids("/reviews-v2");
    let scaled = |n: usize| {
        let mut raw = reviews();
        raw["scaling"] = json!({"instances": n});
        pod(raw)
    };
    sim.done.clear();
    sim.apply(Command::Update(scaled(3))).unwrap();
    assert_eq!((sim.launches.len(), sim.done.iter().filter(|d| d.starts_with("terminate")).count()), (2, 0));
    assert_eq!(sim.core.deployments[0].view()["currentActions"][0]["action"], "ScalePod");
    sim.run();
    assert!(sim.core.deployments.is_empty() && sim.ids("/reviews-v2").len() == 3);
    assert_eq!(sim.core.instances[&first[0]].incarnation, 1);
    sim.advance(1000);
    sim.apply(Command::Update(scaled(4))).unwrap();
    sim.run();
    let three: Vec<String> = sim.ids("/reviews-v2").into_iter().take(3).collect();
    sim.done.clear();
    sim.apply(Command::Update(scaled(3))).unwrap();
    sim.obey();
    assert_eq!(sim.ids("/reviews-v2"), three, "YOUNGEST_FIRST");
    let mut oldest = reviews();
    (oldest["scaling"]["instances"], oldest["scheduling"]) = (json!(3), json!({"killSelection": "OLDEST_FIRST"}));
    sim.apply(Command::Update(pod(oldest.clone()))).unwrap();
    for _ in 0..4 {
        sim.run();
        sim.obey();
    }
    sim.advance(1000);
    oldest["scaling"]["instances"] = json!(4);
    sim.apply(Command::Update(pod(oldest.clone()))).unwrap();
    sim.run();
    let youngest = sim.ids("/reviews-v2").pop().unwrap();
    oldest["scaling"]["instances"] = json!(1);
    sim.done.clear();
    sim.apply(Command::Update(pod(oldest))).unwrap();
    sim.obey();
    assert_eq!(sim.ids("/reviews-v2"), [youngest]);
}

#[test]
fn one_container_ends_its_pod() {
    let mut sim = Sim::new(1);
    sim.apply(Command::Create(pod(reviews()))).unwrap();
    sim.run();
    let id = sim.ids("/reviews-v2").remove(0);
    sim.done.clear();
    sim.story();
    sim.exit(&format!("{id}.reviews.1"), Outcome::Code(1));
    assert_eq!(sim.done, [format!("terminate {id}.proxy.1")]);
    sim.advance(1499);
    assert_eq!(sim.done.len(), 1);
    sim.advance(1);
    assert_eq!(sim.done[1], format!("kill {id}.proxy.1"), "killGracePeriodSeconds of that container");
    sim.obey();
    sim.exit(&format!("{id}.proxy.1"), Outcome::Signal(9));
    sim.obey();
    let story = sim.story();
    assert!(story.contains("status_update TASK_KILLED\ninstance_changed Scheduled\ninstance_changed Provisioned"), "{story}");
    assert_eq!(sim.launches[0].tasks[1].0.id, format!("{id}.proxy.2"));
}

#[test]
fn put_scales_or_replaces() {
    let mut sim = Sim::new(2);
    sim.apply(Command::Create(app(sleeper("/a", 1)))).unwrap();
    sim.run();
    let first = sim.ids("/a");
    let same = sim.apply(Command::Update(app(sleeper("/a", 1)))).unwrap();
    assert_eq!(same.deployment, None, "nothing changes");
    sim.apply(Command::Update(app(sleeper("/a", 3)))).unwrap();
    assert_eq!(sim.launches.len(), 2);
    sim.run();
    assert_eq!(sim.core.deployments.len(), 0);
    let nodes: Vec<usize> = sim.core.instances.values().map(|i| i.node).collect();
    assert_eq!(nodes.iter().filter(|n| **n == 0).count(), 2, "spread: {nodes:?}");
    sim.done.clear();
    sim.apply(Command::Update(app(sleeper("/a", 1)))).unwrap();
    sim.obey();
    assert_eq!(sim.ids("/a"), first, "the youngest go first");
    let mut changed = sleeper("/a", 1);
    changed["env"] = json!({"A": "1"});
    sim.apply(Command::Update(app(changed))).unwrap();
    sim.run();
    sim.obey();
    assert_eq!(sim.ids("/a").len(), 1);
    assert_ne!(sim.ids("/a"), first, "another configuration is another instance");
    assert!(sim.core.deployments.is_empty());
}

#[test]
fn a_killed_instance_is_restarted_or_wiped() {
    let mut sim = Sim::new(1);
    sim.apply(Command::Create(app(sleeper("/a", 2)))).unwrap();
    sim.run();
    let ids = sim.ids("/a");
    sim.apply(Command::Kill { instances: vec![ids[0].clone()], wipe: false, scale: false }).unwrap();
    sim.obey();
    assert_eq!(sim.ids("/a"), ids, "the next incarnation, at once");
    assert_eq!(sim.core.instances[&ids[0]].incarnation, 2);
    sim.run();
    sim.apply(Command::Kill { instances: vec![ids[0].clone()], wipe: true, scale: false }).unwrap();
    sim.obey();
    assert!(!sim.ids("/a").contains(&ids[0]));
    sim.run();
    let ids = sim.ids("/a");
    sim.apply(Command::Kill { instances: vec![ids[0].clone()], wipe: false, scale: true }).unwrap();
    sim.obey();
    assert_eq!(sim.ids("/a"), ids[1..]);
}

#[test]
fn who_finds_no_node_waits() {
    let mut sim = Sim::new(2);
    let mut raw = sleeper("/a", 3);
    raw["constraints"] = json!([["hostname", "UNIQUE"]]);
    sim.apply(Command::Create(app(raw))).unwrap();
    assert_eq!(sim.launches.len(), 2);
    let queue = crate::core::view::queue(&sim.core, sim.now);
    assert_eq!(queue["queue"][0]["count"], 1);
    let host = |id: &str| {
        json!({"id": id, "cmd": "x", "requirePorts": true, "portDefinitions": [{"port": 5000}], "networks": [{"mode": "host"}],
               "constraints": [["hostname", "LIKE", "198.18.0.12"]]})
    };
    sim.launches.clear();
    sim.apply(Command::Create(app(host("/b")))).unwrap();
    sim.apply(Command::Create(app(host("/c")))).unwrap();
    assert_eq!(sim.launches.len(), 1, "a fixed port is given once on a node");
    assert_eq!(sim.launches[0].instance.hostname, "198.18.0.12");
}

#[test]
fn a_persistent_volume_keeps_its_node() {
    let mut sim = Sim::new(2);
    sim.apply(Command::Create(app(sleeper("/other", 1)))).unwrap();
    let mut raw = sleeper("/db", 1);
    raw["container"] = json!({"type": "MESOS", "volumes": [{"containerPath": "data", "mode": "RW", "persistent": {"size": 1}}]});
    sim.apply(Command::Create(app(raw))).unwrap();
    sim.run();
    let id = sim.ids("/db").remove(0);
    assert_eq!(sim.core.instances[&id].node, 1, "the emptier one");
    sim.apply(Command::Delete { id: "/other".into(), kind: Kind::App }).unwrap();
    sim.obey();
    sim.exit(&format!("{id}._app.1"), Outcome::Code(1));
    sim.obey();
    sim.advance(2000);
    assert_eq!(sim.launches[0].instance.node, 1, "although the other node is empty now");
}
