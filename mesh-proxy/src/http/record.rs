//! One line in the access log and one count per request, when it is over.

use crate::core::flags::Flags;
use crate::metrics::RequestLabels;
use crate::pod::Pod;
use mesh_xds::names::ClusterName;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use tokio::time::Instant;

/// What will be said of a request. Strings are copied only if the access log is on.
pub struct Record {
    pod: Rc<Pod>,
    started: Instant,
    line: Option<Line>,
    /// Why the answer is what it is.
    pub flags: Flags,
    /// As sent to the client; 0 until known.
    pub status: u16,
    /// Of the response's body.
    pub bytes: u64,
    /// Where it went.
    pub cluster: Option<Arc<crate::config::Cluster>>,
    /// The name, also of a cluster that does not exist.
    pub cluster_name: Option<Arc<str>>,
    /// The route's name.
    pub route: Option<Arc<str>>,
    /// The last endpoint tried.
    pub upstream: Option<SocketAddr>,
}

struct Line {
    authority: String,
    method: http::Method,
    path: String,
}

impl Record {
    /// Begins.
    #[must_use]
    pub fn new(pod: &Rc<Pod>, authority: &str, request: &http::request::Parts) -> Self {
        let line = tracing::enabled!(target: "access", tracing::Level::INFO).then(|| Line {
            authority: authority.to_owned(),
            method: request.method.clone(),
            path: request.uri.path().to_owned(),
        });
        Self {
            pod: Rc::clone(pod),
            started: Instant::now(),
            line,
            flags: Flags::default(),
            status: 0,
            bytes: 0,
            cluster: None,
            cluster_name: None,
            route: None,
            upstream: None,
        }
    }

    /// Ends.
    pub fn finish(self) {
        let unknown = Arc::from("-");
        let name = self.cluster_name.as_ref().unwrap_or(&unknown);
        let upstream = self.pod.upstream(name);
        upstream.counter(self.status, self.flags, || self.pod.shared.metrics.requests.get_or_create_owned(&self.labels())).inc();
        if let Some(line) = &self.line {
            tracing::info!(
                target: "access",
                pod = self.pod.workload().id,
                authority = line.authority,
                method = %line.method,
                path = line.path,
                route = self.route.as_deref().unwrap_or("-"),
                cluster = %name,
                upstream = self.upstream.map_or_else(|| "-".to_owned(), |address| address.to_string()),
                status = self.status,
                flags = %self.flags,
                bytes = self.bytes,
                duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                "request"
            );
        }
    }

    fn labels(&self) -> RequestLabels {
        let workload = self.pod.workload();
        let app = workload.labels.get("app").cloned();
        let service = self.cluster_name.as_deref().and_then(|name| name.parse::<ClusterName>().ok());
        let host = service.as_ref().map_or_else(|| "unknown".to_owned(), |service| service.host.clone());
        RequestLabels {
            reporter: "source",
            source_app: app.unwrap_or_else(|| workload.app.trim_start_matches('/').to_owned()),
            source_workload: workload.app.clone(),
            source_workload_namespace: workload.namespace.clone(),
            destination_service_name: host.split('.').next().unwrap_or_default().to_owned(),
            destination_service: host,
            destination_port: service.as_ref().map_or_else(String::new, |service| service.port.to_string()),
            destination_subset: service.map_or_else(String::new, |service| service.subset),
            request_protocol: "http",
            response_code: self.status,
            response_flags: self.flags.to_string(),
        }
    }
}
