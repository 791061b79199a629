//! A histogram of atomics with Envoy's bounds: written by the one thread that owns a pod, without a lock, read by whoever scrapes.

use std::sync::atomic::{AtomicU64, Ordering};

/// Envoy's default bounds, which Istio uses for milliseconds and for bytes alike; dashboards know them.
const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum: AtomicU64,
}

impl Histogram {
    /// `value` is in parts: so many make one of the bounds' unit.
    pub(super) fn observe(&self, value: u64, parts: u64) {
        #[expect(clippy::cast_precision_loss, reason = "what it decides is a bucket")]
        let in_units = value as f64 / parts as f64;
        let bucket = BOUNDS.partition_point(|bound| *bound < in_units);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Sum, count and buckets, each by itself, as the encoder wants them.
    #[expect(clippy::cast_precision_loss, reason = "a float is what Prometheus has")]
    pub(super) fn read(&self, parts: u64) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        (self.sum.load(Ordering::Relaxed) as f64 / parts as f64, count, buckets)
    }
}
