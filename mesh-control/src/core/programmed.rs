//! What is said of an object in `status.conditions`: whether the nodes hold what was made of it, and whether all is there that it refers to.

use crate::core::compile::Dangling;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::net::IpAddr;

/// One node, as its clients have answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Node {
    pub(crate) address: IpAddr,
    /// The configuration's version that all its clients hold whole.
    pub(crate) holds: u64,
    /// What one of them refused, in its words.
    pub(crate) refusal: Option<String>,
}

/// An object, as far as its status goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Object<'a> {
    /// The version of the last write by a client.
    pub(crate) written: u64,
    pub(crate) generation: i64,
    pub(crate) status: &'a Value,
    /// What it refers to and is not there; `None`: what was written last is not compiled yet.
    pub(crate) dangling: Option<&'a [Dangling]>,
}

/// A status that differs from what is stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Next {
    pub(crate) status: Value,
    /// Somebody may be waiting for it; if not, it is a count of nodes, or soon to change again.
    pub(crate) urgent: bool,
}

const PROGRAMMED: &str = "Programmed";
const RESOLVED: &str = "ResolvedRefs";
/// A condition is for people: of a rule that refers to nothing everywhere they need no more to begin with.
const TOLD: usize = 5;

/// What a condition should say.
struct Said {
    status: &'static str,
    reason: &'static str,
    message: String,
}

/// The status that an object should have; `None` if it has it.
pub(crate) fn next(object: Object<'_>, nodes: &[Node], now: Timestamp) -> Option<Next> {
    let conditions = object.status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let before = |kind: &str| conditions.iter().find(|condition| condition["type"] == kind);
    // Without any node nobody could hold it, and nobody was told otherwise.
    let programmed = (before(PROGRAMMED).is_some() || !nodes.is_empty()).then(|| told(object.written, nodes));
    let resolved = object.dangling.map(refers);
    let (mut next, mut changed, mut urgent) = (Vec::new(), false, false);
    for (kind, said) in [(PROGRAMMED, programmed), (RESOLVED, resolved)] {
        let before = before(kind);
        let Some(said) = said else {
            next.extend(before.cloned());
            continue;
        };
        let field = |name: &str| before.map_or(&Value::Null, |before| &before[name]);
        let same = field("status") == said.status && field("reason") == said.reason;
        let current = field("observedGeneration") == object.generation;
        if same && current && field("message") == said.message.as_str() {
            next.extend(before.cloned());
            continue;
        }
        changed = true;
        // Most of what is pending is there a moment later. That all nodes are gone at once means that we have just started, or that nobody is
        // there to be told.
        urgent |= !((same && current) || ["Pending", "NoNodes"].contains(&said.reason));
        next.push(condition(kind, &said, field, object.generation, now));
    }
    let status = json!({ "observedGeneration": object.generation, "conditions": next });
    changed.then_some(Next { status, urgent })
}

fn condition<'v>(kind: &str, said: &Said, before: impl Fn(&str) -> &'v Value, generation: i64, now: Timestamp) -> Value {
    let since = if before("status") == said.status { before("lastTransitionTime").clone() } else { Value::Null };
    let since = if since.is_string() { since } else { json!(crate::istio::resource::seconds(now)) };
    json!({
        "type": kind, "status": said.status, "reason": said.reason, "message": said.message,
        "observedGeneration": generation, "lastTransitionTime": since,
    })
}

fn refers(dangling: &[Dangling]) -> Said {
    let Some(first) = dangling.first() else {
        return Said { status: "True", reason: RESOLVED, message: "all references are resolved".to_owned() };
    };
    let mut words: Vec<_> = dangling.iter().take(TOLD).map(|one| one.message.clone()).collect();
    if dangling.len() > TOLD {
        words.push(format!("and {} more", dangling.len() - TOLD));
    }
    Said { status: "False", reason: first.reason, message: words.join("; ") }
}

fn told(written: u64, nodes: &[Node]) -> Said {
    let (all, holding) = (nodes.len(), nodes.iter().filter(|node| node.holds >= written).count());
    let count = format!("{holding} of {all} nodes");
    let refusing = nodes.iter().filter(|node| node.holds < written);
    let refusal = refusing.filter_map(|node| Some((node.address, node.refusal.as_deref()?))).next();
    let (status, reason, message) = match refusal {
        _ if all == 0 => ("Unknown", "NoNodes", "no node is connected".to_owned()),
        Some((address, words)) => ("False", "Rejected", format!("{count}; {address} refused: {words}")),
        None if holding == all => ("True", "Programmed", count),
        None => ("False", "Pending", count),
    };
    Said { status, reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(last: u8, holds: u64, refusal: Option<&str>) -> Node {
        Node { address: IpAddr::from([10, 0, 0, last]), holds, refusal: refusal.map(str::to_owned) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn told_of(nodes: &[Node], status: &Value) -> Option<(String, String, bool)> {
        let next = next(Object { written: 5, generation: 2, status, dangling: None }, nodes, at(0))?;
        let condition = &next.status["conditions"][0];
        let text = |name: &str| condition[name].as_str().expect("text").to_owned();
        assert_eq!((&condition["observedGeneration"], &next.status["observedGeneration"]), (&json!(2), &json!(2)));
        Some((format!("{} {}", text("status"), text("reason")), text("message"), next.urgent))
    }

    #[test]
    fn an_object_is_programmed_where_its_version_is_held() {
        for (nodes, want) in [
            (vec![], None),
            (vec![node(1, 4, None), node(2, 9, None)], Some(("False Pending", "1 of 2 nodes", false))),
            (vec![node(1, 5, None), node(2, 9, None)], Some(("True Programmed", "2 of 2 nodes", true))),
            (vec![node(1, 5, Some("old"))], Some(("True Programmed", "1 of 1 nodes", true))),
            (
                vec![node(1, 5, None), node(2, 4, Some("routes: no"))],
                Some(("False Rejected", "1 of 2 nodes; 10.0.0.2 refused: routes: no", true)),
            ),
        ] {
            let want = want.map(|(what, message, urgent)| (what.to_owned(), message.to_owned(), urgent));
            assert_eq!(told_of(&nodes, &Value::Null), want, "{nodes:?}");
        }
    }

    #[test]
    fn what_is_so_already_is_not_said_again_and_a_count_can_wait() {
        let one = [node(1, 5, None)];
        let first = next(Object { written: 5, generation: 2, status: &Value::Null, dangling: None }, &one, at(100)).expect("new");
        let object = Object { written: 5, generation: 2, status: &first.status, dangling: None };
        assert_eq!(next(object, &one, at(101)), None);
        let two = next(object, &[node(1, 5, None), node(2, 5, None)], at(200)).expect("another count");
        assert!(!two.urgent);
        let since = |next: &Next| next.status["conditions"][0]["lastTransitionTime"].clone();
        assert_eq!(since(&two), since(&first), "it was true all the time");
        let refused = next(object, &[node(1, 4, Some("no"))], at(300)).expect("no longer");
        assert!(refused.urgent && since(&refused) != since(&first));
        let changed = next(Object { generation: 3, ..object }, &one, at(300)).expect("another generation");
        assert!(changed.urgent);
        assert_eq!(told_of(&[], &first.status), Some(("Unknown NoNodes".to_owned(), "no node is connected".to_owned(), false)));
    }

    #[test]
    fn what_refers_to_nothing_is_told_until_it_is_there() {
        let dangling = |n: usize| vec![Dangling { reason: "BackendNotFound", message: "spec.host: none".to_owned() }; n];
        let object = |status, dangling| Object { written: 5, generation: 2, status, dangling };
        let text =
            |next: &Next, place: usize, name: &str| next.status["conditions"][place][name].as_str().expect("text").to_owned();
        let none = dangling(0);
        let first = next(object(&Value::Null, Some(&none)), &[], at(0)).expect("told without any node");
        assert_eq!(first.status["conditions"].as_array().map(Vec::len), Some(1));
        let one = dangling(1);
        let both = next(object(&first.status, Some(&one)), &[node(1, 5, None)], at(100)).expect("changed");
        assert!(both.urgent && text(&both, 0, "type") == "Programmed" && text(&both, 1, "type") == "ResolvedRefs");
        let said = ["status", "reason", "message"].map(|name| text(&both, 1, name));
        assert_eq!(said, ["False", "BackendNotFound", "spec.host: none"]);
        assert_eq!(next(object(&both.status, Some(&one)), &[node(1, 5, None)], at(200)), None);
        assert_eq!(next(object(&both.status, None), &[node(1, 5, None)], at(200)), None, "not compiled: as it was");
        let many = dangling(7);
        let many = next(object(&both.status, Some(&many)), &[node(1, 5, None)], at(200)).expect("more");
        assert!(text(&many, 1, "message").ends_with("; and 2 more"), "{}", text(&many, 1, "message"));
        let back = next(object(&both.status, Some(&none)), &[node(1, 5, None)], at(300)).expect("cleared");
        assert!(back.urgent && text(&back, 1, "status") == "True");
        assert_ne!(text(&back, 1, "lastTransitionTime"), text(&both, 1, "lastTransitionTime"));
        assert_eq!(text(&back, 0, "lastTransitionTime"), text(&both, 0, "lastTransitionTime"), "the other stays");
    }
}
