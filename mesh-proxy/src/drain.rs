//! A planned stop: who was told, and until when. Both processes of this binary stop this way; what each does meanwhile is its own.
//!
//! The next process takes over the listeners, which the agent holds too; what waits in them is lost by nobody. So a stop begins by
//! closing our descriptors of them (never by `shutdown`, which would end them for all holders), and ends when nothing is left.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// A stop ends in three steps, this far apart, or a quarter of its time: nothing more is accepted; client connections that are idle are closed,
/// none of which is so new that its client had no time to ask; what is left is cut, not before it had time to be answered.
const STEP: Duration = Duration::from_secs(1);

/// The one stop of a process.
#[derive(Debug, Default)]
pub struct Drain {
    begun: AtomicBool,
    times: watch::Sender<Option<Times>>,
}

/// When each step is.
#[derive(Clone, Copy, Debug)]
struct Times {
    handover: Instant,
    closing: Instant,
    end: Instant,
}

impl Drain {
    /// From now on the process stops; at the latest after `limit`. Only the first call counts.
    pub fn begin(&self, limit: Duration) {
        if !self.begun.swap(true, Ordering::AcqRel) {
            let end = Instant::now() + limit;
            let step = STEP.min(limit / 4);
            self.times.send_replace(Some(Times { handover: end - 2 * step, closing: end - step, end }));
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

    /// Returns when what connects is the next process's, whatever is still open here.
    pub async fn handover(&self) {
        sleep_until(self.times().await.handover).await;
    }

    /// Returns when idle connections are to be closed.
    pub async fn closing(&self) {
        sleep_until(self.times().await.closing).await;
    }

    /// Returns when the time is over.
    pub async fn over(&self) {
        sleep_until(self.times().await.end).await;
    }

    async fn times(&self) -> Times {
        let mut times = self.times.subscribe();
        let times = times.wait_for(Option::is_some).await.ok().and_then(|times| *times);
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
    async fn what_connects_is_left_to_the_next_before_idle_connections_end_and_these_before_the_rest() {
        let drain = Drain::default();
        assert!(!drain.is_begun() && tokio::time::timeout(Duration::from_millis(20), drain.begun()).await.is_err());
        let began = Instant::now();
        let limit = Duration::from_millis(200);
        drain.begin(limit);
        drain.begin(Duration::from_secs(3600));
        drain.begun().await;
        assert!(drain.is_begun());
        drain.handover().await;
        assert!(began.elapsed() >= limit / 2);
        drain.closing().await;
        assert!(began.elapsed() >= limit * 3 / 4);
        drain.over().await;
        assert!((limit..limit * 50).contains(&began.elapsed()));
    }
}
