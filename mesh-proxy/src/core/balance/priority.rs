//! How much each priority takes: Envoy's arithmetic of health, overprovisioning, spill-over and panic, in whole percents as there.
//!
//! A level counts as fully able while 100 / overprovisioning of its hosts are healthy (71.4 % at Envoy's 140); what it cannot take goes
//! to the next. Where all levels together cannot take everything, each gets its part of what there is, and a level whose share of healthy
//! hosts is below the panic threshold uses all its hosts.

/// What there is at one level.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Able {
    /// Hosts: all, healthy, degraded. For panic.
    pub(super) hosts: u64,
    pub(super) healthy: u64,
    pub(super) degraded: u64,
    /// The same three, by weight if the cluster wants that, else again by number. For availability.
    pub(super) shares: [u64; 3],
}

/// What each level takes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Loads {
    /// Percent of requests to healthy hosts; with `degraded` the sum is 100.
    pub(super) healthy: Vec<u32>,
    /// Percent of requests to degraded hosts.
    pub(super) degraded: Vec<u32>,
    /// Levels that use all their hosts.
    pub(super) panic: Vec<bool>,
}

impl Loads {
    /// `overprovisioning` in percent, `threshold` in percent (0: never panic). There is at least one level.
    pub(super) fn new(levels: &[Able], overprovisioning: u32, threshold: u32) -> Self {
        let share = |of: u64, all: u64| {
            let percent = u128::from(overprovisioning) * u128::from(of) / u128::from(all.max(1));
            u32::try_from(percent.min(100)).unwrap_or(100)
        };
        let healthy: Vec<u32> = levels.iter().map(|level| share(level.shares[1], level.shares[0])).collect();
        let degraded: Vec<u32> = levels.iter().map(|level| share(level.shares[2], level.shares[0])).collect();
        let total = healthy.iter().chain(&degraded).map(|percent| u64::from(*percent)).sum::<u64>().min(100);
        let mut loads =
            Self { healthy: vec![0; levels.len()], degraded: vec![0; levels.len()], panic: vec![false; levels.len()] };
        if total > 0 {
            loads.distribute(&healthy, &degraded, u32::try_from(total).unwrap_or(100));
        } else {
            // Nobody can: it is said of the first level, where nothing will be found, unless panic says otherwise below.
            loads.healthy[0] = 100;
        }
        if total < 100 && threshold > 0 {
            for (panic, level) in loads.panic.iter_mut().zip(levels) {
                *panic = 100 * (level.healthy + level.degraded) < u64::from(threshold) * level.hosts || level.hosts == 0;
            }
        }
        if loads.panic.iter().all(|panic| *panic) {
            loads.total_panic(levels);
        }
        loads
    }

    /// Healthy hosts first, in the order of levels, then degraded ones; what rounding left goes to the first that can take anything.
    fn distribute(&mut self, healthy: &[u32], degraded: &[u32], total: u32) {
        let mut left = 100;
        for (loads, able) in [(&mut self.healthy, healthy), (&mut self.degraded, degraded)] {
            for (load, able) in loads.iter_mut().zip(able) {
                *load = left.min(able * 100 / total);
                left -= *load;
            }
        }
        let first = |able: &[u32]| able.iter().position(|percent| *percent > 0);
        match (first(healthy), first(degraded)) {
            (Some(level), _) => self.healthy[level] += left,
            (None, Some(level)) => self.degraded[level] += left,
            (None, None) => {}
        }
    }

    /// Every level is in panic: by the number of hosts, whatever their health.
    fn total_panic(&mut self, levels: &[Able]) {
        let hosts: u64 = levels.iter().map(|level| level.hosts).sum();
        let mut left = 100;
        for (level, able) in levels.iter().enumerate() {
            self.healthy[level] = u32::try_from(100 * able.hosts / hosts.max(1)).unwrap_or(100);
            self.degraded[level] = 0;
            left -= self.healthy[level];
        }
        let first = levels.iter().position(|level| level.hosts > 0).unwrap_or(0);
        self.healthy[first] += left;
    }

    /// The level for a number that is spread evenly, and whether its degraded hosts are meant.
    pub(super) fn choose(&self, number: u64) -> (usize, bool) {
        let point = u32::try_from(number % 100).unwrap_or(0);
        let mut sum = 0;
        let kinds = [(&self.healthy, false), (&self.degraded, true)];
        for (loads, degraded) in kinds {
            for (level, load) in loads.iter().enumerate() {
                sum += load;
                if point < sum {
                    return (level, degraded);
                }
            }
        }
        // The loads add up to 100, which the tests hold.
        (0, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn able(hosts: u64, healthy: u64, degraded: u64) -> Able {
        Able { hosts, healthy, degraded, shares: [hosts, healthy, degraded] }
    }

    fn percents(levels: &[(u64, u64)], threshold: u32) -> Loads {
        let levels: Vec<_> = levels.iter().map(|(healthy, degraded)| able(100, *healthy, *degraded)).collect();
        Loads::new(&levels, 140, threshold)
    }

    /// The table of two levels in Envoy's documentation (load balancing, priority levels); the second level is healthy there.
    #[test]
    fn two_levels_as_documented() {
        for (healthy, expected) in [(100, [100, 0]), (72, [100, 0]), (71, [99, 1]), (50, [70, 30]), (25, [35, 65]), (0, [0, 100])]
        {
            assert_eq!(percents(&[(healthy, 0), (100, 0)], 50).healthy, expected, "{healthy} %");
        }
        assert_eq!(percents(&[(25, 0), (25, 0)], 0).healthy, [50, 50]);
    }

    /// And of three.
    #[test]
    fn three_levels_as_documented() {
        for (healthy, expected) in [
            ([100, 100, 100], [100, 0, 0]),
            ([72, 72, 100], [100, 0, 0]),
            ([71, 71, 100], [99, 1, 0]),
            ([50, 50, 100], [70, 30, 0]),
            ([25, 100, 100], [35, 65, 0]),
            ([25, 25, 100], [35, 35, 30]),
            ([25, 25, 20], [36, 35, 29]),
        ] {
            // Panic, which that table leaves out, would take the last row.
            let loads = percents(&healthy.map(|healthy| (healthy, 0)), 0);
            assert_eq!(loads.healthy.iter().sum::<u32>(), 100);
            let near = loads.healthy.iter().zip(expected).all(|(load, expected)| load.abs_diff(expected) <= 1);
            assert!(near, "{healthy:?}: {:?}, documented {expected:?}", loads.healthy);
        }
    }

    #[test]
    fn degraded_hosts_take_what_healthy_ones_cannot() {
        let loads = percents(&[(5, 0), (0, 100)], 0);
        assert_eq!((loads.healthy, loads.degraded), (vec![7, 0], vec![0, 93]));
        let loads = percents(&[(0, 100)], 50);
        assert_eq!((loads.healthy, loads.degraded, loads.panic), (vec![0], vec![100], vec![false]));
    }

    /// The examples of Envoy's documentation of panic: (healthy shares, load, panic), threshold 50.
    #[test]
    fn panic_as_documented() {
        for (healthy, load, panic) in [
            ([72, 72], [100, 0], [false, false]),
            ([71, 71], [99, 1], [false, false]),
            ([50, 60], [70, 30], [false, false]),
            ([25, 100], [35, 65], [false, false]),
            ([25, 25], [50, 50], [true, true]),
            // Documented as 7 and 93; what rounding leaves goes to the first level.
            ([5, 65], [8, 92], [true, false]),
        ] {
            let loads = percents(&healthy.map(|healthy| (healthy, 0)), 50);
            assert_eq!((loads.panic, loads.healthy), (panic.to_vec(), load.to_vec()), "{healthy:?}");
        }
        let none = percents(&[(0, 0), (0, 0)], 0);
        assert_eq!((none.panic, none.healthy), (vec![false, false], vec![100, 0]), "no panic, and nobody there");
        let all = Loads::new(&[able(1, 0, 0), able(2, 0, 0)], 140, 1);
        assert_eq!((all.panic, all.healthy), (vec![true, true], vec![34, 66]));
        assert_eq!(Loads::new(&[Able::default()], 140, 50).healthy, [100], "empty");
    }

    proptest! {
        #[test]
        fn loads_add_up_and_each_point_finds_its_level(
            levels in proptest::collection::vec((0_u64..40, 0_u64..40, 0_u64..40), 1..6),
            overprovisioning in 100_u32..300,
            threshold in 0_u32..=100,
        ) {
            let levels: Vec<_> = levels.iter().map(|(healthy, degraded, sick)| able(healthy + degraded + sick, *healthy, *degraded)).collect();
            let loads = Loads::new(&levels, overprovisioning, threshold);
            prop_assert_eq!(loads.healthy.iter().chain(&loads.degraded).sum::<u32>(), 100);
            let mut seen = Loads { healthy: vec![0; levels.len()], degraded: vec![0; levels.len()], panic: loads.panic.clone() };
            for point in 0..100 {
                let (level, degraded) = loads.choose(point);
                *if degraded { &mut seen.degraded[level] } else { &mut seen.healthy[level] } += 1;
            }
            prop_assert_eq!(seen, loads);
        }
    }
}
