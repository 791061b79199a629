//! What an event says about what to ask again. Events are hints only: they may be late, missing or out of order.

use serde_json::Value;
use std::collections::BTreeSet;

/// The events that change what runs. `api_post_event` is left out: it carries whole definitions, and deployments tell the same.
pub(crate) const KINDS: &[&str] = &[
    "event_stream_attached",
    "status_update_event",
    "instance_changed_event",
    "instance_health_changed_event",
    "health_status_changed_event",
    "unknown_instance_terminated_event",
    "app_terminated_event",
    "pod_created_event",
    "pod_updated_event",
    "pod_deleted_event",
    "deployment_info",
    "deployment_step_success",
    "deployment_success",
    "deployment_failed",
    "group_change_success",
];

/// What is out of date.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Dirty {
    /// Everything.
    pub(crate) all: bool,
    /// These apps or pods.
    pub(crate) ids: BTreeSet<String>,
}

impl Dirty {
    pub(crate) const fn everything() -> Self {
        Self { all: true, ids: BTreeSet::new() }
    }

    pub(crate) fn is_clean(&self) -> bool {
        !self.all && self.ids.is_empty()
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.all |= other.all;
        self.ids.extend(other.ids);
    }
}

/// What an event makes dirty.
pub(crate) fn of_event(kind: &str, data: &str) -> Dirty {
    if kind == "event_stream_attached" {
        // The snapshot follows the attachment anyway.
        return Dirty::default();
    }
    let Ok(event) = serde_json::from_str::<Value>(data) else { return Dirty::everything() };
    let kind = if kind.is_empty() { event["eventType"].as_str().unwrap_or_default() } else { kind };
    let ids: BTreeSet<String> = match kind {
        "pod_updated_event" | "pod_deleted_event" => {
            event["uri"].as_str().and_then(|uri| uri.strip_prefix("/v2/pods")).and_then(id).into_iter().collect()
        }
        _ if kind.starts_with("deployment_") => plan_ids(&event),
        _ => ["appId", "runSpecId"].into_iter().filter_map(|field| event[field].as_str().and_then(id)).collect(),
    };
    // Created pods, changed groups, plans of a form that is not known: look at everything.
    if ids.is_empty() { Dirty::everything() } else { Dirty { all: false, ids } }
}

/// The apps and pods that a deployment acts on, in the light form (`plan.steps[].actions[]`) or the heavy one, which has it too.
fn plan_ids(event: &Value) -> BTreeSet<String> {
    let steps = event["plan"]["steps"].as_array().into_iter().flatten();
    let actions = steps.flat_map(|step| step["actions"].as_array().into_iter().flatten());
    let current = event["currentStep"]["actions"].as_array().into_iter().flatten();
    actions.chain(current).filter_map(|action| action["app"].as_str().or_else(|| action["pod"].as_str()).and_then(id)).collect()
}

/// A path of an app or pod, if it is one that may stand in a URL: what comes from an event is not trusted.
fn id(path: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '.' | '_');
    (path.len() > 1 && path.starts_with('/') && !path.contains("..") && path.chars().all(legal)).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_name_what_changed_or_everything() {
        let ids = |ids: &[&str]| Dirty { all: false, ids: ids.iter().map(|id| (*id).to_owned()).collect() };
        for (kind, data, want) in [
            ("status_update_event", r#"{"appId":"/foo","taskStatus":"TASK_KILLING"}"#, ids(&["/foo"])),
            ("instance_changed_event", r#"{"runSpecId":"/a/b","condition":"Running"}"#, ids(&["/a/b"])),
            ("", r#"{"eventType":"instance_health_changed_event","runSpecId":"/a","healthy":null}"#, ids(&["/a"])),
            ("pod_updated_event", r#"{"uri":"/v2/pods/my-pod"}"#, ids(&["/my-pod"])),
            ("pod_created_event", r#"{"uri":"/v2/pods"}"#, Dirty::everything()),
            ("group_change_success", r#"{"groupId":"/","version":"x"}"#, Dirty::everything()),
            ("event_stream_attached", "{}", Dirty::default()),
            (
                "deployment_info",
                r#"{"plan":{"steps":[{"actions":[{"action":"ScalePod","pod":"/p"}]},{"actions":[{"action":"StopApplication","app":"/a"}]}]}}"#,
                ids(&["/a", "/p"]),
            ),
            ("deployment_success", r#"{"id":"x"}"#, Dirty::everything()),
            ("status_update_event", "no json", Dirty::everything()),
            ("status_update_event", r#"{"appId":"/../v2/leader?x"}"#, Dirty::everything()),
        ] {
            assert_eq!(of_event(kind, data), want, "{kind} {data}");
        }
    }
}
