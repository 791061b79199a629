//! Policies over whole clusters: exact turns, shares with a stated error, stability of hashing, panic, priorities, localities, warm-up.

use super::*;
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

const LEAST: Policy = Policy::LeastRequest { choices: 2, bias: 1.0 };
const RING: Policy = Policy::RingHash(RingSize { least: 1024, most: 8 << 20, function: Function::XxHash });
const MAGLEV: Policy = Policy::Maglev(maglev::TABLE_SIZE);

fn settings(policy: Policy) -> Settings {
    Settings { policy, panic_threshold: 0, locality_weighted: false, slow_start: None }
}

fn endpoint(port: u16, weight: u32, health: Health) -> Endpoint {
    Endpoint { address: SocketAddr::from(([9, 0, 1, 1], port)), weight, health, priority: 0, locality: 0, peer: None }
}

fn healthy(weights: &[u32]) -> Vec<Endpoint> {
    (1..).zip(weights).map(|(port, weight)| endpoint(port, *weight, Health::Healthy)).collect()
}

fn members(endpoints: Vec<Endpoint>) -> Members {
    Members { endpoints, ..Members::default() }
}

/// One pod's choices, by port.
struct Pod {
    balancer: Balancer,
    cursor: Cursor,
    busy: BTreeMap<u16, u32>,
    now: Duration,
    rng: SmallRng,
}

impl Pod {
    fn new(settings: Settings, members: Members) -> Self {
        let now = Duration::from_secs(1);
        let balancer = Balancer::new(settings, members, None, now);
        Self { balancer, cursor: Cursor::default(), busy: BTreeMap::new(), now, rng: SmallRng::seed_from_u64(3) }
    }

    fn pick(&mut self, hash: Option<u64>, tried: &[u16], again: u32) -> Option<u16> {
        let active = |address: SocketAddr| self.busy.get(&address.port()).copied().unwrap_or(0);
        let tried: Vec<SocketAddr> = tried.iter().map(|port| SocketAddr::from(([9, 0, 1, 1], *port))).collect();
        let ask = Ask { hash, original: SocketAddr::from(([203, 0, 113, 1], 443)) };
        let picking = Picking { ask, tried: &tried, again, now: self.now, active: &active };
        let chosen = self.cursor.pick(self.balancer.settings(), self.balancer.view(), &picking, &mut self.rng);
        chosen.map(|address| address.port())
    }

    fn picks(&mut self, count: usize) -> Vec<u16> {
        (0..count).filter_map(|_| self.pick(None, &[], 0)).collect()
    }

    /// How often each port is chosen.
    fn counts(&mut self, count: usize) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        self.picks(count).into_iter().for_each(|port| *counts.entry(port).or_default() += 1);
        counts
    }
}

/// Chi-square against expected shares; with the seed fixed a failure is not chance, and with any seed it is one in a million.
#[track_caller]
fn assert_shares(counts: &BTreeMap<u16, usize>, shares: &[(u16, f64)]) {
    let total: usize = counts.values().sum();
    let (total, sum) = (total as f64, shares.iter().map(|(_, share)| share).sum::<f64>());
    let square = |(port, share): &(u16, f64)| {
        let expected = total * share / sum;
        (counts.get(port).copied().unwrap_or(0) as f64 - expected).powi(2) / expected
    };
    let statistic: f64 = shares.iter().map(square).sum();
    // Quantiles of chi-square at 1 - 1e-6, by degrees of freedom.
    let bound = [0.0, 23.93, 27.63, 30.66, 33.38, 35.89][shares.len() - 1];
    assert!(statistic < bound && counts.len() == shares.len(), "{statistic} of {bound}: {counts:?}, expected {shares:?}");
}

#[test]
fn round_robin_takes_exact_turns_over_updates_too() {
    let mut pod = Pod::new(settings(Policy::RoundRobin), members(healthy(&[1, 1, 1])));
    assert_eq!(pod.picks(7), [1, 2, 3, 1, 2, 3, 1]);
    pod.balancer = Balancer::new(settings(Policy::RoundRobin), members(healthy(&[1, 1, 1, 1])), None, pod.now);
    assert_eq!(pod.picks(5), [4, 1, 2, 3, 4], "the count goes on");
}

#[test]
fn unhealthy_endpoints_are_chosen_in_panic_only() {
    let mixed = [endpoint(1, 0, Health::Healthy), endpoint(2, 1, Health::Unhealthy), endpoint(3, 1, Health::Degraded)];
    for policy in [Policy::RoundRobin, LEAST, Policy::Random] {
        let chosen = |endpoints: &[Endpoint]| Pod::new(settings(policy), members(endpoints.to_vec())).picks(3);
        assert_eq!(chosen(&mixed), [3, 3, 3], "degraded, as nothing is healthy");
        assert_eq!(chosen(&mixed[..2]), [0_u16; 0]);
        let panic = Settings { panic_threshold: 1, ..settings(policy) };
        assert_eq!(Pod::new(panic, members(mixed[..2].to_vec())).picks(2), [2, 2]);
    }
    let both = vec![endpoint(1, 1, Health::Degraded), endpoint(2, 1, Health::Healthy)];
    let counts = Pod::new(settings(Policy::RoundRobin), members(both)).counts(10_000);
    assert_shares(&counts, &[(1, 30.0), (2, 70.0)]);
}

#[test]
fn panic_begins_below_the_threshold() {
    for (sick, threshold, expected) in [(1, 50, 1), (2, 50, 3), (1, 67, 3), (2, 0, 1), (2, 33, 1), (2, 34, 3)] {
        let health = |port| if port <= sick { Health::Unhealthy } else { Health::Healthy };
        let endpoints = [1, 2, 3].map(|port| endpoint(port, 1, health(port)));
        let panic = Settings { panic_threshold: threshold, ..settings(Policy::RoundRobin) };
        let chosen = Pod::new(panic, members(endpoints.to_vec())).counts(30).len();
        let expected = if expected == 1 { 3 - usize::from(sick) } else { expected };
        assert_eq!(chosen, expected, "{sick} of 3 sick, threshold {threshold}");
    }
}

#[test]
fn random_is_even_whatever_the_weights() {
    let counts = Pod::new(settings(Policy::Random), members(healthy(&[1, 1, 9]))).counts(30_000);
    assert_shares(&counts, &[(1, 1.0), (2, 1.0), (3, 1.0)]);
}

#[test]
fn least_request_avoids_the_busy() {
    let mut pod = Pod::new(settings(LEAST), members(healthy(&[1, 1])));
    pod.busy.insert(1, 100);
    assert_shares(&pod.counts(20_000), &[(1, 1.0), (2, 3.0)]);
    let mut pod = Pod::new(settings(Policy::LeastRequest { choices: 4, bias: 1.0 }), members(healthy(&[1, 1])));
    pod.busy.insert(1, 100);
    assert_shares(&pod.counts(50_000), &[(1, 1.0), (2, 15.0)]);
}

#[test]
fn weights_of_least_request_fall_with_what_is_active() {
    for (bias, expected) in [(1.0, [200, 100]), (0.0, [100, 200]), (0.5, [150, 150])] {
        let mut pod = Pod::new(settings(Policy::LeastRequest { choices: 2, bias }), members(healthy(&[1, 2])));
        pod.busy.insert(2, 3);
        let counts = pod.counts(300);
        assert!(counts[&1].abs_diff(expected[0]) <= 1 && counts[&2].abs_diff(expected[1]) <= 1, "{bias}: {counts:?}");
    }
}

#[test]
fn hashing_keeps_a_hash_at_its_host() {
    for policy in [RING, MAGLEV] {
        let mut pod = Pod::new(settings(policy), members(healthy(&[1, 1, 1, 1])));
        let home = pod.pick(Some(77), &[], 0).expect("a host");
        assert!((0..20).all(|_| pod.pick(Some(77), &[], 0) == Some(home)));
        let away = pod.pick(Some(77), &[home], 20).expect("a host");
        assert_ne!(away, home, "previous hosts are avoided");
        assert_eq!(
            pod.pick(Some(77), &[1, 2, 3, 4], 3).map(|port| (1..=4).contains(&port)),
            Some(true),
            "the last one, if all were tried"
        );
        // Without a hash: any host. The parts of a ring are uneven, so that only presence is asked.
        assert_eq!(pod.counts(1000).len(), 4);
    }
}

/// What a real Envoy chose: five hosts that weigh 1, 1, 2, 3 and 5, route hashed by header `x-user: user-N` and query `q=N % 7`, N from 0.
#[test]
fn hashing_chooses_the_hosts_that_envoy_chose() {
    use crate::core::hash::{Asker, HashOf, HashPolicy, hash};
    use crate::core::matching::{HeaderKey, RequestView};
    use http::{HeaderMap, HeaderName, HeaderValue};
    let user = HeaderName::from_static("x-user");
    let of = [HashOf::Header(HeaderKey::Name(user.clone())), HashOf::Query("q".to_owned())];
    let policies = of.map(|of| HashPolicy { of, terminal: false });
    let murmur = Policy::RingHash(RingSize { least: 300, most: 8 << 20, function: Function::Murmur2 });
    for (policy, envoys) in [
        (RING, "245515514355424255125534435354135531152533355151554554252423"),
        (murmur, "455454535231455515554154523345544244145355325452545524353554"),
        (MAGLEV, "453445355443454325455145455535521455453512555555551333545324"),
    ] {
        let host = |(port, weight)| Endpoint {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            ..endpoint(port, weight, Health::Healthy)
        };
        let endpoints = (28_101..).zip([1, 1, 2, 3, 5]).map(host);
        let mut pod = Pod::new(settings(policy), members(endpoints.collect()));
        let mut choose = |number: usize| {
            let value = HeaderValue::try_from(format!("user-{number}")).expect("a value");
            let (headers, query) = (HeaderMap::from_iter([(user.clone(), value)]), format!("q={}", number % 7));
            let request =
                RequestView { method: "GET", authority: "a", scheme: "http", path: "/", query: Some(&query), headers: &headers };
            let anywhere = SocketAddr::from(([127, 0, 0, 1], 1));
            let asker = Asker { request: &request, client: anywhere, destination: anywhere };
            pod.pick(hash(&policies, &asker).hash, &[], 0).expect("a host") - 28_100
        };
        let ours: String = (0..envoys.len()).map(|number| choose(number).to_string()).collect();
        assert_eq!(ours, envoys, "{policy:?}");
    }
}

#[test]
fn maglev_is_proportional_to_weights() {
    let mut pod = Pod::new(settings(MAGLEV), members(healthy(&[1, 2, 5])));
    let mut hashes = SmallRng::seed_from_u64(9);
    let mut counts = BTreeMap::new();
    (0..40_000).for_each(|_| *counts.entry(pod.pick(Some(hashes.random()), &[], 0).expect("a host")).or_default() += 1);
    assert_shares(&counts, &[(1, 1.0), (2, 2.0), (3, 5.0)]);
}

/// The arcs of one ring are as long as its addresses have it, so that a single ring is off by several per cent; over many sets of addresses the
/// mean is the weight's share, within four of its standard errors, which the sets themselves tell: one failure in 5,000 for a host.
#[test]
fn rings_are_proportional_to_weights() {
    const SETS: u16 = 100;
    let mut hashes = SmallRng::seed_from_u64(9);
    let mut shares = [const { Vec::new() }; 3];
    for set in 0..SETS {
        let endpoints = (0..3).zip([1, 2, 5]).map(|(host, weight)| endpoint(set * 3 + host, weight, Health::Healthy));
        let mut pod = Pod::new(settings(RING), members(endpoints.collect()));
        let mut counts = [0.0; 3];
        (0..1000).for_each(|_| counts[usize::from(pod.pick(Some(hashes.random()), &[], 0).expect("a host") % 3)] += 1.0);
        shares.iter_mut().zip(counts).for_each(|(shares, count)| shares.push(count / 1000.0));
    }
    let sets = f64::from(SETS);
    for (shares, expected) in shares.iter().zip([0.125, 0.25, 0.625]) {
        let mean = shares.iter().sum::<f64>() / sets;
        let variance = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / (sets - 1.0);
        let error = 4.0 * (variance / sets).sqrt();
        assert!((mean - expected).abs() <= error && error < 0.02, "{mean}, expected {expected} ± {error}");
    }
}

#[test]
fn an_ejected_host_moves_its_own_keys_only() {
    // A ring of fewer hosts is rounded to other sizes: 114 points for each instead of 103, so that 9 % of the others' keys meet a new one.
    let few = |policy| if policy == RING { 0.12 } else { 0.06 };
    for policy in [RING, MAGLEV] {
        let mut pod = Pod::new(settings(policy), members(healthy(&[1; 10])));
        let before: Vec<_> =
            (0..5000_u64).map(|key| pod.pick(Some(crate::core::hash::xxhash(&key.to_le_bytes(), 0)), &[], 0)).collect();
        let gone = SocketAddr::from(([9, 0, 1, 1], 4));
        let mut reduced = Reduced::default();
        let view = reduced.view(&pod.balancer, 1, &|address| address == gone);
        assert!(Arc::ptr_eq(&view, &reduced.view(&pod.balancer, 1, &|_| panic!("not asked again"))));
        let after = |key: u64| {
            view.hashed(pod.balancer.settings(), crate::core::hash::xxhash(&key.to_le_bytes(), 0), 0)
                .map(|address| address.port())
        };
        let moved = (0..).zip(&before).filter(|(_, host)| **host != Some(4)).filter(|(key, host)| after(*key) != **host).count();
        assert!(moved as f64 <= 5000.0 * few(policy), "{policy:?}: {moved} of 5000 moved without need");
        assert!((0..5000).all(|key| after(key) != Some(4)));
        let again = reduced.view(&pod.balancer, 2, &|_| false);
        assert!(!Arc::ptr_eq(&view, &again) && again.takes(gone) && !view.takes(gone));
    }
}

#[test]
fn priorities_spill_over() {
    let at = |port, priority, health| Endpoint { priority, ..endpoint(port, 1, health) };
    let two = |sick: u16| {
        let first = (1..=4).map(|port| at(port, 0, if port <= sick { Health::Unhealthy } else { Health::Healthy }));
        members(first.chain([at(9, 1, Health::Healthy)]).collect())
    };
    for (sick, share) in [(1, 0.0), (2, 30.0), (3, 65.0), (4, 100.0)] {
        for policy in [Policy::RoundRobin, LEAST, Policy::Random, RING] {
            let counts = Pod::new(settings(policy), two(sick)).counts(20_000);
            let spilt = counts.get(&9).copied().unwrap_or(0) as f64 / 200.0;
            // Five standard deviations of a share of 20,000.
            assert!(
                (spilt - share).abs() <= 1.8 && (share > 0.0 || spilt == 0.0),
                "{policy:?}, {sick} of 4 sick: {spilt} %, expected {share}"
            );
        }
    }
}

#[test]
fn localities_take_by_their_weights_and_less_when_sick() {
    let at = |port, locality, health| Endpoint { locality, ..endpoint(port, 1, health) };
    let of = |health| Members {
        localities: vec![80, 20, 0],
        ..members(vec![at(1, 0, Health::Healthy), at(2, 0, health), at(3, 1, Health::Healthy), at(4, 2, Health::Healthy)])
    };
    for policy in [Policy::RoundRobin, LEAST, MAGLEV] {
        let weighted = Settings { locality_weighted: true, ..settings(policy) };
        let counts = Pod::new(weighted, of(Health::Healthy)).counts(10_000);
        assert_shares(&counts, &[(1, 40.0), (2, 40.0), (3, 20.0)]);
        // Half of the first is sick: 80 * 1.4 * 0.5 against 20. Hashing keeps to the weights.
        let counts = Pod::new(weighted, of(Health::Unhealthy)).counts(10_000);
        assert_shares(&counts, if policy == MAGLEV { &[(1, 80.0), (3, 20.0)] } else { &[(1, 56.0), (3, 20.0)] });
    }
    let counts = Pod::new(settings(Policy::RoundRobin), of(Health::Healthy)).counts(4000);
    assert_eq!(counts.values().collect::<Vec<_>>(), [&1000; 4], "not asked for, weights of localities do not count");
}

#[test]
fn a_new_host_warms_up() {
    let slow = SlowStart { window: Duration::from_secs(100), aggression: 1.0, least: 0.1 };
    for policy in [Policy::RoundRobin, LEAST] {
        let warm = Settings { slow_start: Some(slow), ..settings(policy) };
        let mut pod = Pod::new(warm, members(healthy(&[1, 1])));
        pod.now += Duration::from_secs(1000);
        pod.balancer = Balancer::new(warm, members(healthy(&[1, 1, 1])), Some(&pod.balancer), pod.now);
        let third = |pod: &mut Pod, after| {
            pod.now += Duration::from_secs(after);
            pod.picks(30);
            pod.counts(2100).get(&3).copied().unwrap_or(0)
        };
        assert!(third(&mut pod, 0).abs_diff(100) < 5, "0.1 of 2.1");
        assert!(third(&mut pod, 50).abs_diff(420) < 5, "0.5 of 2.5");
        let after = third(&mut pod, 51);
        // For least request 2100 throws of a third: 700, and 4.6 standard deviations of 21.6. Turns are exact.
        assert!(after.abs_diff(700) < 100, "a third, by chance for least request: {after}");
        // An update that leaves it where it is does not make it new.
        pod.balancer = Balancer::new(warm, members(healthy(&[1, 1, 1])), Some(&pod.balancer), pod.now);
        assert!(third(&mut pod, 0).abs_diff(700) < 100);
    }
}

#[test]
fn hosts_from_before_a_cluster_began_to_warm_up_are_never_new() {
    let slow = SlowStart { window: Duration::from_secs(100), aggression: 1.0, least: 0.1 };
    let cold = settings(Policy::RoundRobin);
    let warm = Settings { slow_start: Some(slow), ..cold };
    let mut pod = Pod::new(cold, members(healthy(&[1, 1])));
    for (weights, after) in [(&[1, 1][..], 1), (&[1, 1], 1), (&[1, 1, 1], 1)] {
        pod.now += Duration::from_secs(after);
        pod.balancer = Balancer::new(warm, members(healthy(weights)), Some(&pod.balancer), pod.now);
    }
    pod.picks(30);
    let third = pod.counts(2100).get(&3).copied().unwrap_or(0);
    assert!(third.abs_diff(100) < 5, "0.1 of 2.1: {third}");
}

#[test]
fn an_original_destination_is_what_the_client_asked_for() {
    assert_eq!(Pod::new(settings(Policy::OriginalDestination), Members::default()).pick(None, &[], 3), Some(443));
    assert_eq!(Pod::new(settings(RING), Members::default()).pick(Some(1), &[], 3), None, "an empty cluster");
}

proptest! {
    #[test]
    fn weighted_turns_are_exact_over_a_cycle(weights in proptest::collection::vec(0_u32..8, 1..6)) {
        let cycle: usize = weights.iter().map(|w| *w as usize).sum();
        let counts = Pod::new(settings(Policy::RoundRobin), members(healthy(&weights))).counts(cycle);
        for (port, weight) in (1_u16..).zip(&weights) {
            prop_assert_eq!(counts.get(&port).copied().unwrap_or(0), *weight as usize);
        }
    }

    #[test]
    fn whatever_is_chosen_may_be_chosen(
        hosts in proptest::collection::vec((0_u32..4, 0_u8..3, 0_usize..3, 0_usize..3), 0..12),
        localities in proptest::collection::vec(0_u32..5, 3),
        (threshold, weighted, number, seed) in (0_u32..=100, any::<bool>(), 0_usize..5, any::<u64>()),
    ) {
        let policy = [Policy::RoundRobin, LEAST, Policy::Random, RING, Policy::Maglev(1009)][number];
        let health = [Health::Unhealthy, Health::Degraded, Health::Healthy];
        let endpoints = (1..).zip(&hosts).map(|(port, (weight, of, priority, locality))| {
            Endpoint { priority: *priority, locality: *locality, ..endpoint(port, *weight, health[usize::from(*of)]) }
        });
        let members = Members { localities, ..members(endpoints.collect()) };
        let mut pod = Pod::new(Settings { panic_threshold: threshold, locality_weighted: weighted, ..settings(policy) }, members);
        pod.rng = SmallRng::seed_from_u64(seed);
        for _ in 0..50 {
            if let Some(port) = pod.pick(None, &[], 0) {
                let address = SocketAddr::from(([9, 0, 1, 1], port));
                prop_assert!(pod.balancer.takes(address));
                let endpoint = pod.balancer.members().endpoints.iter().find(|endpoint| endpoint.address == address).expect("a member");
                prop_assert!(endpoint.weight > 0);
                prop_assert!(threshold > 0 || endpoint.health > Health::Unhealthy);
            }
        }
    }
}
