//! Unconnected sockets inside the pod, asked for in batches before they are needed. The broker is never on the path of a request,
//! except when the stock is empty.

use crate::broker::Client;
use crate::core::stock::{Rate, Share};
use crate::limits::{STOCK_AGAIN, STOCK_STOPPING, STOCK_WAIT, STOCK_WAITERS};
use crate::shared::{PodStatus, Shared};
use mesh_common::broker::{BATCH, Family};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::Notify;
use tokio::time::Instant;

/// No socket came in time.
#[derive(Debug, thiserror::Error)]
#[error("no brokered socket")]
pub struct StockEmpty;

pub(super) struct Stock {
    slot: u32,
    /// That own the pod, each with a stock of its own.
    threads: u32,
    broker: Client,
    shared: Arc<Shared>,
    status: Arc<PodStatus>,
    shelves: [Shelf; 2],
    closed: Cell<bool>,
}

/// The sockets of one family.
#[derive(Default)]
struct Shelf {
    sockets: RefCell<VecDeque<OwnedFd>>,
    /// So many are held: less a batch is low, since what is asked for is a batch.
    target: Cell<usize>,
    rate: Cell<Rate>,
    /// Since the last look.
    taken: Cell<u32>,
    /// Kept full: the pod has connections of this family.
    wanted: Cell<bool>,
    /// A request is on its way.
    asked: Cell<bool>,
    /// Not before: the agent had none to give.
    not_before: Cell<Option<Instant>>,
    waiters: Cell<usize>,
    arrival: Notify,
}

fn index(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

impl Stock {
    pub(super) fn new((slot, threads): (u32, u32), broker: Client, shared: Arc<Shared>, status: Arc<PodStatus>) -> Self {
        Self { slot, threads, broker, shared, status, shelves: Default::default(), closed: Cell::new(false) }
    }

    /// From now on this family is kept in stock.
    pub(super) fn wanted(&self, family: Family) {
        let shelf = &self.shelves[index(family)];
        shelf.wanted.set(true);
        shelf.target.set(self.target(family));
        self.ask_if_low();
    }

    fn target(&self, family: Family) -> usize {
        if self.shared.drain.is_begun() {
            return STOCK_STOPPING;
        }
        let own = index(family);
        let (own, other) = (self.shelves[own].rate.get(), self.shelves[1 - own].rate.get());
        let share = Share::new(family == Family::V4, own, other);
        own.target((self.shared.pods.lock().len(), self.threads as usize), self.shared.stock_total, share)
    }

    /// Looks how much was taken since the last time, asks for what is missing and closes what is too much.
    pub(super) fn look(&self, since: Duration) {
        for (family, shelf) in [Family::V4, Family::V6].into_iter().zip(&self.shelves) {
            let mut rate = shelf.rate.get();
            rate.look(shelf.taken.take(), since);
            shelf.rate.set(rate);
            let target = self.target(family);
            shelf.target.set(target);
            let surplus = shelf.sockets.borrow().len().saturating_sub(target + BATCH);
            if surplus > 0 {
                drop(shelf.sockets.borrow_mut().drain(..surplus));
                self.count(family, -i64::try_from(surplus).unwrap_or(i64::MAX));
            }
        }
        self.ask_if_low();
    }

    /// Takes a socket; waits, bounded, only if there is none.
    pub(super) async fn take(&self, family: Family) -> Result<TcpSocket, StockEmpty> {
        let shelf = &self.shelves[index(family)];
        if let Some(socket) = self.take_now(family) {
            return Ok(socket);
        }
        self.shared.metrics.stock_empty.inc();
        self.wanted(family);
        if self.closed.get() || shelf.waiters.get() >= STOCK_WAITERS {
            return Err(StockEmpty);
        }
        shelf.waiters.set(shelf.waiters.get() + 1);
        let waited = tokio::time::timeout(STOCK_WAIT, async {
            loop {
                // Registered before looking again, so that no arrival is missed.
                let arrival = shelf.arrival.notified();
                if let Some(socket) = self.take_now(family) {
                    return socket;
                }
                arrival.await;
            }
        });
        let waited = waited.await;
        shelf.waiters.set(shelf.waiters.get() - 1);
        waited.map_err(|_elapsed| {
            self.shared.metrics.stock_timeouts.inc();
            StockEmpty
        })
    }

    fn take_now(&self, family: Family) -> Option<TcpSocket> {
        let shelf = &self.shelves[index(family)];
        let socket = shelf.sockets.borrow_mut().pop_front()?;
        shelf.taken.set(shelf.taken.get().saturating_add(1));
        self.count(family, -1);
        self.ask_if_low();
        Some(TcpSocket::from_std_stream(std::net::TcpStream::from(socket)))
    }

    pub(super) fn arrived(&self, family: Family, sockets: Vec<OwnedFd>) {
        let shelf = &self.shelves[index(family)];
        shelf.asked.set(false);
        shelf.not_before.set(sockets.is_empty().then(|| Instant::now() + STOCK_AGAIN));
        let arrived = sockets.len();
        self.shared.metrics.sockets_received.inc_by(arrived as u64);
        if self.closed.get() {
            return;
        }
        shelf.sockets.borrow_mut().extend(sockets);
        self.count(family, i64::try_from(arrived).unwrap_or(i64::MAX));
        shelf.arrival.notify_waiters();
        self.ask_if_low();
    }

    /// Asks for a batch of each family that is low, unless one is on its way.
    pub(super) fn ask_if_low(&self) {
        for family in [Family::V4, Family::V6] {
            let shelf = &self.shelves[index(family)];
            let low = shelf.sockets.borrow().len() + BATCH <= shelf.target.get();
            if !low || !shelf.wanted.get() || shelf.asked.get() || self.closed.get() {
                continue;
            }
            if shelf.not_before.get().is_some_and(|not_before| Instant::now() < not_before) {
                continue;
            }
            shelf.asked.set(self.broker.refill(self.slot, family, BATCH));
        }
    }

    pub(super) fn ask_again(&self) {
        for shelf in &self.shelves {
            shelf.asked.set(false);
        }
        self.ask_if_low();
    }

    /// Gives everything back.
    pub(super) fn close(&self) {
        self.closed.set(true);
        for family in [Family::V4, Family::V6] {
            let dropped = std::mem::take(&mut *self.shelves[index(family)].sockets.borrow_mut());
            self.count(family, -i64::try_from(dropped.len()).unwrap_or(i64::MAX));
        }
    }

    fn count(&self, family: Family, change: i64) {
        let stock = &self.status.stock[index(family)];
        let by = usize::try_from(change.unsigned_abs()).unwrap_or(usize::MAX);
        if change < 0 {
            stock.fetch_sub(by, Ordering::Relaxed)
        } else {
            stock.fetch_add(by, Ordering::Relaxed)
        };
        self.shared.metrics.stock.inc_by(change);
    }
}
