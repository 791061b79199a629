//! `watch`: a stream of JSON lines, one per event, from any version that the history still has.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use jiff::Timestamp;
use prometheus_client::metrics::gauge::Gauge;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::object::{api_version, shown};
use super::request::{Form, Options};
use super::select::Selector;
use super::status::{self, ApiError};
use super::table::{self, Include};
use crate::store::{Collection, Event, EventType, Store, Stored};

/// How often a quiet watch says which version it has seen.
const BOOKMARK: Duration = Duration::from_secs(60);
/// The longest watch; clients then watch again from where they were.
const LONGEST: u64 = 3600;

/// What is watched, and by whom.
pub(super) struct Watch {
    store: Store,
    collection: Collection,
    version: &'static str,
    namespace: Option<String>,
    selector: Selector,
    form: Form,
    include: Include,
    bookmarks: bool,
    columns_sent: bool,
    /// Everything up to this version was sent.
    seen: u64,
    head: tokio::sync::watch::Receiver<u64>,
    pending: VecDeque<Bytes>,
    next_bookmark: Instant,
    deadline: Instant,
    stop: CancellationToken,
    finished: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// Begins a watch; refusals come as a Status before any event.
    pub(super) fn begin(
        store: &Store,
        (collection, version, namespace): (Collection, &'static str, Option<String>),
        form: Form,
        options: &Options,
        permit: OwnedSemaphorePermit,
        stop: CancellationToken,
    ) -> Result<Self, ApiError> {
        if options.initial_events {
            // kubectl then lists and watches, which it has done since ever.
            let why = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
            return Err(ApiError::invalid(format!("ListOptions.meta.k8s.io \"\" is invalid: {why}")));
        }
        let selector = Selector::parse(&options.label_selector, &options.field_selector)?;
        let from = match options.resource_version.as_str() {
            "" | "0" => None,
            text => {
                let wrong = |_| ApiError::bad_request(format!("resourceVersion: Invalid value: {text:?}: it is not a number"));
                Some(text.parse::<u64>().map_err(wrong)?)
            }
        };
        let now = Instant::now();
        let seconds = options.timeout_seconds.filter(|s| *s > 0).unwrap_or(LONGEST).min(LONGEST);
        let mut watch = Self {
            head: store.head(),
            store: store.clone(),
            collection,
            version,
            namespace,
            selector,
            form,
            include: Include::parse(&options.include_object),
            bookmarks: options.bookmarks,
            columns_sent: false,
            seen: from.unwrap_or_default(),
            pending: VecDeque::new(),
            next_bookmark: now + BOOKMARK,
            deadline: now + Duration::from_secs(seconds),
            stop,
            finished: false,
            _permit: permit,
        };
        if from.is_none() {
            watch.initial();
        }
        Ok(watch)
    }

    /// The answer that streams until the watch ends.
    pub(super) fn into_response(self, open: Gauge) -> Response<Body> {
        let counted = Counted::new(open);
        let stream = futures::stream::unfold((self, counted), |(mut watch, counted)| async move {
            let line = watch.next().await?;
            Some((Ok::<_, Infallible>(line), (watch, counted)))
        });
        let mut response = Response::new(Body::from_stream(stream));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// The present state as synthetic events.
    fn initial(&mut self) {
        let (version, objects) = self.store.list(self.collection, self.namespace.as_deref(), None);
        self.seen = version;
        for stored in objects {
            if self.selector.matches(&stored.object) {
                self.send("ADDED", &stored);
            }
        }
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.pending.pop_front() {
                return Some(line);
            }
            if self.finished {
                return None;
            }
            self.head.mark_unchanged();
            match self.store.since(self.seen) {
                Ok(events) if events.is_empty() => {}
                Ok(events) => {
                    events.iter().for_each(|event| self.event(event));
                    continue;
                }
                Err(expired) => {
                    let error = ApiError::expired(self.seen, expired.oldest).to_json();
                    self.pending.push_back(line("ERROR", &error));
                    self.finished = true;
                    continue;
                }
            }
            let stop = self.stop.clone();
            tokio::select! {
                changed = self.head.changed() => self.finished = changed.is_err(),
                () = stop.cancelled() => self.finished = true,
                () = tokio::time::sleep_until(self.deadline) => {
                    self.bookmark();
                    self.finished = true;
                }
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => self.bookmark(),
            }
        }
    }

    /// One stored event, as this watch sees it: an object that begins to match is new to it, one that ceases to match is gone.
    fn event(&mut self, event: &Event) {
        self.seen = event.version;
        let key = &event.stored.key;
        if key.collection != self.collection || self.namespace.as_ref().is_some_and(|n| *n != key.namespace) {
            return;
        }
        let matched = event.previous.as_ref().is_some_and(|s| self.selector.matches(&s.object));
        let matches = event.kind != EventType::Deleted && self.selector.matches(&event.stored.object);
        match (matched, matches) {
            (false, true) => self.send("ADDED", &event.stored),
            (true, true) => self.send("MODIFIED", &event.stored),
            (true, false) => self.send("DELETED", &event.stored),
            (false, false) => {}
        }
    }

    fn send(&mut self, kind: &str, stored: &Stored) {
        let object = shown(stored, self.version);
        let object = match self.form {
            Form::Json => object,
            Form::Table(version) => {
                let meta = json!({ "resourceVersion": stored.version.to_string() });
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                table::table(self.collection, version, &[object], meta, self.include, columns, Timestamp::now())
            }
        };
        self.pending.push_back(line(kind, &object));
    }

    fn bookmark(&mut self) {
        self.next_bookmark = Instant::now() + BOOKMARK;
        if self.bookmarks {
            let object = json!({
                "kind": status::kind(self.collection),
                "apiVersion": api_version(self.collection, self.version),
                "metadata": { "resourceVersion": self.seen.to_string() },
            });
            self.pending.push_back(line("BOOKMARK", &object));
        }
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({ "type": kind, "object": object }).to_string();
    text.push('\n');
    text.into()
}

/// Counts a watch for as long as it lives.
struct Counted(Gauge);

impl Counted {
    fn new(open: Gauge) -> Self {
        open.inc();
        Self(open)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
