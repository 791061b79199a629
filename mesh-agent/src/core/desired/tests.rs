use super::*;
use crate::core::resources::{Backend as Told, Workload};
use mesh_common::decide::l4::TCP;

fn told(address: &str, weight: u32) -> Told {
    Told { address: address.parse().expect("address"), port: 8080, weight, priority: 0, published: None }
}

fn world(vips: &[&str], mode: u8, backends: Vec<Told>) -> World {
    let port = ServicePort { port: 80, proto: TCP, mode, choice: choice::LEAST, backends, ..Default::default() };
    let addresses = vips.iter().map(|v| v.parse().expect("address")).collect();
    let mut world = World { mesh: Some(Mesh::default()), ..World::default() };
    world.services.insert("a".to_owned(), Service { addresses, ports: vec![port], ..Service::default() });
    world
}

fn node() -> IpAddr {
    IpAddr::from([192, 0, 2, 11])
}

fn backends(world: &World, vip: &str) -> Vec<String> {
    let tables = desired(world, node()).expect("fits");
    let dest = Dest { addr: addr(vip.parse().expect("address")), port: 80, proto: TCP, pad: 0 };
    tables.services[&dest].backends.keys().map(|to| ip(to.addr).to_string()).collect()
}

#[test]
fn each_vip_gets_the_backends_of_its_family_that_may_take_connections() {
    let all = vec![told("9.0.0.2", 1), told("fd01::1", 1), told("9.0.0.1", 1), told("9.0.0.3", 0)];
    let world = world(&["11.0.0.1", "fd01:c::1"], mode::KERNEL, all);
    assert_eq!(backends(&world, "11.0.0.1"), ["9.0.0.1", "9.0.0.2"], "sorted, without the draining one");
    assert_eq!(backends(&world, "fd01:c::1"), ["fd01::1"]);
}

#[test]
fn one_that_drains_is_kept_in_mind_and_one_that_is_told_twice_weighs_twice() {
    let all = vec![told("9.0.0.1", 2), told("9.0.0.1", 1), told("9.0.0.3", 0)];
    let tables = desired(&world(&["11.0.0.1"], mode::KERNEL, all), node()).expect("fits");
    let weights: Vec<u32> = tables.services.values().flat_map(|port| port.backends.values().copied()).collect();
    assert_eq!(weights, [3]);
    assert_eq!(tables.draining.iter().map(|to| ip(to.addr).to_string()).collect::<Vec<_>>(), ["9.0.0.3"]);
    assert_eq!(tables.endpoints().len(), 2);
}

#[test]
fn only_the_nearest_that_take_connections_are_used() {
    let near = |address, weight, priority| Told { priority, ..told(address, weight) };
    let all = |weight| vec![near("9.0.0.1", weight, 0), near("9.0.0.2", 1, 1), near("9.0.0.3", 1, 1), near("9.0.0.4", 1, 2)];
    assert_eq!(backends(&world(&["11.0.0.1"], mode::KERNEL, all(1)), "11.0.0.1"), ["9.0.0.1"]);
    assert_eq!(backends(&world(&["11.0.0.1"], mode::KERNEL, all(0)), "11.0.0.1"), ["9.0.0.2", "9.0.0.3"]);
}

#[test]
fn direct_ports_need_no_backends() {
    assert!(backends(&world(&["11.0.0.1"], mode::DIRECT, vec![told("9.0.0.1", 1)]), "11.0.0.1").is_empty());
}

#[test]
fn the_first_service_by_name_owns_a_contested_vip() {
    let mut world = world(&["11.0.0.1"], mode::KERNEL, vec![told("9.0.0.1", 1)]);
    let mut other = world.services["a"].clone();
    other.ports[0].backends = vec![told("9.0.0.9", 1)];
    world.services.insert("b".to_owned(), other);
    assert_eq!(backends(&world, "11.0.0.1"), ["9.0.0.1"]);
    let conflicts = world.conflicts();
    assert_eq!(conflicts.iter().map(|(_, a, b)| (a.as_str(), b.as_str())).collect::<Vec<_>>(), [("a", "b")]);
}

#[test]
fn what_does_not_fit_is_named_not_cut() {
    let mut world = world(&[], mode::KERNEL, vec![]);
    for n in 0..=maps::WORKLOADS_MAX {
        let address = IpAddr::from(std::net::Ipv4Addr::from(0x0900_0000 + n));
        world.workloads.insert(n.to_string(), Workload { addresses: vec![address], ..Workload::default() });
    }
    let error = desired(&world, node()).expect_err("one too many").to_string();
    assert_eq!(error, "131073 entries do not fit into the kernel's table WORKLOADS, which holds 131072");
}
