//! Which requests are traced, where the client has not decided: Envoy's order of checks, and its mark in `x-request-id`.
//!
//! The request's id decides the dice, so that all proxies of one request throw the same; and digit 13 of a UUID, the version, tells the
//! next proxy why (`9` by chance, `a` forced by a service, `b` forced by a client, `4`, as in every random UUID, not at all).

use http::header::{HeaderMap, HeaderName, HeaderValue};
use rand::{Rng, RngCore};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");
const FORCE: HeaderName = HeaderName::from_static("x-envoy-force-trace");
/// Where a UUID has its version.
const MARK: usize = 14;
/// The resolution of percentages: a hundredth of a per cent.
const ALL: u64 = 10_000;

/// Shares in hundredths of a per cent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sampling {
    /// Of requests with `x-client-trace-id`.
    pub client: u64,
    /// Of the others.
    pub random: u64,
    /// Of what these two chose or a service forced.
    pub overall: u64,
}

/// Why a request is traced, or that it is not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// It is not.
    No,
    /// By chance.
    Sampled,
    /// `x-envoy-force-trace`.
    Service,
    /// `x-client-trace-id`.
    Client,
}

impl Sampling {
    /// Decides, and marks the request's id. Without an id nothing is traced.
    pub fn decide(&self, headers: &mut HeaderMap, rng: &mut dyn RngCore) -> Decision {
        let Some(id) = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).map(str::to_owned) else { return Decision::No };
        let dice = id.get(..8).and_then(|start| u64::from_str_radix(start, 16).ok()).map(|start| start % ALL);
        let stable = |share: u64, rng: &mut dyn RngCore| dice.unwrap_or_else(|| rng.random_range(0..ALL)) < share;
        let before = reason(&id);
        let mut decision = before;
        if decision == Decision::No {
            decision = if headers.contains_key(CLIENT_TRACE_ID) && rng.random_range(0..ALL) < self.client {
                Decision::Client
            } else if headers.contains_key(FORCE) {
                Decision::Service
            } else if stable(self.random, rng) {
                Decision::Sampled
            } else {
                Decision::No
            };
        }
        if decision != Decision::No && !stable(self.overall, rng) {
            decision = Decision::No;
        }
        if decision != before
            && let Some(marked) = mark(id, decision)
        {
            headers.insert(REQUEST_ID, marked);
        }
        decision
    }

    /// From percentages, of which each defaults to all.
    #[must_use]
    pub fn percent(client: Option<f64>, random: Option<f64>, overall: Option<f64>) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 0..=10,000")]
        let share = |percent: Option<f64>| (percent.unwrap_or(100.0).clamp(0.0, 100.0) * 100.0).round() as u64;
        Self { client: share(client), random: share(random), overall: share(overall) }
    }
}

/// What the id's mark says; an id that is no UUID has none.
fn reason(id: &str) -> Decision {
    match id.as_bytes().get(MARK) {
        _ if id.len() != 36 => Decision::No,
        Some(b'9') => Decision::Sampled,
        Some(b'a') => Decision::Service,
        Some(b'b') => Decision::Client,
        _ => Decision::No,
    }
}

fn mark(mut id: String, decision: Decision) -> Option<HeaderValue> {
    let mark = match decision {
        Decision::No => "4",
        Decision::Sampled => "9",
        Decision::Service => "a",
        Decision::Client => "b",
    };
    if id.len() != 36 || !id.is_ascii() {
        return None;
    }
    id.replace_range(MARK..=MARK, mark);
    HeaderValue::try_from(id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::SmallRng};

    fn request(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().expect("a value"));
        pairs.iter().map(pair).collect()
    }

    /// The first eight digits are 0x1388 = 5000: at 50 per cent not sampled, above it sampled.
    fn id(mark: char) -> String {
        format!("00001388-0000-{mark}000-8000-000000000000")
    }

    fn decide(sampling: Sampling, pairs: &[(&'static str, &str)]) -> (Decision, String) {
        let mut headers = request(pairs);
        let decision = sampling.decide(&mut headers, &mut SmallRng::seed_from_u64(1));
        let id = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        (decision, id)
    }

    #[test]
    fn chance_is_the_ids_and_force_goes_before_it() {
        let percent = |random| Sampling::percent(None, Some(random), None);
        assert_eq!(decide(percent(50.0), &[("x-request-id", &id('4'))]), (Decision::No, id('4')));
        assert_eq!(decide(percent(50.01), &[("x-request-id", &id('4'))]), (Decision::Sampled, id('9')));
        assert_eq!(
            decide(percent(0.0), &[("x-request-id", &id('4')), ("x-envoy-force-trace", "1")]),
            (Decision::Service, id('a'))
        );
        assert_eq!(decide(percent(0.0), &[("x-request-id", &id('4')), ("x-client-trace-id", "x")]), (Decision::Client, id('b')));
        assert_eq!(decide(percent(100.0), &[]).0, Decision::No, "without an id");
        assert_eq!(
            decide(percent(100.0), &[("x-request-id", "mine")]),
            (Decision::Sampled, "mine".to_owned()),
            "no UUID, no mark"
        );
    }

    #[test]
    fn the_mark_of_a_proxy_before_us_counts_and_overall_limits_all() {
        let none = Sampling::percent(Some(0.0), Some(0.0), None);
        assert_eq!(decide(none, &[("x-request-id", &id('9'))]), (Decision::Sampled, id('9')));
        assert_eq!(decide(none, &[("x-request-id", &id('b'))]), (Decision::Client, id('b')));
        let off = Sampling::percent(None, None, Some(0.0));
        assert_eq!(decide(off, &[("x-request-id", &id('a'))]), (Decision::No, id('4')), "taken back, and said so");
        assert_eq!(Sampling::percent(None, Some(1.0), Some(300.0)), Sampling { client: 10_000, random: 100, overall: 10_000 });
    }

    #[test]
    fn a_percentage_is_met() {
        let mut rng = SmallRng::seed_from_u64(2);
        let sampling = Sampling::percent(None, Some(10.0), None);
        let mut traced = 0;
        for _ in 0..20_000 {
            let id = format!("{:08x}-0000-4000-8000-000000000000", rng.next_u32());
            let mut headers = request(&[("x-request-id", &id)]);
            traced += u32::from(sampling.decide(&mut headers, &mut rng) == Decision::Sampled);
        }
        // 2000 expected, standard deviation 42: five of them.
        assert!((1790..=2210).contains(&traced), "{traced}");
    }
}
