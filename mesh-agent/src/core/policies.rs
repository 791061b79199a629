//! The numbers of egress policies: one for each namespace of the mesh.

use super::resources::World;
use mesh_common::abi::policy;
use std::collections::{BTreeMap, BTreeSet};

/// Namespaces with their numbers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Policies(BTreeMap<String, u32>);

impl Policies {
    /// Of all namespaces that workloads or rules of this world name.
    #[must_use]
    pub fn of(world: &World) -> Self {
        let announced = world.announced.values().map(|(_, workload)| workload);
        let pods = world.workloads.values().chain(announced).map(|workload| &workload.namespace);
        let rules = world.egress.values().flat_map(|rule| &rule.namespaces);
        let services = world.services.values().flat_map(|service| &service.ports).flat_map(|port| &port.namespaces);
        Self::of_names(pods.chain(rules).chain(services).map(String::as_str))
    }

    /// Of these namespaces.
    #[must_use]
    pub fn of_names<'a>(namespaces: impl Iterator<Item = &'a str>) -> Self {
        Self::number(namespaces.collect(), policy::of)
    }

    /// Two names of one number: the first in the alphabet has it, the other one takes the next. The programs know the gateway's.
    fn number(mut namespaces: BTreeSet<&str>, hash: impl Fn(&str) -> u32) -> Self {
        namespaces.remove(policy::GATEWAY_NAMESPACE);
        let (mut numbers, mut taken) = (BTreeMap::new(), BTreeSet::from([policy::EVERYBODY]));
        for namespace in [policy::GATEWAY_NAMESPACE].into_iter().chain(namespaces) {
            let mut number = hash(namespace);
            while !taken.insert(number) {
                number = number.wrapping_add(1);
            }
            numbers.insert(namespace.to_owned(), number);
        }
        Self(numbers)
    }

    /// A namespace's; one that nobody names may what everybody may.
    #[must_use]
    pub fn get(&self, namespace: &str) -> u32 {
        self.0.get(namespace).copied().unwrap_or(policy::EVERYBODY)
    }

    /// Those of some namespaces; of none: everybody's. One that is not numbered adds nothing, least of all everybody.
    #[must_use]
    pub fn all(&self, namespaces: &[String]) -> BTreeSet<u32> {
        if namespaces.is_empty() {
            return BTreeSet::from([policy::EVERYBODY]);
        }
        namespaces.iter().filter_map(|namespace| self.0.get(namespace).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_number_are_told_apart_and_the_gateway_keeps_its_own() {
        let policies =
            Policies::number(BTreeSet::from(["a", "b", "istio-system", "z"]), |name| if name == "z" { u32::MAX } else { 7 });
        let numbers = ["istio-system", "a", "b", "z", "unheard"].map(|namespace| policies.get(namespace));
        assert_eq!(numbers, [7, 8, 9, u32::MAX, 0]);
        let around = Policies::number(BTreeSet::from(["a", "b"]), |_| u32::MAX);
        assert_eq!((around.get("a"), around.get("b")), (1, 2), "never everybody's");
        let all = policies.all(&["a".to_owned(), "z".to_owned(), "unheard".to_owned()]);
        assert_eq!((policies.all(&[]), all), ([0].into(), [8, u32::MAX].into()));
    }
}
