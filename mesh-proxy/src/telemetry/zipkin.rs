//! Spans on their way: worker threads queue them, one task posts them to `POST /api/v2/spans` in batches.
//!
//! The task dials the endpoints of the collector's cluster from the node's own network, with ordinary sockets, as the process dials
//! mesh-control: spans are the mesh's own traffic, not a pod's, so no pod's socket, policy or limit is touched (docs/design/0013).

use crate::core::balance::Health;
use crate::core::trace::{Collector, Span};
use crate::metrics::ReasonLabel;
use crate::shared::Shared;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

/// Spans that wait: a second at 8,000 sampled requests a second, some 8 MiB. Beyond: dropped, `queue_full`.
const QUEUE: usize = 8192;
/// Spans of one request to the collector: below Zipkin's limits of a message, large enough that the request's own cost is small.
const BATCH: usize = 512;
/// A span waits at most this long for others.
const PAUSE: Duration = Duration::from_secs(1);
/// For connecting and for the answer, each. Envoy's limit for its collector is the same.
const LIMIT: Duration = Duration::from_secs(5);

type Queued = (Arc<Collector>, Box<Span>);

/// The queue.
#[derive(Debug)]
pub struct Spans {
    sender: mpsc::Sender<Queued>,
    receiver: Mutex<Option<mpsc::Receiver<Queued>>>,
    /// By reason: `queue_full`, `no_collector`, `unreachable`, `refused`.
    pub dropped: Family<ReasonLabel, Counter>,
    /// Taken by a collector.
    pub reported: Counter,
}

impl Default for Spans {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        Self { sender, receiver: Mutex::new(Some(receiver)), dropped: Family::default(), reported: Counter::default() }
    }
}

impl Spans {
    /// Queues a span.
    pub fn report(&self, collector: &Arc<Collector>, span: Span) {
        if self.sender.try_send((Arc::clone(collector), Box::new(span))).is_err() {
            self.drop(1, "queue_full");
        }
    }

    fn drop(&self, count: usize, reason: &'static str) {
        self.dropped.get_or_create(&ReasonLabel { reason }).inc_by(count as u64);
    }
}

/// Posts spans for ever. Only the first call does.
pub async fn run(shared: Arc<Shared>) {
    let receiver = shared.telemetry.spans.receiver.lock().take();
    let Some(mut receiver) = receiver else { return std::future::pending().await };
    let mut connections = Connections::default();
    let mut batch: Vec<Queued> = Vec::with_capacity(BATCH);
    loop {
        batch.extend(receiver.recv().await);
        let deadline = Instant::now() + PAUSE;
        // A full batch goes at once, else what has come within the pause.
        while batch.len() < BATCH
            && let Ok(Some(span)) = timeout_at(deadline, receiver.recv()).await
        {
            batch.push(span);
        }
        let mut by_collector: HashMap<Arc<Collector>, Vec<Box<Span>>> = HashMap::new();
        for (collector, span) in batch.drain(..) {
            by_collector.entry(collector).or_default().push(span);
        }
        for (collector, spans) in by_collector {
            let sent = connections.post(&shared, &collector, &spans).await;
            match sent {
                Ok(()) => drop(shared.telemetry.spans.reported.inc_by(spans.len() as u64)),
                Err(reason) => {
                    tracing::debug!(reason, cluster = &*collector.cluster, spans = spans.len(), "spans dropped");
                    shared.telemetry.spans.drop(spans.len(), reason);
                }
            }
        }
    }
}

/// Kept from one batch to the next.
#[derive(Default)]
struct Connections {
    open: HashMap<SocketAddr, SendRequest<Full<Bytes>>>,
    turn: usize,
}

impl Connections {
    /// Tries each endpoint once, in turn; the error is the last one's reason.
    async fn post(&mut self, shared: &Shared, collector: &Collector, spans: &[Box<Span>]) -> Result<(), &'static str> {
        let config = shared.config.load_full();
        let endpoints = config.clusters.get(&collector.cluster).map_or(&[][..], |cluster| &cluster.balancer.members().endpoints);
        let alive: Vec<SocketAddr> =
            endpoints.iter().filter(|e| e.health > Health::Unhealthy && e.weight > 0).map(|e| e.address).collect();
        self.open.retain(|address, sender| alive.contains(address) && !sender.is_closed());
        let Ok(body) = serde_json::to_vec(spans).map(Bytes::from) else { return Err("refused") };
        self.turn = self.turn.wrapping_add(1);
        let mut result = Err("no_collector");
        for index in 0..alive.len() {
            let address = alive[(self.turn + index) % alive.len()];
            result = match timeout(LIMIT, self.post_to(address, collector, &body)).await {
                Ok(result) => result,
                Err(_elapsed) => {
                    self.open.remove(&address);
                    Err("unreachable")
                }
            };
            // Who has read them and said no would say it again, elsewhere too.
            if !matches!(result, Err("unreachable")) {
                break;
            }
        }
        result
    }

    async fn post_to(&mut self, address: SocketAddr, collector: &Collector, body: &Bytes) -> Result<(), &'static str> {
        let mut kept = self.open.remove(&address);
        loop {
            let reused = kept.is_some();
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => connect(address).await.ok_or("unreachable")?,
            };
            let request = Request::post(&collector.path)
                .header(header::HOST, &collector.host)
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(body.clone()));
            // Path and host were checked when the configuration came.
            let Ok(request) = request else { return Err("refused") };
            let answered = match sender.ready().await {
                Ok(()) => sender.send_request(request).await,
                Err(error) => Err(error),
            };
            let response = match answered {
                Ok(response) => response,
                // Closed since it was used last: once more on a fresh one.
                Err(_closed) if reused => continue,
                Err(_closed) => return Err("unreachable"),
            };
            let taken = response.status().is_success();
            // Read to its end, or the connection serves nobody again.
            if response.into_body().collect().await.is_ok() {
                self.open.insert(address, sender);
            }
            return if taken { Ok(()) } else { Err("refused") };
        }
    }
}

async fn connect(address: SocketAddr) -> Option<SendRequest<Full<Bytes>>> {
    let stream = timeout(LIMIT, TcpStream::connect(address)).await.ok()?.ok()?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%address, %error, "connection to a collector ended");
        }
    });
    Some(sender)
}
