//! `Expect: 100-continue`, end to end: the body waits until the endpoint asks for it, and because nobody reads it before, the client is not
//! asked either. An endpoint that answers finally without asking gets no body. One that does neither gets it after a while, as from a client.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Sleep, sleep};

/// How long an endpoint may take to ask. curl waits as long before it sends unasked; RFC 9110, 10.1.1 wants no client to wait for ever.
const PATIENCE: Duration = Duration::from_secs(1);

/// Holds one request's body back.
#[derive(Clone)]
pub(super) struct Gate(Rc<Inner>);

struct Inner {
    asked: Asked,
    waiting: RefCell<Option<Waiting>>,
}

#[derive(Default)]
struct Asked {
    open: AtomicBool,
    refused: AtomicBool,
    changed: Arc<Notify>,
}

struct Waiting {
    changed: Pin<Box<OwnedNotified>>,
    patience: Pin<Box<Sleep>>,
}

/// What a gate says.
pub(super) enum Passage {
    /// The body may be read.
    Open,
    /// The body is not wanted.
    Refused,
}

impl Gate {
    /// For a request that is about to be sent, by whichever attempt.
    #[must_use]
    pub(super) fn new() -> Self {
        Self(Rc::new(Inner { asked: Asked::default(), waiting: RefCell::default() }))
    }

    /// The endpoint has asked, or nobody can be asked.
    pub(super) fn open(&self) {
        self.0.asked.say(&self.0.asked.open);
    }

    /// Was the body asked for?
    pub(super) fn is_open(&self) -> bool {
        self.0.asked.open.load(Ordering::Acquire)
    }

    /// The answer is complete and nobody asked: the body is not sent any more. False if it was asked for.
    #[must_use]
    pub(super) fn refuse(&self) -> bool {
        if self.is_open() {
            return false;
        }
        self.0.asked.say(&self.0.asked.refused);
        true
    }

    /// May the body be read?
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Passage> {
        let asked = &self.0.asked;
        let mut waiting = self.0.waiting.borrow_mut();
        loop {
            if asked.open.load(Ordering::Acquire) {
                return Poll::Ready(Passage::Open);
            }
            if asked.refused.load(Ordering::Acquire) {
                return Poll::Ready(Passage::Refused);
            }
            let Some(known) = waiting.as_mut() else {
                let changed = Box::pin(Arc::clone(&asked.changed).notified_owned());
                *waiting = Some(Waiting { changed, patience: Box::pin(sleep(PATIENCE)) });
                continue;
            };
            if known.patience.as_mut().poll(cx).is_ready() {
                asked.open.store(true, Ordering::Release);
            } else if known.changed.as_mut().poll(cx).is_ready() {
                known.changed = Box::pin(Arc::clone(&asked.changed).notified_owned());
            } else {
                return Poll::Pending;
            }
        }
    }
}

impl Asked {
    fn say(&self, what: &AtomicBool) {
        what.store(true, Ordering::Release);
        // Kept for who comes to wait later, which may be another attempt.
        self.changed.notify_one();
    }
}
