//! Who should be in the mesh on this node, and what to do about it. The wish comes from the control plane, the state from the kernel.

use super::desired::addr;
use super::policies::Policies;
use super::resources::{Workload, World};
use mesh_common::abi::{Addr, Pod, maps};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub mod host;

/// A network namespace in which a task of this node runs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Place {
    /// The kernel's number of it.
    pub cookie: u64,
    /// Marathon's instance id, if the Mesos agent has said which one runs there.
    pub instance: Option<String>,
    /// Its addresses, but loopback and link-local ones.
    pub addresses: Vec<IpAddr>,
}

/// One thing to do. Each is safe to repeat.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The same pod in the same place, described differently; its egress policy may be another.
    Describe(u64, Pod, Workload),
    /// Open listeners, set routes, attach, and only then let the kernel know the pod.
    Enrol(u64, Pod, Workload),
    /// The reverse.
    Leave(u64, Pod),
}

/// What to do, and who must wait.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// Wanted pods that cannot be enrolled now: id and reason.
    pub pending: Vec<(String, &'static str)>,
    /// How many pods this node should have in the mesh.
    pub wanted: usize,
}

/// Compares.
///
/// `ours` are the names of this node, `known` the pods in the kernel's table, `held` those whose listeners this process holds. A pod that
/// is known but not held was enrolled by a former agent: it is enrolled anew, in place. `taken` are the slots of the workloads on the node's own
/// network, which are [`host::plan`]'s.
#[must_use]
pub fn plan(
    world: &World,
    ours: &[String],
    places: &[Place],
    known: &BTreeMap<u64, Pod>,
    held: &BTreeMap<u64, (Pod, Workload)>,
    taken: &BTreeSet<u32>,
) -> Plan {
    let mut plan = Plan::default();
    if !world.complete() {
        // Nothing is known of wishes: the kernel half goes on as it is.
        return plan;
    }
    let mut wanted: BTreeMap<u64, (&Place, &Workload)> = BTreeMap::new();
    for workload in world.wanted(ours).filter(|workload| !workload.host_network) {
        plan.wanted += 1;
        match place_of(workload, places, &wanted) {
            Ok(place) => drop(wanted.insert(place.cookie, (place, workload))),
            Err(reason) => plan.pending.push((workload.id.clone(), reason)),
        }
    }
    let leaving = known.iter().filter(|(cookie, _)| !wanted.contains_key(cookie));
    plan.steps.extend(leaving.map(|(cookie, pod)| Step::Leave(*cookie, *pod)));

    let policies = Policies::of(world);
    let staying = known.iter().filter(|(cookie, _)| wanted.contains_key(cookie)).map(|(_, pod)| pod.slot);
    let mut slots: BTreeSet<u32> = staying.chain(taken.iter().copied()).collect();
    for (cookie, (place, workload)) in wanted {
        let slot = match known.get(&cookie) {
            Some(pod) => pod.slot,
            None => match (0..maps::PODS_MAX).find(|slot| slots.insert(*slot)) {
                Some(slot) => slot,
                None => {
                    plan.pending.push((workload.id.clone(), "the node has as many pods as the kernel's table holds"));
                    continue;
                }
            },
        };
        let pod = describe((slot, policies.get(&workload.namespace)), place, workload);
        match held.get(&cookie) {
            Some((before, told))
                if is_in_place(before, &pod) && known.get(&cookie) == Some(before) && told.inbound == workload.inbound =>
            {
                if told != workload || *before != pod {
                    plan.steps.push(Step::Describe(cookie, pod, workload.clone()));
                }
            }
            _ => plan.steps.push(Step::Enrol(cookie, pod, workload.clone())),
        }
    }
    plan
}

/// The namespace that is the workload's by the Mesos agent's word, or has one of its addresses, and is not another workload's.
fn place_of<'a>(
    workload: &Workload,
    places: &'a [Place],
    taken: &BTreeMap<u64, (&Place, &Workload)>,
) -> Result<&'a Place, &'static str> {
    let said = |place: &&Place| place.instance.as_ref().map(|instance| *instance == workload.id);
    let has_address = |place: &&Place| place.addresses.iter().any(|ip| workload.addresses.contains(ip));
    // A namespace that is another instance's by the agent's word is not this one's, whatever addresses it has.
    let mut matching = places.iter().filter(|place| said(place).unwrap_or_else(|| has_address(place)));
    let Some(place) = matching.next() else { return Err("no container of this node has its address (yet)") };
    if matching.next().is_some() {
        return Err("several network namespaces of this node have its address");
    }
    if taken.contains_key(&place.cookie) {
        return Err("another workload has the same network namespace");
    }
    Ok(place)
}

/// The address that the control plane knows comes first; where it knows none of a family, the namespace's own.
fn describe((slot, policy): (u32, u32), place: &Place, workload: &Workload) -> Pod {
    let pick = |v4: bool| {
        let of_family = |ip: &&IpAddr| ip.is_ipv4() == v4;
        let told = workload.addresses.iter().filter(of_family).find(|ip| place.addresses.contains(ip));
        told.or_else(|| place.addresses.iter().find(of_family)).map_or_else(Addr::default, |ip| addr(*ip))
    };
    Pod { slot, policy, addr4: pick(true), addr6: pick(false), outbound: workload.outbound }
}

/// Can the one become the other without new listeners, which would lose the connections that wait in the old ones?
fn is_in_place(before: &Pod, pod: &Pod) -> bool {
    Pod { policy: pod.policy, outbound: pod.outbound, ..*before } == *pod
}

#[cfg(test)]
mod tests;
