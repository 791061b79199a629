//! How many brokered sockets a pod's stock holds. The agent may be away for a minute, for its own upgrade or worse, and nothing may fail.
//!
//! The arithmetic: a minute of new upstream connections, at 100 a second for a busy pod: [`MOST`]. Requests over kept-alive connections take
//! none; each connection of a TCP service takes one. An idle socket is a descriptor and about 4 KiB of kernel memory, so a pod that was
//! never seen busy gets [`LEAST`], 34 a second for a minute and 8 MiB, and what it gets beyond follows the most that it took lately, over
//! [`HOLD`]. All pods together hold at most [`TOTAL`], 256 MiB: beyond 32 pods that were never seen busy each has an equal share, with 100
//! pods 655 sockets, 11 a second. The agent gives 12,000 at once per pod (its own limit), twice the most, for a proxy that starts anew.

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
}

impl Rate {
    /// Counts what was taken since the last look.
    pub fn look(&mut self, taken: u32, since: Duration) {
        let now = f64::from(taken) / since.as_secs_f64().max(0.001);
        self.per_second = now.max(self.per_second * FADE);
    }

    /// How many sockets to hold, with `pods` on the node and `total` for all of them. Of a pod on several threads: for one of them.
    #[must_use]
    pub fn target(&self, (pods, threads): (usize, usize), total: usize) -> usize {
        // Far below what a float holds exactly; `as` saturates.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small positive number")]
        let wanted = (self.per_second * HOLD.as_secs_f64()).ceil() as usize;
        wanted.clamp(LEAST / threads.max(1), MOST / threads.max(1)).min((total / (pods * threads).max(1)).max(SHARE_LEAST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_of_what_was_seen_lately_within_the_limits() {
        let (mut rate, window) = (Rate::default(), Duration::from_secs(5));
        assert_eq!(rate.target((1, 1), TOTAL), LEAST);
        rate.look(5 * 50, window);
        assert_eq!(rate.target((1, 1), TOTAL), 50 * 75);
        rate.look(0, window);
        let later = rate.target((1, 1), TOTAL);
        assert!((LEAST..50 * 75).contains(&later), "it fades: {later}");
        rate.look(5 * 1000, window);
        assert_eq!(rate.target((1, 1), TOTAL), MOST);
        assert_eq!((rate.target((1, 3), TOTAL), rate.target((100, 2), TOTAL)), (MOST / 3, 655 / 2));
        assert_eq!((rate.target((100, 1), TOTAL), rate.target((100, 1), 1000)), (655, SHARE_LEAST));
        for _ in 0..200 {
            rate.look(0, window);
        }
        assert_eq!(rate.target((1, 1), TOTAL), LEAST);
    }
}
