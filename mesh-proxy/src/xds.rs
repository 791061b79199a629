//! The stream from mesh-control: deliveries become snapshots, acknowledged only once they are in force.

mod clusters;
mod listeners;
mod secrets;
pub mod state;
#[cfg(test)]
mod tests;

use crate::shared::Shared;
use mesh_xds::names::{CLUSTER, ENDPOINT, LISTENER, ROUTE, SECRET};
use mesh_xds::stream::{self, Connection};
use state::State;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the rest of the first configuration is waited for once clusters and listeners are there: Envoy's initial fetch timeout. Then
/// connections are accepted with what has come, or one resource that the control plane never sends would hold up every pod of the node.
const FIRST: Duration = Duration::from_secs(15);

/// Follows the control plane for ever.
pub async fn follow(connection: Connection, shared: Arc<Shared>) {
    let mut updates = stream::start(connection, &[CLUSTER, LISTENER]);
    let mut state = State::default();
    let (mut endpoints, mut routes, mut secrets) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut patience = None;
    loop {
        let delivery = tokio::select! {
            delivery = updates.next() => delivery,
            () = over(patience) => {
                tracing::warn!(missing = state.missing(), "the first configuration is not complete; accepting connections with what there is");
                shared.serve();
                patience = None;
                continue;
            }
        };
        let complaints = state.apply(&delivery);
        shared.publish(&mut state);
        let (wanted_endpoints, wanted_routes, wanted_secrets) =
            (state.wanted_endpoints(), state.wanted_routes(), state.wanted_secrets());
        if patience.is_none() && state.has_begun() && !*shared.serving.borrow() {
            patience = Some(Instant::now() + FIRST);
        }
        if wanted_endpoints != endpoints {
            endpoints = wanted_endpoints;
            updates.subscribe(ENDPOINT, endpoints.clone()).await;
        }
        if wanted_routes != routes {
            routes = wanted_routes;
            updates.subscribe(ROUTE, routes.clone()).await;
        }
        if wanted_secrets != secrets {
            secrets = wanted_secrets;
            updates.subscribe(SECRET, secrets.clone()).await;
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

async fn over(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
