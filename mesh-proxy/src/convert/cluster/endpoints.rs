//! ClusterLoadAssignment: the endpoints of a cluster.

use crate::convert::at::{At, Invalid};
use crate::convert::common::address;
use crate::core::balance::{Endpoint, Health, Members};
use crate::core::peer::Peer;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as eds;
use std::collections::{BTreeMap, HashSet};
use std::mem::take;
use std::sync::Arc;

/// A priority above this is refused, as in Envoy.
const LAST_PRIORITY: u32 = 128;

/// Reads endpoints.
///
/// # Errors
/// Names the field that is not taken.
pub fn load_assignment(at: &At<'_>, mut message: eds::ClusterLoadAssignment) -> Result<Members, Invalid> {
    message.cluster_name.clear();
    let mut members = Members::default();
    if let Some(mut policy) = message.policy.take() {
        let at = at.field("policy");
        if let Some(factor) = policy.overprovisioning_factor.take() {
            members.overprovisioning = factor.value;
        }
        if members.overprovisioning == 0 {
            return Err(at.field("overprovisioning_factor").value("is 0"));
        }
        members.weighted_health = take(&mut policy.weighted_priority_health);
        at.nothing_else(&policy)?;
    }
    let mut messages = take(&mut message.endpoints);
    let mut weights: BTreeMap<Place, u32> = BTreeMap::new();
    let mut places = Vec::new();
    for locality in &mut messages {
        let named = locality.locality.take().unwrap_or_default();
        let place = Place { priority: take(&mut locality.priority), name: [named.region, named.zone, named.sub_zone] };
        let known = weights.entry(place.clone()).or_default();
        *known = locality.load_balancing_weight.take().map_or(*known, |weight| weight.value);
        places.push(place);
    }
    for (index, (locality, place)) in messages.into_iter().zip(places).enumerate() {
        let at = at.field("endpoints");
        let at = at.index(index);
        if place.priority > LAST_PRIORITY {
            return Err(at.field("priority").value(format_args!("{} is more than {LAST_PRIORITY}", place.priority)));
        }
        let number = weights.range(..&place).count();
        locality_endpoints(&at, locality, (usize::try_from(place.priority).unwrap_or(0), number), &mut members.endpoints)?;
    }
    at.nothing_else(&message)?;
    (members.places, members.localities) = weights.into_iter().map(|(place, weight)| (place.name, weight)).unzip();
    within_bounds(at, &members)?;
    // A host that is named twice counts once.
    let mut seen = HashSet::new();
    members.endpoints.retain(|endpoint| seen.insert((endpoint.priority, endpoint.address)));
    Ok(members)
}

/// A locality of a priority. In the order of names turns are taken, as in Envoy, whatever the order of an update.
#[derive(Clone, Eq, Ord, PartialEq, PartialOrd)]
struct Place {
    priority: u32,
    name: [String; 3],
}

fn locality_endpoints(
    at: &At<'_>,
    mut message: eds::LocalityLbEndpoints,
    (priority, locality): (usize, usize),
    to: &mut Vec<Endpoint>,
) -> Result<(), Invalid> {
    message.metadata = None;
    for (index, endpoint) in take(&mut message.lb_endpoints).into_iter().enumerate() {
        let at = at.field("lb_endpoints");
        to.push(Endpoint { priority, locality, ..lb_endpoint(&at.index(index), endpoint)? });
    }
    at.nothing_else(&message)
}

/// Sums of weights are u32, as in Envoy: of a locality's endpoints, of all localities.
fn within_bounds(at: &At<'_>, members: &Members) -> Result<(), Invalid> {
    let at = at.field("endpoints");
    let mut sums = vec![0_u64; members.localities.len()];
    for endpoint in &members.endpoints {
        sums[endpoint.locality] += u64::from(endpoint.weight);
    }
    sums.push(members.localities.iter().copied().map(u64::from).sum());
    match sums.into_iter().find(|sum| *sum > u64::from(u32::MAX)) {
        Some(sum) => Err(at.field("load_balancing_weight").value(format_args!("the sum {sum} is more than {}", u32::MAX))),
        None => Ok(()),
    }
}

fn lb_endpoint(at: &At<'_>, mut message: eds::LbEndpoint) -> Result<Endpoint, Invalid> {
    use core::HealthStatus;
    let metadata = message.metadata.take().unwrap_or_default();
    if metadata.filter_metadata.get("envoy.lb").is_some_and(|fields| fields.fields.contains_key("hash_key")) {
        return Err(at.field("metadata.filter_metadata.envoy.lb.hash_key").unsupported());
    }
    let peer = peer(&metadata);
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
    // The caller knows where it is.
    Ok(Endpoint { address, weight, health, priority: 0, locality: 0, peer })
}

/// Istio's description of the workload; all other metadata changes nothing.
fn peer(metadata: &core::Metadata) -> Option<Arc<Peer>> {
    use envoy_types::pb::google::protobuf::value::Kind;
    let workload = metadata.filter_metadata.get("istio")?.fields.get("workload")?;
    let Some(Kind::StringValue(text)) = &workload.kind else { return None };
    Some(Arc::new(Peer::parse(text)))
}
