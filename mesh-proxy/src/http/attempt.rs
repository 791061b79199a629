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
use crate::core::retry::{Outcome, RetryPolicy};
use crate::pod::upstream::{Lease, Upstream};
use crate::pod::{ConnectError, Pod};
use http::request::Parts;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::time::timeout;

/// The endpoint's answer and its connection, which the body gives back.
pub(super) type Answer = (Response<Incoming>, Lease);

/// What stays the same over all attempts.
pub(super) struct Call<'a> {
    pub(super) pod: &'a Rc<Pod>,
    pub(super) cluster: &'a Cluster,
    pub(super) upstream: &'a Upstream,
    /// What the balancer goes by.
    pub(super) ask: Ask,
    pub(super) policy: Option<&'a RetryPolicy>,
    /// The upstream sees the number of the attempt.
    pub(super) attempt_count: bool,
    pub(super) parts: Parts,
    pub(super) body: Option<Replay>,
}

/// Requests sent again because reused connections were closed. From the last on a fresh connection is made each time.
const STALE_MAX: u32 = 3;
/// Picks again, at least so many times, while the balancer returns an endpoint that failed just now.
const OTHER_HOST: u32 = 5;

/// Why an attempt gave no response.
enum Failure {
    Connect(ConnectError),
    /// A reused connection was closed, and the request may be sent again.
    Stale,
    /// `safe`: the request may be sent again, if the policy allows to connect again.
    Reset {
        protocol: bool,
        safe: bool,
    },
    PerTryTimeout,
}

impl Call<'_> {
    /// Attempts until there is an answer. The caller bounds the whole by the route's timeout.
    pub(super) async fn run(mut self, record: &mut Record) -> Result<Answer, Local> {
        let mut tried: Vec<SocketAddr> = Vec::new();
        let (mut retries, mut stale) = (0, 0);
        loop {
            let again = self.policy.map_or(0, |policy| policy.other_host_attempts);
            let again = if stale > 0 { again.max(OTHER_HOST) } else { again };
            let picked = self.pod.with_rng(|rng| self.upstream.pick(self.cluster, &self.ask, &tried, again, rng));
            let Some(address) = picked else { return Err(Local::no_healthy_upstream()) };
            record.upstream = Some(address);
            if self.attempt_count {
                self.parts.headers.insert("x-envoy-attempt-count", (retries + 1).into());
            }
            let reuse = stale < STALE_MAX;
            let result = match self.policy.and_then(|policy| policy.per_try_timeout) {
                Some(limit) => timeout(limit, self.attempt(address, reuse)).await.unwrap_or(Err(Failure::PerTryTimeout)),
                None => self.attempt(address, reuse).await,
            };
            if matches!(result, Err(Failure::Stale)) {
                stale += 1;
                tried.push(address);
                self.pod.shared.metrics.stale.inc();
                continue;
            }
            let wanted = self.policy.filter(|policy| policy.wants(outcome(&result)));
            let repeatable = self.body.as_ref().is_none_or(Replay::repeatable);
            match wanted {
                Some(policy) if retries < policy.retries && repeatable => {
                    retries += 1;
                    tried.push(address);
                    self.pod.shared.metrics.retries.inc();
                    drop(result);
                    tokio::time::sleep(self.pod.with_rng(|rng| policy.pause(retries, rng))).await;
                }
                wanted => {
                    if wanted.is_some_and(|policy| policy.retries > 0 && retries >= policy.retries) {
                        record.flags.set(Flags::RETRIES_EXHAUSTED);
                    }
                    return result.map_err(|failure| failure.local(retries > 0));
                }
            }
        }
    }

    fn request(&self) -> Request<RequestBody> {
        let body = self.body.as_ref().map_or(RequestBody::Empty, |replay| RequestBody::Replay(replay.clone(), 0));
        Request::from_parts(self.parts.clone(), body)
    }

    /// May it be sent twice without harm?
    fn is_safe(&self) -> bool {
        self.parts.method.is_idempotent() && self.body.is_none()
    }

    async fn attempt(&self, address: SocketAddr, reuse: bool) -> Result<Answer, Failure> {
        let mut lease = self.upstream.lease(address, reuse);
        if let Some(sender) = &mut lease.sender {
            let mut error = match sender.try_send_request(self.request()).await {
                Ok(response) => return Ok((response, lease)),
                Err(error) => error,
            };
            let unsent = error.take_message().is_some();
            let stale = unsent || (self.is_safe() && !error.error().is_parse());
            return Err(if stale { Failure::Stale } else { self.reset(error.error()) });
        }
        let stream = self.pod.connect(address, self.cluster.connect_timeout).await.map_err(Failure::Connect)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.reset(&error))?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%address, %error, "upstream connection ended");
            }
        });
        match sender.try_send_request(self.request()).await {
            Ok(response) => {
                lease.sender = Some(sender);
                Ok((response, lease))
            }
            Err(error) => Err(self.reset(error.error())),
        }
    }

    fn reset(&self, error: &hyper::Error) -> Failure {
        Failure::Reset { protocol: error.is_parse(), safe: self.is_safe() && !error.is_parse() }
    }
}

fn outcome(result: &Result<Answer, Failure>) -> Outcome {
    match result {
        Ok((response, _)) => {
            let grpc = response.headers().get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
            Outcome::Response(response.status(), grpc)
        }
        Err(Failure::Connect(_)) => Outcome::ConnectFailure,
        // Stale ones are sent again before anybody asks.
        Err(Failure::Stale) => Outcome::Reset { before_request: true, safe: true },
        Err(Failure::Reset { safe, .. }) => Outcome::Reset { before_request: false, safe: *safe },
        Err(Failure::PerTryTimeout) => Outcome::PerTryTimeout,
    }
}

impl Failure {
    fn local(self, retried: bool) -> Local {
        match self {
            Self::Connect(error) => Local::reset(&error.to_string(), retried, Flags::CONNECT_FAILURE),
            Self::Reset { protocol: true, .. } => Local::reset("protocol error", retried, Flags::PROTOCOL),
            Self::Reset { protocol: false, .. } | Self::Stale => {
                Local::reset("connection termination", retried, Flags::TERMINATED)
            }
            Self::PerTryTimeout => Local::timeout(),
        }
    }
}
