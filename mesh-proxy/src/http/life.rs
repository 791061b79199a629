//! What a client's connection as a whole has lived through: requests begun and under way, and reasons for its end. Shared by its
//! requests and whoever ends it; knows nothing of what the requests are.

use crate::config::Downstream;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Life {
    begun: Cell<u64>,
    active: Cell<usize>,
    /// What is answered from now on is the last.
    leaving: Cell<bool>,
    changed: Notify,
}

/// A request under way, until dropped.
pub(super) struct Active(Rc<Life>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        self.0.changed.notify_one();
    }
}

impl Life {
    /// HTTP/1: a request begins.
    pub(super) fn count(&self) {
        self.begun.set(self.begun.get() + 1);
    }

    /// HTTP/2: a request begins.
    pub(super) fn begin(self: &Rc<Self>) -> Active {
        self.count();
        self.active.set(self.active.get() + 1);
        self.changed.notify_one();
        Active(Rc::clone(self))
    }

    /// Is what is answered now the connection's last?
    pub(super) fn ends(&self, options: &Downstream) -> bool {
        self.leaving.get() || self.is_worn(options)
    }

    fn is_worn(&self, options: &Downstream) -> bool {
        options.max_requests_per_connection.is_some_and(|most| self.begun.get() >= u64::from(most))
    }

    /// HTTP/1: returns when an idle connection is to be closed because it was open long enough. What is answered in the time before says so.
    pub(super) async fn aged(&self, options: &Downstream) {
        wait(options.max_connection_duration).await;
        self.leaving.set(true);
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
            let limit = options.idle_timeout.filter(|_| self.active.get() == 0);
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
