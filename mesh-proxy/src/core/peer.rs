//! Who serves an endpoint, as Istio's control plane writes it into the endpoint's metadata: filter `istio`, key `workload`. For telemetry
//! only; no decision depends on it.

use std::collections::BTreeMap;

/// A workload in Istio's terms. What is not known is empty.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Peer {
    /// The workload: here the path of Marathon's app without the slash in front.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// What people call the service.
    pub canonical_service: String,
    /// Its version.
    pub canonical_revision: String,
    /// The cluster (of clusters) that it runs in.
    pub cluster: String,
    /// Its own port is captured: a proxy beside it counts for it.
    pub tells: bool,
}

impl Peer {
    /// Reads `workload;namespace;canonical service;canonical revision;cluster`, and what our control plane says after that: `inbound`. What is missing at the end is empty, what is too much is
    /// ignored: the value informs, and a newer control plane may say more.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parts = text.split(';').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let (workload, namespace, canonical_service) = (next(), next(), next());
        let (canonical_revision, cluster) = (next(), next());
        Self { workload, namespace, canonical_service, canonical_revision, cluster, tells: next() == "inbound" }
    }
}

/// What is said where something is not known, as in Istio's metrics.
pub const UNKNOWN: &str = "unknown";

impl Peer {
    /// A pod of this node, by its app's path and its labels, by Istio's rules for canonical names.
    #[must_use]
    pub fn of(app: &str, namespace: &str, labels: &BTreeMap<String, String>) -> Self {
        let workload = app.trim_start_matches('/').to_owned();
        let first = |names: [&str; 3]| names.iter().find_map(|name| labels.get(*name)).cloned();
        let service = first(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        let revision = first(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
        Self {
            canonical_service: service.unwrap_or_else(|| workload.clone()),
            canonical_revision: revision.unwrap_or_else(|| "latest".to_owned()),
            workload,
            namespace: namespace.to_owned(),
            cluster: String::new(),
            tells: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_by_its_labels_else_by_its_app() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let plain = Peer::of("/shop/reviews-v2", "default", &BTreeMap::new());
        assert_eq!(plain, Peer::parse("shop/reviews-v2;default;shop/reviews-v2;latest"));
        let named = labels(&[("app", "reviews"), ("version", "v2"), ("service.istio.io/canonical-name", "r")]);
        assert_eq!(Peer::of("/reviews-v2", "prod", &named), Peer::parse("reviews-v2;prod;r;v2"));
    }

    #[test]
    fn istios_string_is_read_and_short_ones_too() {
        let peer = Peer::parse("reviews-v2;default;reviews;v2;mesos");
        assert_eq!((peer.workload.as_str(), peer.namespace.as_str()), ("reviews-v2", "default"));
        assert_eq!((peer.canonical_service.as_str(), peer.canonical_revision.as_str()), ("reviews", "v2"));
        assert_eq!(peer.cluster, "mesos");
        assert_eq!(
            Peer::parse("a;b;c"),
            Peer { workload: "a".into(), namespace: "b".into(), canonical_service: "c".into(), ..Peer::default() }
        );
        assert_eq!(Peer::parse("a;b;c;d;e;more").cluster, "e");
    }
}
