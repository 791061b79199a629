//! What a pod may have under way to a cluster: Envoy's circuit breakers. Counting is the caller's; a pod lives on one thread, so it is exact.

/// Limits of one pod to one cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Open connections. One to each endpoint is always allowed, or requests for it would wait for ever.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests in flight, each until its response has ended.
    pub requests: u32,
    /// Retries in flight.
    pub retries: Retries,
}

/// How many retries may be in flight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Retries {
    /// So many.
    Most(u32),
    /// So many per cent of the requests in flight and waiting, and always `least`.
    Budget {
        /// Per cent.
        percent: f64,
        /// Whatever the per cent say.
        least: u32,
    },
}

impl Default for Limits {
    /// No limits.
    fn default() -> Self {
        let retries = Retries::Most(u32::MAX);
        Self { connections: u32::MAX, pending: u32::MAX, requests: u32::MAX, retries }
    }
}

impl Limits {
    /// One thread's part where a pod has several: rounded up, so that together they may be over by less than one each. No limit stays none.
    #[must_use]
    pub fn divided(self, threads: u32) -> Self {
        let part = |limit: u32| if limit == u32::MAX { limit } else { limit.div_ceil(threads.max(1)) };
        let retries = match self.retries {
            Retries::Most(most) => Retries::Most(part(most)),
            Retries::Budget { percent, least } => Retries::Budget { percent, least: part(least) },
        };
        Self { connections: part(self.connections), pending: part(self.pending), requests: part(self.requests), retries }
    }
}

impl Retries {
    /// May one more begin while `retries` are in flight, and `requests` of any kind in flight or waiting?
    #[must_use]
    pub fn allow(self, retries: u32, requests: u32) -> bool {
        match self {
            Self::Most(most) => retries < most,
            Self::Budget { percent, least } => {
                // Whole retries only: the fraction is cut off, as in Envoy.
                let share = (percent / 100.0 * f64::from(requests)).floor();
                f64::from(retries) < share.max(f64::from(least))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_its_part_rounded_up_and_no_limit_stays_none() {
        let limits = Limits { connections: 10, pending: 1, requests: 1024, retries: Retries::Most(3) };
        let part = Limits { connections: 4, pending: 1, requests: 342, retries: Retries::Most(1) };
        assert_eq!((limits.divided(3), limits.divided(1), limits.divided(0)), (part, limits, limits));
        assert_eq!(Limits::default().divided(7), Limits::default());
        let budget = Limits { retries: Retries::Budget { percent: 20.0, least: 3 }, ..limits };
        assert_eq!(budget.divided(2).retries, Retries::Budget { percent: 20.0, least: 2 });
    }

    #[test]
    fn a_budget_is_a_share_of_what_is_under_way_and_never_below_its_floor() {
        let budget = Retries::Budget { percent: 20.0, least: 3 };
        for (retries, requests, expected) in [
            (0, 0, true),
            (2, 0, true),
            (3, 0, false),
            (3, 15, false),
            (3, 19, false),
            (3, 20, true),
            (4, 24, false),
            (9, 50, true),
            (10, 50, false),
        ] {
            assert_eq!(budget.allow(retries, requests), expected, "{retries} of {requests}");
        }
        assert!(!Retries::Budget { percent: 0.0, least: 0 }.allow(0, 1000));
    }

    #[test]
    fn a_number_is_a_number() {
        assert!(Retries::Most(1).allow(0, 1000) && !Retries::Most(1).allow(1, 1000) && !Retries::Most(0).allow(0, 1000));
    }
}
