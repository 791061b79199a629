use super::*;
use mesh_common::abi::{ABI_VERSION, mode};
use proptest::prelude::*;

fn dest(n: u8) -> Dest {
    Dest { addr: Addr::v4([11, 0, 0, n]), port: 80, proto: 6, pad: 0 }
}

fn backend(n: u8) -> Backend {
    Backend { addr: Addr::v4([9, 0, 0, n]), port: 8080, pad: 0 }
}

fn tables() -> impl Strategy<Value = Desired> {
    let backends = prop::collection::vec((0u8..4).prop_map(backend), 0..4);
    let port = (0u8..3, backends).prop_map(|(mode, backends)| Port { mode, backends });
    let services = prop::collection::btree_map((0u8..5).prop_map(dest), port, 0..5);
    let addrs = prop::collection::btree_set((0u8..6).prop_map(|n| Addr::v4([9, 0, 0, n])), 0..4);
    let protected = prop::collection::btree_set((0u8..4).prop_map(dest), 0..3);
    (services, addrs, protected, 0u8..2).prop_map(|(services, workloads, protected, egress)| Desired {
        config: Config { abi: ABI_VERSION, egress, ready: 1, ..Config::default() },
        services,
        workloads,
        protected,
    })
}

/// What a connection to this VIP could meet.
fn set(actual: &Actual, dest: &Dest) -> Option<(u8, Vec<Backend>)> {
    let service = actual.services.get(dest)?;
    let backends = (0..service.backends).map(|index| actual.backends.get(&key(service, index)).copied());
    Some((service.mode, backends.collect::<Option<_>>().expect("a cell points at a whole set")))
}

fn wanted(desired: &Desired, dest: &Dest) -> Option<(u8, Vec<Backend>)> {
    desired.services.get(dest).map(|port| (port.mode, port.backends.clone()))
}

fn after(desired: &Desired, mut actual: Actual) -> Actual {
    for op in reconcile(desired, &actual.clone()) {
        actual.apply(&op);
    }
    actual
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The agent may die between any two writes: every VIP then has its old or its new set, whole.
    #[test]
    fn any_prefix_is_safe(first in tables(), second in tables()) {
        let start = after(&first, Actual::default());
        let ops = reconcile(&second, &start);
        let mut actual = start.clone();
        for op in &ops {
            actual.apply(op);
            for dest in (0..5).map(dest) {
                let now = set(&actual, &dest);
                prop_assert!(now == wanted(&first, &dest) || now == wanted(&second, &dest), "{:?} after {:?}", now, op);
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
        let backends: usize = second.services.values().map(|port| port.backends.len()).sum();
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

#[test]
fn denials_come_before_permissions_and_old_sets_go_last() {
    let one = |mode, backends: &[u8]| Desired {
        services: [(dest(1), Port { mode, backends: backends.iter().map(|b| backend(*b)).collect() })].into(),
        ..Desired::default()
    };
    let start = after(&one(mode::KERNEL, &[1]), Actual::default());
    let next = Desired { protected: [dest(9)].into(), workloads: [Addr::v4([9, 0, 0, 2])].into(), ..one(mode::KERNEL, &[2]) };
    let ops = reconcile(&next, &start);
    let kinds: Vec<&str> = ops
        .iter()
        .map(|op| match op {
            Op::AddProtected(_) => "protect",
            Op::AddWorkload(_) => "workload",
            Op::SetBackend(..) => "backend",
            Op::SetService(..) => "flip",
            Op::Grace => "grace",
            Op::DeleteBackend(_) => "delete",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["protect", "workload", "backend", "flip", "grace", "delete"]);
    let mode_only = reconcile(&one(mode::PROXY, &[1]), &start);
    assert!(
        matches!(mode_only.as_slice(), [Op::SetService(_, Service { mode: mode::PROXY, generation: 0, .. })]),
        "{mode_only:?}"
    );
}
