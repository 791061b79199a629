use super::*;
use crate::core::resources::{Mesh, Service, Workload};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn inside() -> Inside {
    let mut world = World::default();
    let vip_ranges = vec![(ip("11.0.0.0"), 8), (ip("fd01:c::"), 64)];
    world.mesh = Some(Mesh { vip_ranges, ..Mesh::default() });
    let workload =
        |node: &str, address: &str| Workload { node: node.to_owned(), addresses: vec![ip(address)], ..Default::default() };
    world.workloads.insert("a".to_owned(), workload("192.0.2.12", "9.0.1.2"));
    world.workloads.insert("b".to_owned(), workload("agent-7.example", "fd01:9::2"));
    world.services.insert("s".to_owned(), Service { addresses: vec![ip("198.18.0.1")], ..Service::default() });
    Inside::of(&world, ip("192.0.2.11"))
}

#[test]
fn a_name_opens_nothing_that_is_not_outside() {
    let inside = inside();
    for (address, want) in [
        ("127.0.0.1", Some(Lesson::Loopback)),
        ("::1", Some(Lesson::Loopback)),
        ("0.0.0.0", Some(Lesson::Loopback)),
        ("169.254.169.254", Some(Lesson::LinkLocal)),
        ("fe80::1", Some(Lesson::LinkLocal)),
        ("224.0.0.1", Some(Lesson::Multicast)),
        ("255.255.255.255", Some(Lesson::Multicast)),
        ("ff02::1", Some(Lesson::Multicast)),
        ("11.15.94.83", Some(Lesson::Vip)),
        ("11.255.255.255", Some(Lesson::Vip)),
        ("fd01:c::1", Some(Lesson::Vip)),
        ("198.18.0.1", Some(Lesson::Vip)),
        ("192.0.2.11", Some(Lesson::Node)),
        ("192.0.2.12", Some(Lesson::Node)),
        ("9.0.1.2", Some(Lesson::Workload)),
        ("fd01:9::2", Some(Lesson::Workload)),
        ("10.255.255.255", None),
        ("12.0.0.0", None),
        ("9.0.1.3", None),
        ("fd01:c:0:1::", None),
        ("203.0.113.5", None),
    ] {
        assert_eq!(inside.forbids(ip(address)), want, "{address}");
        let mut learned = Learned::default();
        let (lesson, _) = learned.learn(&inside, "a.example", ip(address), 60, 1000);
        assert_eq!(lesson, want.unwrap_or(Lesson::Learned), "{address}");
        assert_eq!(learned.len(), usize::from(want.is_none()), "{address}");
    }
}

#[test]
fn an_address_is_believed_for_its_ttl_and_a_grace_period() {
    let (inside, mut learned) = (inside(), Learned::default());
    let a = ip("203.0.113.5");
    assert_eq!(learned.learn(&inside, "a.example", a, 60, 1000), (Lesson::Learned, 1000 + 60 + GRACE_SECONDS));
    assert_eq!(learned.learn(&inside, "a.example", a, 0, 1010), (Lesson::Refreshed, 1000 + 60 + GRACE_SECONDS), "never shorter");
    assert_eq!(
        learned.learn(&inside, "a.example", a, u32::MAX, 1010),
        (Lesson::Refreshed, 1010 + TTL_MAX_SECONDS + GRACE_SECONDS)
    );
    assert_eq!(learned.learn(&inside, "b.example", a, 0, 1010), (Lesson::Learned, 1010 + GRACE_SECONDS), "each name by itself");
    let gone = learned.sift(|_, _, expires| expires > 1010 + GRACE_SECONDS);
    assert_eq!(gone, [("b.example".to_owned(), a)]);
    assert_eq!(learned.iter().collect::<Vec<_>>(), [("a.example", a, 1010 + TTL_MAX_SECONDS + GRACE_SECONDS)]);
}

#[test]
fn memory_has_a_bound() {
    let inside = inside();
    let full = (0..maps::LEARNED_MAX).map(|i| (format!("{i}.example"), ip("203.0.113.5"), 5000));
    let mut learned = Learned::from_entries(full);
    assert_eq!(learned.learn(&inside, "new.example", ip("203.0.113.5"), 60, 1000).0, Lesson::Full);
    assert_eq!(learned.learn(&inside, "7.example", ip("203.0.113.5"), 60, 1000).0, Lesson::Refreshed, "what is known stays");
}
