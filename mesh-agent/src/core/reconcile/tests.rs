use super::super::desired::Port;
use super::*;
use mesh_common::abi::{ABI_VERSION, NO_CELL, choice, mode};
use proptest::prelude::*;

fn dest(n: u8) -> Dest {
    Dest { addr: Addr::v4([11, 0, 0, n]), port: 80, proto: 6, pad: 0 }
}

fn to(n: u8) -> Dest {
    Dest { addr: Addr::v4([9, 0, 0, n]), port: 8080, proto: 6, pad: 0 }
}

fn tables() -> impl Strategy<Value = Desired> {
    let backends = prop::collection::btree_map((0u8..5).prop_map(to), 1u32..3, 0..5);
    // A Maglev table is 251 cells, so few of them.
    let choice = prop_oneof![19 => choice::LEAST..choice::SOURCE, 1 => Just(choice::SOURCE)];
    let port = (0u8..3, choice, any::<bool>(), backends);
    let port = port.prop_map(|(mode, choice, scoped, backends)| Port { mode, choice, scoped, backends });
    let services = prop::collection::btree_map((0u8..5).prop_map(dest), port, 0..5);
    let addrs = prop::collection::btree_set((0u8..6).prop_map(|n| Addr::v4([9, 0, 0, n])), 0..4);
    let protected = prop::collection::btree_set((0u8..4).prop_map(dest), 0..3);
    let draining = prop::collection::btree_set((0u8..5).prop_map(to), 0..3);
    (services, addrs, protected, 0u8..2, draining).prop_map(|(services, workloads, protected, egress, draining)| Desired {
        config: Config { abi: ABI_VERSION, egress, ready: 1, ..Config::default() },
        services,
        workloads,
        protected,
        draining,
    })
}

/// What a connection to this VIP could meet, however it is drawn.
fn set(actual: &Actual, dest: &Dest) -> Option<(u8, BTreeSet<Dest>)> {
    let service = actual.services.get(dest)?;
    let backend = |index| actual.backends.get(&BackendKey { service: service.id, index });
    let to = |b: &Backend| Dest { addr: b.addr, port: b.port, proto: 6, pad: 0 };
    let mut met = BTreeSet::new();
    for index in 0..service.backends {
        let own = backend(index).expect("a cell promises only what is there");
        met.insert(to(own));
        if own.share != u32::MAX {
            met.extend(backend(own.alias).map(to));
        }
        // Those of services for some namespaces are not counted; every other one is, in its own cell.
        if own.cell != NO_CELL {
            let endpoint = actual.endpoints.get(&to(own)).expect("each is counted somewhere");
            assert_eq!((own.cell, own.stamp), (endpoint.cell, endpoint.stamp));
        } else {
            assert_eq!(own.stamp, 0);
        }
    }
    Some((service.mode, met))
}

fn wanted(desired: &Desired, dest: &Dest) -> Option<(u8, BTreeSet<Dest>)> {
    desired.services.get(dest).map(|port| (port.mode, port.backends.keys().copied().collect()))
}

fn after(desired: &Desired, mut actual: Actual) -> Actual {
    for op in reconcile(desired, &actual.clone()) {
        actual.apply(&op);
    }
    actual
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// The agent may die between any two writes: every VIP then has backends of its old or its new set, and one if both have.
    #[test]
    fn any_prefix_is_safe(first in tables(), second in tables()) {
        let start = after(&first, Actual::default());
        let ops = reconcile(&second, &start);
        let mut actual = start.clone();
        for op in &ops {
            actual.apply(op);
            for dest in (0..5).map(dest) {
                let now = set(&actual, &dest);
                let (old, new) = (wanted(&first, &dest), wanted(&second, &dest));
                let Some((mode, met)) = now else {
                    prop_assert!(old.is_none() || new.is_none(), "gone after {:?}", op);
                    continue;
                };
                prop_assert!([&old, &new].into_iter().flatten().any(|(m, _)| *m == mode), "{} after {:?}", mode, op);
                let known: BTreeSet<Dest> = [&old, &new].into_iter().flatten().flat_map(|(_, met)| met).copied().collect();
                prop_assert!(met.is_subset(&known), "{:?} after {:?}", met, op);
                let empty = [&old, &new].into_iter().flatten().any(|(_, met)| met.is_empty());
                prop_assert!(!met.is_empty() || empty, "no backend after {:?}", op);
            }
            // A destination that was and stays protected is never open in between, a workload that stays is never unknown.
            prop_assert!(first.protected.intersection(&second.protected).all(|d| actual.protected.contains(d)));
            prop_assert!(first.workloads.intersection(&second.workloads).all(|w| actual.workloads.contains(w)));
        }
    }

    #[test]
    fn the_end_is_what_was_wanted_and_a_second_run_does_nothing(first in tables(), second in tables()) {
        let actual = after(&second, after(&first, Actual::default()));
        for dest in (0..5).map(dest) {
            prop_assert_eq!(set(&actual, &dest), wanted(&second, &dest));
        }
        prop_assert_eq!(&actual.workloads, &second.workloads);
        prop_assert_eq!(&actual.protected, &second.protected);
        prop_assert_eq!(actual.config, second.config);
        let backends: usize = second.services.values().map(Port::cells).sum();
        prop_assert!(actual.endpoints.keys().copied().eq(second.endpoints()), "what is gone is not counted");
        let open = second.services.iter().filter(|(_, port)| !port.scoped).map(|(dest, _)| &actual.services[dest]);
        let cells = open.flat_map(|service| (0..service.backends).map(|index| BackendKey { service: service.id, index }));
        prop_assert!(cells.into_iter().all(|key| actual.backends[&key].cell != NO_CELL), "what is for everybody is counted");
        let cells: BTreeSet<u32> = actual.endpoints.values().map(|endpoint| endpoint.cell).collect();
        prop_assert!(cells.len() == actual.endpoints.len() && !cells.contains(&NO_CELL), "each has a cell of its own");
        prop_assert_eq!(actual.backends.len(), backends, "nothing stale is left");
        prop_assert_eq!(reconcile(&second, &actual), vec![]);
    }

    /// Another agent died halfway through another update: the next one cleans up all the same.
    #[test]
    fn a_torn_state_is_repaired(first in tables(), torn in tables(), second in tables(), cut in 0usize..40) {
        let mut actual = after(&first, Actual::default());
        for op in reconcile(&torn, &actual.clone()).iter().take(cut) {
            actual.apply(op);
        }
        let actual = after(&second, actual);
        prop_assert_eq!(reconcile(&second, &actual), vec![]);
        for dest in (0..5).map(dest) {
            prop_assert_eq!(set(&actual, &dest), wanted(&second, &dest));
        }
    }
}

fn one(mode: u8, backends: &[u8]) -> Desired {
    let backends = backends.iter().map(|b| (to(*b), 1)).collect();
    Desired { services: [(dest(1), Port { mode, backends, ..Port::default() })].into(), ..Desired::default() }
}

#[test]
fn denials_come_before_permissions_and_what_goes_comes_last() {
    let start = after(&one(mode::KERNEL, &[1, 2]), Actual::default());
    let next = Desired { protected: [dest(9)].into(), workloads: [Addr::v4([9, 0, 0, 2])].into(), ..one(mode::KERNEL, &[3]) };
    let ops = reconcile(&next, &start);
    let kinds: Vec<&str> = ops
        .iter()
        .map(|op| match op {
            Op::AddProtected(_) => "protect",
            Op::AddWorkload(_) => "workload",
            Op::Claim(..) => "claim",
            Op::SetBackend(..) => "backend",
            Op::SetService(..) => "flip",
            Op::Grace => "grace",
            Op::DeleteBackend(_) => "delete",
            Op::Release(..) => "release",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["protect", "workload", "claim", "backend", "flip", "grace", "delete", "release", "release"]);
    let mode_only = reconcile(&one(mode::PROXY, &[1, 2]), &start);
    assert!(matches!(mode_only.as_slice(), [Op::SetService(_, Service { mode: mode::PROXY, .. })]), "{mode_only:?}");
}

#[test]
fn a_stamp_is_never_given_out_twice_and_a_draining_backend_keeps_its_own() {
    let start = after(&one(mode::KERNEL, &[1]), Actual::default());
    let first = start.endpoints[&to(1)];
    let drained = after(&Desired { draining: [to(1)].into(), ..one(mode::KERNEL, &[2]) }, start);
    assert_eq!(drained.endpoints[&to(1)], first, "flows that it has go on");
    assert_ne!(drained.endpoints[&to(2)].stamp, first.stamp);
    let gone = after(&one(mode::KERNEL, &[2]), drained);
    assert!(!gone.endpoints.contains_key(&to(1)));
    let back = after(&one(mode::KERNEL, &[1, 2]), gone);
    assert_ne!(back.endpoints[&to(1)].stamp, first.stamp, "flows of its former life are not its own");
}

/// Each change of one backend, in a mesh of the size that the tables are made for.
#[test]
fn one_backends_change_writes_a_handful_of_cells_in_a_mesh_of_50_000() {
    let vip = |n: u32| Dest { addr: Addr::v4((0x0b00_0000 + n).to_be_bytes()), port: 80, proto: 6, pad: 0 };
    let to = |n: u32| Dest { addr: Addr::v4((0x0900_0000 + n).to_be_bytes()), port: 8080, proto: 6, pad: 0 };
    let port =
        |n: u32| Port { mode: mode::KERNEL, backends: (n * 5..n * 5 + 5).map(|b| (to(b), 1)).collect(), ..Port::default() };
    let mut desired = Desired { services: (0..10_000).map(|n| (vip(n), port(n))).collect(), ..Desired::default() };
    let mut actual = after(&desired, Actual::default());
    assert_eq!(actual.backends.len(), 50_000);
    for (what, new, old) in [("replaced", Some(70_000), Some(25_002)), ("gone", None, Some(25_001)), ("new", Some(70_001), None)]
    {
        let backends = &mut desired.services.get_mut(&vip(5000)).expect("there").backends;
        old.map(|n| backends.remove(&to(n)));
        new.map(|n| backends.insert(to(n), 1));
        let ops = reconcile(&desired, &actual);
        let writes = ops.iter().filter(|op| **op != Op::Grace).count();
        assert!((1..=4).contains(&writes), "{what}: {ops:?}");
        ops.iter().for_each(|op| actual.apply(op));
        assert_eq!(reconcile(&desired, &actual), []);
    }
}
