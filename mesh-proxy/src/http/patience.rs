//! The timer by which a client's HTTP/1 connection is found idle. One for the whole connection, set again only when it has run out: setting one for
//! each rest, mostly to take it back at once, costs more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// See the module. Deadlines only grow: all are as far from the moment at which they are set.
pub(super) struct Patience {
    limit: Option<Duration>,
    until: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// None with the connection without a limit.
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit, until: None, timer: None }
    }

    /// A rest begins.
    pub(super) fn rest(&mut self) {
        self.until = self.limit.map(|limit| Instant::now() + limit);
    }

    /// Ready when the rest has been long enough.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(until) = self.until else { return Poll::Pending };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn no_rest_ends_before_its_own_time() {
        const LIMIT: Duration = Duration::from_millis(30);
        let mut patience = Patience::new(Some(LIMIT));
        patience.rest();
        // Begun, and given up.
        let _ = tokio::time::timeout(Duration::ZERO, poll_fn(|cx| patience.poll(cx))).await;
        tokio::time::sleep(LIMIT / 3).await;
        // While the timer still runs for the first; and again when it has run out.
        for _ in 0..2 {
            let began = Instant::now();
            patience.rest();
            poll_fn(|cx| patience.poll(cx)).await;
            assert!(began.elapsed() >= LIMIT);
        }
    }

    #[tokio::test]
    async fn without_a_limit_there_is_no_end() {
        let mut patience = Patience::new(None);
        patience.rest();
        assert!(poll_fn(|cx| Poll::Ready(patience.poll(cx))).await.is_pending());
        assert!(patience.timer.is_none());
    }
}
