use super::*;
use rand::{SeedableRng, rngs::SmallRng};

fn host(n: u8) -> SocketAddr {
    SocketAddr::from(([9, 0, 1, n], 9080))
}

fn settings() -> Settings {
    Settings {
        server_errors: Trigger { failures: 3, enforcing: 100 },
        gateway_errors: Trigger { failures: 5, enforcing: 0 },
        local_errors: Trigger { failures: 2, enforcing: 100 },
        split: false,
        interval: Duration::from_millis(500),
        base: Duration::from_secs(2),
        max: Duration::from_secs(300),
        jitter: Duration::ZERO,
        max_percent: 100,
        always_one: false,
    }
}

fn detector(change: impl FnOnce(&mut Settings)) -> Detector {
    let mut settings = settings();
    change(&mut settings);
    Detector::new(Arc::new(settings))
}

fn tell(detector: &mut Detector, n: u8, reports: &[Report]) -> Vec<bool> {
    let mut rng = SmallRng::seed_from_u64(1);
    reports.iter().map(|report| detector.report(host(n), *report, 4, Duration::ZERO, &mut rng)).collect()
}

const BAD: Report = Report::Response(500);
const GOOD: Report = Report::Response(200);

#[test]
fn errors_in_a_row_eject_and_a_success_begins_anew() {
    let mut detector = detector(|_| {});
    assert_eq!(tell(&mut detector, 1, &[BAD, BAD, GOOD, BAD, BAD, BAD, BAD]), [false, false, false, false, false, true, false]);
    assert_eq!(detector.ejected().collect::<Vec<_>>(), [host(1)]);
    assert_eq!((detector.counts().ejections_active, detector.counts().ejections_enforced_consecutive_5xx), (1, 1));
    assert_eq!(tell(&mut detector, 2, &[BAD, Report::Response(404), BAD, BAD]), [false; 4], "a client's error is a success");
}

#[test]
fn no_response_counts_as_a_gateway_error_unless_split() {
    let three = [Report::Failed, Report::Timeout, Report::Connected, Report::Failed];
    assert_eq!(tell(&mut detector(|_| {}), 1, &three), [false, false, false, true], "a connection alone is no success");
    let gateway = |settings: &mut Settings| {
        settings.server_errors.failures = 0;
        settings.gateway_errors = Trigger { failures: 2, enforcing: 100 };
    };
    assert_eq!(
        tell(&mut detector(gateway), 1, &[Report::Failed, BAD, Report::Timeout, Report::Response(502)]),
        [false, false, false, true]
    );
    let mut split = detector(|settings| settings.split = true);
    assert_eq!(
        tell(&mut split, 1, &[BAD, BAD, Report::Failed, Report::Connected, Report::Failed, Report::Timeout]),
        [false, false, false, false, false, true]
    );
    assert_eq!(split.counts().ejections_enforced_consecutive_local_origin_failure, 1);
}

#[test]
fn not_more_than_the_share_is_ejected() {
    let three = [BAD, BAD, BAD];
    for (max_percent, always_one, expected) in
        [(10, false, 0), (10, true, 1), (25, false, 1), (49, false, 1), (50, false, 2), (100, false, 4)]
    {
        let mut detector = detector(|settings| (settings.max_percent, settings.always_one) = (max_percent, always_one));
        (1..=4).for_each(|n| {
            tell(&mut detector, n, &three);
        });
        assert_eq!(detector.ejected().count(), expected, "{max_percent} % of 4, {always_one}");
        assert_eq!(detector.counts().ejections_overflow, 4 - expected as u64);
    }
}

#[test]
fn zero_failures_and_zero_per_cent_are_never() {
    let mut never = detector(|settings| settings.server_errors.failures = 0);
    assert_eq!(tell(&mut never, 1, &[BAD; 9]), [false; 9]);
    let mut unenforced = detector(|settings| settings.server_errors.enforcing = 0);
    assert_eq!(tell(&mut unenforced, 1, &[BAD; 9]), [false; 9]);
    let mut half = detector(|settings| settings.server_errors = Trigger { failures: 1, enforcing: 30 });
    let mut rng = SmallRng::seed_from_u64(7);
    let ejected = (0..2000_u32).filter(|n| {
        let address = SocketAddr::from((n.to_be_bytes(), 1));
        half.report(address, BAD, 1_000_000, Duration::ZERO, &mut rng)
    });
    let ejected = ejected.count();
    // 2000 throws of 0.3: 600 and five standard deviations of 20.5.
    assert!((497..=703).contains(&ejected), "{ejected}");
}

/// A host that fails as soon as it is back, swept every half second: when it is taken back.
fn recoveries(detector: &mut Detector, begin: Duration, count: usize) -> Vec<Duration> {
    let mut rng = SmallRng::seed_from_u64(1);
    let (mut now, mut found) = (begin, Vec::new());
    // Sweeps at 0.3, 0.8, 1.3 ... seconds.
    let mut sweep = Duration::from_millis(300);
    while sweep < begin {
        sweep += Duration::from_millis(500);
    }
    while found.len() < count {
        let ejected_at = now;
        while !detector.report(host(1), BAD, 4, now, &mut rng) {}
        while !detector.sweep(sweep) {
            sweep += Duration::from_millis(500);
        }
        found.push(sweep - ejected_at);
        now = sweep;
        sweep += Duration::from_millis(500);
    }
    found
}

#[test]
fn the_time_grows_with_each_ejection_and_shrinks_in_good_times() {
    let mut detector = detector(|_| {});
    // Envoy 1.40, measured with base 2 s and sweeps each 0.5 s: 2.3, 4.5, 6.5, 8.5, 10.5 s. From sweep to sweep it is the plain multiple;
    // what is above it there is the time until the failing requests were sent.
    let millis: Vec<u128> = recoveries(&mut detector, Duration::ZERO, 5).iter().map(Duration::as_millis).collect();
    assert_eq!(millis, [2300, 4000, 6000, 8000, 10_000]);
    let end = Duration::from_millis(30_300);
    assert!(!detector.is_quiet());
    for n in 1..=5 {
        assert!(!detector.is_quiet(), "{n}");
        detector.sweep(end + Duration::from_millis(500) * n);
    }
    assert!(detector.is_quiet(), "five sweeps in good health");
    let again = recoveries(&mut detector, end + Duration::from_secs(6), 1);
    assert_eq!(again[0], Duration::from_secs(2), "as the first time");
}

#[test]
fn a_failure_between_sweeps_waits_for_the_next_sweep() {
    // As measured: the failing requests come 0.5 s after the host is back.
    let mut detector = detector(|_| {});
    let mut rng = SmallRng::seed_from_u64(1);
    let (mut now, mut found) = (Duration::ZERO, Vec::new());
    let mut sweep = Duration::from_millis(300);
    for _ in 0..3 {
        while !detector.report(host(1), BAD, 4, now, &mut rng) {}
        let back = loop {
            if detector.sweep(sweep) {
                break sweep;
            }
            sweep += Duration::from_millis(500);
        };
        found.push((back - now).as_millis());
        now = back + Duration::from_millis(10);
        sweep += Duration::from_millis(500);
    }
    assert_eq!(found, [2300, 4490, 6490]);
}

#[test]
fn the_time_has_a_cap() {
    let mut detector = detector(|settings| settings.max = Duration::from_secs(5));
    let seconds: Vec<u64> = recoveries(&mut detector, Duration::ZERO, 6).iter().map(Duration::as_secs).collect();
    assert_eq!(seconds, [2, 4, 5, 5, 5, 5]);
}

#[test]
fn endpoints_that_left_are_forgotten() {
    let mut detector = detector(|_| {});
    tell(&mut detector, 1, &[BAD; 3]);
    tell(&mut detector, 2, &[BAD; 3]);
    assert!(detector.retain(|address| address != host(1)));
    assert!(!detector.retain(|address| address != host(3)));
    assert_eq!((detector.ejected().count(), detector.counts().ejections_active), (1, 1));
}
