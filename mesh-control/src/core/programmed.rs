//! What is said of an object in `status.conditions`: whether the nodes hold what was made of it.

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
}

/// A status that differs from what is stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Next {
    pub(crate) status: Value,
    /// Somebody may be waiting for it; if not, it is a count of nodes, or soon to change again.
    pub(crate) urgent: bool,
}

const TYPE: &str = "Programmed";

/// The status that an object should have; `None` if it has it.
pub(crate) fn next(object: Object<'_>, nodes: &[Node], now: Timestamp) -> Option<Next> {
    let conditions = object.status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let before = conditions.iter().find(|condition| condition["type"] == TYPE);
    if before.is_none() && nodes.is_empty() {
        // Nobody could hold it, and nobody was told otherwise.
        return None;
    }
    let (status, reason, message) = told(object.written, nodes);
    let field = |name: &str| before.map_or(&Value::Null, |before| &before[name]);
    let same = field("status") == status && field("reason") == reason;
    let current = object.status["observedGeneration"] == object.generation;
    if same && current && field("message") == message.as_str() {
        return None;
    }
    let since = if field("status") == status { field("lastTransitionTime").clone() } else { Value::Null };
    let since = if since.is_string() { since } else { json!(crate::istio::resource::seconds(now)) };
    let condition = json!({
        "type": TYPE, "status": status, "reason": reason, "message": message,
        "observedGeneration": object.generation, "lastTransitionTime": since,
    });
    let status = json!({ "observedGeneration": object.generation, "conditions": [condition] });
    // Most of what is pending is there a moment later. That all nodes are gone at once means that we have just started, or that nobody is
    // there to be told.
    Some(Next { status, urgent: !((same && current) || ["Pending", "NoNodes"].contains(&reason)) })
}

fn told(written: u64, nodes: &[Node]) -> (&'static str, &'static str, String) {
    let (all, holding) = (nodes.len(), nodes.iter().filter(|node| node.holds >= written).count());
    let count = format!("{holding} of {all} nodes");
    let refusing = nodes.iter().filter(|node| node.holds < written);
    let refusal = refusing.filter_map(|node| Some((node.address, node.refusal.as_deref()?))).next();
    match refusal {
        _ if all == 0 => ("Unknown", "NoNodes", "no node is connected".to_owned()),
        Some((address, words)) => ("False", "Rejected", format!("{count}; {address} refused: {words}")),
        None if holding == all => ("True", "Programmed", count),
        None => ("False", "Pending", count),
    }
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
        let next = next(Object { written: 5, generation: 2, status }, nodes, at(0))?;
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
        let first = next(Object { written: 5, generation: 2, status: &Value::Null }, &one, at(100)).expect("new");
        let object = Object { written: 5, generation: 2, status: &first.status };
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
}
