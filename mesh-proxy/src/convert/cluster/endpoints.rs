//! ClusterLoadAssignment: the endpoints of a cluster.

use crate::convert::at::{At, Invalid};
use crate::convert::common::address;
use crate::core::balance::{Endpoint, Health};
use crate::core::peer::Peer;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use std::mem::take;
use std::sync::Arc;

/// Reads endpoints.
///
/// # Errors
/// Names the field that is not taken.
pub fn load_assignment(at: &At<'_>, mut message: eds::ClusterLoadAssignment) -> Result<Vec<Endpoint>, Invalid> {
    message.cluster_name.clear();
    let mut endpoints = Vec::new();
    for (index, mut locality) in take(&mut message.endpoints).into_iter().enumerate() {
        let at = at.field("endpoints");
        let at = at.index(index);
        // Without locality weighting, as Envoy: where endpoints are does not matter, nor do weights of localities.
        locality.locality = None;
        locality.load_balancing_weight = None;
        locality.metadata = None;
        for (index, endpoint) in take(&mut locality.lb_endpoints).into_iter().enumerate() {
            let at = at.field("lb_endpoints");
            endpoints.push(lb_endpoint(&at.index(index), endpoint)?);
        }
        at.nothing_else(&locality)?;
    }
    at.nothing_else(&message)?;
    Ok(endpoints)
}

fn lb_endpoint(at: &At<'_>, mut message: eds::LbEndpoint) -> Result<Endpoint, Invalid> {
    use core::HealthStatus;
    let peer = message.metadata.take().and_then(|metadata| peer(&metadata));
    let health = match HealthStatus::try_from(take(&mut message.health_status)) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        Ok(HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout) => Health::Unhealthy,
        Err(_) => return Err(at.field("health_status").value("unknown")),
    };
    let weight = message.load_balancing_weight.take().map_or(1, |weight| weight.value);
    let Some(eds::lb_endpoint::HostIdentifier::Endpoint(mut endpoint)) = message.host_identifier.take() else {
        return Err(at.field("endpoint").missing());
    };
    at.nothing_else(&message)?;
    let at = at.field("endpoint");
    let address = address(&at, endpoint.address.take())?;
    endpoint.hostname.clear();
    at.nothing_else(&endpoint)?;
    Ok(Endpoint { address, weight, health, peer })
}

/// Istio's description of the workload; all other metadata changes nothing.
fn peer(metadata: &core::Metadata) -> Option<Arc<Peer>> {
    use envoy_types::pb::google::protobuf::value::Kind;
    let workload = metadata.filter_metadata.get("istio")?.fields.get("workload")?;
    let Some(Kind::StringValue(text)) = &workload.kind else { return None };
    Some(Arc::new(Peer::parse(text)))
}
