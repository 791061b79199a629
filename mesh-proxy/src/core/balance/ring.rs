//! Consistent hashing on a ring, bit for bit Envoy's (`RING_HASH`, after ketama): the same hosts and the same hash give the same host.

use super::Share;
use crate::core::hash::{murmur2, xxhash};

/// How points are put on the ring.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Function {
    /// xxHash64, the default.
    XxHash,
    /// MurmurHash2, as in GNU's `std::hash`.
    Murmur2,
}

/// The size of a ring and what is hashed with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RingSize {
    /// Points are multiplied until there are at least these.
    pub least: u64,
    /// And never more than these.
    pub most: u64,
    /// Of the points.
    pub function: Function,
}

/// Points in order, each with the number of a host.
#[derive(Clone, Debug, Default)]
pub(super) struct Ring(Vec<(u64, u32)>);

impl Ring {
    /// Each host gets points by its share. Sums run over all hosts, as in Envoy, so that fractions of points are not lost.
    pub(super) fn new(shares: &[Share], size: RingSize) -> Self {
        let least = shares.iter().map(|share| share.part).fold(1.0, f64::min);
        if shares.is_empty() {
            return Self(Vec::new());
        }
        // The lightest host gets a whole number of points, unless the ring would be too long.
        #[expect(clippy::cast_precision_loss, reason = "sizes are at most 8 Mi")]
        let (smallest, largest) = (size.least as f64, size.most as f64);
        let scale = ((least * smallest).ceil() / least).min(largest);
        let mut points = Vec::new();
        let (mut placed, mut target) = (0.0, 0.0);
        let mut key = String::new();
        for share in shares {
            target += scale * share.part;
            key.clear();
            key.push_str(&share.key);
            key.push('_');
            let stem = key.len();
            let mut number = 0_u32;
            while placed < target {
                key.truncate(stem);
                key.push_str(&number.to_string());
                let hash = match size.function {
                    Function::XxHash => xxhash(key.as_bytes(), 0),
                    Function::Murmur2 => murmur2(key.as_bytes()),
                };
                points.push((hash, share.host));
                number += 1;
                placed += 1.0;
            }
        }
        points.sort_by_key(|(hash, _)| *hash);
        Self(points)
    }

    /// The first point from `hash` on; each further attempt takes the next.
    pub(super) fn choose(&self, hash: u64, attempt: u32) -> Option<u32> {
        let first = self.0.partition_point(|(point, _)| *point < hash);
        let attempt = usize::try_from(attempt).unwrap_or(0);
        // Behind the last point the ring begins anew, and only then attempts are counted on.
        let first = if first == self.0.len() { 0 } else { first };
        let (_, host) = self.0.get((first + attempt) % self.0.len().max(1))?;
        Some(*host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::balance::shares;

    const SIZE: RingSize = RingSize { least: 1024, most: 8 << 20, function: Function::XxHash };

    #[test]
    fn points_are_proportional_to_weights() {
        let ring = Ring::new(&shares(&[1, 2, 5]), SIZE);
        let count = |host| ring.0.iter().filter(|(_, of)| *of == host).count();
        assert_eq!([0, 1, 2].map(count), [128, 256, 640]);
        let small = Ring::new(&shares(&[1; 4]), RingSize { least: 1, most: 6, ..SIZE });
        assert_eq!(small.0.len(), 4, "as many as there are hosts");
        let tight = Ring::new(&shares(&[1; 4]), RingSize { least: 6, most: 6, ..SIZE });
        let count = |host| tight.0.iter().filter(|(_, of)| *of == host).count();
        assert_eq!([0, 1, 2, 3].map(count), [2, 1, 2, 1], "one and a half each");
    }

    #[test]
    fn a_hash_finds_the_next_point_and_attempts_the_ones_after() {
        let ring = Ring(vec![(10, 0), (20, 1), (30, 2)]);
        for (hash, expected) in [(0, 0), (10, 0), (11, 1), (30, 2), (31, 0), (u64::MAX, 0)] {
            assert_eq!(ring.choose(hash, 0), Some(expected), "{hash}");
        }
        assert_eq!([1, 2, 3].map(|attempt| ring.choose(15, attempt)), [Some(2), Some(0), Some(1)]);
        assert_eq!(ring.choose(31, 1), Some(1));
        assert_eq!(Ring(Vec::new()).choose(1, 1), None);
    }

    #[test]
    fn the_functions_differ() {
        let murmur = Ring::new(&shares(&[1, 1]), RingSize { function: Function::Murmur2, ..SIZE });
        assert_ne!(murmur.0, Ring::new(&shares(&[1, 1]), SIZE).0);
    }
}
