//! How many sockets a pod may have brokered. The agent cannot see when the proxy closes one, so it bounds the rate: a proxy that loses
//! sockets, or is not what it seems, cannot fill the kernel's memory faster than this.

use std::time::Duration;

/// At once: the proxy's stock for a minute of 100 new connections a second, and as much again for a reconnection.
const BURST: u32 = 12_000;
/// From then on: far beyond what one pod's proxy thread can connect.
const PER_SECOND: u32 = 8_000;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    left: u32,
    filled: Duration,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { left: BURST, filled: Duration::ZERO }
    }
}

impl Bucket {
    /// How many of `wanted` are granted at `now`, a time since any fixed moment.
    pub fn take(&mut self, wanted: u32, now: Duration) -> u32 {
        let passed = now.saturating_sub(self.filled).as_millis();
        let earned = passed * u128::from(PER_SECOND) / 1000;
        if earned > 0 {
            self.filled = now;
            self.left = u32::try_from(u128::from(self.left) + earned).map_or(BURST, |sum| sum.min(BURST));
        }
        let granted = wanted.min(self.left);
        self.left -= granted;
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = Bucket::default();
        let start = Duration::from_secs(100);
        assert_eq!(bucket.take(BURST + 5, start), BURST);
        assert_eq!(bucket.take(32, start), 0);
        assert_eq!(bucket.take(32, start + Duration::from_millis(1)), 8);
        assert_eq!(bucket.take(u32::MAX, start + Duration::from_secs(3600)), BURST, "never more than the burst");
    }
}
