//! What is said of a TCP connection: `istio_tcp_*` and a line of the access log at its end.

use super::edges::{Labels, Side, TcpEdge};
use super::pod::{both_sides, peer};
use crate::config::{Config, Inbound};
use crate::core::access::{Entry, Format};
use crate::core::flags::Flags;
use crate::core::peer::Peer;
use crate::pod::Pod;
use http::HeaderMap;
use mesh_common::broker::Workload;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// A connection to an endpoint that is open. Dropped, it counts as closed.
pub struct Open<'a> {
    pod: &'a Rc<Pod>,
    cluster: Arc<str>,
    upstream: SocketAddr,
    destination: Option<SocketAddr>,
    client_ip: Option<IpAddr>,
    format: Option<Arc<Format>>,
    edge: Arc<TcpEdge>,
    began: SystemTime,
    started: Instant,
    bytes: (u64, u64),
}

impl<'a> Open<'a> {
    /// Counts it as opened. `inbound` says who wanted to go where.
    #[must_use]
    pub fn new(
        pod: &'a Rc<Pod>,
        config: &Config,
        (cluster, upstream): (&Arc<str>, SocketAddr),
        inbound: &Inbound,
        format: Option<Arc<Format>>,
    ) -> Self {
        let (workload, peer) = (pod.workload(), peer(config, Some(cluster), Some(upstream)));
        let side = if inbound.to_pod { Side::Server } else { Side::client(peer.as_deref()) };
        let mut pairs = match side {
            // Who asks is not known on this side.
            Side::Server => {
                let own = Peer::of(&workload.app, &workload.namespace, &workload.labels);
                both_sides(&Workload::default(), Some(&own), Some(cluster))
            }
            _ => both_sides(&workload, peer.as_deref(), Some(cluster)),
        };
        pairs.push(("request_protocol", "tcp".to_owned()));
        pairs.push(("response_flags", "-".to_owned()));
        let edge = pod.shared.telemetry.edges.connections(Labels { pairs, side });
        edge.opened.fetch_add(1, Ordering::Relaxed);
        Self {
            pod,
            cluster: Arc::clone(cluster),
            upstream,
            destination: Some(inbound.destination),
            client_ip: if inbound.to_pod { Some(inbound.source.ip()) } else { workload.addresses.first().copied() },
            format,
            edge,
            began: SystemTime::now(),
            started: Instant::now(),
            bytes: (0, 0),
        }
    }

    /// It is over: bytes from the client, bytes to it.
    pub fn close(mut self, received: u64, sent: u64) {
        self.bytes = (received, sent);
    }

    fn line(&self, format: &Format, duration: Duration) {
        let (workload, none) = (self.pod.workload(), HeaderMap::new());
        let entry = Entry {
            started: self.began,
            duration,
            method: "",
            scheme: "",
            authority: "",
            path: "",
            protocol: "",
            request: &none,
            response: &none,
            status: 0,
            grpc_status: None,
            flags: Flags::default(),
            answered: false,
            received: self.bytes.0,
            sent: self.bytes.1,
            attempts: 1,
            cluster: &self.cluster,
            route: "",
            upstream: Some(self.upstream),
            client: None,
            client_ip: self.client_ip,
            destination: self.destination,
            trace_id: None,
            workload: &workload.id,
        };
        let mut line = String::with_capacity(256);
        format.write(&entry, &mut line);
        self.pod.shared.telemetry.log.line(&line);
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.edge.closed.fetch_add(1, Ordering::Relaxed);
        self.edge.received.fetch_add(self.bytes.0, Ordering::Relaxed);
        self.edge.sent.fetch_add(self.bytes.1, Ordering::Relaxed);
        if let Some(format) = &self.format {
            self.line(format, self.started.elapsed());
        }
    }
}
