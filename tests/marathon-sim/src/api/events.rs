//! /v2/events: Jetty's framing, heartbeats in two writes, closed rather than chunked.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Extension, RawQuery, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, Version, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;

use super::serve::Remote;
use super::{Request, problem};
use crate::core::events;
use crate::world::World;

/// Between the two bytes of a heartbeat, so that they travel in two segments.
const SPLIT: Duration = Duration::from_millis(20);
/// Between the pieces of an event.
const BETWEEN: Duration = Duration::from_millis(1);

pub(crate) async fn stream(
    State(world): State<Arc<World>>,
    method: Method,
    uri: Uri,
    query: RawQuery,
    client: Option<Extension<ConnectInfo<Remote>>>,
    headers: HeaderMap,
) -> Response {
    let accepts = headers.get(header::ACCEPT).is_some_and(|a| a == "text/event-stream");
    if method != Method::GET || !accepts {
        return problem(StatusCode::METHOD_NOT_ALLOWED, json!({"message": "HTTP 405 Method Not Allowed"}));
    }
    let filter: Vec<String> = Request::new(uri, query, None).all("event_type").map(str::to_owned).collect();
    let remote = client.map_or_else(|| "127.0.0.1".to_owned(), |c| c.0.0.0.ip().to_string());
    // Subscribed before it is announced: the client sees its own attachment first.
    let mut subscriber = Subscriber {
        bus: world.bus.subscribe(),
        filter,
        attached: None,
        heartbeat_open: false,
        world,
        remote,
        pieces: VecDeque::new(),
    };
    subscriber.attach();
    let body = Body::from_stream(futures::stream::unfold(subscriber, Subscriber::next));
    let headers = [(header::CONTENT_TYPE, "text/event-stream;charset=utf-8"), (header::CONNECTION, "close")];
    let mut response = (headers, body).into_response();
    // hyper then ends the body by closing; `serve` puts 1.1 into the status line.
    *response.version_mut() = Version::HTTP_10;
    response
}

struct Subscriber {
    world: Arc<World>,
    bus: Receiver<Arc<Value>>,
    filter: Vec<String>,
    remote: String,
    attached: Option<Value>,
    /// The heartbeat's `\r` went out, its `\n` not yet.
    heartbeat_open: bool,
    /// What is left of an event that is written in pieces.
    pieces: VecDeque<Bytes>,
}

impl Subscriber {
    fn attach(&mut self) {
        self.world.publish_stream("event_stream_attached", &self.remote);
        // Others may have published between subscription and announcement: our own comes first.
        self.attached = Some(events::stream("event_stream_attached", &self.remote, jiff::Timestamp::now()));
        self.bus = self.bus.resubscribe();
    }

    fn wants(&self, event: &Value) -> bool {
        self.filter.is_empty() || self.filter.iter().any(|kind| event["eventType"] == *kind)
    }

    async fn next(mut self) -> Option<(std::io::Result<Bytes>, Self)> {
        while self.world.faults().stall {
            tokio::time::sleep(SPLIT).await;
        }
        if let Some(piece) = self.pieces.pop_front() {
            // Long enough that the pieces before have left.
            tokio::time::sleep(BETWEEN).await;
            return Some((Ok(piece), self));
        }
        if let Some(event) = self.attached.take().filter(|e| self.wants(e)) {
            return Some(self.write(&event));
        }
        if std::mem::take(&mut self.heartbeat_open) {
            tokio::time::sleep(SPLIT).await;
            return Some((Ok(Bytes::from_static(b"\n")), self));
        }
        let mut beat = tokio::time::Instant::now() + self.world.heartbeat;
        loop {
            let heard = tokio::time::timeout_at(beat, self.bus.recv()).await;
            let faults = self.world.faults();
            match heard {
                Err(_elapsed) if faults.no_heartbeat || faults.stall => beat += self.world.heartbeat,
                Err(_elapsed) => {
                    self.heartbeat_open = true;
                    return Some((Ok(Bytes::from_static(b"\r")), self));
                }
                // Closed, or lagging behind: Marathon from 1.8 on ends the stream.
                Ok(Err(_)) => return None,
                Ok(Ok(event)) if event.is_null() => return None,
                Ok(Ok(event)) if self.wants(&event) && !faults.stall => return Some(self.write(&event)),
                Ok(Ok(_)) => {}
            }
        }
    }

    /// An event, or its first piece.
    fn write(mut self, event: &Value) -> (std::io::Result<Bytes>, Self) {
        let frame = Bytes::from(events::frame(event));
        let cut = self.world.faults().cut;
        if cut == 0 {
            return (Ok(frame), self);
        }
        self.pieces = frame.chunks(cut).map(Bytes::copy_from_slice).collect();
        (Ok(self.pieces.pop_front().unwrap_or_default()), self)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.world.publish_stream("event_stream_detached", &self.remote);
    }
}
