//! A captured HTTP connection: [`server`] finds out its protocol, [`http1`] or hyper reads it, and it goes request by request through [`exchange`].

mod admit;
mod attempt;
pub mod body;
mod date;
mod dress;
mod exchange;
mod expect;
mod h2c;
mod http1;
mod ids;
mod incoming;
mod life;
mod local;
mod mirror;
mod patience;
mod prepare;
mod pulse;
mod record;
mod rewind;
mod server;
mod tunnel;

use crate::config::{Config, Http, HttpOptions, Inbound, Serve};
use crate::pod::Guest;
pub use server::serve;
use std::net::SocketAddr;
use std::sync::Arc;

/// One client connection.
pub struct Connection {
    /// Keeps the count of the pod's connections.
    pub guest: Guest,
    /// Where the client wanted to go.
    pub destination: SocketAddr,
    /// The client's end.
    pub peer: SocketAddr,
    /// It is encrypted.
    pub tls: bool,
    /// By what its listener and filter chain are found for each request.
    pub inbound: Inbound,
    /// How its listener treats it; what concerns single requests is looked up for each.
    pub options: Arc<HttpOptions>,
}

impl Connection {
    /// What is in force for its requests now.
    fn http<'c>(&self, config: &'c Config) -> Option<&'c Http> {
        match self.inbound.serve(config, &self.guest.pod().workload()) {
            Some(Serve::Http(http)) => Some(http),
            _ => None,
        }
    }
}
