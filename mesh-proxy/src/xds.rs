//! The stream from mesh-control: deliveries become snapshots, acknowledged only once they are in force.

pub mod state;
#[cfg(test)]
mod tests;

use crate::shared::Shared;
use mesh_xds::names::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use mesh_xds::stream::{self, Connection};
use state::State;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Follows the control plane for ever.
pub async fn follow(connection: Connection, shared: Arc<Shared>) {
    let mut updates = stream::start(connection, &[CLUSTER, LISTENER]);
    let mut state = State::default();
    let (mut endpoints, mut routes) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let delivery = updates.next().await;
        let complaints = state.apply(&delivery);
        shared.publish(&mut state);
        let (wanted_endpoints, wanted_routes) = (state.wanted_endpoints(), state.wanted_routes());
        if wanted_endpoints != endpoints {
            endpoints = wanted_endpoints;
            updates.subscribe(ENDPOINT, endpoints.clone()).await;
        }
        if wanted_routes != routes {
            routes = wanted_routes;
            updates.subscribe(ROUTE, routes.clone()).await;
        }
        if complaints.is_empty() {
            tracing::debug!(type_url = delivery.type_url, resources = delivery.resources.len(), "configuration in force");
            updates.ack(&delivery).await;
        } else {
            let reason = complaints.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            tracing::warn!(type_url = delivery.type_url, reason, "configuration refused; the last good stays");
            shared.metrics.nacks.inc();
            updates.nack(&delivery, &reason).await;
        }
    }
}
