//! The admin socket: HTTP over a unix socket, for operators and probes.

use super::pods::Pods;
use super::server::Server;
use crate::unix_http::{self, JSON, TEXT, response};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use mesh_common::exposition;
use serde_json::json;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;

/// What is reported about.
#[derive(Clone, Debug)]
pub(super) struct Admin {
    pub(super) server: Arc<Server>,
    pub(super) pods: Arc<Pods>,
}

/// Listens, in place of a former process's socket.
pub(super) fn bind(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves for ever.
pub(super) async fn serve(listener: UnixListener, admin: Admin) {
    unix_http::serve(listener, move |request| std::future::ready(admin.respond(&request))).await;
}

impl Admin {
    fn respond<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned());
        }
        match request.uri().path() {
            "/ready" => match self.ready() {
                Ok(()) => response(StatusCode::OK, TEXT, "ready\n".to_owned()),
                Err(why) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
            },
            "/metrics" => response(StatusCode::OK, exposition::TYPE, self.metrics()),
            "/status" => response(StatusCode::OK, JSON, format!("{:#}\n", self.status())),
            _ => response(StatusCode::NOT_FOUND, TEXT, "there are /ready, /metrics and /status\n".to_owned()),
        }
    }

    fn ready(&self) -> Result<(), String> {
        if self.server.drain.is_begun() {
            return Err("draining".to_owned());
        }
        self.pods.ready()?;
        if self.server.core.lock().table.is_told() {
            Ok(())
        } else {
            Err("the control plane has not told the names yet".to_owned())
        }
    }

    fn metrics(&self) -> String {
        let ((services, names), (cached, bytes), (hosts, learned)) = {
            let core = self.server.core.lock();
            (core.table.sizes(), core.cache.sizes(), (core.rules.len(), core.memory.len()))
        };
        let pods = self.pods.status().0.len();
        let of_core = [("services", services), ("names", names), ("cached", cached), ("cached_bytes", bytes)];
        let egress = [("egress_hosts", hosts), ("learned", learned)];
        self.server.metrics.text(&[&[("pods", pods)][..], &of_core, &egress].concat())
    }

    fn status(&self) -> serde_json::Value {
        let (pods, agent_away) = self.pods.status();
        let pods: Vec<_> = pods.iter().map(|(slot, id, sockets)| json!({"slot": slot, "id": id, "sockets": sockets})).collect();
        let upstreams = self.server.upstreams.status();
        let upstreams: Vec<_> = upstreams.iter().map(|(at, shunned)| json!({"address": at, "asked_last": shunned})).collect();
        let core = self.server.core.lock();
        let ((services, names), (cached, bytes)) = (core.table.sizes(), core.cache.sizes());
        let conflicts: Vec<_> = core.table.conflicts().map(|(name, owners)| json!({"name": name, "services": owners})).collect();
        json!({
            "agent": {"away": agent_away},
            "control": {"told": core.table.is_told(), "services": services, "names": names,
                "zones": core.table.zones().collect::<Vec<_>>(), "conflicts": conflicts},
            "pods": pods,
            "upstreams": upstreams,
            "egress": {"told": core.rules.is_told(), "hosts": core.rules.len(), "learned": core.memory.len()},
            "cache": {"entries": cached, "bytes": bytes},
        })
    }
}

#[cfg(test)]
mod tests;
