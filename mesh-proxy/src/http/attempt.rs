//! One request to a cluster: choose, connect or reuse, send; again where the policy allows.

use super::body::{Replay, RequestBody};
use super::local::Local;
use super::record::Record;
use crate::config::Cluster;
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
    pub(super) policy: Option<&'a RetryPolicy>,
    /// The upstream sees the number of the attempt.
    pub(super) attempt_count: bool,
    pub(super) parts: Parts,
    pub(super) body: Option<Replay>,
}

/// Why an attempt gave no response.
enum Failure {
    Connect(ConnectError),
    Reset { protocol: bool },
    PerTryTimeout,
}

impl Call<'_> {
    /// Attempts until there is an answer. The caller bounds the whole by the route's timeout.
    pub(super) async fn run(mut self, record: &mut Record) -> Result<Answer, Local> {
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut retries = 0;
        loop {
            let again = self.policy.map_or(0, |policy| policy.other_host_attempts);
            let picked = self.pod.with_rng(|rng| self.upstream.pick(self.cluster, &tried, again, rng));
            let Some(address) = picked else { return Err(Local::no_healthy_upstream()) };
            record.upstream = Some(address);
            if self.attempt_count {
                self.parts.headers.insert("x-envoy-attempt-count", (retries + 1).into());
            }
            let result = match self.policy.and_then(|policy| policy.per_try_timeout) {
                Some(limit) => timeout(limit, self.attempt(address)).await.unwrap_or(Err(Failure::PerTryTimeout)),
                None => self.attempt(address).await,
            };
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

    async fn attempt(&self, address: SocketAddr) -> Result<Answer, Failure> {
        let mut lease = self.upstream.lease(address, true);
        let mut request = self.request();
        if let Some(sender) = &mut lease.sender {
            let mut error = match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, lease)),
                Err(error) => error,
            };
            // The endpoint closed the idle connection just then. Not a failure of the endpoint: one fresh connection, if nothing was
            // sent or the request may safely be sent twice.
            request = match error.take_message() {
                Some(unsent) => unsent,
                None if self.parts.method.is_idempotent() && self.body.is_none() && !error.error().is_parse() => self.request(),
                None => return Err(reset(error.error())),
            };
            lease.sender = None;
            lease.used = 0;
        }
        let stream = self.pod.connect(address, self.cluster.connect_timeout).await.map_err(Failure::Connect)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| reset(&error))?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%address, %error, "upstream connection ended");
            }
        });
        match sender.try_send_request(request).await {
            Ok(response) => {
                lease.sender = Some(sender);
                Ok((response, lease))
            }
            Err(error) => Err(reset(error.error())),
        }
    }
}

fn reset(error: &hyper::Error) -> Failure {
    Failure::Reset { protocol: error.is_parse() }
}

fn outcome(result: &Result<Answer, Failure>) -> Outcome {
    match result {
        Ok((response, _)) => {
            let grpc = response.headers().get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
            Outcome::Response(response.status(), grpc)
        }
        Err(Failure::Connect(_)) => Outcome::ConnectFailure,
        Err(Failure::Reset { .. }) => Outcome::Reset { before_request: false },
        Err(Failure::PerTryTimeout) => Outcome::PerTryTimeout,
    }
}

impl Failure {
    fn local(self, retried: bool) -> Local {
        match self {
            Self::Connect(error) => Local::reset(&error.to_string(), retried, Flags::CONNECT_FAILURE),
            Self::Reset { protocol: true } => Local::reset("protocol error", retried, Flags::PROTOCOL),
            Self::Reset { protocol: false } => Local::reset("connection termination", retried, Flags::TERMINATED),
            Self::PerTryTimeout => Local::timeout(),
        }
    }
}
