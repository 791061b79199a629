//! The same for workloads on the node's own network, which Mesos' container ids and the kernel's cgroups tell apart.

use super::super::resources::{Workload, World};
use mesh_common::abi::{HostKey, maps};
use std::collections::{BTreeMap, BTreeSet};

/// By what the kernel knows a workload's processes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Mark {
    /// They are in this cgroup2 or below.
    Cgroup {
        /// The kernel's number of it.
        id: u64,
        /// How deep it lies: the root is 0.
        level: u32,
    },
    /// They have this net_cls class id.
    Class(u32),
}

impl Mark {
    /// As the kernel's table has it.
    #[must_use]
    pub const fn key(self) -> HostKey {
        match self {
            Self::Cgroup { id, .. } => HostKey::cgroup(id),
            Self::Class(class) => HostKey::class(class),
        }
    }
}

/// A container of this node, whatever its network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Task {
    /// Mesos' id of it.
    pub container: String,
    /// Marathon's instance id.
    pub instance: String,
    /// A process in it.
    pub pid: Option<u32>,
    /// What tells its processes from all others.
    pub marks: BTreeSet<Mark>,
    /// Who it will be, if it is on the node's own network and its labels ask for the mesh: Mesos knows before Marathon says that it runs.
    pub coming: Option<Box<Workload>>,
}

/// One thing to do. Each is safe to repeat.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The same workload, described differently.
    Describe(u32, Workload),
    /// Open listeners, and only then let the kernel know the workload by these marks.
    Enrol(u32, BTreeSet<Mark>, Workload),
    /// The reverse.
    Leave(u32),
}

/// What to do, and who must wait.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// Wanted workloads that cannot be enrolled now: id and reason.
    pub pending: Vec<(String, &'static str)>,
}

/// Compares.
///
/// `known` are the slots and keys of the kernel's table, `held` those whose listeners this process holds, `taken` the slots of pods. Without
/// `tasks` (no Mesos agent has answered yet) everything stays as it is.
#[must_use]
pub fn plan(
    world: &World,
    ours: &[String],
    tasks: Option<&[Task]>,
    known: &BTreeMap<u32, BTreeSet<HostKey>>,
    held: &BTreeMap<u32, (BTreeSet<Mark>, Workload)>,
    taken: &BTreeSet<u32>,
) -> Plan {
    let mut plan = Plan::default();
    if !world.complete() {
        return plan;
    }
    let wanted = world.wanted(ours).filter(|workload| workload.host_network);
    let Some(tasks) = tasks else {
        plan.pending
            .extend(wanted.map(|w| (w.id.clone(), "the Mesos agent of this node has not said yet which container it is")));
        return plan;
    };
    let mut found: BTreeMap<&str, (BTreeSet<Mark>, &Workload)> = BTreeMap::new();
    for workload in wanted {
        match marks_of(workload, tasks) {
            Ok(marks) => drop(found.insert(&workload.id, (marks, workload))),
            Err(reason) => plan.pending.push((workload.id.clone(), reason)),
        }
    }
    let slot_of = |marks: &BTreeSet<Mark>| {
        known.iter().find(|(_, keys)| marks.iter().any(|mark| keys.contains(&mark.key()))).map(|(slot, _)| *slot)
    };
    let staying: BTreeSet<u32> = found.values().filter_map(|(marks, _)| slot_of(marks)).collect();
    plan.steps.extend(known.keys().filter(|slot| !staying.contains(slot)).map(|slot| Step::Leave(*slot)));

    let mut used: BTreeSet<u32> = staying.union(taken).copied().collect();
    for (marks, workload) in found.into_values() {
        let slot = slot_of(&marks).or_else(|| (0..maps::PODS_MAX).rev().find(|slot| !used.contains(slot)));
        let Some(slot) = slot else {
            plan.pending.push((workload.id.clone(), "the node has as many workloads as the kernel's table holds"));
            continue;
        };
        used.insert(slot);
        let is_known = known.get(&slot).is_some_and(|keys| {
            keys.contains(&HostKey::slot(slot)) && keys.len() == marks.len() + 1 && marks.iter().all(|m| keys.contains(&m.key()))
        });
        match held.get(&slot) {
            Some((before, told))
                if is_known && *before == marks && told.id == workload.id && told.namespace == workload.namespace =>
            {
                if told != workload {
                    plan.steps.push(Step::Describe(slot, workload.clone()));
                }
            }
            _ => plan.steps.push(Step::Enrol(slot, marks, workload.clone())),
        }
    }
    plan
}

/// What tells this workload from all others of the node.
fn marks_of(workload: &Workload, tasks: &[Task]) -> Result<BTreeSet<Mark>, &'static str> {
    let Some(task) = tasks.iter().find(|task| task.instance == workload.id) else {
        return Err("the Mesos agent of this node has no container of it (yet)");
    };
    let others = |mark: &Mark| tasks.iter().filter(|other| other.marks.contains(mark)).count() > 1;
    let own: BTreeSet<Mark> = task.marks.iter().copied().filter(|mark| !others(mark)).collect();
    if own.is_empty() {
        return Err("its processes have neither a cgroup2 nor a net_cls class of their own (yet)");
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{OURS, world};
    use super::*;
    use proptest::prelude::*;

    type Known = BTreeMap<u32, BTreeSet<HostKey>>;
    type Held = BTreeMap<u32, (BTreeSet<Mark>, Workload)>;

    fn workload(id: &str) -> Workload {
        Workload { id: id.to_owned(), node: OURS.to_owned(), enrol: true, host_network: true, ..Workload::default() }
    }

    fn task(id: &str, marks: &[Mark]) -> Task {
        Task { instance: id.to_owned(), marks: marks.iter().copied().collect(), ..Task::default() }
    }

    const fn cgroup(id: u64) -> Mark {
        Mark::Cgroup { id, level: 2 }
    }

    fn ask(world: &World, tasks: &[Task], known: &Known, held: &Held) -> Plan {
        plan(world, &[OURS.to_owned()], Some(tasks), known, held, &BTreeSet::new())
    }

    fn obey(plan: &Plan, known: &mut Known, held: &mut Held) {
        for step in &plan.steps {
            match step {
                Step::Leave(slot) => {
                    known.remove(slot);
                    held.remove(slot);
                }
                Step::Enrol(slot, marks, workload) => {
                    known.insert(*slot, marks.iter().map(|m| m.key()).chain([HostKey::slot(*slot)]).collect());
                    held.insert(*slot, (marks.clone(), workload.clone()));
                }
                Step::Describe(slot, workload) => held.get_mut(slot).expect("held").1 = workload.clone(),
            }
        }
    }

    #[test]
    fn a_workload_is_known_by_what_is_its_own_alone() {
        let world = world(["a", "b", "c", "d"].map(workload).to_vec());
        let tasks = [
            task("a", &[cgroup(11), Mark::Class(1)]),
            task("b", &[cgroup(99), Mark::Class(2)]),
            task("c", &[cgroup(99)]),
            task("stranger", &[cgroup(12)]),
        ];
        let plan = ask(&world, &tasks, &Known::new(), &Held::new());
        let marks = plan.steps.iter().map(|step| match step {
            Step::Enrol(_, marks, workload) => (workload.id.as_str(), marks.iter().copied().collect()),
            other => panic!("{other:?}"),
        });
        let marks: Vec<(&str, Vec<Mark>)> = marks.collect();
        assert_eq!(marks, [("a", vec![cgroup(11), Mark::Class(1)]), ("b", vec![Mark::Class(2)])]);
        let reasons: Vec<&str> = plan.pending.iter().map(|(_, reason)| *reason).collect();
        assert!(reasons[0].contains("neither a cgroup2") && reasons[1].contains("no container"), "{reasons:?}");
    }

    #[test]
    fn without_mesos_nothing_changes_and_a_new_agent_takes_over_in_place() {
        let world = world(vec![workload("a")]);
        let known: Known = [(5, [HostKey::slot(5), HostKey::cgroup(11)].into())].into();
        let silent = plan(&world, &[OURS.to_owned()], None, &known, &Held::new(), &BTreeSet::new());
        assert!(silent.steps.is_empty() && silent.pending.len() == 1, "{silent:?}");
        let plan = ask(&world, &[task("a", &[cgroup(11)])], &known, &Held::new());
        assert!(matches!(plan.steps.as_slice(), [Step::Enrol(5, ..)]), "{plan:?}");
        let plan = ask(&world, &[], &known, &Held::new());
        assert!(matches!(plan.steps.as_slice(), [Step::Leave(5)]), "{plan:?}");
    }

    #[test]
    fn slots_of_pods_are_not_given_out() {
        let world = world(vec![workload("a")]);
        let taken = (1..maps::PODS_MAX).collect();
        let tasks = [task("a", &[cgroup(1)])];
        let plan = plan(&world, &[OURS.to_owned()], Some(&tasks), &Known::new(), &Held::new(), &taken);
        assert!(matches!(plan.steps.as_slice(), [Step::Enrol(0, ..)]), "{plan:?}");
    }

    proptest! {
        /// Whatever comes and goes: a second look does nothing, and the kernel knows exactly the wanted ones that run.
        #[test]
        fn enrolment_converges(rounds in prop::collection::vec(prop::collection::btree_map(0u8..12, (any::<bool>(), any::<bool>()), 0..12), 1..6)) {
            let (mut known, mut held) = (Known::new(), Held::new());
            for round in rounds {
                let world = world(round.iter().filter(|(_, (wished, _))| *wished).map(|(n, _)| workload(&n.to_string())).collect());
                let tasks: Vec<Task> =
                    round.iter().filter(|(_, (_, runs))| *runs).map(|(n, _)| task(&n.to_string(), &[cgroup(u64::from(*n))])).collect();
                obey(&ask(&world, &tasks, &known, &held), &mut known, &mut held);
                let ids: BTreeSet<&str> = held.values().map(|(_, w)| w.id.as_str()).collect();
                let both = round.iter().filter(|(_, (wished, runs))| *wished && *runs).count();
                prop_assert_eq!((known.len(), ids.len()), (both, both));
                prop_assert!(ask(&world, &tasks, &known, &held).steps.is_empty());
            }
        }
    }
}
