//! Injected faults: whether a request is delayed, aborted or both.

use super::matching::{HeaderMatch, RequestView};
use rand::{Rng, RngCore};
use std::time::Duration;

/// What Envoy's fault filter is configured to do on a route.
#[derive(Clone, Debug, Default)]
pub struct Fault {
    /// Holds the request back.
    pub delay: Option<(Duration, PerMillion)>,
    /// Answers instead of the upstream.
    pub abort: Option<(Abort, PerMillion)>,
    /// Only requests that match all of these.
    pub headers: Vec<HeaderMatch>,
}

/// The answer of an abort.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Abort {
    /// With this HTTP status.
    Http(http::StatusCode),
    /// With HTTP 200 and this `grpc-status`.
    Grpc(u32),
}

/// A probability in parts per million, as exact as Envoy's finest denominator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PerMillion(u32);

impl PerMillion {
    /// From `numerator` of `denominator` (100, 10,000 or 1,000,000); more than all is all.
    #[must_use]
    pub fn new(numerator: u32, denominator: u32) -> Self {
        let value = u64::from(numerator) * 1_000_000 / u64::from(denominator.max(1));
        Self(u32::try_from(value.min(1_000_000)).unwrap_or(1_000_000))
    }

    /// The parts.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The same with dice that were thrown before: Envoy's modulus.
    #[must_use]
    pub fn takes(self, dice: u64) -> bool {
        dice % 1_000_000 < u64::from(self.0)
    }

    /// Throws the dice.
    pub fn hits(self, rng: &mut dyn RngCore) -> bool {
        self.0 >= 1_000_000 || (self.0 > 0 && rng.random_range(0..1_000_000) < self.0)
    }
}

/// What happens to one request, in this order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Injected {
    /// First wait.
    pub delay: Option<Duration>,
    /// Then answer.
    pub abort: Option<Abort>,
}

impl Fault {
    /// Decides for one request.
    pub fn decide(&self, request: &RequestView<'_>, rng: &mut dyn RngCore) -> Injected {
        if !self.headers.iter().all(|header| header.matches(request)) {
            return Injected::default();
        }
        let delay = self.delay.filter(|(_, percent)| percent.hits(rng)).map(|(delay, _)| delay);
        let abort = self.abort.filter(|(_, percent)| percent.hits(rng)).map(|(abort, _)| abort);
        Injected { delay, abort }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::SmallRng};

    /// Those of delays, aborts, and mirrored copies.
    #[test]
    fn percentages_hold_within_four_standard_deviations() {
        let mut rng = SmallRng::seed_from_u64(7);
        for (numerator, denominator) in [(0, 100), (1, 1_000_000), (50, 100), (1234, 10_000), (100, 100), (101, 100)] {
            let percent = PerMillion::new(numerator, denominator);
            let (n, p) = (200_000.0, f64::from(percent.get()) / 1e6);
            let hits = (0..200_000).filter(|_| percent.hits(&mut rng)).count();
            let error = 4.0 * (n * p * (1.0 - p)).sqrt();
            assert!((hits as f64 - n * p).abs() <= error, "{numerator}/{denominator}: {hits}, expected {} ± {error}", n * p);
        }
    }

    #[test]
    fn delay_and_abort_are_independent_dice() {
        let fault = Fault {
            delay: Some((Duration::from_secs(7), PerMillion::new(50, 100))),
            abort: Some((Abort::Http(http::StatusCode::IM_A_TEAPOT), PerMillion::new(50, 100))),
            headers: Vec::new(),
        };
        let headers = http::HeaderMap::new();
        let request = RequestView { method: "GET", authority: "a", scheme: "http", path: "/", query: None, headers: &headers };
        let mut rng = SmallRng::seed_from_u64(7);
        let mut seen = [0_u32; 4];
        for _ in 0..4000 {
            let injected = fault.decide(&request, &mut rng);
            seen[usize::from(injected.delay.is_some()) * 2 + usize::from(injected.abort.is_some())] += 1;
        }
        // 4000 throws of a quarter: 1000, and 4.4 standard deviations of 27.4.
        assert!(seen.iter().all(|n| (880..1120).contains(n)), "{seen:?}");
    }
}
