//! The Istio configuration in force: typed kinds, their only parser, and what is refused.
//!
//! The API admits an object by parsing it here; the compiler gets the very same parsed objects. Nothing here does I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::core::wish::Injection;
use crate::secret::Secret;

mod check;
pub(crate) mod decode;
pub(crate) mod destination_policy;
pub(crate) mod destination_rule;
pub(crate) mod enforced;
pub(crate) mod gateway;
pub(crate) mod kind;
pub(crate) mod mesh_config;
pub(crate) mod older;
pub(crate) mod problem;
pub(crate) mod resource;
pub(crate) mod service_entry;
pub(crate) mod virtual_service;

pub(crate) use destination_policy::DestinationPolicy;
pub(crate) use destination_rule::DestinationRule;
pub(crate) use gateway::Gateway;
pub(crate) use kind::{GROUPS, Kind};
pub(crate) use mesh_config::MeshConfig;
pub(crate) use problem::Problems;
pub(crate) use resource::{Meta, Resource};
pub(crate) use service_entry::ServiceEntry;
pub(crate) use virtual_service::VirtualService;

/// All objects in force, each list ordered by creation, name and namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Config {
    /// That of the last write in it.
    pub(crate) version: u64,
    pub(crate) virtual_services: Vec<Arc<Resource<VirtualService>>>,
    pub(crate) destination_rules: Vec<Arc<Resource<DestinationRule>>>,
    pub(crate) gateways: Vec<Arc<Resource<Gateway>>>,
    pub(crate) service_entries: Vec<Arc<Resource<ServiceEntry>>>,
    pub(crate) destination_policies: Vec<Arc<Resource<DestinationPolicy>>>,
    /// By namespace and name.
    pub(crate) secrets: BTreeMap<(String, String), Arc<Secret>>,
    /// What namespaces' labels say of who should be in the mesh.
    pub(crate) injection: Injection,
    /// From its ConfigMap, if there is one.
    pub(crate) mesh: Option<MeshConfig>,
}

impl Config {
    /// Adds a stored object.
    ///
    /// # Errors
    /// If it does not parse, which admission should have seen.
    pub(crate) fn add(&mut self, kind: Kind, object: &Value) -> Result<(), Problems> {
        match kind {
            Kind::VirtualService => self.virtual_services.push(Arc::new(Resource::try_from(object)?)),
            Kind::DestinationRule => self.destination_rules.push(Arc::new(Resource::try_from(object)?)),
            Kind::Gateway => self.gateways.push(Arc::new(Resource::try_from(object)?)),
            Kind::ServiceEntry => self.service_entries.push(Arc::new(Resource::try_from(object)?)),
            Kind::DestinationPolicy => self.destination_policies.push(Arc::new(Resource::try_from(object)?)),
        }
        Ok(())
    }

    /// Takes an object away, if it is there.
    pub(crate) fn remove(&mut self, kind: Kind, namespace: &str, name: &str) {
        match kind {
            Kind::VirtualService => resource::remove(&mut self.virtual_services, namespace, name),
            Kind::DestinationRule => resource::remove(&mut self.destination_rules, namespace, name),
            Kind::Gateway => resource::remove(&mut self.gateways, namespace, name),
            Kind::ServiceEntry => resource::remove(&mut self.service_entries, namespace, name),
            Kind::DestinationPolicy => resource::remove(&mut self.destination_policies, namespace, name),
        }
    }

    /// Puts every list in Istio's order.
    pub(crate) fn sort(&mut self) {
        resource::sort(&mut self.virtual_services);
        resource::sort(&mut self.destination_rules);
        resource::sort(&mut self.gateways);
        resource::sort(&mut self.service_entries);
        resource::sort(&mut self.destination_policies);
    }
}

/// Whether an object of this kind would be taken.
///
/// # Errors
/// With everything that is wrong.
pub(crate) fn admit(kind: Kind, object: &Value) -> Result<(), Problems> {
    Config::default().add(kind, object)
}
