//! What a client's connection as a whole has lived through: requests begun and under way, and reasons for its end. Shared by the connection's
//! bytes, its requests and whoever ends it; knows nothing of what the requests are.

use crate::config::Downstream;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Notify;

/// See the module. Atomic because hyper wants to be able to send the bytes' end elsewhere; all of it is on one thread.
#[derive(Debug, Default)]
pub(super) struct Life {
    begun: AtomicU64,
    active: AtomicUsize,
    /// The request that said its length in two ways; 0: none.
    ambiguous: AtomicU64,
    /// A head did not end in time.
    late: AtomicBool,
    /// What is answered from now on is the last.
    leaving: AtomicBool,
    changed: Notify,
}

/// A request under way, until dropped.
pub(super) struct Active(Arc<Life>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}

impl Life {
    /// A request begins: its guard, and whether it is the one of two lengths.
    pub(super) fn begin(self: &Arc<Self>) -> (Active, bool) {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        self.active.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_one();
        (Active(Arc::clone(self)), self.ambiguous.load(Ordering::Relaxed) == number)
    }

    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) > 0
    }

    pub(super) fn mark_ambiguous(&self, number: u64) {
        self.ambiguous.store(number, Ordering::Relaxed);
    }

    pub(super) fn mark_late(&self) {
        self.late.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    /// Is what is answered now the connection's last?
    pub(super) fn ends(&self, options: &Downstream) -> bool {
        self.leaving.load(Ordering::Relaxed) || self.is_worn(options)
    }

    fn is_worn(&self, options: &Downstream) -> bool {
        options.max_requests_per_connection.is_some_and(|most| self.begun.load(Ordering::Relaxed) >= u64::from(most))
    }

    /// HTTP/1: returns when an idle connection is to be closed because it was open long enough. What is answered in the time before says so.
    pub(super) async fn aged(&self, options: &Downstream) {
        wait(options.max_connection_duration).await;
        self.leaving.store(true, Ordering::Relaxed);
        tokio::time::sleep(options.drain_timeout).await;
    }

    /// HTTP/2: returns when the connection begins nothing more: idle, old, or worn.
    pub(super) async fn over(&self, options: &Downstream) {
        tokio::select! {
            () = wait(options.max_connection_duration) => {}
            () = self.rested(options) => {}
        }
    }

    async fn rested(&self, options: &Downstream) {
        loop {
            let changed = self.changed.notified();
            if self.is_worn(options) {
                return;
            }
            let limit = options.idle_timeout.filter(|_| !self.is_active());
            tokio::select! {
                () = changed => {}
                () = wait(limit) => return,
            }
        }
    }
}

/// Returns after the limit, if there is one.
pub(super) async fn wait(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// What comes of a connection; `None`: the other future came first. That one is asked once, and then only where there may be `news` of it: it wakes
/// us, and to ask it at each wake-up costs more than a flag.
pub(super) async fn unless<T>(
    mut served: Pin<&mut impl Future<Output = T>>,
    mut closing: Pin<&mut impl Future<Output = ()>>,
    news: impl Fn() -> bool,
) -> Option<T> {
    let mut asked = false;
    poll_fn(|cx| {
        if let Poll::Ready(result) = served.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        let asks = !std::mem::replace(&mut asked, true) || news();
        if asks { closing.as_mut().poll(cx).map(|()| None) } else { Poll::Pending }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::pending;
    use std::pin::pin;
    use std::task::{Context, Waker};

    #[test]
    fn what_ends_a_connection_is_asked_once_and_where_there_is_news() {
        let (asked, news, ended) = (Cell::new(0), Cell::new(false), Cell::new(false));
        let closing = pin!(poll_fn(|_| {
            asked.set(asked.get() + 1);
            if ended.get() { Poll::Ready(()) } else { Poll::Pending }
        }));
        let served = pin!(pending::<()>());
        let mut both = pin!(unless(served, closing, || news.get()));
        let mut poll = || both.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending() && poll().is_pending() && asked.get() == 1);
        news.set(true);
        assert!(poll().is_pending() && asked.get() == 2);
        ended.set(true);
        assert_eq!(poll(), Poll::Ready(None));
        let done = pin!(unless(pin!(async { 7 }), pin!(async {}), || true)).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(done, Poll::Ready(Some(7)), "what has come is served, even at the last moment");
    }
}
