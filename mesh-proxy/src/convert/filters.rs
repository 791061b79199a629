//! `typed_per_filter_config`: what a route, virtual host or table says to the filters. The innermost level counts.

use super::at::{At, Invalid};
use super::{cors, fault};
use crate::core::cors::Cors;
use crate::core::fault::Fault;
use envoy_types::pb::google::protobuf::Any;
use std::collections::HashMap;

/// A level's configurations.
#[derive(Clone, Default)]
pub(super) struct Filters {
    /// `Some` also for a fault that does nothing: it hides the one around it.
    pub(super) fault: Option<Fault>,
    pub(super) cors: Option<Cors>,
}

impl Filters {
    /// Reads one level.
    pub(super) fn read(at: &At<'_>, configs: HashMap<String, Any>) -> Result<Self, Invalid> {
        let at = at.field("typed_per_filter_config");
        let mut found = Self::default();
        for (name, any) in configs {
            match name.as_str() {
                fault::FILTER => found.fault = Some(fault::fault(&at.field(fault::FILTER), &any)?),
                cors::FILTER => found.cors = Some(cors::policy(&at.field(cors::FILTER), &any)?),
                _ => return Err(at.field(&name).unsupported()),
            }
        }
        Ok(found)
    }

    /// This level inside another. A fault hides, a CORS policy leaves open.
    pub(super) fn inside(self, outer: &Self) -> Self {
        let cors = match (self.cors, &outer.cors) {
            (Some(own), Some(outer)) => Some(own.over(outer)),
            (own, outer) => own.or_else(|| outer.clone()),
        };
        Self { fault: self.fault.or_else(|| outer.fault.clone()), cors }
    }
}
