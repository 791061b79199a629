//! What is remembered of a request until it is over; then it is counted, and told to the access log and to the collector of spans.
//!
//! Headers and names are copied only if somebody wants them: the listener's access log, or the collector because this request is traced.

mod hop;

use super::Connection;
use super::admit::Admitted;
use super::body::Replay;
use crate::config::HttpOptions;
use crate::core::access::Entry;
use crate::core::flags::Flags;
use crate::core::h1::Malformed;
use crate::core::peer::Peer;
use crate::core::trace::{self, Context, Decision, Facts, Incoming};
use crate::pod::Pod;
use crate::telemetry::pod::{Kind, peer};
use http::header::{self, HeaderMap};
use http::{Method, Version};
use mesh_common::broker::Workload;
use mesh_xds::names::ClusterName;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// What will be said of a request.
pub struct Record {
    pod: Rc<Pod>,
    started: Instant,
    is_grpc: bool,
    context: Option<Context>,
    detail: Option<Box<Detail>>,
    /// Why the answer is what it is.
    pub flags: Flags,
    /// As sent to the client; 0 until known.
    pub status: u16,
    /// Of the response's body.
    pub bytes: u64,
    /// The name of the cluster that it went to, also of one that does not exist.
    pub cluster_name: Option<Arc<str>>,
    /// The route's name.
    pub route: Option<Arc<str>>,
    /// The last endpoint tried.
    pub upstream: Option<SocketAddr>,
    /// Attempts after the first.
    pub retries: u32,
    /// The request's body, which knows how much of it came.
    pub body: Option<Replay>,
    /// An upstream's response was begun.
    answered: bool,
    grpc_status: Option<u16>,
    /// The attempt that is under way, where attempts have spans of their own.
    attempt: Option<Box<hop::Attempt>>,
}

/// Copied for who wants more than a count.
struct Detail {
    began: SystemTime,
    options: Arc<HttpOptions>,
    destination: SocketAddr,
    peer: SocketAddr,
    scheme: &'static str,
    authority: String,
    method: Method,
    path: String,
    version: Version,
    request: HeaderMap,
    response: HeaderMap,
}

impl Record {
    /// Begins. Boxed: it goes through many hands.
    #[must_use]
    pub fn new(pod: &Rc<Pod>, request: &http::request::Parts) -> Box<Self> {
        let kind = request.headers.get(header::CONTENT_TYPE);
        Box::new(Self {
            pod: Rc::clone(pod),
            started: Instant::now(),
            is_grpc: kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")),
            context: None,
            detail: None,
            flags: Flags::default(),
            status: 0,
            bytes: 0,
            cluster_name: None,
            route: None,
            upstream: None,
            retries: 0,
            body: None,
            answered: false,
            grpc_status: None,
            attempt: None,
        })
    }

    /// The request is admitted: decides whether it is traced, copies what will be told.
    pub(super) fn begin(
        &mut self,
        options: &Arc<HttpOptions>,
        admitted: &Admitted,
        connection: &Connection,
        parts: &mut http::request::Parts,
    ) {
        let headers = &mut parts.headers;
        if let Some(tracing) = &options.tracing {
            self.context = Some(self.pod.with_rng(|rng| {
                let traced = tracing.sampling.decide(headers, rng) != Decision::No;
                let incoming = Incoming::read(headers, tracing.w3c);
                Context::new(incoming, incoming.sampled.unwrap_or(traced), tracing.long_ids, rng)
            }));
        }
        if options.access_log.is_some() || self.context.is_some_and(|context| context.sampled) {
            self.detail = Some(Box::new(Detail {
                began: SystemTime::now(),
                options: Arc::clone(options),
                destination: connection.destination,
                peer: connection.peer,
                scheme: admitted.scheme,
                authority: admitted.authority().to_owned(),
                method: parts.method.clone(),
                path: parts.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
                version: admitted.version,
                request: parts.headers.clone(),
                response: HeaderMap::new(),
            }));
        }
    }

    /// Tells the upstream which span it is called by.
    pub fn propagate(&self, options: &HttpOptions, headers: &mut HeaderMap) {
        if let (Some(context), Some(tracing)) = (self.context, &options.tracing) {
            context.write(headers, tracing.w3c);
        }
    }

    /// The response's head is known, as the client gets it. `upstream`: it is an upstream's.
    pub fn answered(&mut self, status: u16, headers: &HeaderMap, upstream: bool) {
        self.status = status;
        self.answered = upstream;
        self.grpc_status(headers);
        if let Some(detail) = &mut self.detail {
            detail.response = headers.clone();
        }
    }

    /// Reads gRPC's status, from a head or from trailers.
    pub fn grpc_status(&mut self, headers: &HeaderMap) {
        if self.is_grpc
            && let Some(status) = headers.get("grpc-status")
        {
            // What is no known status counts as UNKNOWN, as clients read it, and makes no metric of its own.
            let status = status.to_str().ok().and_then(|status| status.parse().ok()).filter(|status| *status <= 16);
            self.grpc_status = Some(status.unwrap_or(2));
        }
    }

    /// What came from the endpoint is no HTTP.
    pub fn malformed(&self, malformed: Malformed) {
        self.pod.shared.metrics.malformed(malformed.label());
    }

    /// Ends: called once.
    pub fn finish(&mut self, now: Instant) {
        if self.attempt.is_some() {
            self.attempted(if self.answered { self.status } else { 0 }, self.flags);
        }
        let (duration, workload) = (now - self.started, self.pod.workload());
        let received = self.body.as_ref().map_or(0, Replay::received);
        let shared = &self.pod.shared;
        let config = shared.config.load();
        let kind = Kind {
            cluster: self.cluster_name.clone(),
            endpoint: self.upstream,
            code: self.status,
            flags: self.flags,
            grpc: self.is_grpc.then_some(self.grpc_status),
        };
        let edge = self.pod.known.edge(kind, &shared.telemetry.edges, &workload, &config);
        edge.count(duration, received, self.bytes);
        let Some(detail) = &self.detail else { return };
        if let Some(format) = &detail.options.access_log {
            let trace_id = self.context.map(|context| context.trace_id());
            let mut line = String::with_capacity(512);
            let entry = Entry { trace_id: trace_id.as_deref(), ..self.entry(detail, &workload, duration, received) };
            format.write(&entry, &mut line);
            shared.telemetry.log.line(&line);
        }
        if let (Some(context), Some(tracing)) = (self.context.filter(|context| context.sampled), &detail.options.tracing) {
            let destination = peer(&config, self.cluster_name.as_ref(), self.upstream);
            let source = Peer::of(&workload.app, &workload.namespace, &workload.labels);
            let operation = self.cluster_name.as_deref().and_then(|name| name.parse::<ClusterName>().ok());
            let operation = operation.map(|name| format!("{}:{}/*", name.host, name.port));
            let facts = Facts {
                source: &source,
                source_address: Some(detail.peer.ip()),
                hop: tracing.hop.then(|| Some(detail.destination.ip())),
                destination: destination.as_deref(),
                operation: operation.as_deref(),
                node: shared.telemetry.node(),
                ..self.facts(detail, duration, received, &source)
            };
            let span = trace::build(&context, &facts, &tracing.tags, tracing.max_path);
            shared.telemetry.spans.report(&tracing.collector, span);
        }
    }

    fn cluster(&self) -> &str {
        self.cluster_name.as_deref().unwrap_or("-")
    }

    fn facts<'a>(&'a self, detail: &'a Detail, duration: Duration, received: u64, source: &'a Peer) -> Facts<'a> {
        Facts {
            started: detail.began,
            duration,
            method: detail.method.as_str(),
            scheme: detail.scheme,
            authority: &detail.authority,
            path: &detail.path,
            protocol: protocol(detail.version),
            headers: &detail.request,
            status: self.status,
            grpc_status: self.grpc_status,
            flags: self.flags,
            received,
            sent: self.bytes,
            retries: self.retries,
            cluster: self.cluster(),
            operation: None,
            source,
            source_address: None,
            hop: None,
            upstream: self.upstream,
            destination: None,
            node: "",
        }
    }

    fn entry<'a>(&'a self, detail: &'a Detail, workload: &'a Workload, duration: Duration, received: u64) -> Entry<'a> {
        Entry {
            started: detail.began,
            duration,
            method: detail.method.as_str(),
            scheme: detail.scheme,
            authority: &detail.authority,
            path: &detail.path,
            protocol: protocol(detail.version),
            request: &detail.request,
            response: &detail.response,
            status: self.status,
            grpc_status: self.grpc_status,
            flags: self.flags,
            answered: self.answered,
            received,
            sent: self.bytes,
            attempts: if self.upstream.is_some() { self.retries + 1 } else { 0 },
            cluster: self.cluster(),
            route: self.route.as_deref().unwrap_or_default(),
            upstream: self.upstream,
            client: Some(detail.peer),
            client_ip: Some(detail.peer.ip()),
            destination: Some(detail.destination),
            trace_id: None,
            workload: &workload.id,
        }
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
