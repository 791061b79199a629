//! What a client's connection as a whole has lived through: requests begun and under way, and reasons for its end. Shared by the connection's
//! bytes, its requests and whoever ends it; knows nothing of what the requests are.

use crate::config::Downstream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
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
