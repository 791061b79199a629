//! The Kubernetes-style API that kubectl talks to: HTTPS, bearer tokens, the Istio kinds and namespaces.
//!
//! Called by `run`. It decides who may ask and how much; what is a valid object is `istio`'s matter, what is kept is `store`'s. Every
//! limit has its reason beside it, and who runs into one is told.

mod body;
mod crds;
mod discovery;
mod handler;
pub(crate) mod metrics;
mod object;
pub(crate) mod offline;
mod protobuf;
mod read;
mod refused;
mod request;
mod running;
mod select;
mod server;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod watch;
mod write;

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::auth::Tokens;
use crate::store::Store;
pub(crate) use metrics::ApiMetrics;
pub(crate) use running::Runs;
pub(crate) use server::{load_tls, serve};

/// What the API needs.
#[derive(Debug)]
pub(crate) struct ApiArgs {
    /// Where it listens.
    pub(crate) listener: TcpListener,
    /// The server's certificate, for example from `load_tls`. ALPN is set here.
    pub(crate) tls: rustls::ServerConfig,
    /// The objects.
    pub(crate) store: Store,
    /// Who may ask.
    pub(crate) tokens: Arc<Tokens>,
    /// What Marathon runs.
    pub(crate) runs: Arc<dyn Runs>,
    /// Counters, registered by the caller.
    pub(crate) metrics: ApiMetrics,
    /// Ends it: open watches are closed, requests are finished.
    pub(crate) stop: CancellationToken,
}
