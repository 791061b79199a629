//! The names of a service: one function, so that DNS, virtual hosts and rules agree on them.

use super::registry::Registry;
use std::collections::BTreeSet;

/// Istio's (Kubernetes') cluster domain, accepted so that rules and clients written for Kubernetes work unchanged.
const CLUSTER_DOMAIN: &str = "cluster.local";

/// The zone of VIPs by all the names that DC/OS' resolver has for it.
pub(crate) const ZONES: [&str; 4] =
    [mesh_common::vip::ZONE, "l4lb.thisdcos.global", "dclb.thisdcos.directory", "dclb.thisdcos.global"];

/// The same zone by the name that holds in other clusters too.
pub(crate) fn cluster_zone(cluster: &str) -> String {
    format!("l4lb.{}.dcos.directory", cluster.to_ascii_lowercase())
}

/// The full name of a service with this first part: `reviews` is `reviews.marathon.l4lb.thisdcos.directory`.
pub(crate) fn full(short: &str, vip_domain: &str) -> String {
    format!("{short}.{vip_domain}")
}

/// The framework in a VIP domain: `marathon` of `marathon.l4lb.thisdcos.directory` and of `marathon.slave.mesos`.
pub(crate) fn framework(vip_domain: &str) -> &str {
    let zone = format!(".{}", mesh_common::vip::ZONE);
    vip_domain.strip_suffix(&zone).unwrap_or_else(|| vip_domain.split('.').next().unwrap_or(vip_domain))
}

/// All names of a service; `namespaces` are those of its workloads.
///
/// DC/OS' resolver renames `*.dclb.thisdcos.{directory,global}` and `*.l4lb.thisdcos.global` to `*.l4lb.thisdcos.directory`: these are
/// names of the same VIP, and a rule for one must not miss the others.
pub(crate) fn all(short: &str, vip_domain: &str, namespaces: &BTreeSet<String>) -> BTreeSet<String> {
    let mut names = BTreeSet::from([full(short, vip_domain), short.to_owned()]);
    if let Some(rest) = vip_domain.strip_suffix(".l4lb.thisdcos.directory") {
        names.extend(ZONES.map(|zone| format!("{short}.{rest}.{zone}")));
    }
    for namespace in namespaces {
        names.insert(format!("{short}.{namespace}"));
        names.insert(format!("{short}.{namespace}.svc"));
        names.insert(format!("{short}.{namespace}.svc.{CLUSTER_DOMAIN}"));
    }
    names.iter().map(|name| name.to_ascii_lowercase()).collect()
}

impl Registry {
    /// Adds the names that VIPs have in the whole world, for a cluster of this id.
    pub(crate) fn call_everywhere(&mut self, cluster: &str) {
        let zone = cluster_zone(cluster);
        for service in self.services.values_mut() {
            let named = service.name.strip_suffix(mesh_common::vip::ZONE).map(|short| format!("{short}{zone}"));
            service.names.extend(named);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_has_a_name_in_the_world() {
        let mut registry = crate::core::compile::tests::reviews(&["v1"]);
        registry.call_everywhere("Yr3a");
        let names = &registry.services["reviews.marathon.l4lb.thisdcos.directory"].names;
        assert!(names.contains("reviews.marathon.l4lb.yr3a.dcos.directory"), "{names:?}");
        assert_eq!(cluster_zone("Yr3a"), "l4lb.yr3a.dcos.directory");
    }

    #[test]
    fn names_of_a_service() {
        let default = BTreeSet::from(["default".to_owned()]);
        for (short, domain, want) in [
            (
                "reviews",
                "marathon.l4lb.thisdcos.directory",
                vec![
                    "reviews",
                    "reviews.default",
                    "reviews.default.svc",
                    "reviews.default.svc.cluster.local",
                    "reviews.marathon.dclb.thisdcos.directory",
                    "reviews.marathon.dclb.thisdcos.global",
                    "reviews.marathon.l4lb.thisdcos.directory",
                    "reviews.marathon.l4lb.thisdcos.global",
                ],
            ),
            (
                "api.hello",
                "marathon.slave.mesos",
                vec![
                    "api.hello",
                    "api.hello.default",
                    "api.hello.default.svc",
                    "api.hello.default.svc.cluster.local",
                    "api.hello.marathon.slave.mesos",
                ],
            ),
        ] {
            assert_eq!(all(short, domain, &default).into_iter().collect::<Vec<_>>(), want, "{short} in {domain}");
        }
    }

    #[test]
    fn the_framework_is_the_domain_without_the_zone() {
        assert_eq!(framework("marathon.l4lb.thisdcos.directory"), "marathon");
        assert_eq!(framework("a.b.l4lb.thisdcos.directory"), "a.b");
        assert_eq!(framework("marathon.slave.mesos"), "marathon");
    }
}
