//! Cases in which several requests meet: circuit breakers and outlier detection. Each has a cluster and a domain of its own; what is compared
//! is how many requests got which answer, since which of several equal ones is refused is a matter of order.

use super::fields::{millis, number};
use super::generate::Ask;
use super::pool::{Pooled, hosts};
use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::v3::Percent;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// A cluster under limits, and what is asked of it.
pub struct Limited {
    pub cluster: cluster::Cluster,
    pub host: route::VirtualHost,
    /// Sent at once, then the next ones.
    pub volleys: Vec<Vec<Ask>>,
    pub fields: BTreeSet<&'static str>,
}

pub fn case(n: usize, seed: u64, backends: &[SocketAddr]) -> Limited {
    let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(n as u64));
    let mut limited = match n % 8 {
        0 | 1 => breaker(n, &mut rng, backends),
        2..=4 => retries(n, &mut rng, backends),
        _ => outliers(n, &mut rng, backends),
    };
    limited.host.domains = vec![format!("l{n}.test")];
    limited.host.name = format!("limited-{n}");
    limited
}

fn built(n: usize, pooled: Pooled, retries: Option<route::RetryPolicy>, volleys: Vec<Vec<Ask>>) -> Limited {
    let to = route::route_action::ClusterSpecifier::Cluster(pooled.message.name.clone());
    let action =
        route::RouteAction { cluster_specifier: Some(to), timeout: millis(0), retry_policy: retries, ..Default::default() };
    let when = crate::world::prefix("/");
    let action = Some(route::route::Action::Route(action));
    let host = route::VirtualHost {
        routes: vec![route::Route { r#match: Some(when), action, ..Default::default() }],
        ..Default::default()
    };
    let volleys =
        volleys.into_iter().map(|volley| volley.into_iter().map(|ask| Ask { host: format!("l{n}.test"), ..ask }).collect());
    Limited { cluster: pooled.message, host, volleys: volleys.collect(), fields: BTreeSet::new() }
}

/// Requests that are answered when all are there, against limits on connections, waiting requests and requests.
fn breaker(n: usize, rng: &mut SmallRng, backends: &[SocketAddr]) -> Limited {
    let mut fields = BTreeSet::new();
    let mut limits = cluster::circuit_breakers::Thresholds::default();
    // Not left out: Envoy's defaults are 1024 and 3, ours no limit, as Istio always writes them.
    let mut limit = |field: &'static str, rng: &mut SmallRng, most: u32| {
        let set = rng.random_bool(0.85);
        if set {
            fields.insert(field);
        }
        number(if set { rng.random_range(1..=most) } else { u32::MAX })
    };
    limits.max_connections = limit("maxConnections", rng, 3);
    limits.max_pending_requests = limit("http1MaxPendingRequests", rng, 3);
    limits.max_requests = limit("http2MaxRequests", rng, 6);
    limits.max_retries = number(u32::MAX);
    let mut pooled = hosts(&format!("limited-{n}"), &backends[..1]);
    pooled.message.circuit_breakers = Some(cluster::CircuitBreakers { thresholds: vec![limits], ..Default::default() });
    let volley = vec![Ask::get("hang"); rng.random_range(1..8)];
    let mut limited = built(n, pooled, None, vec![volley]);
    limited.fields = fields;
    limited
}

/// Requests of which each fails once, and whose second attempt is answered when all are there: at most so many, or a budget.
fn retries(n: usize, rng: &mut SmallRng, backends: &[SocketAddr]) -> Limited {
    let mut limits = cluster::circuit_breakers::Thresholds {
        max_connections: number(u32::MAX),
        max_pending_requests: number(u32::MAX),
        max_requests: number(u32::MAX),
        ..Default::default()
    };
    let field = if rng.random_bool(0.5) {
        limits.max_retries = number(rng.random_range(0..4));
        "maxRetries"
    } else {
        limits.max_retries = number(u32::MAX);
        let percent = [0.0, 20.0, 34.0, 50.0, 100.0][rng.random_range(0..5)];
        limits.retry_budget = Some(cluster::circuit_breakers::thresholds::RetryBudget {
            budget_percent: rng.random_bool(0.8).then_some(Percent { value: percent }),
            budget_interval: None,
            min_retry_concurrency: rng.random_bool(0.8).then(|| number(rng.random_range(0..3))).flatten(),
        });
        "retry budget"
    };
    let mut pooled = hosts(&format!("limited-{n}"), &backends[..1]);
    pooled.message.circuit_breakers = Some(cluster::CircuitBreakers { thresholds: vec![limits], ..Default::default() });
    let policy = route::RetryPolicy {
        retry_on: "5xx".to_owned(),
        retry_back_off: Some(route::retry_policy::RetryBackOff { base_interval: millis(1), max_interval: millis(2) }),
        ..Default::default()
    };
    let volley = vec![Ask::get("503,hang"); rng.random_range(1..8)];
    let mut limited = built(n, pooled, Some(policy), vec![volley]);
    limited.fields = [field].into();
    limited
}

/// Errors one after another until nobody is left to ask.
fn outliers(n: usize, rng: &mut SmallRng, backends: &[SocketAddr]) -> Limited {
    let mut fields: BTreeSet<&'static str> = ["baseEjectionTime", "interval", "maxEjectionPercent"].into();
    // Not three: once one of them is gone, whose turn it is depends on where the turns began, which is a lot in both proxies.
    let count = rng.random_range(1..=2);
    let mut pooled = hosts(&format!("limited-{n}"), &backends[..count]);
    let mut detection = cluster::OutlierDetection {
        interval: millis(10_000),
        base_ejection_time: millis(60_000),
        max_ejection_percent: number([10, 50, 100][rng.random_range(0..3)]),
        enforcing_success_rate: number(0),
        enforcing_failure_percentage: number(0),
        consecutive_5xx: number(rng.random_range(1..4)),
        enforcing_consecutive_5xx: number(0),
        enforcing_consecutive_gateway_failure: number(0),
        ..Default::default()
    };
    if rng.random_bool(0.5) {
        fields.insert("consecutive5xxErrors");
        detection.enforcing_consecutive_5xx = number(100);
    }
    if rng.random_bool(0.5) {
        fields.insert("consecutiveGatewayErrors");
        detection.consecutive_gateway_failure = number(rng.random_range(1..4));
        detection.enforcing_consecutive_gateway_failure = number(100);
    }
    if rng.random_bool(0.5) {
        fields.insert("splitExternalLocalOriginErrors");
        detection.split_external_local_origin_errors = true;
        detection.enforcing_local_origin_success_rate = number(0);
        detection.consecutive_local_origin_failure = number(rng.random_range(1..4));
        detection.enforcing_consecutive_local_origin_failure = number(100);
    }
    pooled.message.outlier_detection = Some(detection);
    let script = ["500", "502", "503", "reset", "200"];
    // Runs of the same kind: a good answer in between begins the count anew.
    let volleys = (0..14).scan(0, |kind, _| {
        if rng.random_bool(0.3) {
            *kind = rng.random_range(0..script.len());
        }
        Some(vec![Ask::get(script[*kind])])
    });
    let volleys = volleys.collect();
    let mut limited = built(n, pooled, None, volleys);
    limited.fields = fields;
    limited
}
