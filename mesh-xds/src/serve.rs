//! Serves snapshots over ADS, delta and state of the world, to many clients: the asynchronous shell around [`crate::server`] and
//! [`crate::sotw`].
//!
//! Each client has a task, a session and a place in memory of its own: one that reads slowly or refuses everything delays nobody else,
//! since snapshots are coalesced (only the newest is ever sent) and one response per type is in flight.

use crate::names::PUSH_ORDER;
use crate::node::Node;
use crate::report::Report;
use crate::server::{self, InvalidRequest, Request, Snapshot};
use crate::sotw;
use envoy_types::pb::envoy::config::core::v3::Node as Sender;
use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server as ads;
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

/// Handshakes at once: a mesh that reconnects whole (1,000 nodes with three clients each) is served in turns of this size.
const HANDSHAKES_MAX: usize = 64;
/// A client that has not finished its handshake by then is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the snapshots come from. mesh-control implements it.
pub trait Source: Send + Sync + 'static {
    /// May this bearer token act as this node? An error is the sentence for the client.
    ///
    /// # Errors
    /// If it may not.
    fn authorize(&self, node: &Node, token: Option<&str>) -> Result<(), String>;
    /// What this node should hold, now and later.
    fn watch(&self, node: &Node) -> watch::Receiver<Arc<Snapshot>>;
    /// A client answered. Called for every ACK (`error` is `None`) and NACK.
    fn answered(&self, node: &Node, answer: Answer<'_>);
    /// A snapshot that took the place of another has nothing of this type that the client does not hold, so that no answer will come. A
    /// change that was taken back before it was sent ends so.
    fn holds(&self, node: &Node, type_url: &'static str) {
        let _ = (node, type_url);
    }
    /// The client holds all of this snapshot, of every type, and nothing else. Said once for each snapshot that it comes to hold.
    fn settled(&self, node: &Node, snapshot: &Arc<Snapshot>) {
        let _ = (node, snapshot);
    }
    /// An agent says what is in the mesh on its node.
    fn reported(&self, node: &Node, report: Report) {
        let _ = (node, report);
    }
    /// The client's stream is gone.
    fn disconnected(&self, node: &Node);
}

/// An ACK or a NACK.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Which type.
    pub type_url: &'a str,
    /// What was refused, in the client's words; `None` for an ACK.
    pub error: Option<&'a str>,
    /// True if the client now holds everything of this type that its snapshot has.
    pub in_sync: bool,
}

/// Serves until the listener fails. `tls` must offer ALPN `h2`.
///
/// # Errors
/// If the server cannot go on.
pub async fn run(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    source: Arc<dyn Source>,
) -> Result<(), tonic::transport::Error> {
    let (connections, incoming) = mpsc::channel(HANDSHAKES_MAX);
    let service = ads::AggregatedDiscoveryServiceServer::new(Service { source });
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_service(service)
        .serve_with_incoming(ReceiverStream::new(incoming));
    tokio::select! {
        served = serving => served,
        never = accept(listener, tokio_rustls::TlsAcceptor::from(tls), connections) => match never {},
    }
}

type Handshaken = mpsc::Sender<std::io::Result<TlsStream<TcpStream>>>;

async fn accept(listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor, connections: Handshaken) -> Infallible {
    let slots = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        // The semaphore is never closed; without a slot the handshake would merely be uncounted.
        let slot = Arc::clone(&slots).acquire_owned().await;
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or the like: the listener itself is fine. A pause keeps the loop from burning a core.
                tracing::warn!(%error, "cannot accept an xDS client");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, connections) = (acceptor.clone(), connections.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let _ = stream.set_nodelay(true);
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => _ = connections.send(Ok(stream)).await,
                Ok(Err(error)) => tracing::warn!(%peer, %error, "an xDS client's TLS handshake failed"),
                Err(_elapsed) => tracing::warn!(%peer, "an xDS client's TLS handshake took too long"),
            }
        });
    }
}

struct Service {
    source: Arc<dyn Source>,
}

#[tonic::async_trait]
impl ads::AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<pb::DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<pb::DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<pb::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.serve::<sotw::Session>(request).await
    }

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<pb::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.serve::<server::Session>(request).await
    }
}

impl Service {
    async fn serve<S: Session>(
        &self,
        request: tonic::Request<Streaming<S::Request>>,
    ) -> Result<Response<ReceiverStream<Result<S::Response, Status>>>, Status> {
        let token = bearer(&request);
        let mut requests = request.into_inner();
        let first =
            requests.message().await?.ok_or_else(|| Status::invalid_argument("the stream ended before its first request"))?;
        let sender = S::sender(&first);
        let id = sender.map(|node| node.id.as_str()).unwrap_or_default();
        let node: Node = id.parse().map_err(|e: crate::node::InvalidNode| Status::invalid_argument(format!("node.id: {e}")))?;
        let node = node.with_metadata(sender.and_then(|node| node.metadata.as_ref()));
        self.source.authorize(&node, token.as_deref()).map_err(Status::unauthenticated)?;
        let (sender, responses) = mpsc::channel(1);
        let snapshots = self.source.watch(&node);
        let client = ClientTask { source: Arc::clone(&self.source), node, session: S::default(), snapshots };
        tokio::spawn(client.run(first, requests, sender));
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

/// One client's state machine, of either form of xDS.
trait Session: Default + Send + Sync + 'static {
    type Request: Send + Sync + 'static;
    type Response: Send + 'static;

    fn sender(request: &Self::Request) -> Option<&Sender>;
    fn handle_request(&mut self, request: &Self::Request) -> Result<Request, InvalidRequest>;
    fn poll_response(&mut self, snapshot: &Snapshot) -> Option<Self::Response>;
    fn in_sync(&self, type_url: &str, snapshot: &Snapshot) -> bool;
    fn holds_all(&self, type_url: &str, snapshot: &Snapshot) -> bool;
    fn settled(&self, snapshot: &Snapshot) -> bool;
}

macro_rules! session {
    ($session:ty, $request:ty, $response:ty) => {
        impl Session for $session {
            type Request = $request;
            type Response = $response;

            fn sender(request: &Self::Request) -> Option<&Sender> {
                request.node.as_ref()
            }
            fn handle_request(&mut self, request: &Self::Request) -> Result<Request, InvalidRequest> {
                Self::handle_request(self, request)
            }
            fn poll_response(&mut self, snapshot: &Snapshot) -> Option<Self::Response> {
                Self::poll_response(self, snapshot)
            }
            fn in_sync(&self, type_url: &str, snapshot: &Snapshot) -> bool {
                Self::in_sync(self, type_url, snapshot)
            }
            fn holds_all(&self, type_url: &str, snapshot: &Snapshot) -> bool {
                Self::holds_all(self, type_url, snapshot)
            }
            fn settled(&self, snapshot: &Snapshot) -> bool {
                Self::settled(self, snapshot)
            }
        }
    };
}

session!(server::Session, pb::DeltaDiscoveryRequest, pb::DeltaDiscoveryResponse);
session!(sotw::Session, pb::DiscoveryRequest, pb::DiscoveryResponse);

fn bearer<T>(request: &tonic::Request<T>) -> Option<String> {
    let value = request.metadata().get("authorization")?.to_str().ok()?;
    Some(value.strip_prefix("Bearer ")?.trim().to_owned())
}

struct ClientTask<S> {
    source: Arc<dyn Source>,
    node: Node,
    session: S,
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

type Responses<S> = mpsc::Sender<Result<<S as Session>::Response, Status>>;

impl<S: Session> ClientTask<S> {
    async fn run(mut self, first: S::Request, requests: Streaming<S::Request>, responses: Responses<S>) {
        tracing::info!(node = %self.node, "an xDS client has connected");
        if let Err(status) = self.pump(first, requests, &responses).await {
            tracing::info!(node = %self.node, reason = status.message(), "an xDS client's stream ends");
            let _ = responses.send(Err(status)).await;
        }
        self.source.disconnected(&self.node);
    }

    async fn pump(
        &mut self,
        first: S::Request,
        mut requests: Streaming<S::Request>,
        responses: &Responses<S>,
    ) -> Result<(), Status> {
        self.handle(&first)?;
        // What was settled is not kept alive: that a snapshot is tells the source that an answer may still speak of it.
        let (mut looked_at, mut settled): (Option<Arc<Snapshot>>, Weak<Snapshot>) = (None, Weak::new());
        loop {
            let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
            while let Some(response) = self.session.poll_response(&snapshot) {
                if responses.send(Ok(response)).await.is_err() {
                    return Ok(());
                }
            }
            if looked_at.as_ref().is_none_or(|before| !Arc::ptr_eq(before, &snapshot)) {
                // What is in flight, or due behind it, will be answered.
                for type_url in PUSH_ORDER.iter().filter(|type_url| self.session.holds_all(type_url, &snapshot)) {
                    self.source.holds(&self.node, type_url);
                }
                looked_at = Some(Arc::clone(&snapshot));
            }
            if settled.as_ptr() != Arc::as_ptr(&snapshot) && self.session.settled(&snapshot) {
                self.source.settled(&self.node, &snapshot);
                settled = Arc::downgrade(&snapshot);
            }
            tokio::select! {
                request = requests.message() => match request? {
                    Some(request) => self.handle(&request)?,
                    None => return Ok(()),
                },
                changed = self.snapshots.changed() => {
                    changed.map_err(|_closed| Status::unavailable("the control plane is stopping"))?;
                }
                () = responses.closed() => return Ok(()),
            }
        }
    }

    fn handle(&mut self, request: &S::Request) -> Result<(), Status> {
        let metadata = S::sender(request).and_then(|node| node.metadata.as_ref());
        if let Some(report) = metadata.and_then(Report::of_metadata) {
            self.source.reported(&self.node, report);
        }
        let meaning = self.session.handle_request(request).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let (type_url, error) = match &meaning {
            Request::Ack(type_url) => (*type_url, None),
            Request::Nack(type_url, error) => {
                tracing::warn!(node = %self.node, type_url, error, "an xDS client refused configuration");
                (*type_url, Some(error.as_str()))
            }
            Request::Subscribed | Request::Stale => return Ok(()),
        };
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let in_sync = self.session.in_sync(type_url, &snapshot);
        self.source.answered(&self.node, Answer { type_url, error, in_sync });
        Ok(())
    }
}
