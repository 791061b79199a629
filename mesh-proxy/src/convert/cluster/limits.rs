//! `circuit_breakers`: what a pod may have open to a cluster.

use crate::convert::at::{At, Invalid};
use envoy_types::pb::envoy::config::cluster::v3 as pb;
use std::mem::take;

/// `max_requests` is a limit; the others are taken where they say "no limit", as Istio's defaults do.
pub(super) fn breakers(at: &At<'_>, breakers: Option<pb::CircuitBreakers>) -> Result<Option<u32>, Invalid> {
    let Some(mut breakers) = breakers else { return Ok(None) };
    let mut max_requests = None;
    for (index, mut threshold) in take(&mut breakers.thresholds).into_iter().enumerate() {
        let at = at.field("thresholds");
        let at = at.index(index);
        let limits = [
            ("max_connections", &mut threshold.max_connections),
            ("max_pending_requests", &mut threshold.max_pending_requests),
            ("max_retries", &mut threshold.max_retries),
            ("max_connection_pools", &mut threshold.max_connection_pools),
        ];
        for (name, limit) in limits {
            if limit.take().is_some_and(|limit| limit.value != u32::MAX) {
                return Err(at.field(name).value("only 4294967295 (no limit) is supported"));
            }
        }
        max_requests = threshold.max_requests.take().map(|limit| limit.value).filter(|limit| *limit != u32::MAX);
        threshold.track_remaining = false;
        at.nothing_else(&threshold)?;
    }
    at.nothing_else(&breakers)?;
    Ok(max_requests)
}
