//! One delta ADS stream to the control plane, kept alive: connects over TLS with a token, reconnects with back-off, and pumps the stream
//! into [`crate::client::Client`]. The caller sees deliveries and answers each with an ACK or a NACK.

use crate::client::Delivery;
use crate::node::Node;
use std::collections::BTreeSet;
use tokio::sync::mpsc;

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
pub(crate) enum Command {
    /// From now on, these names of this type.
    Subscribe(&'static str, BTreeSet<String>),
    /// The delivery with this type and nonce was applied.
    Ack(String, String),
    /// It was not, and why.
    Nack(String, String, String),
}

/// The owner's side of the stream.
pub struct Updates {
    deliveries: mpsc::Receiver<Delivery>,
    commands: mpsc::Sender<Command>,
}

/// Starts the stream and subscribes to everything (`*`) of the given types. Deliveries come in the server's order.
#[must_use]
pub fn start(connection: Connection, wildcard: &[&'static str]) -> Updates {
    let _ = (connection, wildcard);
    unimplemented!("by the author of mesh-xds, soon")
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

    /// Says that a delivery was refused, naming resource and field. What was valid in it may be in force.
    pub async fn nack(&self, delivery: &Delivery, reason: &str) {
        let _ = self.commands.send(Command::Nack(delivery.type_url.clone(), delivery.nonce.clone(), reason.to_owned())).await;
    }
}
