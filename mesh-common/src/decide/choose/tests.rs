use super::*;
use std::collections::BTreeMap;

/// A set as the agent lays it out for two weights, 1 and 3: the first index gives half of its draws away.
struct Two {
    backends: [Backend; 2],
    active: [i64; 2],
}

impl<'a> Set<'a> for &'a Two {
    fn backend(&self, key: BackendKey) -> Option<&'a Backend> {
        self.backends.get(key.index as usize)
    }
    fn active(&self, backend: &Backend) -> i64 {
        self.active[backend.cell as usize]
    }
}

fn two(weights: [u32; 2]) -> Two {
    let backend = |cell, share| Backend { cell, weight: weights[cell as usize], share, alias: 1, ..Backend::default() };
    let share = u64::from(weights[0]) * 2 * (1 << 32) / u64::from(weights[0] + weights[1]);
    Two { backends: [backend(0, u32::try_from(share - 1).expect("the lighter")), backend(1, u32::MAX)], active: [0; 2] }
}

fn service(choice: u8) -> Service {
    Service { id: 1, backends: 2, choice, ..Service::default() }
}

/// Numbers for tests: uniform enough.
fn numbers() -> impl FnMut() -> u32 {
    let mut seed = 1u64;
    move || {
        seed += 1;
        (mix(seed) >> 32) as u32
    }
}

/// Connections that stay open for the length of `held` others: the share of the heavier one.
fn share(choice: u8, weights: [u32; 2], held: usize) -> f64 {
    const CONNECTIONS: usize = 40_000;
    let (mut set, mut random, mut open, mut heavier) = (two(weights), numbers(), std::collections::VecDeque::new(), 0);
    for _ in 0..CONNECTIONS {
        let chosen = choose(&service(choice), &&set, &mut random, || 0).expect("there").cell as usize;
        set.active[chosen] += 1;
        heavier += chosen;
        open.push_back(chosen);
        if open.len() > held {
            let done = open.pop_front().expect("one");
            set.active[done] -= 1;
        }
    }
    heavier as f64 / CONNECTIONS as f64
}

#[test]
fn weights_come_out_whether_connections_are_held_or_short() {
    for held in [0, 100, 10_000, 40_000] {
        for choice in [choice::LEAST, choice::RANDOM] {
            let share = share(choice, [1, 3], held);
            assert!((0.7275..=0.7725).contains(&share), "choice {choice}, {held} held: {share}");
        }
    }
}

#[test]
fn of_two_the_one_with_fewer_connections_takes_it() {
    let mut set = two([1, 1]);
    let mut random = numbers();
    set.active = [5, 4];
    let mut met = BTreeMap::new();
    for _ in 0..1000 {
        let chosen = choose(&service(choice::LEAST), &&set, &mut random, || 0).expect("there").cell;
        *met.entry(chosen).or_insert(0) += 1;
    }
    assert!(met[&1] > 700 && met[&0] > 200, "the busier one only where it was drawn twice: {met:?}");
    set.active = [i64::MIN, 0];
    assert!(choose(&service(choice::LEAST), &&set, &mut random, || 0).is_some(), "a count below zero is none");
}

#[test]
fn one_source_has_one_backend() {
    let set = two([1, 1]);
    let mut met = [0; 2];
    for n in 0..200u8 {
        let from = source(&Addr::v4([9, 0, 1, n]));
        let ask = || choose(&service(choice::SOURCE), &&set, || unreachable!("no dice"), || from).expect("there").cell;
        let first = ask();
        assert_eq!(ask(), first);
        met[first as usize] += 1;
    }
    assert!(met.iter().all(|count| *count > 50), "{met:?}");
}

#[test]
fn halfway_through_an_update_there_is_a_backend_or_none_but_no_other() {
    let mut set = two([1, 3]);
    set.backends[0].alias = 7;
    assert_eq!(draw(&service(choice::RANDOM), &&set, u32::MAX / 2).map(|b| b.cell), Some(0), "an alias that is gone");
    let more = Service { backends: 4, ..service(choice::RANDOM) };
    assert_eq!(draw(&more, &&set, u32::MAX), None);
}
