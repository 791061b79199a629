//! Counts of connections that the kernel's cells and its list of sockets disagree on.

use mesh_common::abi::Dest;
use std::collections::BTreeMap;

/// What to add to the cells, given by how much they were short at two looks, one after the other. A connection that opens or closes during a
/// look is a difference as well, but not at both; what is certain is the smaller of two of one sign.
#[must_use]
pub fn corrections(before: &BTreeMap<Dest, i64>, now: &BTreeMap<Dest, i64>) -> BTreeMap<Dest, i64> {
    let both = now.iter().filter_map(|(dest, now)| Some((dest, *before.get(dest)?, *now)));
    let certain = both.filter(|(_, a, b)| a.signum() == b.signum() && *b != 0);
    certain.map(|(dest, a, b)| (*dest, if a.abs() < b.abs() { a } else { b })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_short_twice_is_corrected_and_by_the_less() {
        let dest = |port| Dest { port, ..Dest::default() };
        let drift = |all: &[(u16, i64)]| all.iter().map(|(port, drift)| (dest(*port), *drift)).collect::<BTreeMap<_, _>>();
        let before = drift(&[(1, 3), (2, -4), (3, 2), (4, 1), (5, 0)]);
        let now = drift(&[(1, 5), (2, -1), (3, -2), (6, 7), (5, 1)]);
        assert_eq!(corrections(&before, &now), drift(&[(1, 3), (2, -1)]));
    }
}
