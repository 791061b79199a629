//! Does anything pass over a request's stream? Envoy's stream idle timeout: a clock that every frame in either direction sets back.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Shared by both directions of one request.
#[derive(Clone)]
pub struct Pulse(Rc<Inner>);

struct Inner {
    last: Cell<Instant>,
    limit: Duration,
    /// All of the request has come.
    complete: Cell<bool>,
}

impl Pulse {
    /// From now on.
    #[must_use]
    pub fn new(limit: Duration) -> Self {
        Self(Rc::new(Inner { last: Cell::new(Instant::now()), limit, complete: Cell::new(false) }))
    }

    /// Something passed.
    pub fn beat(&self) {
        self.0.last.set(Instant::now());
    }

    /// The request's end passed.
    pub fn complete(&self) {
        self.beat();
        self.0.complete.set(true);
    }

    /// Has all of the request come?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.0.complete.get()
    }

    /// Ends when nothing has passed for the limit.
    #[must_use]
    pub fn silence(&self) -> Silence {
        Silence { sleep: Box::pin(sleep_until(self.0.last.get() + self.0.limit)), pulse: self.clone() }
    }
}

/// See [`Pulse::silence`].
pub struct Silence {
    sleep: Pin<Box<Sleep>>,
    /// Whose it is.
    pub pulse: Pulse,
}

impl Future for Silence {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            // The timer is set once per limit, not once per frame.
            let until = self.pulse.0.last.get() + self.pulse.0.limit;
            if until <= Instant::now() {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(until);
        }
    }
}
