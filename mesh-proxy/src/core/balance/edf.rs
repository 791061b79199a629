//! Weighted turns: earliest deadline first, as Envoy schedules. Owns deadlines; knows nothing of hosts, which are indexes here.

use rand::{Rng, RngCore};
use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Everyone's next deadline. A pick takes the earliest and gives it a new one, `1 / weight` later: O(log n).
#[derive(Clone, Debug)]
pub(super) struct Edf {
    queue: BinaryHeap<Due>,
    now: f64,
    order: u64,
}

#[derive(Clone, Copy, Debug)]
struct Due {
    deadline: f64,
    /// Ties go to who was put in first.
    order: u64,
    index: usize,
}

impl Edf {
    /// Each begins somewhere in its first period, so that many pods do not all begin with the same host. Over a whole cycle the turns are
    /// exact all the same: each returns after `1 / weight`, wherever it began.
    pub(super) fn new(weights: impl Iterator<Item = f64>, rng: &mut dyn RngCore) -> Self {
        let begin = |(index, weight): (usize, f64)| {
            let order = u64::try_from(index).unwrap_or(u64::MAX);
            Due { deadline: rng.random::<f64>() / weight, order, index }
        };
        let queue: BinaryHeap<Due> = weights.enumerate().map(begin).collect();
        let order = u64::try_from(queue.len()).unwrap_or(u64::MAX);
        Self { queue, now: 0.0, order }
    }

    /// Whose turn it is; `weight` is asked what it weighs now, which says when its turn comes again.
    pub(super) fn pick(&mut self, weight: impl FnOnce(usize) -> f64) -> Option<usize> {
        let due = self.queue.pop()?;
        self.now = due.deadline;
        self.queue.push(Due { deadline: self.now + 1.0 / weight(due.index), order: self.order, index: due.index });
        self.order += 1;
        Some(due.index)
    }
}

impl Ord for Due {
    /// The heap's greatest is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::SmallRng};

    proptest! {
        #[test]
        fn turns_are_exact_over_any_cycle(weights in proptest::collection::vec(1_u32..9, 1..7), seed: u64, skip in 0_usize..50) {
            let mut edf = Edf::new(weights.iter().map(|weight| f64::from(*weight)), &mut SmallRng::seed_from_u64(seed));
            let mut next = || edf.pick(|index| f64::from(weights[index])).expect("never empty");
            for _ in 0..skip {
                next();
            }
            let cycle: u32 = weights.iter().sum();
            let mut seen = vec![0; weights.len()];
            (0..cycle).for_each(|_| seen[next()] += 1);
            prop_assert_eq!(seen, weights);
        }
    }

    #[test]
    fn a_weight_that_changes_counts_from_the_next_turn() {
        let mut edf = Edf::new([1.0, 1.0].into_iter(), &mut SmallRng::seed_from_u64(1));
        let picks: Vec<_> = (0..400).filter_map(|_| edf.pick(|index| if index == 0 { 3.0 } else { 1.0 })).collect();
        let first = picks.iter().filter(|index| **index == 0).count();
        assert!((298..=302).contains(&first), "three of four: {first}");
    }
}
