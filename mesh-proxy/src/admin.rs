//! The admin endpoint: HTTP over a unix socket that only root and the proxy's own user may open, for operators and probes. Paths are Envoy's
//! where Envoy has them. Reads; changes nothing but the log's level, and begins the planned stop. [`cli`] is the client's side.

pub mod cli;
mod clusters;
mod dump;
mod stats;

use crate::logging::LogLevel;
use crate::pod::upstream::Seen;
use crate::privilege::Report;
use crate::shared::{PodStatus, Shared};
use crate::unix_http::{self, JSON, TEXT};
use crate::worker::Command;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use mesh_common::exposition;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::oneshot;

/// For all threads' answers together. One is busy for milliseconds at most; beyond, half the numbers would mislead.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The longest planned stop that may be asked for.
const DRAIN_MOST: u64 = 3600;

const KNOWN: &str = "GET /ready, /metrics, /stats, /stats/prometheus, /status, /config_dump, /clusters, /logging\n\
    POST /logging?level=LEVEL, /drain_listeners?time=SECONDS\n";

/// What there is to see and to do.
pub struct Admin {
    /// The rest of the process.
    pub shared: Arc<Shared>,
    /// What of privilege is left.
    pub report: Report,
    /// What a planned stop leaves to open connections, if nobody says otherwise.
    pub drain: Duration,
    /// The log.
    pub log: LogLevel,
}

type Answer = (StatusCode, &'static str, String);

fn fine(body: String) -> Answer {
    (StatusCode::OK, TEXT, body)
}

fn wrong(status: StatusCode, why: impl std::fmt::Display) -> Answer {
    (status, TEXT, format!("{why}\n"))
}

impl Admin {
    /// Serves for ever.
    pub async fn serve(self: Arc<Self>, listener: UnixListener) {
        unix_http::serve(listener, move |request| {
            let admin = Arc::clone(&self);
            async move { admin.respond(&request).await }
        })
        .await;
    }

    async fn respond<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let query = request.uri().query().unwrap_or_default();
        let (status, kind, body) = self.answer(request.method(), request.uri().path(), query).await;
        unix_http::response(status, kind, body)
    }

    async fn answer(&self, method: &Method, path: &str, query: &str) -> Answer {
        let shared = &*self.shared;
        let pretty = |value: &Value| (StatusCode::OK, JSON, format!("{value:#}\n"));
        match (method, path) {
            (&Method::GET, "/ready") => match shared.unready() {
                None => fine("ready\n".to_owned()),
                Some(reason) => wrong(StatusCode::SERVICE_UNAVAILABLE, reason),
            },
            (&Method::GET, "/metrics" | "/stats/prometheus") => {
                (StatusCode::OK, exposition::TYPE, shared.metrics.encode(&shared.telemetry))
            }
            (&Method::GET, "/status") => pretty(&status(shared, &self.report)),
            (&Method::GET, "/config_dump") => pretty(&dump::config(&shared.config.load())),
            (&Method::GET, "/clusters") => self.clusters(query).await.unwrap_or_else(|wrong| wrong),
            (&Method::GET, "/stats") => self.stats(query).await.unwrap_or_else(|wrong| wrong),
            (&Method::GET, "/logging") => self.level(),
            (&Method::POST, "/logging") => self.set_level(query),
            (&Method::POST, "/drain_listeners") => self.drain(query),
            (_, "/drain_listeners") => wrong(StatusCode::METHOD_NOT_ALLOWED, "only POST"),
            (&Method::GET, _) => wrong(StatusCode::NOT_FOUND, format_args!("there are\n{}", KNOWN.trim_end())),
            _ => wrong(StatusCode::METHOD_NOT_ALLOWED, "only GET"),
        }
    }

    async fn clusters(&self, query: &str) -> Result<Answer, Answer> {
        let filter = filter(query)?;
        let seen = self.seen().await?;
        let page = clusters::page(&self.shared.config.load(), &seen);
        Ok(fine(page.split_inclusive('\n').filter(|line| filter.as_ref().is_none_or(|filter| filter.is_match(line))).collect()))
    }

    async fn stats(&self, query: &str) -> Result<Answer, Answer> {
        let filter = filter(query)?;
        let used_only = parameter(query, "usedonly").is_some();
        let seen = self.seen().await?;
        let shared = &*self.shared;
        let metrics = shared.metrics.encode(&shared.telemetry);
        let process = stats::Process {
            ready: shared.unready().is_none(),
            draining: shared.drain.is_begun(),
            uptime: shared.since.elapsed(),
            threads: shared.workers.lock().len(),
            metrics: &metrics,
        };
        let page = stats::page(&process, &shared.config.load(), &seen);
        let wanted = |(name, value): &&(String, String)| {
            filter.as_ref().is_none_or(|filter| filter.is_match(name)) && !(used_only && value == "0")
        };
        Ok(fine(page.iter().filter(wanted).map(|(name, value)| format!("{name}: {value}\n")).collect()))
    }

    /// What all pods of the node see of clusters: asked of the threads that own them.
    async fn seen(&self) -> Result<BTreeMap<Arc<str>, Seen>, Answer> {
        let workers: Vec<_> = self.shared.workers.lock().iter().filter_map(tokio::sync::mpsc::WeakSender::upgrade).collect();
        let ask = async {
            let mut sum: BTreeMap<Arc<str>, Seen> = BTreeMap::new();
            for worker in workers {
                let (sender, answer) = oneshot::channel();
                worker.send(Command::Look(sender)).await.ok()?;
                for (name, seen) in answer.await.ok()? {
                    sum.entry(name).or_default().add(&seen);
                }
            }
            Some(sum)
        };
        match tokio::time::timeout(ANSWER_LIMIT, ask).await {
            Ok(Some(sum)) => Ok(sum),
            Ok(None) => Err(wrong(StatusCode::SERVICE_UNAVAILABLE, "a thread has ended")),
            Err(_elapsed) => {
                Err(wrong(StatusCode::SERVICE_UNAVAILABLE, format_args!("a thread did not answer within {ANSWER_LIMIT:?}")))
            }
        }
    }

    fn level(&self) -> Answer {
        self.log.get().map_or_else(|error| wrong(StatusCode::SERVICE_UNAVAILABLE, error), |level| fine(format!("{level}\n")))
    }

    fn set_level(&self, query: &str) -> Answer {
        let Some(level) = parameter(query, "level") else {
            return wrong(StatusCode::BAD_REQUEST, "say which: /logging?level=debug");
        };
        match self.log.set(&level) {
            Ok(()) => {
                tracing::warn!(level, "the log's level was set");
                self.level()
            }
            Err(error) => wrong(StatusCode::BAD_REQUEST, error),
        }
    }

    /// As SIGTERM does.
    fn drain(&self, query: &str) -> Answer {
        let limit = match parameter(query, "time").map(|time| time.parse::<u64>()) {
            None => self.drain,
            Some(Ok(seconds)) if seconds <= DRAIN_MOST => Duration::from_secs(seconds),
            Some(_) => return wrong(StatusCode::BAD_REQUEST, format_args!("time is a number of seconds, {DRAIN_MOST} at most")),
        };
        let (open, again) = (self.shared.metrics.open.get(), self.shared.drain.is_begun());
        if again {
            return fine(format!("draining since before; {open} connections are open\n"));
        }
        tracing::info!(?limit, connections = open, "an operator asks for the planned stop");
        self.shared.drain.begin(limit);
        fine(format!("draining: the process ends when the last of {open} connections has ended, after {limit:?} at the latest\n"))
    }
}

/// A parameter of a query, decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(found, _)| found == name).map(|(_, value)| value.into_owned())
}

fn filter(query: &str) -> Result<Option<regex::Regex>, Answer> {
    let text = parameter(query, "filter");
    text.map(|text| regex::Regex::new(&text))
        .transpose()
        .map_err(|error| wrong(StatusCode::BAD_REQUEST, format_args!("filter: {error}")))
}

fn status(shared: &Shared, report: &Report) -> Value {
    let pods: Vec<Value> = shared.pods.lock().iter().map(|(slot, pod)| pod_status(*slot, pod)).collect();
    let unready = shared.unready();
    let progress = shared.progress.lock();
    json!({
        "ready": unready.is_none(),
        "reason": unready,
        "privilege": report,
        "broker": { "listed": progress.broker_ready, "lost": progress.broker_lost },
        "pods": pods,
        "brokered_sockets_received": shared.metrics.sockets_received.get(),
        "brokered_sockets_in_stock": shared.metrics.stock.get(),
        "connections_open": shared.metrics.open.get(),
        "config": { "generation": shared.config.load().generation, "missing": progress.config_missing, "versions": progress.versions },
    })
}

fn pod_status(slot: u32, pod: &PodStatus) -> Value {
    let [v4, v6] = [0, 1].map(|family: usize| PodStatus::get(&pod.stock[family]));
    json!({
        "slot": slot,
        "workload": pod.workload,
        "app": pod.app,
        "stock": { "v4": v4, "v6": v6 },
        "connections": PodStatus::get(&pod.connections),
    })
}

#[cfg(test)]
mod tests;
