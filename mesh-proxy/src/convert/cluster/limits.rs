//! `circuit_breakers`: what a pod may have under way to a cluster.

use crate::convert::at::{At, Invalid};
use crate::core::budget::{Limits, Retries};
use envoy_types::pb::envoy::config::cluster::v3 as pb;
use pb::circuit_breakers::Thresholds;
use std::mem::take;

/// Envoy's defaults of a retry budget.
const BUDGET: (f64, u32) = (20.0, 3);

/// Those of the default priority, which all routes have; the first counts. What is absent is no limit.
pub(super) fn breakers(at: &At<'_>, breakers: Option<pb::CircuitBreakers>) -> Result<Limits, Invalid> {
    let Some(mut breakers) = breakers else { return Ok(Limits::default()) };
    let mut found = None;
    for (index, threshold) in take(&mut breakers.thresholds).into_iter().enumerate() {
        let at = at.field("thresholds");
        let limits = thresholds(&at.index(index), threshold)?;
        found = found.or(Some(limits));
    }
    at.nothing_else(&breakers)?;
    Ok(found.unwrap_or_default())
}

fn thresholds(at: &At<'_>, mut message: Thresholds) -> Result<Limits, Invalid> {
    let none = Limits::default();
    let connections = message.max_connections.take().map_or(none.connections, |most| most.value);
    let pending = message.max_pending_requests.take().map_or(none.pending, |most| most.value);
    let requests = message.max_requests.take().map_or(none.requests, |most| most.value);
    let most = message.max_retries.take().map_or(none.retries, |most| Retries::Most(most.value));
    let retries = match message.retry_budget.take() {
        None => most,
        Some(mut budget) => {
            let percent = budget.budget_percent.take().map_or(BUDGET.0, |percent| percent.value);
            let least = budget.min_retry_concurrency.take().map_or(BUDGET.1, |least| least.value);
            let at = at.field("retry_budget");
            if !(0.0..=100.0).contains(&percent) {
                return Err(at.field("budget_percent").value("not between 0 and 100"));
            }
            at.nothing_else(&budget)?;
            Retries::Budget { percent, least }
        }
    };
    // Pools come and go with endpoints, of which there are as many as the control plane says.
    if message.max_connection_pools.take().is_some_and(|most| most.value != u32::MAX) {
        return Err(at.field("max_connection_pools").value("only 4294967295 (no limit) is supported"));
    }
    // What remains is always told.
    message.track_remaining = false;
    at.nothing_else(&message)?;
    Ok(Limits { connections, pending, requests, retries })
}
