//! Near endpoints first: by a service's label in the kernel and in the proxy, with the places that the Mesos master knows.

use super::*;
use crate::core::registry::Near;
use mesh_xds::names::ENDPOINT;

/// `reviews` v1 and v3 on 10.0.0.1 (r1/b), v2 on 10.0.0.0 (r1/a); nothing runs on 10.0.0.2 (r1/a) and 10.0.0.3 (r2/a).
fn placed(near: Option<Near>) -> Registry {
    let mut registry = reviews(&["v1", "v2", "v3"]);
    let places = [("10.0.0.0", "a"), ("10.0.0.1", "b"), ("10.0.0.2", "a"), ("10.0.0.3", "x")].map(|(node, zone)| {
        let region = if zone == "x" { "r2" } else { "r1" };
        (node.parse().expect("address"), Arc::new(Locality::new(region, zone)))
    });
    registry.locate(&places.into());
    let port = registry.services.get_mut(REVIEWS).and_then(|service| service.ports.get_mut(&(9080, Transport::Tcp)));
    port.expect("reviews").near = near;
    registry
}

/// Priorities of v1, v2 and v3 as a node's kernel is told.
fn told(compiled: &Compiled, at: &str) -> Vec<u32> {
    let snapshot = compiled.snapshot(&node(&format!("agent~{at}~n~mesh")));
    let service = mesh_xds::agent::Service::decode(snapshot.types[SERVICE][REVIEWS].body.clone()).expect("service");
    let mut backends: Vec<_> = service.ports[0].backends.iter().collect();
    backends.sort_by(|one, other| one.workload.cmp(&other.workload));
    backends.iter().map(|backend| backend.priority).collect()
}

/// Zone, priority and number of endpoints as a node's proxy is told.
fn seen(compiled: &Compiled, at: &str) -> Vec<(String, u32, usize)> {
    let snapshot = compiled.snapshot(&node(&format!("node~{at}~n~mesh")));
    let name = format!("outbound|9080||{REVIEWS}");
    let body = snapshot.types[ENDPOINT][&name].body.clone();
    let assignment = envoy::endpoint::ClusterLoadAssignment::decode(body).expect("assignment");
    let zone = |group: &envoy::endpoint::LocalityLbEndpoints| group.locality.clone().map_or_else(String::new, |at| at.zone);
    assignment.endpoints.iter().map(|group| (zone(group), group.priority, group.lb_endpoints.len())).collect()
}

fn row(zone: &str, priority: u32, endpoints: usize) -> (String, u32, usize) {
    (zone.to_owned(), priority, endpoints)
}

#[test]
fn a_service_that_prefers_nobody_is_told_alike_everywhere() {
    let compiled = compiled(&placed(None), &[]);
    for at in ["10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3"] {
        assert_eq!((told(&compiled, at), seen(&compiled, at).len()), (vec![0, 0, 0], 1), "{at}");
    }
}

#[test]
fn the_own_zone_comes_first_also_where_nothing_runs() {
    let compiled = compiled(&placed(Some(Near::Zone)), &[]);
    assert_eq!(told(&compiled, "10.0.0.0"), [2, 1, 2]);
    assert_eq!(told(&compiled, "10.0.0.1"), [1, 2, 1]);
    assert_eq!(told(&compiled, "10.0.0.2"), [2, 1, 2], "nothing runs there, and the Mesos master knows where it is");
    assert_eq!(told(&compiled, "10.0.0.3"), [3, 3, 3], "equally far");
    assert_eq!(told(&compiled, "10.0.0.9"), [0, 0, 0].map(|_| 1), "nobody knows where that is");
    assert_eq!(seen(&compiled, "10.0.0.2"), [row("a", 0, 1), row("b", 1, 2)]);
    assert_eq!(seen(&compiled, "10.0.0.1"), [row("b", 0, 2), row("a", 1, 1)]);
}

#[test]
fn the_own_node_comes_before_its_zone() {
    let compiled = compiled(&placed(Some(Near::Node)), &[]);
    assert_eq!(told(&compiled, "10.0.0.0"), [2, 0, 2]);
    assert_eq!(told(&compiled, "10.0.0.2"), [2, 1, 2], "the same zone, another node");
    assert_eq!(seen(&compiled, "10.0.0.0"), [row("a", 0, 1), row("b", 1, 2)]);
    let mut nowhere = placed(Some(Near::Node));
    nowhere.places.clear();
    nowhere.workloads.values_mut().for_each(|workload| workload.place = Arc::default());
    let ports = nowhere.services.values_mut().flat_map(|service| service.ports.values_mut());
    ports.flat_map(|port| &mut port.endpoints).for_each(|endpoint| endpoint.place = Arc::default());
    assert_eq!(told(&super::compiled(&nowhere, &[]), "10.0.0.0"), [1, 0, 1], "a node needs no place to know its own");
}

#[test]
fn a_rule_says_otherwise() {
    let setting = json!({"localityLbSetting": {"enabled": false}});
    let rule = rule("DestinationRule", "r", 1, json!({"host": "reviews", "trafficPolicy": {"loadBalancer": setting}}));
    assert_eq!(seen(&compiled(&placed(Some(Near::Zone)), &[rule]), "10.0.0.0").len(), 1);
}

#[test]
fn only_unknown_places_are_filled_in() {
    let mut registry = placed(None);
    let other = Arc::new(Locality::new("r9", "z"));
    registry
        .locate(&[("10.0.0.0".parse().expect("address"), other.clone()), ("10.0.0.4".parse().expect("address"), other)].into());
    let zone = |node: &str| registry.place(node.parse().expect("address")).map(|place| place.zone.clone());
    assert_eq!((zone("10.0.0.0").as_deref(), zone("10.0.0.4").as_deref()), (Some("a"), Some("z")));
}
