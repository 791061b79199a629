//! Answers as the client gets them, whoever gave them: `server`, `via`, changes by routes, CORS, and gRPC's way of saying no.

use super::admit::append_via;
use super::attempt::Answer;
use super::body::{ResponseBody, Terms};
use super::local::Local;
use super::record::Record;
use crate::config::{HttpOptions, ServerHeader};
use crate::core::cors::Cors;
use crate::core::fault::Abort;
use crate::core::flags::Flags;
use crate::core::format::Facts;
use crate::core::headers::{HeaderOps, remove_hop_by_hop};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// Body of an aborted request.
const ABORTED: &str = "fault filter abort";

/// What is put on the answer of one request.
pub(super) struct Dress<'a> {
    pub(super) options: &'a HttpOptions,
    /// The request is gRPC: what we answer ourselves is said in gRPC's words.
    pub(super) grpc: bool,
    /// Of all levels, in order.
    pub(super) ops: &'a [Arc<HeaderOps>],
    /// Who may read it.
    pub(super) cors: Option<(&'a Cors, HeaderValue)>,
    /// What values of added headers are made of.
    pub(super) facts: Facts<'a>,
}

impl Dress<'_> {
    /// The upstream's answer.
    pub(super) fn upstream(
        &self,
        (response, lease): Answer,
        began: Instant,
        terms: Terms,
        mut record: Box<Record>,
    ) -> Response<ResponseBody> {
        let (mut parts, incoming) = response.into_parts();
        parts.version = Version::HTTP_11;
        // The reason phrase and other marks of the upstream's connection do not concern the client's.
        parts.extensions.clear();
        remove_hop_by_hop(&mut parts.headers);
        parts.headers.insert(SERVICE_TIME, millis(began.elapsed()));
        self.finish(parts.status, &mut parts.headers, &record);
        record.answered(parts.status.as_u16(), &parts.headers, true);
        Response::from_parts(parts, ResponseBody::upstream(incoming, lease, terms, record))
    }

    /// An answer of our own.
    pub(super) fn local(&self, reply: Local, mut record: Box<Record>) -> Response<ResponseBody> {
        record.flags.set(reply.flags);
        let mut headers = HeaderMap::with_capacity(4);
        if reply.overloaded {
            headers.insert(OVERLOADED, HeaderValue::from_static("true"));
        }
        let (status, body) = if let Some(location) = reply.location {
            headers.insert(header::LOCATION, location);
            (reply.status, reply.body)
        } else if self.grpc {
            headers.insert(header::CONTENT_TYPE, GRPC);
            headers.insert("grpc-status", grpc_status(reply.status).into());
            if let Some(message) = grpc_message(&reply.body) {
                headers.insert("grpc-message", message);
            }
            (StatusCode::OK, Bytes::new())
        } else {
            if !reply.body.is_empty() {
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
            (reply.status, reply.body)
        };
        self.made(status, headers, body, record)
    }

    /// An injected abort.
    pub(super) fn aborted(&self, abort: Abort, mut record: Box<Record>) -> Response<ResponseBody> {
        let status = match abort {
            Abort::Http(status) => return self.local(Local::new(status, ABORTED, Flags::FAULT), record),
            // A client that speaks no gRPC could not read its status.
            Abort::Grpc(_) if !self.grpc => return self.local(Local::new(StatusCode::OK, ABORTED, Flags::FAULT), record),
            Abort::Grpc(status) => status,
        };
        record.flags.set(Flags::FAULT);
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(header::CONTENT_TYPE, GRPC);
        headers.insert("grpc-status", status.into());
        headers.insert("grpc-message", HeaderValue::from_static(ABORTED));
        self.made(StatusCode::OK, headers, Bytes::new(), record)
    }

    /// An answer of our own with these headers.
    pub(super) fn made(
        &self,
        status: StatusCode,
        mut headers: HeaderMap,
        body: Bytes,
        mut record: Box<Record>,
    ) -> Response<ResponseBody> {
        self.finish(status, &mut headers, &record);
        record.answered(status.as_u16(), &headers, false);
        let mut response = Response::new(ResponseBody::full(body, record));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    fn finish(&self, status: StatusCode, headers: &mut HeaderMap, record: &Record) {
        match self.options.server {
            ServerHeader::Overwrite => drop(headers.insert(header::SERVER, self.options.server_name.clone())),
            ServerHeader::IfAbsent => drop(headers.entry(header::SERVER).or_insert_with(|| self.options.server_name.clone())),
            ServerHeader::Pass => {}
        }
        if let Some(via) = &self.options.via {
            append_via(headers, via);
        }
        if !self.ops.is_empty() {
            let facts = Facts { status: Some(status.as_u16()), upstream: record.upstream, ..self.facts };
            self.ops.iter().for_each(|ops| ops.apply(headers, &facts));
        }
        if let Some((cors, origin)) = &self.cors {
            cors.stamp(origin, headers);
        }
    }
}

/// Of most answers without an allocation.
fn millis(time: Duration) -> HeaderValue {
    const SHORT: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let short = usize::try_from(millis).ok().and_then(|millis| SHORT.get(millis));
    short.map_or_else(|| millis.into(), |text| HeaderValue::from_static(text))
}

/// gRPC's mapping of statuses that are not its own.
fn grpc_status(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Percent-encoded where it is not plain text.
fn grpc_message(body: &[u8]) -> Option<HeaderValue> {
    if body.is_empty() {
        return None;
    }
    let mut text = String::with_capacity(body.len());
    for byte in body {
        match byte {
            b' '..=b'~' if *byte != b'%' => text.push(char::from(*byte)),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    HeaderValue::try_from(text).ok()
}
