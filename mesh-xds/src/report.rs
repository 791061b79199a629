//! What an agent says of its node: which workloads are in the mesh there, and why others are not.
//!
//! It travels as `node.metadata.ENROLMENT` of a request on the agent's own stream (docs/design/0044): of the first one, and of one that asks for
//! nothing whenever it has changed. A control plane that knows nothing of it sees a request that changes no subscription.

use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Key in the node's metadata.
const ENROLMENT: &str = "ENROLMENT";
/// Workloads that are read of each kind: a kernel's table holds a quarter of it, and a message from outside must have an end.
const WORKLOADS_MAX: usize = 4096;
/// Characters of an id or a reason that are kept.
const TEXT_MAX: usize = 500;

/// One node's workloads, by Marathon's instance ids.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// In the mesh, as the kernel has it.
    pub enrolled: BTreeSet<String>,
    /// Wanted and not in the mesh, with the reason.
    pub missing: BTreeMap<String, String>,
    /// Wanted, and taken out by the operator.
    pub bypassed: BTreeSet<String>,
}

impl Report {
    /// Writes it into a node's metadata.
    #[must_use]
    pub fn into_metadata(&self, metadata: Option<Struct>) -> Struct {
        let text = |text: &String| value(Kind::StringValue(text.clone()));
        let list = |ids: &BTreeSet<String>| value(Kind::ListValue(ListValue { values: ids.iter().map(text).collect() }));
        let missing = self.missing.iter().map(|(id, reason)| (id.clone(), text(reason)));
        let missing = value(Kind::StructValue(Struct { fields: missing.collect() }));
        let fields = [("enrolled", list(&self.enrolled)), ("missing", missing), ("bypassed", list(&self.bypassed))];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut metadata = metadata.unwrap_or_default();
        metadata.fields.insert(ENROLMENT.to_owned(), value(Kind::StructValue(Struct { fields })));
        metadata
    }

    /// Reads it from a node's metadata; `None` if there is none. What is no text is left out.
    #[must_use]
    pub fn of_metadata(metadata: &Struct) -> Option<Self> {
        let Some(Kind::StructValue(report)) = metadata.fields.get(ENROLMENT)?.kind.as_ref() else { return None };
        let list = |name: &str| match report.fields.get(name).and_then(|value| value.kind.as_ref()) {
            Some(Kind::ListValue(list)) => list.values.iter().take(WORKLOADS_MAX).filter_map(text).collect(),
            _ => BTreeSet::new(),
        };
        let missing = match report.fields.get("missing").and_then(|value| value.kind.as_ref()) {
            Some(Kind::StructValue(missing)) => {
                let of = |(id, reason): (&String, &Value)| Some((cut(id), text(reason)?));
                missing.fields.iter().take(WORKLOADS_MAX).filter_map(of).collect()
            }
            _ => BTreeMap::new(),
        };
        Some(Self { enrolled: list("enrolled"), missing, bypassed: list("bypassed") })
    }
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

fn text(value: &Value) -> Option<String> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Some(cut(text)),
        _ => None,
    }
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Node;

    fn report() -> Report {
        Report {
            enrolled: ["a.instance-1".to_owned()].into(),
            missing: [("b.instance-2".to_owned(), "its port is taken".to_owned())].into(),
            bypassed: ["c.instance-3".to_owned()].into(),
        }
    }

    #[test]
    fn a_report_travels_beside_the_labels() {
        let labels: BTreeMap<_, _> = [("istio".to_owned(), "ingressgateway".to_owned())].into();
        let node: Node = "agent~192.0.2.11~a~mesh".parse().expect("valid");
        let labelled = Node { labels, ..node.clone() };
        let metadata = report().into_metadata(labelled.metadata());
        assert_eq!(Report::of_metadata(&metadata), Some(report()));
        assert_eq!(node.with_metadata(Some(&metadata)), labelled, "it is no part of who the node is");
        assert_eq!(Report::of_metadata(&Struct::default()), None);
    }

    #[test]
    fn what_comes_from_outside_has_an_end() {
        let many = (0..=WORKLOADS_MAX).map(|n| (n.to_string(), "x".repeat(TEXT_MAX + 1)));
        let report = Report { missing: many.collect(), ..Report::default() };
        let mut metadata = report.into_metadata(None);
        let read = Report::of_metadata(&metadata).expect("a report");
        assert_eq!(read.missing.len(), WORKLOADS_MAX);
        assert!(read.missing.values().all(|reason| reason.len() == TEXT_MAX));
        metadata.fields.insert(ENROLMENT.to_owned(), value(Kind::NumberValue(1.0)));
        assert_eq!(Report::of_metadata(&metadata), None);
    }
}
