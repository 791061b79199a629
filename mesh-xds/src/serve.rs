//! Serves snapshots over ADS (delta) to many clients: the asynchronous shell around [`crate::server`].

use crate::node::Node;
use crate::server::Snapshot;
use std::sync::Arc;
use tokio::sync::watch;

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
