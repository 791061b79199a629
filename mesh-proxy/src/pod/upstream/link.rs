//! An HTTP/1 connection as its user drives it. hyper wants a connection to be polled by somebody; with a task of its own each response
//! costs several changes of task, and a response's head is written to the client before its body is asked for. So whoever waits for a
//! response polls the connection itself, and the pool's watch polls those that rest ([`Bell`]).
//!
//! hyper wakes its poller for every step that its other half makes. Here both halves are in one place, so these calls are only noted
//! ([`Gate`]), and the task is woken by the socket alone.

use super::dial::Transport;
use super::pool::Open;
use crate::http::body::RequestBody;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use tokio::sync::Notify;

/// Steps of both halves between two looks at other tasks: hyper's own number of messages.
const STEPS: u32 = 16;

/// See the module.
pub(super) struct Link {
    /// `None`: it has ended, or has a task of its own.
    connection: Option<Pin<Box<dyn Future<Output = hyper::Result<()>>>>>,
    detached: bool,
    gate: Arc<Gate>,
    /// The same as the connection's poller sees it.
    waker: Waker,
    address: SocketAddr,
    /// It counts until dropped.
    open: Rc<Open>,
}

impl Link {
    pub(super) fn new(
        connection: http1::Connection<TokioIo<Transport>, RequestBody>,
        open: Rc<Open>,
        address: SocketAddr,
    ) -> Self {
        let gate = Arc::new(Gate {
            quiet: AtomicBool::new(false),
            rang: AtomicBool::new(false),
            task: Mutex::new(Waker::noop().clone()),
        });
        let waker = Waker::from(Arc::clone(&gate));
        Self { connection: Some(Box::pin(connection.with_upgrades())), detached: false, gate, waker, address, open }
    }

    pub(super) fn open(&self) -> &Rc<Open> {
        &self.open
    }

    /// Polls what comes of the connection, and the connection as long as it has something to do for it.
    pub(super) fn poll<T>(&mut self, cx: &mut Context<'_>, mut what: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if self.connection.is_none() {
            return what(cx);
        }
        self.gate.attach(cx.waker());
        self.gate.quiet.store(true, Ordering::SeqCst);
        let polled = self.steps(what);
        self.gate.quiet.store(false, Ordering::SeqCst);
        // Too many steps for one turn, or a call that came at the last moment.
        if polled.is_pending() && self.gate.rang.swap(false, Ordering::SeqCst) {
            cx.waker().wake_by_ref();
        }
        polled
    }

    fn steps<T>(&mut self, mut what: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let Self { connection, gate, waker, address, .. } = self;
        // Both halves would wake each other: noted.
        let mut cx = Context::from_waker(waker);
        for _ in 0..STEPS {
            if let Poll::Ready(value) = what(&mut cx) {
                return Poll::Ready(value);
            }
            gate.rang.store(false, Ordering::SeqCst);
            if let Some(running) = connection
                && let Poll::Ready(ended) = running.as_mut().poll(&mut cx)
            {
                *connection = None;
                if let Err(error) = ended {
                    tracing::debug!(%address, %error, "upstream connection ended");
                }
            }
            if let Poll::Ready(value) = what(&mut cx) {
                return Poll::Ready(value);
            }
            if !gate.rang.load(Ordering::SeqCst) {
                break;
            }
        }
        Poll::Pending
    }

    /// Puts a request on its way. What hyper would wake somebody for is done in the [`Self::poll`] that must follow.
    pub(super) fn quietly<T>(&mut self, work: impl FnOnce() -> T) -> T {
        self.gate.quiet.store(true, Ordering::SeqCst);
        let value = work();
        self.gate.quiet.store(false, Ordering::SeqCst);
        value
    }

    /// Clears away the last exchange and leaves the connection to the watch. False: it has ended.
    pub(super) fn rest(&mut self, bell: &Waker) -> bool {
        let mut cx = Context::from_waker(bell);
        let _: Poll<()> = self.poll(&mut cx, |_| Poll::Pending);
        self.connection.is_some() || self.detached
    }

    /// Gives it a task of its own from now on: it may have to go on while nobody waits for it, and it ends in order when its sender is gone.
    pub(super) fn detach(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        self.detached = true;
        let (open, address) = (Rc::clone(&self.open), self.address);
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "upstream connection ended");
            }
            drop(open);
        });
    }
}

/// Who is to be woken for a connection.
struct Gate {
    /// Calls are noted only.
    quiet: AtomicBool,
    /// Noted.
    rang: AtomicBool,
    task: Mutex<Waker>,
}

impl Gate {
    fn attach(&self, waker: &Waker) {
        let mut task = self.task.lock();
        if !task.will_wake(waker) {
            task.clone_from(waker);
        }
    }
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.quiet.load(Ordering::SeqCst) {
            self.rang.store(true, Ordering::SeqCst);
        } else {
            self.task.lock().wake_by_ref();
        }
    }
}

/// Rings when something happens to a connection that rests.
#[derive(Debug, Default)]
pub(super) struct Bell(Notify);

impl Bell {
    pub(super) async fn rung(&self) {
        self.0.notified().await;
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

/// Waits until the connection can take a request, which may need the rest of its last exchange. An error shows when it is used.
pub(super) async fn ready(link: &mut Link, sender: &mut SendRequest<RequestBody>) {
    poll_fn(|cx| link.poll(cx, |cx| sender.poll_ready(cx).map(drop))).await;
}
