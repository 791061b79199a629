use super::*;
use bytes::Bytes;
use mesh_xds::client::Resource;

fn delivery<M: Message>(type_url: &str, resources: &[(&str, M)], removed: &[&str]) -> Delivery {
    let resource = |(name, message): &(&str, M)| Resource {
        name: (*name).to_owned(),
        version: "1".to_owned(),
        body: Bytes::from(message.encode_to_vec()),
    };
    Delivery {
        type_url: type_url.to_owned(),
        nonce: "n".to_owned(),
        resources: resources.iter().map(resource).collect(),
        removed: removed.iter().map(|n| (*n).to_owned()).collect(),
    }
}

fn service(vip: &str) -> wire::Service {
    let backend =
        wire::Backend { address: "9.0.0.1".to_owned(), port: 8080, weight: 1, workload: "w".to_owned(), ..Default::default() };
    let port = wire::ServicePort {
        port: 80,
        transport: 0,
        mode: 1,
        protocol: "TCP".to_owned(),
        backends: vec![backend],
        ..Default::default()
    };
    wire::Service { name: "s".to_owned(), names: vec![], addresses: vec![vip.to_owned()], ports: vec![port] }
}

fn refusal(change: impl FnOnce(&mut wire::Service)) -> String {
    let mut bad = service("11.0.0.1");
    change(&mut bad);
    let refused = World::default().apply(&delivery(wire::SERVICE, &[("s", bad)], &[]));
    refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn refusals_name_resource_and_field() {
    assert_eq!(refusal(|s| s.addresses[0] = "11.0.0".to_owned()), r#"Service "s": addresses[0]: "11.0.0" is no IP address"#);
    assert_eq!(refusal(|s| s.ports[0].port = 70_000), r#"Service "s": ports[0].port: 70000 is no port (1 to 65535)"#);
    let backend = refusal(|s| s.ports[0].backends[0].address = "here".to_owned());
    assert_eq!(backend, r#"Service "s": ports[0].backends[0].address: "here" is no IP address"#);
    assert!(refusal(|s| s.ports[0].mode = 7).starts_with(r#"Service "s": ports[0].mode:"#));
    assert!(refusal(|s| s.ports[0].transport = 7).starts_with(r#"Service "s": ports[0].transport:"#));
}

#[test]
fn a_bad_resource_spares_the_good_ones_and_the_former_version() {
    let mut world = World::default();
    assert_eq!(world.apply(&delivery(wire::SERVICE, &[("a", service("11.0.0.1")), ("b", service("11.0.0.2"))], &[])), []);
    let before = world.services["a"].clone();
    let refused = world.apply(&delivery(wire::SERVICE, &[("a", service("nowhere")), ("c", service("11.0.0.3"))], &["b"]));
    assert_eq!(refused.len(), 1);
    assert_eq!(world.services["a"], before, "the former version stays in force");
    assert_eq!(world.services.keys().collect::<Vec<_>>(), ["a", "c"]);
}

#[test]
fn a_snapshot_is_whole_with_all_four_types() {
    let mut world = World::default();
    world.apply(&delivery::<wire::Service>(wire::SERVICE, &[], &[]));
    world.apply(&delivery::<wire::Workload>(wire::WORKLOAD, &[], &[]));
    assert!(!world.complete(), "without Mesh nobody knows what is denied");
    let bad = wire::Mesh { vip_ranges: vec!["11.0.0.0".to_owned()], ..wire::Mesh::default() };
    let refused = world.apply(&delivery(wire::MESH, &[("mesh", bad)], &[]));
    assert_eq!(refused[0].to_string(), r#"Mesh "mesh": vip_ranges[0]: "11.0.0.0" is no CIDR range"#);
    assert!(!world.complete());
    let vip_ranges = vec!["11.0.0.0/8".to_owned(), "fd01:c::/64".to_owned()];
    let protected = vec![wire::Endpoint { address: "192.0.2.1".to_owned(), port: 32010, transport: 0 }];
    let good = wire::Mesh { vip_ranges, protected, ..wire::Mesh::default() };
    assert_eq!(world.apply(&delivery(wire::MESH, &[("mesh", good)], &[])), []);
    assert!(!world.complete(), "without Egress the allowlist would be emptied");
    world.apply(&delivery::<wire::Egress>(wire::EGRESS, &[], &[]));
    assert!(world.complete());
    let mesh = world.mesh.expect("known");
    assert_eq!(mesh.vip_ranges.len(), 2);
    assert_eq!((mesh.vip4, mesh.egress, mesh.protected.len()), (Some(([11, 0, 0, 0].into(), 8)), egress::DENY, 1));
}

#[test]
fn a_mapped_address_is_the_ipv4_address() {
    let mut world = World::default();
    assert_eq!(world.apply(&delivery(wire::SERVICE, &[("a", service("::ffff:11.0.0.1"))], &[])), []);
    assert_eq!(world.services["a"].addresses, [IpAddr::from([11, 0, 0, 1])]);
}
