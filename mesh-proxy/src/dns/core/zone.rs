//! The names that the mesh knows, kept by deltas: the work of a change is proportional to the change.
//!
//! A name that several services claim is answered by the service whose resource name sorts first, so that every node says the same.

use super::config::{MeshSettings, ServiceNames};
use super::name::Key;
use mesh_common::vip;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// Names, services and zones.
#[derive(Debug)]
pub(in crate::dns) struct Table {
    services: HashMap<String, ServiceNames>,
    index: HashMap<Key, Entry>,
    /// Wildcard names among `index`; most meshes have none.
    wildcards: usize,
    zones: Vec<Key>,
    mesh_told: bool,
    services_told: bool,
}

#[derive(Debug, Default)]
struct Entry {
    /// Resource names of the services that claim this name.
    owners: BTreeSet<String>,
    /// Claimed names below this one: while there are any, this name exists too.
    below: usize,
}

/// What the mesh says about a name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::dns) enum Lookup<'a> {
    /// Its addresses, and the zone of the mesh that it is in.
    Known(&'a [IpAddr], Option<&'a Key>),
    /// It exists in this zone, but only as the parent of other names.
    NoData(&'a Key),
    /// It does not exist in this zone.
    NoName(&'a Key),
    /// In a zone of the mesh, and the control plane has not told its names yet.
    NotYet,
    /// Not the mesh's business.
    Elsewhere,
}

impl Default for Table {
    /// Knows nothing but DC/OS's zone, so that a name in it is not asked elsewhere before the control plane has told.
    fn default() -> Self {
        Self {
            services: HashMap::new(),
            index: HashMap::new(),
            wildcards: 0,
            zones: Key::parse(vip::ZONE).into_iter().collect(),
            mesh_told: false,
            services_told: false,
        }
    }
}

impl Table {
    /// What the mesh says about a name.
    pub(in crate::dns) fn lookup(&self, name: &Key) -> Lookup<'_> {
        let zone = self.zones.iter().filter(|zone| name.is_within(zone)).max_by_key(|zone| zone.as_bytes().len());
        if let Some(service) = self.owner(name) {
            return Lookup::Known(&service.addresses, zone);
        }
        match zone {
            None => Lookup::Elsewhere,
            Some(_) if !self.is_told() => Lookup::NotYet,
            Some(zone) if zone == name || self.index.contains_key(name) => Lookup::NoData(zone),
            Some(zone) => Lookup::NoName(zone),
        }
    }

    fn owner(&self, name: &Key) -> Option<&ServiceNames> {
        let claimed = |entry: &Entry| entry.owners.first().and_then(|owner| self.services.get(owner));
        if let Some(entry) = self.index.get(name) {
            return claimed(entry);
        }
        if self.wildcards == 0 {
            return None;
        }
        name.parents().find_map(|parent| self.index.get(&Key::wildcard(parent)).and_then(claimed))
    }

    /// A service is new or changed.
    pub(in crate::dns) fn set_service(&mut self, resource: &str, service: ServiceNames) {
        self.remove_service(resource);
        for name in &service.names {
            self.claim(resource, name);
        }
        self.services.insert(resource.to_owned(), service);
    }

    /// A service is gone.
    pub(in crate::dns) fn remove_service(&mut self, resource: &str) {
        let Some(former) = self.services.remove(resource) else { return };
        for name in &former.names {
            self.release(resource, name);
        }
    }

    /// Settings of the mesh are new or changed.
    pub(in crate::dns) fn set_mesh(&mut self, settings: MeshSettings) {
        self.zones = settings.zones;
        self.mesh_told = true;
    }

    /// The first answer about all services is in.
    pub(in crate::dns) fn set_services_told(&mut self) {
        self.services_told = true;
    }

    /// Has the control plane told both zones and names?
    pub(in crate::dns) fn is_told(&self) -> bool {
        self.mesh_told && self.services_told
    }

    /// How many services, and how many names that exist.
    pub(in crate::dns) fn sizes(&self) -> (usize, usize) {
        (self.services.len(), self.index.values().filter(|entry| !entry.owners.is_empty()).count())
    }

    /// Names that more than one service claims, with the claimants; the first of them answers.
    pub(in crate::dns) fn conflicts(&self) -> impl Iterator<Item = (String, &BTreeSet<String>)> {
        let contested = self.index.iter().filter(|(_, entry)| entry.owners.len() > 1);
        contested.map(|(name, entry)| (name.to_name().to_ascii(), &entry.owners))
    }

    /// The zones that the mesh alone answers for.
    pub(in crate::dns) fn zones(&self) -> impl Iterator<Item = String> {
        self.zones.iter().map(|zone| zone.to_name().to_ascii())
    }

    fn claim(&mut self, resource: &str, name: &Key) {
        let entry = self.index.entry(name.clone()).or_default();
        let is_new = entry.owners.is_empty();
        // A service may name itself twice.
        if !entry.owners.insert(resource.to_owned()) || !is_new {
            return;
        }
        self.wildcards += usize::from(name.is_wildcard());
        for parent in name.parents() {
            self.index.entry(Key::from_suffix(parent)).or_default().below += 1;
        }
    }

    fn release(&mut self, resource: &str, name: &Key) {
        let Some(entry) = self.index.get_mut(name) else { return };
        if !entry.owners.remove(resource) || !entry.owners.is_empty() {
            return;
        }
        if entry.below == 0 {
            self.index.remove(name);
        }
        self.wildcards -= usize::from(name.is_wildcard());
        for parent in name.parents() {
            let Some(entry) = self.index.get_mut(parent) else { continue };
            entry.below -= 1;
            if entry.below == 0 && entry.owners.is_empty() {
                self.index.remove(parent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(text: &str) -> Key {
        Key::parse(text).expect("valid")
    }

    fn service(names: &[&str], address: [u8; 4]) -> ServiceNames {
        ServiceNames { names: names.iter().map(|n| key(n)).collect(), addresses: vec![IpAddr::from(address)] }
    }

    fn told() -> Table {
        let mut table = Table::default();
        table.set_mesh(MeshSettings { zones: vec![key("l4lb.test")] });
        table.set_services_told();
        table
    }

    fn address(table: &Table, name: &str) -> Option<IpAddr> {
        match table.lookup(&key(name)) {
            Lookup::Known(addresses, _) => addresses.first().copied(),
            _ => None,
        }
    }

    #[test]
    fn a_zone_is_answered_by_the_mesh_alone_and_the_rest_is_not() {
        let mut table = told();
        table.set_service("r", service(&["reviews.marathon.l4lb.test", "shop.example.com"], [11, 0, 0, 1]));
        assert_eq!(address(&table, "Reviews.marathon.L4LB.test"), Some([11, 0, 0, 1].into()));
        assert_eq!(address(&table, "shop.example.com"), Some([11, 0, 0, 1].into()));
        let zone = key("l4lb.test");
        assert_eq!(table.lookup(&key("other.marathon.l4lb.test")), Lookup::NoName(&zone));
        assert_eq!(table.lookup(&key("marathon.l4lb.test")), Lookup::NoData(&zone), "parent of a name");
        assert_eq!(table.lookup(&zone), Lookup::NoData(&zone), "the zone itself");
        assert_eq!(table.lookup(&key("example.com")), Lookup::Elsewhere, "parent of a name, but in no zone");
        table.remove_service("r");
        assert_eq!(table.lookup(&key("marathon.l4lb.test")), Lookup::NoName(&zone));
        assert!(table.index.is_empty());
    }

    #[test]
    fn before_the_control_plane_has_told_a_mesh_name_is_neither_denied_nor_asked_elsewhere() {
        let mut table = Table::default();
        let name = key("reviews.marathon.l4lb.thisdcos.directory");
        assert_eq!(table.lookup(&name), Lookup::NotYet);
        table.set_mesh(MeshSettings { zones: vec![key("l4lb.thisdcos.directory")] });
        assert_eq!(table.lookup(&name), Lookup::NotYet);
        table.set_services_told();
        assert!(matches!(table.lookup(&name), Lookup::NoName(_)));
    }

    #[test]
    fn a_contested_name_has_one_answer_and_survives_its_first_owner() {
        let mut table = told();
        table.set_service("b", service(&["x.l4lb.test"], [11, 0, 0, 2]));
        table.set_service("a", service(&["x.l4lb.test"], [11, 0, 0, 1]));
        assert_eq!(address(&table, "x.l4lb.test"), Some([11, 0, 0, 1].into()));
        assert_eq!(table.conflicts().count(), 1);
        table.remove_service("a");
        assert_eq!(address(&table, "x.l4lb.test"), Some([11, 0, 0, 2].into()));
    }

    #[test]
    fn wildcards_answer_below_their_domain_only() {
        let mut table = told();
        table.set_service("w", service(&["*.example.com"], [11, 0, 0, 3]));
        table.set_service("e", service(&["a.example.com"], [11, 0, 0, 4]));
        assert_eq!(address(&table, "b.example.com"), Some([11, 0, 0, 3].into()));
        assert_eq!(address(&table, "c.b.example.com"), Some([11, 0, 0, 3].into()));
        assert_eq!(address(&table, "a.example.com"), Some([11, 0, 0, 4].into()));
        assert_eq!(address(&table, "example.com"), None);
        table.remove_service("w");
        assert_eq!(address(&table, "b.example.com"), None);
    }

    proptest! {
        #[test]
        fn any_order_of_changes_leaves_what_the_last_ones_say(changes in proptest::collection::vec((0u8..4, proptest::collection::vec(0usize..6, 0..4)), 0..40)) {
            let names = ["a.l4lb.test", "b.a.l4lb.test", "c.b.a.l4lb.test", "x.y.l4lb.test", "*.y.l4lb.test", "z.example.com"];
            let mut table = told();
            let mut last: HashMap<u8, Vec<usize>> = HashMap::new();
            for (owner, claimed) in changes {
                let resource = owner.to_string();
                if claimed.is_empty() {
                    table.remove_service(&resource);
                    last.remove(&owner);
                } else {
                    let claims: Vec<&str> = claimed.iter().map(|n| names[*n]).collect();
                    table.set_service(&resource, service(&claims, [11, 0, 0, owner]));
                    last.insert(owner, claimed);
                }
            }
            for (at, name) in names.iter().enumerate() {
                let want = last.iter().filter(|(_, c)| c.contains(&at)).map(|(owner, _)| *owner).min();
                let exact = table.index.get(&key(name)).and_then(|e| e.owners.first().cloned());
                prop_assert_eq!(exact, want.map(|w| w.to_string()));
            }
            for owner in 0..4 { table.remove_service(&owner.to_string()); }
            prop_assert!(table.index.is_empty() && table.wildcards == 0);
        }
    }
}
