//! A request's way to a connection: one that rests, a place on a shared one, a new one, or a wait for either; Envoy's rules.
//!
//! A request that opens a connection for itself does not count as pending here, one that waits for a connection of others does. Envoy counts
//! both, so that of five requests at once with limits 1/1 between one and two succeed there; here always two.

use super::Upstream;
use super::answer::{Inflow, Split};
use super::counts::{Counted, HostCounts, count};
use super::dial::{self, Dialled, Transport};
use super::endpoint::Endpoint;
use super::http1::Broken;
use super::pool::{Grant, Key, One, Open, Pool, Stream};
use crate::config::{Cluster, Protocol};
use crate::core::outlier::Report;
use crate::http::body::{BoxError, RequestBody};
use crate::limits::PENDING;
use crate::pod::{ConnectError, Pod};
use bytes::Bytes;
use http::request::Parts;
use http_body::{Body, Frame};
use hyper::client::conn::TrySendError;
use hyper::{Request, Response};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What a request wants a connection for.
pub struct Wanted<'a> {
    /// Whose request.
    pub pod: &'a Pod,
    /// Where to.
    pub cluster: &'a Cluster,
    /// Which endpoint.
    pub address: SocketAddr,
    /// Not one that rested: those of this endpoint were found closed.
    pub fresh: bool,
    /// The client speaks HTTP/2.
    pub http2: bool,
    /// The request's host.
    pub authority: &'a str,
    /// When the request began: who has idled until then for too long is not used.
    pub now: Instant,
}

/// Why there is none.
#[derive(Debug)]
pub enum NoLease {
    /// A limit was reached.
    Overflow,
    /// It could not be made.
    Connect(ConnectError),
}

/// A request at an endpoint, with its connection. Dropped, the request is over and the connection is not used again.
pub struct Lease {
    pool: Rc<Pool>,
    carrier: Carrier,
    open: Option<Rc<Open>>,
    most_requests: Option<u32>,
    reused: bool,
    endpoint: Rc<Endpoint>,
    _request: Counted,
    _here: Counted<HostCounts>,
}

enum Carrier {
    Nothing,
    One(Box<One>),
    /// The same while the request goes on beside the response.
    Split(Split),
    Many(Stream),
}

/// What can be had at once.
enum Now {
    One(Box<One>),
    Many(Stream),
    Dial(Rc<Open>),
    Wait(oneshot::Receiver<Grant>, Counted),
}

impl Upstream {
    /// Gets a connection.
    ///
    /// # Errors
    /// If a limit is reached, or a connection cannot be made.
    pub async fn lease(&self, wanted: &Wanted<'_>) -> Result<Lease, NoLease> {
        let settings = &wanted.cluster.pool;
        let key = Key {
            protocol: match settings.protocol {
                Protocol::Downstream if wanted.http2 => Protocol::Http2,
                Protocol::Downstream => Protocol::Http1,
                other => other,
            },
            server_name: settings.tls.as_ref().and_then(|tls| tls.server_name(wanted.authority)),
            tls: settings.tls_id(),
        };
        let endpoint = self.endpoint(wanted.address);
        let pool = endpoint.pool(&key, settings, &self.counts);
        let request = || {
            let free = self.counts.rq_active.get() < u64::from(self.limits(wanted.cluster).requests);
            if !free {
                count(&self.counts.rq_pending_overflow);
            }
            free.then(|| Counted::enter(&self.counts, |counts| &counts.rq_active)).ok_or(NoLease::Overflow)
        };
        let lease = |request: Counted| Lease {
            pool: Rc::clone(&pool),
            carrier: Carrier::Nothing,
            open: None,
            most_requests: settings.max_requests_per_connection,
            reused: true,
            endpoint: Rc::clone(&endpoint).occupied(),
            _request: request,
            _here: Counted::enter(&endpoint.counts, |host| &host.rq_active),
        };
        let (grant, _occupied) = match self.now(&pool, &key, wanted)? {
            Now::One(one) => (Grant::One(one), None),
            Now::Many(stream) => (Grant::Many(stream), None),
            Now::Dial(open) => (Grant::Slot(open), None),
            Now::Wait(receiver, pending) => {
                // The one that waits counts at its endpoint, for the choice of the next.
                let occupied = Occupied(Rc::clone(&endpoint).occupied());
                let grant = receiver.await.map_err(|_gone| NoLease::Overflow)?;
                drop(pending);
                (grant, Some(occupied))
            }
        };
        match grant {
            Grant::Failed(error) => Err(NoLease::Connect(error)),
            Grant::One(one) => {
                let counted = match request() {
                    Ok(counted) => counted,
                    Err(refused) => {
                        pool.give(one);
                        return Err(refused);
                    }
                };
                let mut lease = lease(counted);
                lease.open = Some(Rc::clone(&one.open));
                lease.carrier = Carrier::One(one);
                Ok(lease)
            }
            Grant::Many(stream) => {
                let mut lease = lease(request()?);
                lease.carrier = Carrier::Many(stream);
                Ok(lease)
            }
            Grant::Slot(open) => {
                let mut lease = lease(request()?);
                lease.reused = false;
                // Rare, and large: in a box it does not make every request's future larger.
                lease.carrier = Box::pin(self.dial(wanted, &key, &pool, &open)).await.map_err(NoLease::Connect)?;
                lease.open = Some(open);
                Ok(lease)
            }
        }
    }

    fn now(&self, pool: &Rc<Pool>, key: &Key, wanted: &Wanted<'_>) -> Result<Now, NoLease> {
        let limits = self.limits(wanted.cluster);
        let shared = pool.is_shared(key.protocol);
        if shared && let Some(stream) = pool.take_stream() {
            return Ok(Now::Many(stream));
        }
        if !shared
            && !wanted.fresh
            && let Some(one) = pool.take_idle(wanted.now)
        {
            return Ok(Now::One(one));
        }
        // Who comes while an HTTP/2 connection is being opened shares it.
        let joins = shared && pool.will_have_room();
        if !joins {
            if Open::is_allowed(pool, &self.counts, limits.connections) {
                return Ok(Now::Dial(Open::new(pool, &self.counts)));
            }
            count(&self.counts.cx_overflow);
        }
        if !shared && wanted.fresh {
            // Its end is what is waited for.
            pool.close_idle();
        }
        if self.counts.rq_pending_active.get() >= u64::from(limits.pending.min(PENDING)) {
            count(&self.counts.rq_pending_overflow);
            return Err(NoLease::Overflow);
        }
        count(&self.counts.rq_pending_total);
        let pending = Counted::enter(&self.counts, |counts| &counts.rq_pending_active);
        Ok(Now::Wait(pool.wait(limits.connections), pending))
    }

    async fn dial(&self, wanted: &Wanted<'_>, key: &Key, pool: &Rc<Pool>, open: &Rc<Open>) -> Result<Carrier, ConnectError> {
        let opening = pool.is_shared(key.protocol).then(|| Opening::enter(pool));
        let settings = &wanted.cluster.pool;
        let dialled = dial::dial(wanted.pod, settings, key, wanted.address, (open, &self.counts)).await;
        drop(opening);
        match dialled {
            Ok(Dialled::One(one)) => {
                pool.speaks.set(Protocol::Http1);
                Ok(Carrier::One(one))
            }
            Ok(Dialled::Many(many)) => {
                pool.speaks.set(Protocol::Http2);
                let stream = pool.share(many);
                pool.open_more();
                Ok(Carrier::Many(stream))
            }
            Err(error) => {
                pool.refused(&error);
                pool.fail(&error);
                Err(error)
            }
        }
    }
}

/// A request that will be or is at an endpoint.
pub(super) struct Occupied(pub(super) Rc<Endpoint>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.vacated();
    }
}

/// A connection is being opened that others will share.
struct Opening<'a>(&'a Pool);

impl<'a> Opening<'a> {
    fn enter(pool: &'a Pool) -> Self {
        pool.opening.set(pool.opening.get() + 1);
        Self(pool)
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(self.0.opening.get().saturating_sub(1));
    }
}

impl Lease {
    /// The connection carried requests before, or carries others.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.reused
    }

    /// The request goes by HTTP/2.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        matches!(self.carrier, Carrier::Many(_))
    }

    /// Sends the request by HTTP/1, as it is; true with an error if nothing of it was sent.
    ///
    /// # Errors
    /// Says how the exchange ended.
    pub async fn send(&mut self, parts: &Parts, body: RequestBody) -> Result<Response<Inflow>, (Broken, bool)> {
        self.sent();
        let Carrier::One(one) = &mut self.carrier else { unreachable!("a lease for HTTP/1 has a connection of its own") };
        let http1 = &mut one.http1;
        // What was closed while it rested is found before anything is sent.
        if self.reused && poll_fn(|cx| Poll::Ready(http1.is_over(cx))).await {
            return Err((Broken::Closed(None), true));
        }
        http1.begin(parts, body);
        let head = poll_fn(|cx| http1.poll_head(cx)).await.map_err(|broken| (broken, http1.is_unsent()))?;
        let mut response = Response::new(Inflow::Http1(http1.receiving().left()));
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        if !http1.is_sent()
            && let Carrier::One(one) = std::mem::replace(&mut self.carrier, Carrier::Nothing)
        {
            self.carrier = Carrier::Split(Split::new(one));
        }
        Ok(response)
    }

    /// Sends the request by HTTP/2.
    ///
    /// # Errors
    /// With the request, if nothing of it was sent.
    pub async fn send_http2(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Inflow>, TrySendError<Request<RequestBody>>> {
        self.sent();
        let Carrier::Many(stream) = &self.carrier else { unreachable!("a lease for HTTP/2 has a place on a connection") };
        let mut sender = stream.connection.sender.clone();
        Ok(sender.try_send_request(request).await?.map(Inflow::Http2))
    }

    fn sent(&self) {
        count(&self.pool.counts().rq_total);
        count(&self.endpoint.counts.rq_total);
    }

    /// Its response has begun.
    pub fn answered(&self, report: Report) {
        self.endpoint.counts.ended(report);
    }

    /// The exchange is complete: the connection may serve the next one.
    pub fn complete(mut self, now: Instant) {
        let mut one = match std::mem::replace(&mut self.carrier, Carrier::Nothing) {
            Carrier::One(one) => one,
            Carrier::Split(split) => match split.complete() {
                Some(one) => one,
                None => return,
            },
            Carrier::Many(_) | Carrier::Nothing => return,
        };
        one.used += 1;
        one.idle_since = now;
        if self.most_requests.is_some_and(|most| one.used >= most) {
            count(&self.pool.counts().cx_max_requests);
            return one.close();
        }
        if !self.endpoint.is_retired() {
            self.pool.give(one);
        }
    }

    /// The connection is one for bytes from now on: those that came already, and it. It counts as long as the lease lives.
    #[must_use]
    pub fn became_a_tunnel(&mut self) -> Option<(Bytes, Transport)> {
        match std::mem::replace(&mut self.carrier, Carrier::Nothing) {
            Carrier::One(one) => Some(one.http1.into_stream()),
            Carrier::Split(_) | Carrier::Many(_) | Carrier::Nothing => None,
        }
    }

    /// The next of the response's body.
    pub fn poll_body(&mut self, cx: &mut Context<'_>, body: &mut Inflow) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let left = match body {
            Inflow::Http2(incoming) => return Pin::new(incoming).poll_frame(cx).map_err(BoxError::from),
            Inflow::Http1(left) => left,
        };
        let mut poll = |one: &mut One| {
            let frame = one.http1.poll_body(cx);
            *left = one.http1.receiving().left();
            frame
        };
        let frame = match &mut self.carrier {
            Carrier::One(one) => Some(poll(one)),
            Carrier::Split(split) => split.with(poll),
            Carrier::Many(_) | Carrier::Nothing => None,
        };
        frame.unwrap_or(Poll::Ready(None)).map_err(BoxError::from)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.endpoint.vacated();
    }
}
