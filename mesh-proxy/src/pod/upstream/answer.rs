//! What a lease gives for a request: a response's body, by either version of HTTP; and a connection whose request goes on while its response
//! is read.

use super::pool::One;
use http_body::{Body, SizeHint};
use hyper::body::Incoming;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use tokio::task::AbortHandle;

/// A response's body, read through its [`super::Lease`].
pub enum Inflow {
    /// Its connection has it; here is how much is still to come, if that is known.
    Http1(Option<u64>),
    /// A stream's.
    Http2(Incoming),
}

impl Inflow {
    /// Has all of it been read?
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(left) => *left == Some(0),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    /// What is to come.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(left) => left.map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Http2(incoming) => incoming.size_hint(),
        }
    }
}

/// A connection whose response began before its request had ended. Each direction has its own pace, and a client may read nothing until it has
/// sent all: so the request has a task. Dropped, both end.
pub(super) struct Split {
    one: Option<Rc<RefCell<Box<One>>>>,
    sending: AbortHandle,
}

impl Split {
    pub(super) fn new(one: Box<One>) -> Self {
        let one = Rc::new(RefCell::new(one));
        let own = Rc::clone(&one);
        let sending = tokio::task::spawn_local(async move {
            if let Err(error) = poll_fn(|cx| own.borrow_mut().http1.poll_send(cx)).await {
                tracing::debug!(%error, "a request ended before its time");
                // An endpoint that waits for the rest would wait for ever; who reads its response finds the end.
                own.borrow().http1.cut();
            }
        });
        Self { one: Some(one), sending: sending.abort_handle() }
    }

    pub(super) fn with<T>(&mut self, work: impl FnOnce(&mut One) -> T) -> Option<T> {
        self.one.as_ref().map(|one| work(&mut one.borrow_mut()))
    }

    /// The response has ended. The connection, if the request has too; else it goes on to its end, and its connection with it.
    pub(super) fn complete(mut self) -> Option<Box<One>> {
        let one = self.one.take()?;
        Rc::try_unwrap(one).ok().map(RefCell::into_inner)
    }
}

impl Drop for Split {
    fn drop(&mut self) {
        if self.one.is_some() {
            self.sending.abort();
        }
    }
}
