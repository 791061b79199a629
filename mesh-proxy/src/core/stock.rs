//! How many brokered sockets a pod's stock holds. The agent may be away for a minute, for its own upgrade or worse, and nothing may fail.
//!
//! The arithmetic: a minute of new upstream connections, at 100 a second for a busy pod: [`MOST`]. Requests over kept-alive connections take
//! none; each connection of a TCP service takes one. An idle socket is a descriptor and about 4 KiB of kernel memory, so a pod that was
//! never seen busy gets [`LEAST`], 34 a second for a minute and 8 MiB, and what it gets beyond follows the most that it took lately, over
//! [`HOLD`]. All pods together, and both families, hold at most [`TOTAL`], 256 MiB: beyond 32 pods that were never seen busy each has an
//! equal share, with 100 pods 655 sockets. Of its share a family that the pod never used gets an eighth, and the other the rest, 9 a
//! second; families that are both used have a half each. The agent gives 12,000 at once per pod (its own limit), twice the most, for a
//! proxy that starts anew.

use std::time::Duration;

/// The stock of a pod that was never seen busy.
pub const LEAST: usize = 2048;
/// The largest stock of a pod.
pub const MOST: usize = 6000;
/// The stock lasts so long at the highest rate seen lately.
pub const HOLD: Duration = Duration::from_secs(75);
/// The largest stock of all pods together, and never more than half of the descriptors that the process may have.
pub const TOTAL: usize = 65_536;
/// No share is smaller.
const SHARE_LEAST: usize = 64;
/// What is left of the highest rate after each look: half of it after two minutes of looks at five seconds.
const FADE: f64 = 0.97;

/// The highest rate of a pod lately.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    per_second: f64,
    /// A socket was taken once.
    used: bool,
}

impl Rate {
    /// Counts what was taken since the last look.
    pub fn look(&mut self, taken: u32, since: Duration) {
        let now = f64::from(taken) / since.as_secs_f64().max(0.001);
        self.per_second = now.max(self.per_second * FADE);
        self.used |= taken > 0;
    }

    /// Was a socket ever taken?
    #[must_use]
    pub const fn is_used(&self) -> bool {
        self.used
    }

    /// How many sockets to hold, with `pods` on the node and `total` for all of them. Of a pod on several threads: for one of them.
    #[must_use]
    pub fn target(&self, (pods, threads): (usize, usize), total: usize, share: Share) -> usize {
        // Far below what a float holds exactly; `as` saturates.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
        let wanted = (self.per_second * HOLD.as_secs_f64()).ceil() as usize;
        let of_all = share.of(total / (pods * threads).max(1)).max(SHARE_LEAST);
        wanted.clamp(LEAST / threads.max(1), MOST / threads.max(1)).min(of_all)
    }
}

/// What one of two families has of its pod's share. Both together never have more than all of it, down to [`SHARE_LEAST`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Share {
    /// The pod has used it alone.
    Most,
    /// The pod has used both.
    Half,
    /// The pod has used the other one.
    Little,
}

impl Share {
    /// Until one is used, IPv4 is taken to be the one that will be.
    #[must_use]
    pub fn new(is_v4: bool, own: Rate, other: Rate) -> Self {
        match (own.is_used(), other.is_used()) {
            (true, true) => Self::Half,
            (true, false) => Self::Most,
            (false, true) => Self::Little,
            (false, false) if is_v4 => Self::Most,
            (false, false) => Self::Little,
        }
    }

    const fn of(self, share: usize) -> usize {
        match self {
            Self::Most => share - share / 8,
            Self::Half => share / 2,
            Self::Little => share / 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn most(rate: Rate, pods: (usize, usize), total: usize) -> usize {
        rate.target(pods, total, Share::Most)
    }

    #[test]
    fn a_minute_of_what_was_seen_lately_within_the_limits() {
        let (mut rate, window) = (Rate::default(), Duration::from_secs(5));
        assert_eq!(most(rate, (1, 1), TOTAL), LEAST);
        rate.look(5 * 50, window);
        assert_eq!(most(rate, (1, 1), TOTAL), 50 * 75);
        rate.look(0, window);
        let later = most(rate, (1, 1), TOTAL);
        assert!((LEAST..50 * 75).contains(&later), "it fades: {later}");
        rate.look(5 * 1000, window);
        assert_eq!(most(rate, (1, 1), TOTAL), MOST);
        assert_eq!((most(rate, (1, 3), TOTAL), most(rate, (100, 2), TOTAL)), (MOST / 3, 287));
        assert_eq!((most(rate, (100, 1), TOTAL), most(rate, (100, 1), 1000)), (574, SHARE_LEAST));
        for _ in 0..200 {
            rate.look(0, window);
        }
        assert_eq!(most(rate, (1, 1), TOTAL), LEAST);
    }

    #[test]
    fn the_families_of_all_pods_together_stay_within_the_total() {
        let (unused, mut used) = (Rate::default(), Rate::default());
        used.look(5 * 1000, Duration::from_secs(5));
        for (v4, v6) in [(unused, unused), (used, unused), (unused, used), (used, used)] {
            for (pods, total) in [(1, 10_000), (12, 10_000), (12, TOTAL), (100, TOTAL)] {
                let of = |own: Rate, other, is_v4| own.target((pods, 1), total, Share::new(is_v4, own, other));
                let (v4, v6) = (of(v4, v6, true), of(v6, v4, false));
                assert!(pods * (v4 + v6) <= total, "{pods} pods with {v4} and {v6} of {total}");
                assert!(v4.min(v6) >= SHARE_LEAST);
            }
        }
        assert_eq!(unused.target((12, 1), 10_000, Share::new(true, unused, unused)), 729);
        assert_eq!(unused.target((12, 1), 10_000, Share::new(false, unused, used)), 104);
    }
}
