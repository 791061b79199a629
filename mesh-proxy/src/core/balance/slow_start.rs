//! Warm-up: a host that has just come takes less, and more with each moment, until its window is over. Envoy's formula.

use std::time::Duration;

/// How hosts warm up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowStart {
    /// How long it lasts; not zero.
    pub window: Duration,
    /// 1: linear; above: faster at first. More than 0.
    pub aggression: f64,
    /// Never less than this part of the weight, 0 to 1.
    pub least: f64,
}

impl SlowStart {
    /// The part of its weight that counts for a host of this age.
    #[must_use]
    pub fn factor(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        // A host of no age at all has one millisecond, as in Envoy: nobody weighs nothing.
        let elapsed = age.max(Duration::from_millis(1)).as_secs_f64() / self.window.as_secs_f64();
        elapsed.min(1.0).powf(1.0 / self.aggression).max(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_grows_with_age() {
        let slow = |aggression, least| SlowStart { window: Duration::from_secs(60), aggression, least };
        let at = |slow: SlowStart, seconds| (slow.factor(Duration::from_secs(seconds)) * 1000.0).round() / 1000.0;
        let linear = slow(1.0, 0.1);
        assert_eq!([0, 3, 6, 15, 30, 59, 60, 61].map(|age| at(linear, age)), [0.1, 0.1, 0.1, 0.25, 0.5, 0.983, 1.0, 1.0]);
        assert_eq!(at(slow(2.0, 0.1), 15), 0.5, "faster at first");
        assert_eq!(at(slow(0.5, 0.01), 15), 0.063, "slower at first");
        assert!(slow(1.0, 0.0).factor(Duration::ZERO) > 0.0);
    }
}
