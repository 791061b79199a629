//! A service's backends laid out as the kernel draws them: each under an index that it keeps as long as it can, with Walker's alias method for
//! their weights, or as a Maglev table.

use mesh_common::abi::{Dest, choice};
use mesh_common::decide::choose::{mix, source};
use std::collections::{BTreeMap, VecDeque};

/// Sizes of Maglev tables. The published rule is a prime of a hundred times the backends, for shares within 1 %; what fits into the kernel's
/// table for many services is sixteen times, for shares within 6 %.
const TABLES: [usize; 5] = [251, 1021, 4093, 16_381, 65_521];
const PER_BACKEND: usize = 16;

/// One index.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slot {
    /// Who serves.
    pub to: Dest,
    /// See [`mesh_common::abi::Backend::weight`].
    pub weight: u32,
    /// See [`mesh_common::abi::Backend::share`].
    pub share: u32,
    /// See [`mesh_common::abi::Backend::alias`].
    pub alias: u32,
}

/// Lays out `backends` (no weight is 0) beside what is there `now`, so that little changes.
#[must_use]
pub fn arrange(choice: u8, backends: &BTreeMap<Dest, u32>, now: &[Option<Dest>]) -> Vec<Slot> {
    if choice == choice::SOURCE {
        let slot = |to: Dest| Slot { to, weight: 1, share: u32::MAX, alias: 0 };
        return maglev(backends).into_iter().map(slot).collect();
    }
    let order = order(backends, now);
    let weights: Vec<u32> = order.iter().map(|to| backends[to]).collect();
    let shares = aliases(&weights);
    order.into_iter().zip(weights).zip(shares).map(|((to, weight), (share, alias))| Slot { to, weight, share, alias }).collect()
}

/// What stays keeps its index; new ones, and those whose index is beyond the end, fill the gaps.
fn order(backends: &BTreeMap<Dest, u32>, now: &[Option<Dest>]) -> Vec<Dest> {
    let mut places: Vec<Option<Dest>> = vec![None; backends.len()];
    let mut kept = std::collections::BTreeSet::new();
    for (place, before) in places.iter_mut().zip(now) {
        *place = before.filter(|to| backends.contains_key(to) && kept.insert(*to));
    }
    let mut rest = backends.keys().filter(|to| !kept.contains(to)).copied();
    // There are as many gaps as backends without a place.
    places.into_iter().filter_map(|place| place.or_else(|| rest.next())).collect()
}

/// Vose's way to Walker's tables: of the draws of each index, which share is its own (less one, of 2^32), and whose the others are.
fn aliases(weights: &[u32]) -> Vec<(u32, u32)> {
    let count = weights.len() as u128;
    let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum();
    let mut table = vec![(u32::MAX, 0); weights.len()];
    // In units in which an index has room for `sum`.
    let mut left: Vec<u128> = weights.iter().map(|w| u128::from(*w) * count).collect();
    let (mut small, mut large): (VecDeque<usize>, VecDeque<usize>) = (0..weights.len()).partition(|i| left[*i] < sum);
    while let (Some(less), Some(&more)) = (small.pop_front(), large.front()) {
        // Rounded to the nearest; less than the whole, since `left` is less than `sum`.
        let share = ((left[less] << 32) + sum / 2) / sum;
        table[less] = (u32::try_from(share.saturating_sub(1)).unwrap_or(u32::MAX), more as u32);
        left[more] -= sum - left[less];
        if left[more] < sum {
            large.pop_front();
            small.push_back(more);
        }
    }
    table
}

/// Size of the Maglev table for this many backends.
#[must_use]
pub fn table(backends: usize) -> usize {
    match backends {
        0 => 0,
        _ => TABLES.into_iter().find(|size| *size >= backends * PER_BACKEND).unwrap_or(TABLES[TABLES.len() - 1]),
    }
}

/// The table of Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (2016), section 3.4, with weights as turns.
fn maglev(backends: &BTreeMap<Dest, u32>) -> Vec<Dest> {
    let Some(most) = backends.values().max().copied() else { return Vec::new() };
    let size = table(backends.len());
    struct Turn {
        to: Dest,
        weight: u32,
        credit: u64,
        at: usize,
        step: usize,
    }
    let mut turns: Vec<Turn> = backends
        .iter()
        .map(|(to, weight)| {
            let hash = mix(u64::from(source(&to.addr)) << 16 | u64::from(to.port));
            let (at, step) = (hash % size as u64, mix(hash) % (size as u64 - 1) + 1);
            Turn { to: *to, weight: *weight, credit: 0, at: at as usize, step: step as usize }
        })
        .collect();
    let mut places: Vec<Option<Dest>> = vec![None; size];
    let mut free = size;
    while free > 0 {
        for turn in &mut turns {
            turn.credit += u64::from(turn.weight);
            if free == 0 || turn.credit < u64::from(most) {
                continue;
            }
            turn.credit -= u64::from(most);
            // Ends: the step is prime to the size, so that every place comes up, and one is free.
            while places[turn.at].is_some() {
                turn.at = (turn.at + turn.step) % size;
            }
            places[turn.at] = Some(turn.to);
            free -= 1;
        }
    }
    places.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
