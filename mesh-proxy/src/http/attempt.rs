//! One request to a cluster: choose, connect or reuse, send; again where the policy allows, or where nothing can have happened twice.
//!
//! A backend that stops (a rolling upgrade, a kill) closes connections at any moment. Three cases, in none of which a response was begun:
//! it refuses: a connect failure, retried by the policy; it closes a connection that was reused, the request unsent or safe (idempotent,
//! without a body): sent again on another endpoint, whatever the policy says, as a client would; it closes a fresh connection on a safe
//! request: retried as a connect failure is.

use super::body::{Replay, RequestBody};
use super::local::Local;
use super::record::Record;
use crate::config::Cluster;
use crate::core::balance::Ask;
use crate::core::flags::Flags;
use crate::core::outlier::{Report, of_grpc};
use crate::core::retry::{Outcome, RetryPolicy};
use crate::pod::upstream::{Broken, Inflow, Lease, NoLease, Upstream, Wanted, count};
use crate::pod::{ConnectError, Pod};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Uri, Version, header, uri};
use hyper::{Request, Response};
use std::cell::Cell;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use tokio::time::{Instant, timeout, timeout_at};

/// The endpoint's answer and its connection, which the body gives back.
pub(super) type Answer = (Response<Inflow>, Lease);

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What stays the same over all attempts.
pub(super) struct Call<'a> {
    pub(super) pod: &'a Rc<Pod>,
    pub(super) cluster: &'a Cluster,
    pub(super) upstream: &'a Rc<Upstream>,
    /// What the balancer goes by.
    pub(super) ask: Ask,
    pub(super) policy: Option<&'a RetryPolicy>,
    /// The upstream sees the number of the attempt.
    pub(super) attempt_count: bool,
    pub(super) parts: &'a mut Parts,
    pub(super) body: Option<Replay>,
    /// Of all attempts together, up to the response's head.
    pub(super) deadline: Option<Instant>,
    /// When the first of them began.
    pub(super) began: Instant,
    /// The client speaks HTTP/2.
    pub(super) http2: bool,
}

/// Requests sent again because reused connections were closed. From the last on a fresh connection is made each time.
const STALE_MAX: u32 = 3;
/// Picks again, at least so many times, while the balancer returns an endpoint that failed just now.
const OTHER_HOST: u32 = 5;

/// Beyond, a connection that closes is a reset like any other: somebody closes each as soon as it is made.
const STALE_END: u32 = 6;

/// Why an attempt gave no response.
enum Failure {
    /// A limit of ours. Not the endpoint's fault and not retried.
    Overflow,
    Connect(ConnectError),
    /// The connection was closed, and the request may be sent again.
    Stale,
    /// The endpoint would not have this stream, and did nothing with it.
    Refused,
    /// `safe`: the request may be sent again, if the policy allows to connect again.
    Reset {
        kind: Reset,
        safe: bool,
    },
    PerTryTimeout,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Reset {
    /// What came was no HTTP.
    Protocol,
    /// The connection ended.
    Connection,
    /// The endpoint ended the stream (HTTP/2).
    Stream,
}

impl Call<'_> {
    /// Attempts until there is an answer or the time is over.
    pub(super) async fn run(self, record: &mut Record) -> Result<Answer, Local> {
        let (upstream, cluster, pod, deadline) = (self.upstream, self.cluster, self.pod, self.deadline);
        let waiting = Cell::new(None);
        // In one place: a future that is awaited here or there is copied on the way, and this one is large.
        let attempts = pin!(self.attempts(record, &waiting));
        let Some(deadline) = deadline else { return attempts.await };
        let result = timeout_at(deadline, attempts).await;
        result.unwrap_or_else(|_elapsed| {
            count(&upstream.counts.rq_timeout);
            if let Some(address) = waiting.get() {
                upstream.ended(address, Report::Timeout);
                pod.with_rng(|rng| upstream.report(cluster, address, Report::Timeout, rng));
            }
            Err(Local::timeout())
        })
    }

    /// `waiting`: the endpoint that is being waited for.
    async fn attempts(self, record: &mut Record, waiting: &Cell<Option<SocketAddr>>) -> Result<Answer, Local> {
        let mut tried: Vec<SocketAddr> = Vec::new();
        let (mut retries, mut stale, mut counted) = (0, 0, None);
        loop {
            let again = self.policy.map_or(0, |policy| policy.other_host_attempts);
            let again = if stale > 0 { again.max(OTHER_HOST) } else { again };
            let picked = self.pod.with_rng(|rng| self.upstream.pick(self.cluster, &self.ask, &tried, again, rng));
            let Some(address) = picked else { return Err(Local::no_healthy_upstream()) };
            record.upstream = Some(address);
            if self.attempt_count {
                self.parts.headers.insert("x-envoy-attempt-count", (retries + 1).into());
            }
            record.attempting(address, &mut self.parts.headers);
            waiting.set(Some(address));
            let result = {
                let attempt = pin!(self.attempt(address, stale));
                match self.policy.and_then(|policy| policy.per_try_timeout) {
                    Some(limit) => timeout(limit, attempt).await.unwrap_or(Err(Failure::PerTryTimeout)),
                    None => attempt.await,
                }
            };
            waiting.set(None);
            if let Err(failure) = &result {
                record.attempted(0, failure.flags());
            }
            if matches!(result, Err(Failure::Stale)) {
                stale += 1;
                tried.push(address);
                self.pod.shared.metrics.stale.inc();
                continue;
            }
            self.judge(address, &result);
            drop(counted.take());
            let Some(policy) = self.wants_again(&result) else { return result.map_err(|failure| failure.local(retries > 0)) };
            if retries >= policy.retries {
                if policy.retries > 0 {
                    count(&self.upstream.counts.rq_retry_limit_exceeded);
                    record.flags.set(Flags::RETRIES_EXHAUSTED);
                }
                return result.map_err(|failure| failure.local(retries > 0));
            }
            counted = self.upstream.retry(self.cluster);
            if counted.is_none() {
                record.flags.set(Flags::OVERFLOW);
                return result.map_err(|failure| failure.local(retries > 0));
            }
            if let Ok((response, _)) = &result {
                record.attempted(response.status().as_u16(), Flags::default());
            }
            retries += 1;
            record.retries = retries;
            tried.push(address);
            self.pod.shared.metrics.retries.inc();
            drop(result);
            tokio::time::sleep(self.pod.with_rng(|rng| policy.pause(retries, rng))).await;
        }
    }

    /// The policy, if it would repeat this and the request can be repeated.
    fn wants_again(&self, result: &Result<Answer, Failure>) -> Option<&RetryPolicy> {
        let wanted = self.policy.filter(|policy| outcome(result).is_some_and(|outcome| policy.wants(outcome)));
        let repeatable = self.body.as_ref().is_none_or(Replay::repeatable);
        wanted.filter(|_| repeatable)
    }

    /// Tells outlier detection.
    fn judge(&self, address: SocketAddr, result: &Result<Answer, Failure>) {
        if self.body.as_ref().is_some_and(Replay::is_broken) {
            return;
        }
        let counts = &self.upstream.counts;
        let report = match result {
            Ok((response, lease)) => {
                let grpc = grpc_status(response.headers());
                let report = Report::Response(grpc.map_or_else(|| response.status().as_u16(), of_grpc));
                lease.answered(report);
                report
            }
            // Ours, not the endpoint's.
            Err(Failure::Overflow | Failure::Connect(ConnectError::Stock(_) | ConnectError::NoSecret) | Failure::Stale) => return,
            Err(Failure::Connect(_)) => Report::Failed,
            Err(Failure::Refused | Failure::Reset { .. }) => {
                count(&counts.rq_rx_reset);
                Report::Failed
            }
            Err(Failure::PerTryTimeout) => {
                count(&counts.rq_per_try_timeout);
                Report::Timeout
            }
        };
        if result.is_err() {
            self.upstream.ended(address, report);
        }
        self.pod.with_rng(|rng| self.upstream.report(self.cluster, address, report, rng));
    }

    fn body(&self) -> RequestBody {
        self.body.as_ref().map_or(RequestBody::Empty, |replay| RequestBody::Replay(replay.clone(), 0))
    }

    /// The request as HTTP/2 has it.
    fn http2(&self) -> Request<RequestBody> {
        let mut parts = self.parts.clone();
        if let Some(gate) = self.body.as_ref().and_then(Replay::gate) {
            // The library does not tell when the endpoint asks: the client is asked here.
            parts.headers.remove(header::EXPECT);
            gate.open();
        }
        for_http2(&mut parts, self.cluster.pool.tls.is_some());
        Request::from_parts(parts, self.body())
    }

    /// May it be sent twice without harm?
    fn is_safe(&self) -> bool {
        self.parts.method.is_idempotent() && self.body.is_none()
    }

    async fn attempt(&self, address: SocketAddr, stale: u32) -> Result<Answer, Failure> {
        let authority = self.parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let (pod, cluster, http2, now) = (self.pod, self.cluster, self.http2, self.began);
        let wanted = Wanted { pod, cluster, address, fresh: stale >= STALE_MAX, http2, authority, now };
        let mut lease = self.upstream.lease(&wanted).await.map_err(|refused| match refused {
            NoLease::Overflow => Failure::Overflow,
            NoLease::Connect(error) => Failure::Connect(error),
        })?;
        if !lease.is_reused() {
            self.pod.with_rng(|rng| self.upstream.report(self.cluster, address, Report::Connected, rng));
        }
        let sent = if lease.is_http2() {
            let sent = lease.send_http2(self.http2()).await;
            sent.map_err(|mut error| (self.failure(error.error()), error.take_message().is_some()))
        } else {
            let sent = lease.send(self.parts, self.body()).await;
            sent.map_err(|(broken, unsent)| (self.broken(&broken), unsent))
        };
        let (failure, unsent) = match sent {
            Ok(response) => return Ok((response, lease)),
            Err(failed) => failed,
        };
        let again = match failure {
            // What has been read of the body and is not kept cannot be sent to anybody else.
            Failure::Stale => self.body.as_ref().is_none_or(Replay::repeatable),
            Failure::Reset { kind, .. } => lease.is_reused() && (unsent || (kind == Reset::Connection && self.is_safe())),
            _ => false,
        };
        match failure {
            _ if again && stale < STALE_END => Err(Failure::Stale),
            Failure::Stale => Err(Failure::Reset { kind: Reset::Connection, safe: self.is_safe() }),
            other => Err(other),
        }
    }

    /// Why there is no response by HTTP/1.
    fn broken(&self, broken: &Broken) -> Failure {
        tracing::debug!(%broken, cluster = %self.cluster.name, "no response");
        let kind = match broken {
            Broken::Malformed(malformed) => {
                self.pod.shared.metrics.malformed(malformed.label());
                Reset::Protocol
            }
            Broken::Closed(_) | Broken::Body(_) => Reset::Connection,
        };
        Failure::Reset { kind, safe: kind == Reset::Connection && self.is_safe() }
    }

    /// Why there is none by HTTP/2.
    fn failure(&self, error: &hyper::Error) -> Failure {
        let kind = match error.source().and_then(|source| source.downcast_ref::<h2::Error>()) {
            // The endpoint says that it did nothing with streams after those that it names, of which this is one.
            Some(h2) if h2.is_go_away() && h2.is_remote() && h2.reason() == Some(h2::Reason::NO_ERROR) => return Failure::Stale,
            Some(h2) if h2.reason() == Some(h2::Reason::REFUSED_STREAM) => return Failure::Refused,
            Some(h2) if h2.is_reset() && h2.is_remote() => Reset::Stream,
            Some(h2) if h2.is_io() => Reset::Connection,
            Some(h2) if h2.is_go_away() && h2.is_remote() => Reset::Connection,
            Some(_) => Reset::Protocol,
            None => Reset::Connection,
        };
        Failure::Reset { kind, safe: kind == Reset::Connection && self.is_safe() }
    }
}

/// HTTP/2 names scheme and authority beside the path, and has no `host`.
fn for_http2(parts: &mut Parts, tls: bool) {
    let host = parts.headers.remove(header::HOST);
    let authority = host.and_then(|host| uri::Authority::try_from(host.as_bytes()).ok());
    let scheme = if tls { uri::Scheme::HTTPS } else { uri::Scheme::HTTP };
    let mut target = std::mem::take(&mut parts.uri).into_parts();
    if let Some(authority) = authority
        && target.path_and_query.is_some()
    {
        (target.scheme, target.authority) = (Some(scheme), Some(authority));
    }
    parts.uri = Uri::from_parts(target).unwrap_or_default();
    parts.version = Version::HTTP_2;
}

fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get(GRPC_STATUS).and_then(|status| status.to_str().ok()?.parse().ok())
}

/// What the retry policy is asked about; `None`: nothing that may be repeated.
fn outcome(result: &Result<Answer, Failure>) -> Option<Outcome<'_>> {
    Some(match result {
        Ok((response, _)) => Outcome::Response(response.status(), response.headers()),
        Err(Failure::Overflow) => return None,
        Err(Failure::Connect(_)) => Outcome::ConnectFailure,
        // Stale ones are sent again before anybody asks.
        Err(Failure::Stale) => Outcome::Reset { before_request: true, safe: true },
        Err(Failure::Refused) => Outcome::Refused,
        Err(Failure::Reset { safe, .. }) => Outcome::Reset { before_request: false, safe: *safe },
        Err(Failure::PerTryTimeout) => Outcome::PerTryTimeout,
    })
}

impl Failure {
    /// What is said of it.
    fn flags(&self) -> Flags {
        match self {
            Self::Overflow => Flags::OVERFLOW,
            Self::Connect(_) => Flags::CONNECT_FAILURE,
            Self::Refused | Self::Reset { kind: Reset::Stream, .. } => Flags::REMOTE_RESET,
            Self::Reset { kind: Reset::Protocol, .. } => Flags::PROTOCOL,
            Self::Reset { kind: Reset::Connection, .. } | Self::Stale => Flags::TERMINATED,
            Self::PerTryTimeout => Flags::TIMEOUT,
        }
    }

    fn local(self, retried: bool) -> Local {
        let flags = self.flags();
        match self {
            Self::Overflow => Local::overflow(),
            Self::Connect(error) => Local::reset(&error.to_string(), retried, flags),
            Self::Refused => Local::reset("remote refused stream reset", retried, flags),
            Self::Reset { kind: Reset::Protocol, .. } => Local::reset("protocol error", retried, flags),
            Self::Reset { kind: Reset::Stream, .. } => Local::reset("remote reset", retried, flags),
            Self::Reset { kind: Reset::Connection, .. } | Self::Stale => Local::reset("connection termination", retried, flags),
            Self::PerTryTimeout => Local::timeout(),
        }
    }
}
