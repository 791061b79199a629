//! Connections to one endpoint, of one protocol, for one server name; and the requests that wait for one. Who may open how many is decided
//! in [`super::lease`]; here is what is kept and who is next.

use super::counts::{Counted, Counts, HostCounts, count};
use super::dial::Http2Connection;
use super::http1::Http1;
use crate::config::{PoolSettings, Protocol};
use crate::http::body::RequestBody;
use crate::limits::IDLE_CONNECTIONS;
use crate::pod::ConnectError;
use hyper::client::conn::http2;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

/// Connections under one key are interchangeable.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Key {
    pub(super) protocol: Protocol,
    pub(super) server_name: Option<Arc<str>>,
    /// See [`PoolSettings::tls_id`]: what was agreed upon by other rules is not used by these.
    pub(super) tls: u64,
}

pub(super) struct Pool {
    settings: RefCell<Arc<PoolSettings>>,
    counts: Rc<Counts>,
    host: Rc<HostCounts>,
    /// Open, or being opened.
    pub(super) open: Cell<u64>,
    /// HTTP/2 connections that are being opened.
    pub(super) opening: Cell<u32>,
    /// Negotiated: what the endpoint chose last.
    pub(super) speaks: Cell<Protocol>,
    #[expect(clippy::vec_box, reason = "they go from request to request, and are not copied on the way")]
    idle: RefCell<Vec<Box<One>>>,
    shared: RefCell<Vec<Rc<Many>>>,
    waiters: RefCell<VecDeque<Waiter>>,
    /// Told of what happens to those that are idle.
    bell: Waker,
}

/// An HTTP/1 connection that nobody else uses now.
pub(super) struct One {
    pub(super) http1: Http1,
    /// It counts until dropped.
    pub(super) open: Rc<Open>,
    pub(super) since: Instant,
    /// Requests that it carried.
    pub(super) used: u32,
    pub(super) idle_since: Instant,
}

/// An HTTP/2 connection.
pub(super) struct Many {
    pub(super) sender: http2::SendRequest<RequestBody>,
    pub(super) connection: Rc<RefCell<Option<Http2Connection>>>,
    pub(super) since: Instant,
    /// Requests on it now.
    pub(super) streams: Cell<u32>,
    /// Requests that it carries or carried.
    pub(super) used: Cell<u32>,
    pub(super) idle_since: Cell<Instant>,
}

/// One open connection, or one that is being opened, until dropped. Then the next who waits may open another.
pub(super) struct Open {
    counts: Rc<Counts>,
    pool: Weak<Pool>,
    _here: Counted<HostCounts>,
}

/// What a waiting request is given.
pub(super) enum Grant {
    One(Box<One>),
    Many(Stream),
    /// It may open a connection.
    Slot(Rc<Open>),
    /// A connection could not be made; as in Envoy all that wait for one fail with it.
    Failed(ConnectError),
}

struct Waiter {
    grant: oneshot::Sender<Grant>,
    /// Connections that it may share with.
    most_connections: u32,
}

/// A request's place on an HTTP/2 connection, until dropped.
pub(super) struct Stream {
    pub(super) connection: Rc<Many>,
    pool: Weak<Pool>,
}

impl Pool {
    pub(super) fn new(settings: Arc<PoolSettings>, counts: Rc<Counts>, host: Rc<HostCounts>) -> Rc<Self> {
        let bell = Arc::new(Bell::default());
        let pool = Rc::new(Self {
            settings: RefCell::new(settings),
            counts,
            host,
            open: Cell::new(0),
            opening: Cell::new(0),
            speaks: Cell::default(),
            idle: RefCell::default(),
            shared: RefCell::default(),
            waiters: RefCell::default(),
            bell: Waker::from(Arc::clone(&bell)),
        });
        tokio::task::spawn_local(watch(Rc::downgrade(&pool), bell));
        pool
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A connection was not made.
    pub(super) fn refused(&self, error: &ConnectError) {
        count(&self.host.cx_connect_fail);
        count(&self.counts.cx_connect_fail);
        if matches!(error, ConnectError::Timeout) {
            count(&self.counts.cx_connect_timeout);
        }
    }

    /// What counts from now on.
    pub(super) fn obey(&self, settings: &Arc<PoolSettings>) {
        if !Arc::ptr_eq(&self.settings.borrow(), settings) {
            *self.settings.borrow_mut() = Arc::clone(settings);
        }
    }

    /// Waits in line. The future is the caller's: dropping it leaves the line.
    pub(super) fn wait(&self, most_connections: u32) -> oneshot::Receiver<Grant> {
        let (grant, receiver) = oneshot::channel();
        let mut waiters = self.waiters.borrow_mut();
        // Who left the line is forgotten at the latest when somebody comes.
        waiters.retain(|waiter| !waiter.grant.is_closed());
        waiters.push_back(Waiter { grant, most_connections });
        receiver
    }

    /// The most recently used connection that may carry a request; the others rest and time out.
    pub(super) fn take_idle(&self, now: Instant) -> Option<Box<One>> {
        let settings = self.settings.borrow();
        let mut idle = self.idle.borrow_mut();
        let position = idle.iter().rposition(|one| one.is_usable(&settings, now));
        if position.is_none() {
            // They would stand in the way of another.
            clear(&mut idle, |one| one.is_usable(&settings, now));
        }
        Some(idle.remove(position?))
    }

    /// Makes room for another.
    pub(super) fn close_idle(&self) {
        if let Some(one) = self.idle.borrow_mut().pop() {
            one.close();
        }
    }

    /// A place on a connection that has room.
    pub(super) fn take_stream(self: &Rc<Self>) -> Option<Stream> {
        let settings = self.settings.borrow();
        let connection = self.shared.borrow().iter().find(|many| many.has_room(&settings)).cloned()?;
        Some(Stream::enter(self, connection))
    }

    /// True if requests share connections.
    pub(super) fn is_shared(&self, protocol: Protocol) -> bool {
        protocol == Protocol::Http2 || (protocol == Protocol::Negotiated && self.speaks.get() == Protocol::Http2)
    }

    /// A connection is free: for the next who waits, else it rests.
    pub(super) fn give(&self, mut one: Box<One>) {
        if !one.http1.rest() || one.http1.is_over(&mut Context::from_waker(&self.bell)) {
            return;
        }
        let Some(Grant::One(one)) = self.hand(Grant::One(one)) else { return };
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE_CONNECTIONS {
            idle.push(one);
        } else {
            one.close();
        }
    }

    /// Looks after connections that rest: mostly the endpoint has closed one.
    fn look(&self) {
        let mut resting = std::mem::take(&mut *self.idle.borrow_mut());
        let mut cx = Context::from_waker(&self.bell);
        resting.retain_mut(|one| !one.http1.is_over(&mut cx));
        self.idle.borrow_mut().splice(..0, resting);
    }

    /// A new HTTP/2 connection; the place on it is the caller's. Those who wait get the rest.
    pub(super) fn share(self: &Rc<Self>, connection: Many) -> Stream {
        let connection = Rc::new(connection);
        self.shared.borrow_mut().push(Rc::clone(&connection));
        let stream = Stream::enter(self, connection);
        self.seat();
        stream
    }

    /// Gives those who wait the places that there are.
    fn seat(self: &Rc<Self>) {
        while !self.waiters.borrow().is_empty() {
            let Some(stream) = self.take_stream() else { return };
            self.hand(Grant::Many(stream));
        }
    }

    /// True if who comes now will find room on a connection that is being opened.
    pub(super) fn will_have_room(&self) -> bool {
        let opening = self.opening.get() as usize;
        let each = self.settings.borrow().http2.max_streams as usize;
        // Who opens one takes a place on it.
        self.waiters.borrow().len() < opening.saturating_mul(each.saturating_sub(1))
    }

    /// A connection was opened and some still wait, since the endpoint takes fewer streams than we thought: the next may open another.
    pub(super) fn open_more(self: &Rc<Self>) {
        let most = self.waiters.borrow().front().map(|waiter| waiter.most_connections);
        if self.opening.get() == 0 && most.is_some_and(|most| Open::is_allowed(self, &self.counts, most)) {
            drop(self.hand(Grant::Slot(Open::new(self, &self.counts))));
        }
    }

    /// Everyone who waits fails.
    pub(super) fn fail(&self, error: &ConnectError) {
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        for waiter in waiters {
            // Who does not wait any more does not hear.
            let _ = waiter.grant.send(Grant::Failed(error.again()));
        }
    }

    /// Looks through what rests; `keep` is false for endpoints that take no more requests. True if there is nothing left.
    pub(super) fn sweep(&self, keep: bool) -> bool {
        let settings = self.settings.borrow();
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        clear(&mut idle, |one| keep && one.is_usable(&settings, now));
        let mut shared = self.shared.borrow_mut();
        shared.retain(|many| many.streams.get() > 0 || (keep && many.is_usable(&settings)));
        self.open.get() == 0 && self.waiters.borrow().iter().all(|waiter| waiter.grant.is_closed())
    }

    /// Gives to the next who still waits; back if nobody does.
    fn hand(&self, mut grant: Grant) -> Option<Grant> {
        loop {
            // Popped by itself: what is given may come back here when it is dropped.
            let Some(waiter) = self.waiters.borrow_mut().pop_front() else { return Some(grant) };
            match waiter.grant.send(grant) {
                Ok(()) => return None,
                Err(back) => grant = back,
            }
        }
    }

    /// A connection has ended.
    fn closed(self: &Rc<Self>) {
        self.open.set(self.open.get().saturating_sub(1));
        self.open_more();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // The watch finds that there is nothing left.
        self.bell.wake_by_ref();
    }
}

/// Rings when something happens to a connection that rests.
#[derive(Debug, Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

async fn watch(pool: Weak<Pool>, bell: Arc<Bell>) {
    loop {
        bell.0.notified().await;
        let Some(pool) = pool.upgrade() else { return };
        pool.look();
    }
}

/// Keeps some, in their order, and closes the others.
#[expect(clippy::vec_box, reason = "as they are kept")]
fn clear(idle: &mut Vec<Box<One>>, keep: impl Fn(&One) -> bool) {
    for other in idle.extract_if(.., |one| !keep(one)) {
        other.close();
    }
}

impl Open {
    /// May one more be opened? One is always allowed, as in Envoy.
    pub(super) fn is_allowed(pool: &Pool, counts: &Counts, most: u32) -> bool {
        pool.open.get() == 0 || counts.cx_active.get() < u64::from(most)
    }

    pub(super) fn new(pool: &Rc<Pool>, counts: &Rc<Counts>) -> Rc<Self> {
        pool.open.set(pool.open.get() + 1);
        count(&counts.cx_active);
        count(&counts.cx_total);
        count(&pool.host.cx_total);
        let here = Counted::enter(&pool.host, |host| &host.cx_active);
        Rc::new(Self { counts: Rc::clone(counts), pool: Rc::downgrade(pool), _here: here })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counts.cx_active.set(self.counts.cx_active.get().saturating_sub(1));
        if let Some(pool) = self.pool.upgrade() {
            pool.closed();
        }
    }
}

impl One {
    /// It carries no more requests, and ends in order.
    pub(super) fn close(self) {
        self.http1.into_stream().1.close();
    }

    /// May it carry one more request, as far as one can know?
    fn is_usable(&self, settings: &PoolSettings, now: Instant) -> bool {
        // What began after that moment is new.
        settings.max_connection_duration.is_none_or(|most| now.saturating_duration_since(self.since) < most)
            && settings.idle_timeout.is_none_or(|limit| now.saturating_duration_since(self.idle_since) < limit)
    }
}

impl Many {
    fn is_usable(&self, settings: &PoolSettings) -> bool {
        let idle = self.idle_since.get().elapsed();
        let rested = self.streams.get() == 0 && settings.idle_timeout.is_some_and(|limit| idle >= limit);
        let worn = settings.max_requests_per_connection.is_some_and(|most| self.used.get() >= most);
        let old = settings.max_connection_duration.is_some_and(|most| self.since.elapsed() >= most);
        !self.sender.is_closed() && !rested && !worn && !old
    }

    /// As the endpoint says.
    fn most_streams(&self) -> usize {
        // It is borrowed only while it is driven, which is never inside of this.
        let connection = self.connection.try_borrow();
        connection.ok().and_then(|connection| Some(connection.as_ref()?.current_max_send_streams())).unwrap_or(usize::MAX)
    }

    fn has_room(&self, settings: &PoolSettings) -> bool {
        let streams = self.streams.get();
        let room = streams < settings.http2.max_streams && (streams as usize) < self.most_streams();
        room && self.is_usable(settings)
    }
}

impl Stream {
    fn enter(pool: &Rc<Pool>, connection: Rc<Many>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        connection.used.set(connection.used.get() + 1);
        Self { connection, pool: Rc::downgrade(pool) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.streams.set(connection.streams.get().saturating_sub(1));
        connection.idle_since.set(Instant::now());
        let Some(pool) = self.pool.upgrade() else { return };
        // A connection that may not go on ends with its last stream.
        if connection.streams.get() == 0 && !connection.is_usable(&pool.settings.borrow()) {
            pool.shared.borrow_mut().retain(|many| !Rc::ptr_eq(many, connection));
        }
        pool.seat();
    }
}
