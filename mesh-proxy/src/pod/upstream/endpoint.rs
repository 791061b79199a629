//! One endpoint as a pod sees it: how busy, and its connections.

use super::counts::{Counts, HostCounts};
use super::pool::{Key, Pool};
use crate::config::PoolSettings;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

/// See the module.
#[derive(Default)]
pub(super) struct Endpoint {
    active: Cell<u32>,
    /// What is under way here, and what happened.
    pub(super) counts: Rc<HostCounts>,
    /// It takes no more requests: connections are not kept.
    retired: Cell<bool>,
    /// Mostly one; several where clients speak several protocols or the server's name depends on the request.
    pools: RefCell<Vec<(Key, Rc<Pool>)>>,
}

impl Endpoint {
    /// Requests and connections of this pod that are here now.
    pub(super) fn active(&self) -> u32 {
        self.active.get()
    }

    /// One more, until [`Self::vacated`].
    pub(super) fn occupied(self: Rc<Self>) -> Rc<Self> {
        self.active.set(self.active.get() + 1);
        self
    }

    pub(super) fn vacated(&self) {
        self.active.set(self.active.get().saturating_sub(1));
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    pub(super) fn pool(&self, key: &Key, settings: &Arc<PoolSettings>, counts: &Rc<Counts>) -> Rc<Pool> {
        let known = self.pools.borrow().iter().find(|(known, _)| known == key).map(|(_, pool)| Rc::clone(pool));
        let pool = known.unwrap_or_else(|| {
            let pool = Pool::new(Arc::clone(settings), Rc::clone(counts), Rc::clone(&self.counts));
            self.pools.borrow_mut().push((key.clone(), Rc::clone(&pool)));
            pool
        });
        pool.obey(settings);
        pool
    }

    /// Looks through what rests; `usable` is false if it takes no more requests, `tls` is what the cluster has now. True if nothing is left.
    pub(super) fn sweep(&self, usable: bool, tls: u64) -> bool {
        self.retired.set(!usable);
        self.pools.borrow_mut().retain(|(key, pool)| !pool.sweep(usable && key.tls == tls));
        self.active.get() == 0 && self.pools.borrow().is_empty()
    }
}
