//! A planned stop: who was told, and until when. Both processes of this binary stop this way; what each does meanwhile is its own.
//!
//! The next process takes over the listeners, which the agent holds too; what waits in them is lost by nobody. So a stop begins by
//! closing our descriptors of them (never by `shutdown`, which would end them for all holders), and ends when nothing is left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Client connections that are idle at the end are closed this long before it, so that what they were just sent is still answered.
const CLOSING: Duration = Duration::from_secs(1);

/// The one stop of a process.
#[derive(Debug, Default)]
pub struct Drain {
    begun: AtomicBool,
    end: watch::Sender<Option<(Instant, Instant)>>,
}

impl Drain {
    /// From now on the process stops; at the latest after `limit`. Only the first call counts.
    pub fn begin(&self, limit: Duration) {
        if !self.begun.swap(true, Ordering::AcqRel) {
            let end = Instant::now() + limit;
            self.end.send_replace(Some((end - CLOSING.min(limit / 2), end)));
        }
    }

    /// Has it begun?
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Returns when it begins.
    pub async fn begun(&self) {
        self.times().await;
    }

    /// Returns when idle connections are to be closed.
    pub async fn closing(&self) {
        sleep_until(self.times().await.0).await;
    }

    /// Returns when the time is over.
    pub async fn over(&self) {
        sleep_until(self.times().await.1).await;
    }

    async fn times(&self) -> (Instant, Instant) {
        let mut end = self.end.subscribe();
        let times = end.wait_for(Option::is_some).await.ok().and_then(|times| *times);
        match times {
            Some(times) => times,
            // The sender is ours and the value is there.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_connections_end_before_the_rest_and_the_first_limit_counts() {
        let drain = Drain::default();
        assert!(!drain.is_begun() && tokio::time::timeout(Duration::from_millis(20), drain.begun()).await.is_err());
        let began = Instant::now();
        let limit = Duration::from_millis(200);
        drain.begin(limit);
        drain.begin(Duration::from_secs(3600));
        drain.begun().await;
        assert!(drain.is_begun());
        drain.closing().await;
        assert!(began.elapsed() >= limit / 2);
        drain.over().await;
        assert!((limit..limit * 50).contains(&began.elapsed()));
    }
}
