//! The timer by which a client's HTTP/1 connection is found idle. The library sets one for each request and takes it back when the request's
//! head is there, mostly at once. So there is one for the whole connection, set again only when it has run out.

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

/// See the module. Deadlines only grow: all are as far from the moment at which they are set. Locked because the library wants to be able to
/// send it elsewhere; all of it is on one thread.
#[derive(Clone, Default)]
pub(super) struct Patience(Arc<Mutex<Option<Pin<Box<tokio::time::Sleep>>>>>);

struct Wait {
    patience: Patience,
    until: Instant,
}

impl Timer for Patience {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, until: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Wait { patience: self.clone(), until })
    }
}

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut timer = self.patience.0.lock();
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(self.until.into())));
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= self.until.into() {
                return Poll::Ready(());
            }
            timer.as_mut().reset(self.until.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_wait_ends_before_its_own_time() {
        let patience = Patience::default();
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        // Begun, and given up.
        let _ = tokio::time::timeout(Duration::ZERO, patience.sleep_until(at(30))).await;
        // Set while the timer may still run for the first.
        patience.sleep_until(at(60)).await;
        assert!(Instant::now() >= at(60));
        // Set after it has run out.
        patience.sleep_until(at(90)).await;
        assert!(Instant::now() >= at(90));
    }
}
