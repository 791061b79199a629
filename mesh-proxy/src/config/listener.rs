//! Listeners in force, and how a connection finds its own: by where it came in, then by the filter chain that takes it. A connection keeps
//! what it is found by ([`Inbound`]), so that each of its requests is served by the configuration of its own time.

use super::{Config, HttpOptions};
use crate::core::access::Format;
use crate::core::chain::{self, Ask, Hello, Match};
use crate::core::route::RouteTable;
use mesh_common::broker::Workload;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What becomes of the connections to an address.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Of the original destination; of a gateway's, where it listens.
    pub address: SocketAddr,
    /// It has a port of the node's own (a gateway's); else it takes what pods' captured connections were meant for.
    pub bound: bool,
    /// It takes what comes from outside to pods' captured ports.
    pub inbound: bool,
    /// Endpoints are dialled from the client's own address.
    pub original_source: bool,
    /// What is looked at before a chain is chosen.
    pub inspect: Inspect,
    /// Conditions of `chains`, place by place.
    pub conditions: Vec<Match>,
    /// In the order of the resource.
    pub chains: Vec<Chain>,
    /// For what no condition takes.
    pub default: Option<Chain>,
}

/// What the listener filters look at. Nothing is consumed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Inspect {
    /// `tls_inspector`: a ClientHello, its server name and protocols.
    pub tls: bool,
    /// `http_inspector`: an HTTP request line or HTTP/2's preface.
    pub http: bool,
    /// How long the first bytes are waited for; `None`: for ever.
    pub timeout: Option<Duration>,
    /// Then: go on with what is known (server-first protocols), or close.
    pub go_on: bool,
}

/// A way of serving connections.
#[derive(Debug)]
pub struct Chain {
    /// Its name, for logs.
    pub name: String,
    /// What is around it.
    pub tls: Tls,
    /// What is inside.
    pub serve: Serve,
}

/// Does TLS end at a chain?
#[derive(Clone, Debug)]
pub enum Tls {
    /// No: bytes are taken as they come.
    None,
    /// Yes, so.
    Server(Arc<rustls::ServerConfig>),
    /// Yes, but there is no certificate to show: connections are refused.
    NoSecret,
}

/// How connections are served.
#[derive(Debug)]
pub enum Serve {
    /// Request by request.
    Http(Http),
    /// Byte by byte.
    Tcp(Arc<Tcp>),
}

/// An HTTP connection manager.
#[derive(Debug)]
pub struct Http {
    /// Where requests go.
    pub routes: Arc<RouteTable>,
    /// All else.
    pub options: Arc<HttpOptions>,
}

/// A TCP proxy.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Clusters and their weights; never empty.
    pub targets: Vec<(Arc<str>, u32)>,
    /// Attempts to connect, at least 1.
    pub connect_attempts: u32,
    /// Ends when nothing has passed in either direction for so long.
    pub idle_timeout: Option<Duration>,
    /// Ends after this in any case.
    pub longest: Option<Duration>,
    /// The balancer's hash is that of the client's address.
    pub hash_source_ip: bool,
    /// A line for each connection at its end.
    pub access_log: Option<Arc<Format>>,
}

/// How a connection came in.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// The address of the gateway's listener; `None`: captured from a pod, or on its way to one.
    pub gateway: Option<SocketAddr>,
    /// It came to the pod from outside.
    pub to_pod: bool,
    /// Where the client wanted to go.
    pub destination: SocketAddr,
    /// Where it comes from.
    pub source: SocketAddr,
    /// Its first bytes, as far as they were looked at.
    pub hello: Hello,
}

impl Inbound {
    /// The listener.
    #[must_use]
    pub fn listener<'c>(&self, config: &'c Config) -> Option<&'c Arc<Listener>> {
        match self.gateway {
            Some(address) => config.gateway.get(&address),
            None if self.to_pod => config.inbound.as_ref(),
            None => config.listener(self.destination),
        }
    }

    /// The filter chain.
    #[must_use]
    pub fn chain<'c>(&self, listener: &'c Listener, workload: &Workload) -> Option<&'c Chain> {
        let ask = Ask {
            destination: (self.destination.ip(), self.destination.port()),
            source: (self.source.ip(), self.source.port()),
            hello: &self.hello,
            workload: (&workload.labels, &workload.namespace),
        };
        let chosen = chain::select(&listener.conditions, &ask).and_then(|index| listener.chains.get(index));
        chosen.or(listener.default.as_ref())
    }

    /// How its next request is served.
    #[must_use]
    pub fn serve<'c>(&self, config: &'c Config, workload: &Workload) -> Option<&'c Serve> {
        self.listener(config).and_then(|listener| self.chain(listener, workload)).map(|chain| &chain.serve)
    }
}
