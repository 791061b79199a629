//! So many a second, and how many more there were.

use std::time::Duration;

/// Grants up to a number in each second.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    most: u32,
    second: Option<Duration>,
    granted: u32,
    refused: u64,
    missed: u64,
}

impl Budget {
    /// Of so many a second.
    #[must_use]
    pub const fn new(most: u32) -> Self {
        Self { most, second: None, granted: 0, refused: 0, missed: 0 }
    }

    /// May there be one more now? Time is counted from any moment, the same for all calls.
    pub fn spend(&mut self, now: Duration) -> bool {
        if self.second.is_none_or(|second| now.saturating_sub(second) >= Duration::from_secs(1)) {
            self.missed += self.refused;
            (self.second, self.granted, self.refused) = (Some(now), 0, 0);
        }
        let granted = self.granted < self.most;
        if granted {
            self.granted += 1;
        } else {
            self.refused += 1;
        }
        granted
    }

    /// How many were refused in seconds that are over; said once.
    pub fn missed(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.missed)).filter(|missed| *missed > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_told_when_the_second_is_over() {
        let mut budget = Budget::new(2);
        let granted: Vec<bool> = (0..5).map(|n| budget.spend(Duration::from_millis(n * 100))).collect();
        assert_eq!((granted, budget.missed()), (vec![true, true, false, false, false], None));
        assert!(budget.spend(Duration::from_secs(1)));
        assert_eq!((budget.missed(), budget.missed()), (Some(3), None));
    }
}
