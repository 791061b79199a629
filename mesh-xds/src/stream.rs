//! One delta ADS stream to the control plane, kept alive: connects over TLS with a token, reconnects with back-off, and pumps the stream
//! into [`crate::client::Client`]. The caller sees deliveries and answers each with an ACK or a NACK.

use crate::client::{Client, Delivery};
use crate::node::Node;
use crate::report::Report;
use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use rand::Rng;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

/// Longest wait between two attempts to connect; the first waits a tenth of a second.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A response may hold a whole mesh: 50,000 endpoints at about 200 bytes, and as much again to grow.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Answers and subscriptions that wait for the driver; one response per type is in flight, so this is never reached in practice.
const COMMANDS_MAX: usize = 64;

/// How to reach and convince the control plane.
#[derive(Clone)]
pub struct Connection {
    /// `HOST:PORT` of mesh-control's xDS port.
    pub endpoint: String,
    /// PEM of the authority that signed its certificate.
    pub ca_pem: Vec<u8>,
    /// Bearer token of this node.
    pub token: String,
    /// Who this is.
    pub node: Node,
}

/// What the driver is told by its owner.
#[derive(Debug)]
enum Command {
    /// From now on, these names of this type.
    Subscribe(&'static str, BTreeSet<String>),
    /// The delivery with this type and nonce was applied.
    Ack(String, String),
    /// It was not, and why.
    Nack(String, String, String),
    /// This is what the node has in the mesh.
    Report(Report),
}

/// The owner's side of the stream.
pub struct Updates {
    deliveries: mpsc::Receiver<Delivery>,
    commands: mpsc::Sender<Command>,
}

/// Starts the stream and subscribes to everything (`*`) of the given types. Deliveries come in the server's order. Dropping the result
/// ends the stream.
#[must_use]
pub fn start(connection: Connection, wildcard: &[&'static str]) -> Updates {
    let (delivery_sender, deliveries) = mpsc::channel(1);
    let (commands, command_receiver) = mpsc::channel(COMMANDS_MAX);
    let client = Client::new(connection.node.clone(), wildcard);
    let driver = Driver { client, commands: command_receiver, deliveries: delivery_sender, ready: VecDeque::new() };
    tokio::spawn(driver.run(connection));
    Updates { deliveries, commands }
}

impl Updates {
    /// The next delivery. Cancel safe. Never ends: the stream reconnects for ever, with back-off.
    pub async fn next(&mut self) -> Delivery {
        match self.deliveries.recv().await {
            Some(delivery) => delivery,
            // The driver ends only with its owner, which is us.
            None => std::future::pending().await,
        }
    }

    /// Subscribes to exactly these names of a type (Envoy does so for endpoints and routes). Replaces the former set.
    pub async fn subscribe(&self, type_url: &'static str, names: BTreeSet<String>) {
        let _ = self.commands.send(Command::Subscribe(type_url, names)).await;
    }

    /// Says that a delivery is in force.
    pub async fn ack(&self, delivery: &Delivery) {
        let _ = self.commands.send(Command::Ack(delivery.type_url.clone(), delivery.nonce.clone())).await;
    }

    /// Says what is in the mesh on this node, in place of what was said before.
    pub async fn report(&self, report: Report) {
        let _ = self.commands.send(Command::Report(report)).await;
    }

    /// Says that a delivery was refused, naming resource and field. What was valid in it may be in force.
    pub async fn nack(&self, delivery: &Delivery, reason: &str) {
        let _ = self.commands.send(Command::Nack(delivery.type_url.clone(), delivery.nonce.clone(), reason.to_owned())).await;
    }
}

struct Driver {
    client: Client,
    commands: mpsc::Receiver<Command>,
    deliveries: mpsc::Sender<Delivery>,
    ready: VecDeque<Delivery>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamEnd {
    #[error("the token or the address cannot be written into a request: {0}")]
    Settings(String),
    #[error("cannot connect to the control plane: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("the control plane ended the stream: {0}")]
    Status(#[from] tonic::Status),
    #[error("the control plane closed the stream")]
    Closed,
    #[error("the owner is gone")]
    OwnerGone,
}

impl Driver {
    async fn run(mut self, connection: Connection) {
        let mut failures = 0u32;
        loop {
            let end = self.one_stream(&connection, &mut failures).await;
            self.client.handle_disconnected();
            // What was not handed over yet comes again on the next stream.
            self.ready.clear();
            if matches!(end, StreamEnd::OwnerGone) {
                return;
            }
            let wait = backoff(failures, rand::rng().random());
            failures = failures.saturating_add(1);
            tracing::warn!(endpoint = connection.endpoint, error = %end, ?wait, "the xDS stream is down, going on with what is held");
            if self.wait(wait).await.is_err() {
                return;
            }
        }
    }

    /// Waits, but goes on taking commands, so that an owner that answers or subscribes meanwhile is not blocked.
    async fn wait(&mut self, wait: Duration) -> Result<(), StreamEnd> {
        let until = tokio::time::sleep(wait);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => return Ok(()),
                command = self.commands.recv() => self.handle_command(command)?,
            }
        }
    }

    async fn one_stream(&mut self, connection: &Connection, failures: &mut u32) -> StreamEnd {
        match self.try_stream(connection, failures).await {
            Ok(()) => StreamEnd::Closed,
            Err(end) => end,
        }
    }

    async fn try_stream(&mut self, connection: &Connection, failures: &mut u32) -> Result<(), StreamEnd> {
        let channel = connect(connection).await?;
        let bearer = format!("Bearer {}", connection.token.trim());
        let bearer: MetadataValue<Ascii> = bearer.parse().map_err(|e| StreamEnd::Settings(format!("token: {e}")))?;
        let mut service = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let (requests, outgoing) = mpsc::channel(COMMANDS_MAX);
        self.client.handle_connected();
        self.flush(&requests).await;
        let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
        request.metadata_mut().insert("authorization", bearer);
        let mut responses = service.delta_aggregated_resources(request).await?.into_inner();
        tracing::info!(endpoint = connection.endpoint, node = %connection.node, "the xDS stream is up");
        let owner = self.deliveries.clone();
        loop {
            tokio::select! {
                response = responses.message() => {
                    let Some(response) = response? else { return Ok(()) };
                    *failures = 0;
                    self.handle_response(response);
                }
                command = self.commands.recv() => self.handle_command(command)?,
                permit = owner.reserve(), if !self.ready.is_empty() => {
                    let permit = permit.map_err(|_closed| StreamEnd::OwnerGone)?;
                    if let Some(delivery) = self.ready.pop_front() {
                        permit.send(delivery);
                    }
                }
            }
            self.flush(&requests).await;
        }
    }

    fn handle_response(&mut self, response: pb::DeltaDiscoveryResponse) {
        match self.client.handle_response(response) {
            Ok(delivery) => self.ready.push_back(delivery),
            Err(error) => tracing::error!(%error, "refused a response of the control plane"),
        }
    }

    fn handle_command(&mut self, command: Option<Command>) -> Result<(), StreamEnd> {
        match command.ok_or(StreamEnd::OwnerGone)? {
            Command::Subscribe(type_url, names) => self.client.subscribe(type_url, names),
            Command::Ack(type_url, nonce) => self.client.ack(&type_url, &nonce),
            Command::Report(report) => self.client.report(report),
            Command::Nack(type_url, nonce, reason) => {
                tracing::error!(type_url, reason, "refused configuration");
                self.client.nack(&type_url, &nonce, &reason);
            }
        }
        Ok(())
    }

    async fn flush(&mut self, requests: &mpsc::Sender<pb::DeltaDiscoveryRequest>) {
        while let Some(request) = self.client.poll_request() {
            // A closed channel means that the stream is gone; `responses.message()` says why.
            if requests.send(request).await.is_err() {
                return;
            }
        }
    }
}

async fn connect(connection: &Connection) -> Result<Channel, StreamEnd> {
    let host = connection.endpoint.rsplit_once(':').map_or(connection.endpoint.as_str(), |(host, _)| host);
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&connection.ca_pem))
        .domain_name(host.trim_matches(['[', ']']));
    let endpoint = Endpoint::from_shared(format!("https://{}", connection.endpoint))
        .map_err(|e| StreamEnd::Settings(format!("endpoint {:?}: {e}", connection.endpoint)))?
        .tls_config(tls)?
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        // A control plane that vanished without a FIN is noticed within 15 seconds.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true);
    Ok(endpoint.connect().await?)
}

/// Fully jittered exponential back-off: between half and all of 0.1 s, 0.2 s, 0.4 s ... 5 s.
fn backoff(failures: u32, random: f64) -> Duration {
    let exponential = Duration::from_millis(100) * 2u32.pow(failures.min(10));
    exponential.min(BACKOFF_MAX).mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_and_is_bounded() {
        assert_eq!(backoff(0, 1.0), Duration::from_millis(100));
        assert_eq!(backoff(0, 0.0), Duration::from_millis(50));
        assert_eq!(backoff(3, 1.0), Duration::from_millis(800));
        assert_eq!(backoff(u32::MAX, 1.0), BACKOFF_MAX);
    }
}
