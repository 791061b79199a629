//! The state as Marathon's JSON: `app` for apps and tasks, `pod` for pod statuses, here what belongs to neither. Pure.

use serde_json::{Value, json};

use super::Core;
use super::spec::{Kind, stamp};

pub(crate) mod agent;
pub(crate) mod altered;
pub(crate) mod app;
pub(crate) mod master;
pub(crate) mod pod;

/// GET /v2/queue: instances that no node can take, or whose back-off runs.
pub(crate) fn queue(core: &Core, now: jiff::Timestamp) -> Value {
    let mut queue = Vec::new();
    for kind in [Kind::App, Kind::Pod] {
        for spec in core.entries(kind) {
            let waiting: Vec<_> = core.instances_of(&spec.id).filter(|i| i.is_scheduled()).collect();
            let Some(first) = waiting.first() else { continue };
            let delay = match first.phase {
                super::instance::Phase::Scheduled { not_before } => not_before.duration_since(now).as_secs().max(0),
                _ => 0,
            };
            let key = if kind == Kind::App { "app" } else { "pod" };
            queue.push(json!({
                key: spec.raw,
                "count": waiting.len(),
                "role": "*",
                "delay": {"timeLeftSeconds": delay, "overdue": delay == 0},
                "since": stamp(first.changed),
                "processedOffersSummary": {"processedOffersCount": 0, "unusedOffersCount": 0, "rejectSummaryLastOffers": [], "rejectSummaryLaunchAttempt": []},
            }));
        }
    }
    json!({"queue": queue})
}

/// GET /v2/groups, the root group only: apps and pods of all depths are listed in nested groups.
pub(crate) fn group(core: &Core, path: &str) -> Value {
    let prefix = if path == "/" { "/".to_owned() } else { format!("{path}/") };
    let direct = |id: &str| id.strip_prefix(&prefix).is_some_and(|rest| !rest.is_empty() && !rest.contains('/'));
    let apps: Vec<&Value> = core.entries(Kind::App).filter(|s| direct(&s.id)).map(|s| &s.raw).collect();
    let pods: Vec<Value> = core.entries(Kind::Pod).filter(|s| direct(&s.id)).map(|s| pod::status(core, s)).collect();
    let mut groups = std::collections::BTreeSet::new();
    for id in core.specs.iter().filter(|(_, e)| !e.deleted).map(|(id, _)| id) {
        if let Some((group, _)) = id.strip_prefix(&prefix).and_then(|rest| rest.split_once('/')) {
            groups.insert(format!("{prefix}{group}"));
        }
    }
    let groups: Vec<Value> = groups.iter().map(|id| group(core, id)).collect();
    let version =
        core.specs.values().map(|e| e.current().version.clone()).max().unwrap_or_else(|| stamp(jiff::Timestamp::UNIX_EPOCH));
    json!({"id": path, "apps": apps, "pods": pods, "groups": groups, "dependencies": [], "version": version, "enforceRole": false})
}
