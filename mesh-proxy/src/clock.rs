//! The time that cores are given: since this process first asked. One origin for all threads, so that what one files another can compare.

use std::sync::LazyLock;
use std::time::Duration;
use tokio::time::Instant;

/// Now.
#[must_use]
pub fn now() -> Duration {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let origin = *ORIGIN;
    Instant::now().saturating_duration_since(origin)
}
