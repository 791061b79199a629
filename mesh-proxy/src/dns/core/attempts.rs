//! Whom to ask, in which order, for how long: the resolvers in the order of the configuration, those that failed lately last.

use std::time::{Duration, Instant};

/// Time for all attempts together. Below the five seconds after which glibc and musl ask again by themselves.
pub(in crate::dns) const BUDGET: Duration = Duration::from_millis(4500);
/// Longest wait for one resolver.
pub(in crate::dns) const ATTEMPT_MAX: Duration = Duration::from_secs(2);
/// How long a resolver that failed comes after the others.
const SHUNNED: Duration = Duration::from_secs(30);

/// What is remembered of the resolvers.
#[derive(Debug)]
pub(in crate::dns) struct Health {
    shunned_until: Vec<Option<Instant>>,
}

impl Health {
    /// For so many resolvers.
    pub(in crate::dns) fn new(resolvers: usize) -> Self {
        Self { shunned_until: vec![None; resolvers] }
    }

    /// It did not answer.
    pub(in crate::dns) fn failed(&mut self, resolver: usize, now: Instant) {
        if let Some(until) = self.shunned_until.get_mut(resolver) {
            *until = Some(now + SHUNNED);
        }
    }

    /// It answered.
    pub(in crate::dns) fn answered(&mut self, resolver: usize) {
        if let Some(until) = self.shunned_until.get_mut(resolver) {
            *until = None;
        }
    }

    /// Attempts for one question: each resolver once, a single one twice (a lost datagram is no outage), within the budget.
    pub(in crate::dns) fn plan(&self, budget: Duration, attempt_max: Duration, now: Instant) -> Vec<(usize, Duration)> {
        let is_shunned = |at: &usize| self.shunned_until[*at].is_some_and(|until| now < until);
        let mut order: Vec<usize> = (0..self.shunned_until.len()).collect();
        order.sort_by_key(is_shunned);
        if let [only] = order[..] {
            order.push(only);
        }
        let share = budget / u32::try_from(order.len().max(1)).unwrap_or(u32::MAX);
        order.into_iter().map(|at| (at, share.min(attempt_max))).collect()
    }

    /// Is it asked last for now?
    pub(in crate::dns) fn is_shunned(&self, resolver: usize, now: Instant) -> bool {
        self.shunned_until.get(resolver).copied().flatten().is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_that_failed_comes_last_for_a_while() {
        let now = Instant::now();
        let mut health = Health::new(3);
        let order = |health: &Health, now| -> Vec<usize> {
            health.plan(BUDGET, ATTEMPT_MAX, now).into_iter().map(|(at, _)| at).collect()
        };
        assert_eq!(order(&health, now), [0, 1, 2]);
        health.failed(0, now);
        assert_eq!(order(&health, now), [1, 2, 0]);
        assert!(health.is_shunned(0, now) && !health.is_shunned(1, now));
        assert_eq!(order(&health, now + SHUNNED), [0, 1, 2]);
        health.answered(0);
        assert_eq!(order(&health, now), [0, 1, 2]);
    }

    #[test]
    fn all_attempts_together_stay_within_the_budget() {
        let now = Instant::now();
        for resolvers in 1..9 {
            let plan = Health::new(resolvers).plan(BUDGET, ATTEMPT_MAX, now);
            assert!(plan.len() >= 2 && plan.iter().map(|(_, wait)| *wait).sum::<Duration>() <= BUDGET);
            assert!(plan.iter().all(|(_, wait)| *wait <= ATTEMPT_MAX));
        }
        assert!(Health::new(0).plan(BUDGET, ATTEMPT_MAX, now).is_empty());
    }
}
