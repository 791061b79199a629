//! What events themselves say of an instance, laid over the view until a snapshot says it too: a killed instance must take no new
//! connection from the moment on at which Marathon says so, and an answer over REST would come too late. Pure.
//!
//! The end of a task is believed of this very task only: an instance keeps its id when its tasks are started anew.
//! Only bad news is taken from events. That an instance serves again is believed when a snapshot says so: events come late and out of order.

use super::types::{App, HealthResult, Instance, PodStatus, View};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A killed task is never asked for again; if no snapshot confirms its end by then, the event was wrong.
const BELIEVED: Duration = Duration::from_secs(30);
/// More at once are not kept; the snapshots that they ask for say the same a little later.
const NEWS_MAX: usize = 10_000;

const KILLING: &str = "TASK_KILLING";

/// Bad news of one instance or task.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct News {
    /// App or pod.
    pub(crate) run_spec: String,
    /// Id of the task or of its instance.
    pub(crate) id: String,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// It is being killed, or is dead.
    Ending,
    Unhealthy,
    /// A deployment stops the app or pod, and with it all that runs now; `id` is empty.
    Stopping,
}

/// What an event says of instances, if it is bad.
pub(crate) fn of_event(kind: &str, data: &str) -> Vec<News> {
    let Ok(event) = serde_json::from_str::<Value>(data) else { return Vec::new() };
    let kind = if kind.is_empty() { event["eventType"].as_str().unwrap_or_default() } else { kind };
    match kind {
        // A step's actions are in force while it is the current one; those of later steps are not yet.
        "deployment_info" | "deployment_step_success" => stopped(&event),
        _ => of_instance(kind, &event).into_iter().collect(),
    }
}

fn stopped(event: &Value) -> Vec<News> {
    let actions = event["currentStep"]["actions"].as_array().into_iter().flatten();
    let stops = actions.filter(|action| matches!(action["action"].as_str(), Some("StopApplication" | "StopPod")));
    let run_specs = stops.filter_map(|action| action["app"].as_str().or_else(|| action["pod"].as_str()));
    run_specs.map(|id| News { run_spec: id.to_owned(), id: String::new(), kind: Kind::Stopping }).collect()
}

fn of_instance(kind: &str, event: &Value) -> Option<News> {
    let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
    let ends = ["KILLING", "KILLED", "FAILED", "FINISHED", "ERROR", "GONE", "DROPPED"];
    let (run_spec, id, state, healthy) = match kind {
        "status_update_event" => (text("appId"), text("taskId"), text("taskStatus"), None),
        "instance_health_changed_event" => (text("runSpecId"), text("instanceId"), String::new(), event["healthy"].as_bool()),
        _ => return None,
    };
    let state = state.to_ascii_uppercase();
    let ending = ends.contains(&state.trim_start_matches("TASK_"));
    let kind = if ending { Kind::Ending } else { Kind::Unhealthy };
    (!run_spec.is_empty() && !id.is_empty() && (ending || healthy == Some(false))).then_some(News { run_spec, id, kind })
}

/// All that is not confirmed yet.
#[derive(Debug, Default)]
pub(crate) struct Overlay(Vec<(News, Instant)>);

impl Overlay {
    pub(crate) fn add(&mut self, news: News, now: Instant) {
        self.0.retain(|(old, _)| *old != news);
        if self.0.len() < NEWS_MAX {
            self.0.push((news, now));
        }
    }

    /// A snapshot, asked for at `asked`: what it confirms is forgotten, and so is bad health from before, which it knows better.
    pub(crate) fn confirm(&mut self, view: &View, asked: Instant, now: Instant) {
        self.0.retain(|(news, since)| match news.kind {
            Kind::Ending | Kind::Stopping => now.duration_since(*since) < BELIEVED && runs(view, news),
            Kind::Unhealthy => *since >= asked,
        });
    }

    /// The view with everything that is not confirmed.
    pub(crate) fn over(&self, view: &View) -> View {
        let mut view = view.clone();
        for (news, _) in &self.0 {
            apply(&mut view, news);
        }
        view
    }
}

/// `id` names a task or the instance of it: `app.instance-UUID` of `app.instance-UUID._app.1`.
fn names(id: &str, task: &str) -> bool {
    task == id || task.strip_prefix(id).is_some_and(|rest| rest.starts_with('.'))
}

/// Is it news of this task?
fn of_task(news: &News, task: &str) -> bool {
    news.kind == Kind::Stopping || names(&news.id, task)
}

fn runs(view: &View, news: &News) -> bool {
    let of_app = |app: &Arc<App>| app.tasks.iter().any(|task| of_task(news, &task.id) && task.state == "TASK_RUNNING");
    let of_pod = |pod: &Arc<PodStatus>| {
        let instances = pod.instances.iter().filter(|instance| concerns(news, instance));
        instances.flat_map(|instance| &instance.containers).any(|container| container.status == "TASK_RUNNING")
    };
    view.apps.get(&news.run_spec).is_some_and(of_app) || view.pods.get(&news.run_spec).is_some_and(of_pod)
}

/// Bad health is an instance's, an end is a task's.
fn concerns(news: &News, instance: &Instance) -> bool {
    match news.kind {
        Kind::Ending => instance.containers.iter().any(|container| container.task_id == news.id),
        Kind::Unhealthy => names(&instance.id, &news.id),
        Kind::Stopping => true,
    }
}

fn apply(view: &mut View, news: &News) {
    if let Some(app) = view.apps.get_mut(&news.run_spec) {
        for task in Arc::make_mut(app).tasks.iter_mut().filter(|task| of_task(news, &task.id) && task.state == "TASK_RUNNING") {
            match news.kind {
                Kind::Ending | Kind::Stopping => KILLING.clone_into(&mut task.state),
                Kind::Unhealthy => task.health_check_results.push(HealthResult { alive: false }),
            }
        }
    }
    if let Some(pod) = view.pods.get_mut(&news.run_spec) {
        // A pod lives and dies as a whole: when one of its containers ends, the others are killed.
        for instance in Arc::make_mut(pod).instances.iter_mut().filter(|instance| concerns(news, instance)) {
            for container in instance.containers.iter_mut().filter(|container| container.status == "TASK_RUNNING") {
                match news.kind {
                    Kind::Ending | Kind::Stopping => KILLING.clone_into(&mut container.status),
                    Kind::Unhealthy => container.endpoints.iter_mut().for_each(|endpoint| endpoint.healthy = Some(false)),
                }
                container.conditions.retain(|condition| news.kind != Kind::Unhealthy || condition.name != "healthy");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view(state: &str) -> View {
        let app = json!({"id": "/a", "tasks": [{"id": "a.instance-1._app.1", "state": state}, {"id": "a.instance-10._app.1", "state": "TASK_RUNNING"}]});
        let pod = json!({"id": "/p", "instances": [{"id": "p.instance-1", "containers": [{"name": "c", "containerId": "p.instance-1.c.2", "status": state, "endpoints": [{"name": "e"}]}]}]});
        View {
            apps: [("/a".to_owned(), Arc::new(serde_json::from_value(app).expect("app")))].into(),
            pods: [("/p".to_owned(), Arc::new(serde_json::from_value(pod).expect("pod")))].into(),
            ..Default::default()
        }
    }

    fn overlay(events: &[(&str, Value)], at: Instant) -> Overlay {
        let mut overlay = Overlay::default();
        let news = events.iter().flat_map(|(kind, data)| of_event(kind, &data.to_string()));
        news.for_each(|news| overlay.add(news, at));
        overlay
    }

    #[test]
    fn bad_news_is_believed_at_once_and_until_a_snapshot_confirms_it() {
        let now = Instant::now();
        let mut overlay = overlay(
            &[
                ("status_update_event", json!({"appId": "/a", "taskId": "a.instance-1._app.1", "taskStatus": "TASK_KILLING"})),
                (
                    "",
                    json!({"eventType": "status_update_event", "appId": "/p", "taskId": "p.instance-1.c.2", "taskStatus": "TASK_KILLED"}),
                ),
                ("status_update_event", json!({"appId": "/a", "taskId": "a.instance-10._app.1", "taskStatus": "TASK_RUNNING"})),
            ],
            now,
        );
        let running = view("TASK_RUNNING");
        let seen = overlay.over(&running);
        assert_eq!(seen.apps["/a"].tasks.iter().map(|t| t.state.as_str()).collect::<Vec<_>>(), [KILLING, "TASK_RUNNING"]);
        assert_eq!(seen.pods["/p"].instances[0].containers[0].status, KILLING);
        overlay.confirm(&running, now, now + Duration::from_secs(1));
        assert_eq!(overlay.0.len(), 2, "a snapshot that still says RUNNING is older than the event");
        overlay.confirm(&view("TASK_KILLING"), now, now);
        assert_eq!(overlay.0.len(), 0);
    }

    #[test]
    fn a_deployment_that_stops_an_app_drains_it_in_its_step_and_not_before() {
        let now = Instant::now();
        let step = |current: Value| {
            let plan = json!({"steps": [{"actions": [{"action": "ScalePod", "pod": "/p"}]}, {"actions": [{"action": "StopApplication", "app": "/a"}]}]});
            ("deployment_info", json!({"plan": plan, "currentStep": {"actions": current}}))
        };
        let running = view("TASK_RUNNING");
        let before = overlay(&[step(json!([{"action": "ScalePod", "pod": "/p"}]))], now);
        assert_eq!(before.over(&running), running, "the second step is not in force");
        let mut stopping = overlay(&[step(json!([{"action": "StopApplication", "app": "/a"}]))], now);
        let seen = stopping.over(&running);
        assert!(seen.apps["/a"].tasks.iter().all(|task| task.state == KILLING) && seen.pods == running.pods);
        stopping.confirm(&running, now, now + BELIEVED);
        assert_eq!(stopping.over(&running), running, "a deployment that stopped nothing is not believed for ever");
    }

    #[test]
    fn the_end_of_one_incarnation_is_not_the_next_ones() {
        let event = json!({"appId": "/p", "taskId": "p.instance-1.c.1", "taskStatus": "TASK_KILLED"});
        let overlay = overlay(&[("status_update_event", event)], Instant::now());
        assert_eq!(overlay.over(&view("TASK_RUNNING")), view("TASK_RUNNING"));
    }

    #[test]
    fn news_that_nothing_ever_confirms_is_forgotten() {
        let now = Instant::now();
        let event = json!({"appId": "/p", "taskId": "p.instance-1.c.2", "taskStatus": "TASK_FAILED"});
        let mut overlay = overlay(&[("status_update_event", event)], now);
        assert_eq!(overlay.over(&view("TASK_RUNNING")).pods["/p"].instances[0].containers[0].status, KILLING);
        overlay.confirm(&view("TASK_RUNNING"), now, now + BELIEVED);
        assert_eq!(overlay.over(&view("TASK_RUNNING")), view("TASK_RUNNING"));
    }

    #[test]
    fn bad_health_holds_until_the_next_question_is_answered() {
        let now = Instant::now();
        let event = |healthy: Value| {
            ("instance_health_changed_event", json!({"runSpecId": "/p", "instanceId": "p.instance-1", "healthy": healthy}))
        };
        let mut sick = overlay(&[event(json!(false))], now);
        assert_eq!(sick.over(&view("TASK_RUNNING")).pods["/p"].instances[0].containers[0].endpoints[0].healthy, Some(false));
        sick.confirm(&view("TASK_RUNNING"), now - Duration::from_millis(1), now);
        assert_eq!(sick.0.len(), 1, "the question was asked before");
        sick.confirm(&view("TASK_RUNNING"), now + Duration::from_millis(1), now);
        assert_eq!(sick.0.len(), 0);
        assert_eq!(overlay(&[event(json!(null)), event(json!(true))], now).0.len(), 0, "unknown is not unhealthy");
    }
}
