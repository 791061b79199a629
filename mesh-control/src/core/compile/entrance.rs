//! Where requests come in: at the pods' own proxies, or at a gateway. Rules and their match blocks may be for some of these only.

use std::collections::{BTreeMap, BTreeSet};

/// Istio's name for "every pod's proxy" in lists of gateways.
const MESH: &str = "mesh";

/// A port at which requests come in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entrance<'e> {
    /// The number that clients dial.
    pub(super) port: u16,
    pub(super) at: At<'e>,
}

/// Whose port it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum At<'e> {
    /// Of services, as pods dial them. Which pod asks is known per request only: one proxy serves all pods of a node.
    Mesh,
    /// Of gateways, by their full names `NAMESPACE/NAME`, at proxies with these labels.
    Gateway { names: &'e BTreeSet<String>, labels: &'e BTreeMap<String, String>, tls: bool },
}

impl<'e> Entrance<'e> {
    /// The port of a service, for pods.
    pub(super) const fn mesh(port: u16) -> Self {
        Self { port, at: At::Mesh }
    }

    /// Does a list of gateways in a rule of this namespace name it?
    pub(super) fn is_in(&self, gateways: &[String], namespace: &str) -> bool {
        match self.at {
            At::Mesh => gateways.iter().any(|name| name == MESH),
            At::Gateway { names, .. } => gateways.iter().any(|name| names.contains(&gateway(name, namespace))),
        }
    }

    /// Is TLS spoken to it?
    pub(super) const fn is_tls(&self) -> bool {
        matches!(self.at, At::Gateway { tls: true, .. })
    }
}

/// The full name of a gateway in a rule of a namespace: `name`, `./name`, `namespace/name`, or Istio's old `name.namespace.svc...`.
pub(super) fn gateway(name: &str, namespace: &str) -> String {
    match (name.split_once('/'), name.split_once('.')) {
        (Some((".", name)), _) => format!("{namespace}/{name}"),
        (Some(_), _) => name.to_owned(),
        (None, Some((name, rest))) => format!("{}/{name}", rest.split('.').next().unwrap_or(rest)),
        (None, None) => format!("{namespace}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_have_four_spellings() {
        for (name, full) in
            [("edge", "shop/edge"), ("./edge", "shop/edge"), ("a/edge", "a/edge"), ("edge.a.svc.cluster.local", "a/edge")]
        {
            assert_eq!(gateway(name, "shop"), full);
        }
        let names = BTreeSet::from(["shop/edge".to_owned()]);
        let edge = Entrance { port: 80, at: At::Gateway { names: &names, labels: &BTreeMap::new(), tls: false } };
        let lists = [vec!["mesh".to_owned()], vec!["mesh".to_owned(), "edge".to_owned()]];
        assert_eq!(lists.each_ref().map(|list| edge.is_in(list, "shop")), [false, true]);
        assert_eq!(lists.each_ref().map(|list| Entrance::mesh(80).is_in(list, "shop")), [true, true]);
        assert!(!edge.is_in(&lists[1], "other"), "edge is shop's");
    }
}
