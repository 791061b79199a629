//! An object with its metadata, and the only way from JSON to it.

use std::sync::Arc;

use serde_json::Value;

use super::decode::Decode;
use super::problem::{Path, Problems};

/// Who an object is and which version of it this is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Meta {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) created: jiff::Timestamp,
    pub(crate) generation: i64,
    pub(crate) resource_version: u64,
    pub(crate) uid: String,
    /// Connections that it let out end with it.
    pub(crate) terminate_on_revoke: bool,
}

/// Annotation of a ServiceEntry.
const TERMINATE_ON_REVOKE: &str = "mesh.io/terminate-on-revoke";

/// A typed object.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Resource<T> {
    pub(crate) meta: Meta,
    pub(crate) spec: T,
}

/// A spec of one of the kinds.
pub(crate) trait Spec: Decode {
    /// What is wrong with a spec that decodes.
    fn check(&self, at: &Path<'_>, problems: &mut Problems);
}

impl<T: Spec> TryFrom<&Value> for Resource<T> {
    type Error = Problems;

    /// Reads and checks an object. Fields that the server sets (uid, resourceVersion, ...) may be absent: before admission they are.
    fn try_from(object: &Value) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let at = Path::root("spec");
        let spec = match object.get("spec") {
            Some(spec) => T::decode(spec, &at, &mut problems),
            None => {
                problems.required(&at, "");
                None
            }
        };
        match spec {
            Some(spec) if problems.is_empty() => {
                spec.check(&at, &mut problems);
                if problems.is_empty() { Ok(Self { meta: Meta::of(object), spec }) } else { Err(problems) }
            }
            _ => Err(problems),
        }
    }
}

impl Meta {
    /// The metadata of an object; what is absent is empty.
    #[must_use]
    pub(crate) fn of(object: &Value) -> Self {
        let meta = &object["metadata"];
        let text = |name: &str| meta[name].as_str().unwrap_or_default().to_owned();
        Self {
            name: text("name"),
            namespace: text("namespace"),
            created: text("creationTimestamp").parse().unwrap_or(jiff::Timestamp::UNIX_EPOCH),
            generation: meta["generation"].as_i64().unwrap_or_default(),
            resource_version: text("resourceVersion").parse().unwrap_or_default(),
            uid: text("uid"),
            terminate_on_revoke: meta["annotations"][TERMINATE_ON_REVOKE] == "true",
        }
    }
}

/// Istio's order of configurations: the oldest wins where two disagree.
pub(crate) fn sort<T>(resources: &mut [Arc<Resource<T>>]) {
    resources.sort_by(|a, b| {
        (a.meta.created, &a.meta.name, &a.meta.namespace).cmp(&(b.meta.created, &b.meta.name, &b.meta.namespace))
    });
}

/// Takes an object out of a list.
pub(crate) fn remove<T>(resources: &mut Vec<Arc<Resource<T>>>, namespace: &str, name: &str) {
    resources.retain(|r| r.meta.name != name || r.meta.namespace != namespace);
}

/// A time as Kubernetes writes it: whole seconds.
pub(crate) fn seconds(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
