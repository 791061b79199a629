//! Who should be in the mesh: what a workload's label and its namespace's say together, as Istio reads them.

use super::registry::{Registry, Workload};
use std::collections::BTreeMap;

/// Label of an app or pod.
pub(crate) const INJECT: &str = "sidecar.istio.io/inject";
/// Label of a namespace.
pub(crate) const INJECTION: &str = "istio-injection";

/// What namespaces say: `true` for `istio-injection=enabled`, `false` for `disabled`; others say nothing.
pub(crate) type Injection = BTreeMap<String, bool>;

/// Reads the label of a namespace.
pub(crate) fn injection(label: Option<&str>) -> Option<bool> {
    match label {
        Some("enabled") => Some(true),
        Some("disabled") => Some(false),
        _ => None,
    }
}

/// What a workload says of itself. As Istio, anything but a yes is a no.
pub(crate) fn own(label: Option<&str>) -> Option<bool> {
    let label = label.filter(|label| !label.is_empty())?;
    Some(["true", "yes", "y", "on"].iter().any(|yes| label.eq_ignore_ascii_case(yes)))
}

/// A namespace that is disabled keeps everybody out; otherwise the workload's own word counts, and then its namespace's. On the node's own
/// network only the own word counts, as in Istio: there a namespace would bring the platform's own apps in, this program among them.
pub(crate) fn wishes(own: Option<bool>, namespace: Option<bool>, host_network: bool) -> bool {
    match namespace {
        Some(false) => false,
        Some(true) if !host_network => own.unwrap_or(true),
        _ => own.unwrap_or(false),
    }
}

impl Registry {
    /// Fills in what namespaces say.
    pub(crate) fn wish(&mut self, injection: &Injection) {
        for workload in self.workloads.values_mut() {
            workload.enrol = workload.wishes(injection);
        }
    }
}

impl Workload {
    fn wishes(&self, injection: &Injection) -> bool {
        let own = own(self.labels.get(INJECT).map(String::as_str));
        wishes(own, injection.get(&self.namespace).copied(), self.host_network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_as_istio_reads_them() {
        for (label, says) in
            [("true", true), ("Yes", true), ("y", true), ("on", true), ("false", false), ("no", false), ("1", false)]
        {
            assert_eq!(own(Some(label)), Some(says), "{label}");
        }
        assert_eq!((own(None), own(Some(""))), (None, None));
        assert_eq!(["enabled", "disabled", "Enabled"].map(|label| injection(Some(label))), [Some(true), Some(false), None]);
    }

    #[test]
    fn the_namespaces_no_beats_the_workloads_word_which_beats_the_namespaces_yes() {
        for (own, namespace, host_network, wanted) in [
            (None, None, false, false),
            (Some(true), None, false, true),
            (Some(false), None, false, false),
            (None, Some(true), false, true),
            (Some(false), Some(true), false, false),
            (Some(true), Some(true), false, true),
            (None, Some(false), false, false),
            (Some(true), Some(false), false, false),
            (None, Some(true), true, false),
            (Some(true), None, true, true),
            (Some(true), Some(false), true, false),
        ] {
            assert_eq!(wishes(own, namespace, host_network), wanted, "{own:?} {namespace:?} {host_network}");
        }
    }
}
