//! Copies of requests to other clusters. Nobody waits for them and nobody reads their answers: a mirror that is slow, full or gone must not be
//! noticed by the request. A body is copied as it passes, and its copies are sent when all of it has passed, as a copy that was begun
//! and not finished would be a request that nobody made.

use super::attempt::Call;
use super::body::Replay;
use super::record::Record;
use crate::config::{Cluster, Config};
use crate::core::balance::Ask;
use crate::core::rewrite::split_port;
use crate::core::route::{Forward, Mirror};
use crate::limits::{MIRROR_BODIES, MIRROR_BODY, MIRROR_TIMEOUT, MIRRORS};
use crate::pod::Pod;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::request::Parts;
use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

thread_local! {
    static IN_FLIGHT: Cell<usize> = const { Cell::new(0) };
    static BODIES: Cell<usize> = const { Cell::new(0) };
}

/// Collects the body of a request on its way, and sends the copies when it ends.
pub(super) struct Tap {
    copies: Vec<(Mirror, Arc<Cluster>)>,
    pod: Rc<Pod>,
    parts: Parts,
    limit: Duration,
    original: SocketAddr,
    chunks: Vec<Bytes>,
    held: Held,
}

/// Bytes of the thread's budget.
#[derive(Default)]
struct Held(usize);

impl Held {
    /// Takes more; false if there is no more.
    fn take(&mut self, more: usize) -> Result<(), &'static str> {
        if self.0 + more > MIRROR_BODY {
            return Err("mirror_body_too_large");
        }
        if BODIES.get() + more > MIRROR_BODIES {
            return Err("mirror_overflow");
        }
        BODIES.set(BODIES.get() + more);
        self.0 += more;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        BODIES.set(BODIES.get() - self.0);
    }
}

/// A copy on its way.
struct Flight;

impl Flight {
    fn begin() -> Option<Self> {
        (IN_FLIGHT.get() < MIRRORS).then(|| {
            IN_FLIGHT.set(IN_FLIGHT.get() + 1);
            Self
        })
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        IN_FLIGHT.set(IN_FLIGHT.get() - 1);
    }
}

impl Tap {
    /// For a request that is about to be sent as `parts`; `None` if it is not mirrored.
    pub(super) fn new(
        forward: &Forward,
        pod: &Rc<Pod>,
        config: &Config,
        parts: &Parts,
        (original, total): (SocketAddr, Option<Duration>),
    ) -> Option<Self> {
        let chosen = forward.mirrors.iter().filter(|mirror| pod.with_rng(|rng| mirror.share.hits(rng)));
        // A cluster that does not exist mirrors nothing, as in Envoy.
        let copies: Vec<_> =
            chosen.filter_map(|mirror| Some((mirror.clone(), Arc::clone(config.clusters.get(&mirror.cluster)?)))).collect();
        if copies.is_empty() {
            return None;
        }
        let limit = total.unwrap_or(MIRROR_TIMEOUT);
        Some(Self {
            copies,
            pod: Rc::clone(pod),
            parts: parts.clone(),
            limit,
            original,
            chunks: Vec::new(),
            held: Held::default(),
        })
    }

    /// Part of the body passes. False: from here on it is not copied.
    pub(super) fn chunk(&mut self, chunk: &Bytes) -> bool {
        match self.held.take(chunk.len()) {
            Ok(()) => {
                self.chunks.push(chunk.clone());
                true
            }
            Err(reason) => {
                self.pod.shared.metrics.mirror_lost(reason);
                false
            }
        }
    }

    /// All of it has passed.
    pub(super) fn send(self) {
        let body = Rc::new((self.chunks, self.held));
        for (mirror, cluster) in self.copies {
            let Some(flight) = Flight::begin() else {
                self.pod.shared.metrics.mirror_lost("mirror_overflow");
                continue;
            };
            let mut parts = self.parts.clone();
            rename(&mut parts, &mirror);
            // Its body is there already.
            parts.headers.remove(header::EXPECT);
            let (original, limit) = (self.original, self.limit);
            let (pod, body) = (Rc::clone(&self.pod), Rc::clone(&body));
            tokio::task::spawn_local(async move {
                let _flight = flight;
                if tokio::time::timeout(limit, copy(&pod, &cluster, original, parts, &body.0)).await.is_err() {
                    pod.shared.metrics.mirror_lost("mirror_timeout");
                }
            });
        }
    }
}

/// The host of a copy says what it is.
fn rename(parts: &mut Parts, mirror: &Mirror) {
    let host = match &mirror.host {
        Some(host) => Some(host.clone()),
        None if mirror.suffix => parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).and_then(shadow),
        None => None,
    };
    if let Some(host) = host {
        parts.headers.insert(header::HOST, host);
    }
}

/// `host-shadow:port`.
fn shadow(host: &str) -> Option<HeaderValue> {
    let shadow = match split_port(host) {
        (host, Some(port)) => format!("{host}-shadow:{port}"),
        (host, None) => format!("{host}-shadow"),
    };
    HeaderValue::try_from(shadow).ok()
}

/// Sends it once and reads the answer to its end, for the connection's sake.
async fn copy(pod: &Rc<Pod>, cluster: &Arc<Cluster>, original: SocketAddr, mut parts: Parts, chunks: &[Bytes]) {
    let upstream = pod.upstream(&cluster.name);
    let body = (!chunks.is_empty()).then(|| Replay::whole(chunks.to_vec()));
    // What happens to it is said by nobody: it is no request of the client's.
    let mut record = Record::new(pod, &parts);
    let ask = Ask { hash: None, original };
    let call = Call {
        pod,
        cluster,
        upstream: &upstream,
        ask,
        policy: None,
        attempt_count: false,
        parts: &mut parts,
        body,
        deadline: None,
        began: Instant::now(),
        http2: false,
    };
    let Ok((response, mut lease)) = call.run(&mut record).await else { return pod.shared.metrics.mirror_lost("mirror_failed") };
    let mut incoming = response.into_body();
    while let Some(Ok(_frame)) = poll_fn(|cx| lease.poll_body(cx, &mut incoming)).await {}
    lease.complete(Instant::now());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copys_host_says_what_it_is() {
        for (host, expected) in [("a.b", "a.b-shadow"), ("a:80", "a-shadow:80"), ("[::1]:80", "[::1]-shadow:80")] {
            assert_eq!(shadow(host).expect("valid"), expected);
        }
    }

    #[test]
    fn bodies_are_bounded_each_and_together() {
        let mut held = Held::default();
        assert_eq!(held.take(MIRROR_BODY), Ok(()));
        assert_eq!(held.take(1), Err("mirror_body_too_large"));
        let mut all: Vec<Held> = (0..MIRROR_BODIES / MIRROR_BODY - 1).map(|_| Held::default()).collect();
        assert!(all.iter_mut().all(|held| held.take(MIRROR_BODY).is_ok()));
        assert_eq!(Held::default().take(1), Err("mirror_overflow"));
        drop(held);
        assert_eq!(Held::default().take(1), Ok(()));
    }
}
