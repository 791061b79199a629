use super::*;
use crate::core::resources::Mesh;
use mesh_xds::client::Delivery;
use proptest::prelude::*;

pub(super) const OURS: &str = "192.0.2.11";

fn workload(id: &str, address: &str) -> Workload {
    let addresses = vec![address.parse().expect("address")];
    Workload {
        id: id.to_owned(),
        namespace: "default".to_owned(),
        node: OURS.to_owned(),
        addresses,
        enrol: true,
        ..Workload::default()
    }
}

pub(super) fn world(workloads: Vec<Workload>) -> World {
    let mut world = World { mesh: Some(Mesh::default()), ..World::default() };
    for type_url in [mesh_xds::agent::WORKLOAD, mesh_xds::agent::SERVICE, mesh_xds::agent::EGRESS] {
        world.apply(&Delivery { type_url: type_url.to_owned(), nonce: String::new(), resources: vec![], removed: vec![] });
    }
    world.workloads = workloads.into_iter().map(|w| (w.id.clone(), w)).collect();
    world
}

fn place(cookie: u64, addresses: &[&str]) -> Place {
    Place { cookie, instance: None, addresses: addresses.iter().map(|a| a.parse().expect("address")).collect() }
}

type Held = BTreeMap<u64, (Pod, Workload)>;

fn ask(world: &World, places: &[Place], known: &BTreeMap<u64, Pod>, held: &Held) -> Plan {
    plan(world, &[OURS.to_owned(), "agent-1".to_owned()], places, known, held, &BTreeSet::new())
}

/// Carries a plan out as the I/O half would.
fn obey(plan: &Plan, known: &mut BTreeMap<u64, Pod>, held: &mut Held) {
    for step in &plan.steps {
        match step {
            Step::Leave(cookie, _) => {
                known.remove(cookie);
                held.remove(cookie);
            }
            Step::Enrol(cookie, pod, workload) => {
                known.insert(*cookie, *pod);
                held.insert(*cookie, (*pod, workload.clone()));
            }
            Step::Describe(cookie, pod, workload) => {
                assert_eq!(held.get(cookie).map(|(pod, _)| pod.slot), Some(pod.slot), "held before");
                known.insert(*cookie, *pod);
                held.insert(*cookie, (*pod, workload.clone()));
            }
        }
    }
}

#[test]
fn a_workload_is_found_by_its_address_on_its_node() {
    let mut elsewhere = workload("b", "9.0.0.2");
    elsewhere.node = "192.0.2.12".to_owned();
    let mut by_name = workload("c", "9.0.0.3");
    by_name.node = "agent-1".to_owned();
    let mut unwilling = workload("d", "9.0.0.4");
    unwilling.enrol = false;
    let world = world(vec![workload("a", "9.0.0.1"), elsewhere, by_name, unwilling]);
    let places =
        [place(1, &["9.0.0.1", "fd01::1"]), place(2, &["9.0.0.2"]), place(3, &["172.17.0.3", "9.0.0.3"]), place(4, &["9.0.0.4"])];
    let plan = ask(&world, &places, &BTreeMap::new(), &Held::new());
    let pods: Vec<(u64, Pod)> =
        plan.steps.iter().map(|s| if let Step::Enrol(c, p, _) = s { (*c, *p) } else { panic!("{s:?}") }).collect();
    let v4 = |last| Addr::v4([9, 0, 0, last]);
    let six = addr("fd01::1".parse().expect("address"));
    let policy = mesh_common::abi::policy::of("default");
    assert_eq!(pods[0], (1, Pod { slot: 0, policy, addr4: v4(1), addr6: six, outbound: 0 }), "IPv6 is the namespace's own");
    assert_eq!(
        pods[1],
        (3, Pod { slot: 1, policy, addr4: v4(3), addr6: Addr::default(), outbound: 0 }),
        "the address Marathon knows"
    );
    assert_eq!((pods.len(), plan.wanted, plan.pending.len()), (2, 2, 0));
}

#[test]
fn who_cannot_be_enrolled_is_named_with_the_reason() {
    let mut host = workload("host", "192.0.2.11");
    host.host_network = true;
    let world = world(vec![host, workload("late", "9.0.0.5"), workload("twin", "9.0.0.6")]);
    let plan = ask(&world, &[place(1, &["9.0.0.6"]), place(2, &["9.0.0.6"])], &BTreeMap::new(), &Held::new());
    assert!(plan.steps.is_empty());
    let reasons: Vec<&str> = plan.pending.iter().map(|(_, reason)| *reason).collect();
    assert!(reasons[0].contains("no container") && reasons[1].contains("several"), "{reasons:?}");
    assert_eq!((plan.wanted, reasons.len()), (2, 2), "a pod on the host network is not waited for");
}

#[test]
fn the_mesos_agents_word_counts_more_than_an_address() {
    let world = world(vec![workload("a", "9.0.0.1"), workload("b", "9.0.0.2")]);
    // b's namespace has no address yet, and a's former one still has a's.
    let named = |cookie, instance: &str, addresses| Place { instance: Some(instance.to_owned()), ..place(cookie, addresses) };
    let places = [named(1, "gone", &["9.0.0.1"]), named(2, "b", &[]), place(3, &["9.0.0.1"])];
    let plan = ask(&world, &places, &BTreeMap::new(), &Held::new());
    let found: Vec<(u64, &str)> =
        plan.steps.iter().map(|s| if let Step::Enrol(c, _, w) = s { (*c, w.id.as_str()) } else { panic!("{s:?}") }).collect();
    assert_eq!(found, [(2, "b"), (3, "a")]);
}

#[test]
fn a_new_agent_takes_over_in_place_and_an_ignorant_one_touches_nothing() {
    let known: BTreeMap<u64, Pod> = [(1, Pod { slot: 5, addr4: Addr::v4([9, 0, 0, 1]), ..Pod::default() })].into();
    let places = [place(1, &["9.0.0.1"])];
    assert_eq!(ask(&World::default(), &places, &known, &Held::new()), Plan::default(), "nothing is known of wishes yet");
    let world = world(vec![workload("a", "9.0.0.1")]);
    let plan = ask(&world, &places, &known, &Held::new());
    assert!(matches!(plan.steps.as_slice(), [Step::Enrol(1, Pod { slot: 5, .. }, _)]), "{plan:?}");
    let plan = ask(&world, &[], &known, &Held::new());
    assert!(matches!(plan.steps.as_slice(), [Step::Leave(1, Pod { slot: 5, .. })]), "its container is gone: {plan:?}");
}

#[test]
fn a_changed_label_is_told_without_new_listeners() {
    let mut world = world(vec![workload("a", "9.0.0.1")]);
    let places = [place(1, &["9.0.0.1"])];
    let (mut known, mut held) = (BTreeMap::new(), Held::new());
    obey(&ask(&world, &places, &known, &held), &mut known, &mut held);
    world.workloads.get_mut("a").expect("there").labels.insert("version".to_owned(), "v2".to_owned());
    let plan = ask(&world, &places, &known, &held);
    assert!(matches!(plan.steps.as_slice(), [Step::Describe(1, pod, _)] if *pod == known[&1]), "{plan:?}");
}

#[test]
fn another_namespace_is_another_policy_without_new_listeners() {
    let mut world = world(vec![workload("a", "9.0.0.1")]);
    let places = [place(1, &["9.0.0.1"])];
    let (mut known, mut held) = (BTreeMap::new(), Held::new());
    obey(&ask(&world, &places, &known, &held), &mut known, &mut held);
    world.workloads.get_mut("a").expect("there").namespace = "shop".to_owned();
    let plan = ask(&world, &places, &known, &held);
    let shop = Pod { policy: mesh_common::abi::policy::of("shop"), ..known[&1] };
    assert!(matches!(plan.steps.as_slice(), [Step::Describe(1, pod, _)] if *pod == shop), "{plan:?}");
    obey(&plan, &mut known, &mut held);
    assert_eq!(ask(&world, &places, &known, &held).steps, []);
    // Somebody has changed the kernel's cell: who knows what else.
    known.insert(1, Pod { policy: 0, ..shop });
    assert!(matches!(ask(&world, &places, &known, &held).steps.as_slice(), [Step::Enrol(1, pod, _)] if *pod == shop));
}

proptest! {
    /// Whatever comes and goes: slots are unique, a second look does nothing, and the kernel knows exactly the wanted pods.
    #[test]
    fn enrolment_converges(rounds in prop::collection::vec(prop::collection::btree_map(0u8..12, (any::<bool>(), any::<bool>()), 0..12), 1..6)) {
        let (mut known, mut held) = (BTreeMap::new(), Held::new());
        for round in rounds {
            let address = |n: &u8| format!("9.0.0.{n}");
            let world = world(round.iter().filter(|(_, (wished, _))| *wished).map(|(n, _)| workload(&n.to_string(), &address(n))).collect());
            let places: Vec<Place> =
                round.iter().filter(|(_, (_, runs))| *runs).map(|(n, _)| place(u64::from(*n), &[&address(n)])).collect();
            obey(&ask(&world, &places, &known, &held), &mut known, &mut held);
            let slots: BTreeSet<u32> = known.values().map(|pod| pod.slot).collect();
            prop_assert_eq!(slots.len(), known.len());
            let both: Vec<u64> = round.iter().filter(|(_, (wished, runs))| *wished && *runs).map(|(n, _)| u64::from(*n)).collect();
            prop_assert_eq!(known.keys().copied().collect::<Vec<_>>(), both);
            prop_assert!(ask(&world, &places, &known, &held).steps.is_empty());
        }
    }
}
