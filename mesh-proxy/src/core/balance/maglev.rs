//! Consistent hashing by Maglev's table, bit for bit Envoy's: the same hosts and the same hash give the same host.

use super::Share;
use crate::core::hash::xxhash;

/// Envoy's default size of a table.
pub const TABLE_SIZE: u64 = 65_537;
/// Envoy's largest.
pub const TABLE_MOST: u64 = 5_000_011;

/// The number of a host at each place.
#[derive(Clone, Debug)]
pub(super) struct Maglev(Vec<u32>);

struct Row {
    host: u32,
    part: f64,
    /// The next place that it wants, and how far on the one after is.
    at: u64,
    skip: u64,
    /// Takes a place in a round whose number times `part` has reached this.
    target: f64,
}

impl Maglev {
    /// Fills a table of `size` places, a prime, in rounds: each host takes the next free place of its own permutation, a lighter one not in
    /// every round. Hosts stand in the order of their keys, so that the order of an update does not matter.
    pub(super) fn new(shares: &[Share], size: u64) -> Self {
        const FREE: u32 = u32::MAX;
        if shares.is_empty() {
            return Self(Vec::new());
        }
        let mut sorted: Vec<&Share> = shares.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        let row = |share: &&Share| {
            let key = share.key.as_bytes();
            Row {
                host: share.host,
                part: share.part,
                at: xxhash(key, 0) % size,
                skip: xxhash(key, 1) % (size - 1) + 1,
                target: 0.0,
            }
        };
        let mut rows: Vec<Row> = sorted.iter().map(row).collect();
        let heaviest = rows.iter().map(|row| row.part).fold(0.0, f64::max);
        let mut table = vec![FREE; usize::try_from(size).unwrap_or(usize::MAX)];
        let (mut left, mut round) = (table.len(), 0.0);
        while left > 0 {
            round += 1.0;
            for row in &mut rows {
                if left == 0 || round * row.part < row.target {
                    continue;
                }
                row.target += heaviest;
                // The permutation visits every place, as the size is a prime: a free one is found.
                let place = loop {
                    let place = usize::try_from(row.at).unwrap_or(0);
                    row.at = (row.at + row.skip) % size;
                    if table[place] == FREE {
                        break place;
                    }
                };
                table[place] = row.host;
                left -= 1;
            }
        }
        Self(table)
    }

    /// The place of `hash`; further attempts change the hash.
    pub(super) fn choose(&self, hash: u64, attempt: u32) -> Option<u32> {
        let hash = if attempt == 0 { hash } else { hash ^ (u64::MAX - u64::from(attempt) + 1) };
        let size = u64::try_from(self.0.len()).ok().filter(|size| *size > 0)?;
        self.0.get(usize::try_from(hash % size).ok()?).copied()
    }
}

/// Is a table of this size possible?
#[must_use]
pub fn is_prime(size: u64) -> bool {
    let root = (2_u64..).take_while(|divisor| divisor * divisor <= size);
    size >= 2 && root.into_iter().all(|divisor| !size.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::balance::shares;

    #[test]
    fn places_are_proportional_to_weights() {
        let table = Maglev::new(&shares(&[1, 1, 2]), TABLE_SIZE);
        let count = |host| table.0.iter().filter(|of| **of == host).count();
        let counts = [0, 1, 2].map(count);
        for (count, expected) in counts.into_iter().zip([16_384, 16_384, 32_769]) {
            assert!(count.abs_diff(expected) <= 2, "{counts:?}");
        }
    }

    #[test]
    fn the_order_of_an_update_does_not_matter() {
        let hosts = shares(&[1, 3, 2]);
        let mut turned = hosts.clone();
        turned.rotate_left(1);
        assert_eq!(Maglev::new(&hosts, 1009).0, Maglev::new(&turned, 1009).0);
    }

    #[test]
    fn attempts_go_elsewhere() {
        let table = Maglev((0..7).collect());
        assert_eq!(
            [0, 1, 2].map(|attempt| table.choose(9, attempt)),
            [
                Some(2),
                Some(u32::try_from((!9_u64) % 7).expect("small")),
                Some(u32::try_from((9 ^ (u64::MAX - 1)) % 7).expect("small"))
            ]
        );
        assert_eq!(Maglev(Vec::new()).choose(1, 0), None);
    }

    #[test]
    fn primes() {
        let primes: Vec<u64> = (0..20).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19]);
        assert!(is_prime(TABLE_SIZE) && is_prime(TABLE_MOST) && !is_prime(65_536));
    }
}
