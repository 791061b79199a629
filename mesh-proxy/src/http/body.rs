//! Bodies in both directions: a request's that can be sent again, and a response's that knows when it ends.

use super::record::Record;
use crate::core::flags::Flags;
use crate::limits::RETRY_BODY;
use crate::pod::upstream::Lease;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::time::Sleep;

/// What bodies fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body as the upstream gets it.
pub enum RequestBody {
    /// There is none.
    Empty,
    /// From the client, or from what was kept of it.
    Replay(Replay, usize),
}

/// A request's body, kept up to [`RETRY_BODY`] bytes if it may be needed again. Each attempt reads from the start.
#[derive(Clone)]
pub struct Replay(Rc<RefCell<Source>>);

struct Source {
    incoming: Incoming,
    kept: Vec<Bytes>,
    bytes: usize,
    /// All that was read is in `kept`.
    whole: bool,
    ended: bool,
}

impl Replay {
    /// `keep`: it may have to be sent twice.
    #[must_use]
    pub fn new(incoming: Incoming, keep: bool) -> Self {
        Self(Rc::new(RefCell::new(Source { incoming, kept: Vec::new(), bytes: 0, whole: keep, ended: false })))
    }

    /// True if an attempt can read it from the start: nothing was read, or all that was read is kept.
    #[must_use]
    pub fn repeatable(&self) -> bool {
        let source = self.0.borrow();
        source.whole || (source.bytes == 0 && !source.ended)
    }
}

impl Source {
    fn poll(&mut self, cx: &mut Context<'_>, position: &mut usize) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(chunk) = self.kept.get(*position) {
            *position += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        match frame {
            None => {
                self.ended = true;
                Poll::Ready(None)
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
            Some(Ok(frame)) => {
                match frame.data_ref() {
                    Some(data) if self.whole && self.bytes + data.len() <= RETRY_BODY => {
                        self.kept.push(data.clone());
                        *position += 1;
                    }
                    // Too long, or trailers: from here on it cannot be repeated.
                    _ => {
                        self.whole = false;
                        self.kept.clear();
                        *position = 0;
                    }
                }
                self.bytes += frame.data_ref().map_or(1, Bytes::len);
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Replay(replay, position) => replay.0.borrow_mut().poll(cx, position),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Replay(replay, position) => {
                let source = replay.0.borrow();
                *position >= source.kept.len() && (source.ended || source.incoming.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Replay(replay, position) => {
                let source = replay.0.borrow();
                let kept: usize = source.kept.iter().skip(*position).map(Bytes::len).sum();
                match source.incoming.size_hint().exact() {
                    Some(rest) => SizeHint::with_exact(rest + kept as u64),
                    None => SizeHint::default(),
                }
            }
        }
    }
}

/// A response's body as the client gets it. Its end is the end of the exchange.
pub struct ResponseBody {
    kind: Kind,
    record: Option<Record>,
}

enum Kind {
    Full(Option<Bytes>),
    Upstream { incoming: Incoming, lease: Option<Lease>, deadline: Option<Pin<Box<Sleep>>> },
}

impl ResponseBody {
    /// Made here.
    #[must_use]
    pub fn full(bytes: Bytes, record: Record) -> Self {
        Self { kind: Kind::Full(Some(bytes).filter(|bytes| !bytes.is_empty())), record: Some(record) }
    }

    /// From an endpoint; the rest must come before the deadline.
    #[must_use]
    pub fn upstream(incoming: Incoming, lease: Lease, deadline: Option<tokio::time::Instant>, record: Record) -> Self {
        let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        let mut body = Self { kind: Kind::Upstream { incoming, lease: Some(lease), deadline }, record: Some(record) };
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        if let Kind::Upstream { lease, .. } = &mut self.kind
            && let Some(lease) = lease.take()
        {
            lease.complete();
        }
        if let Some(record) = self.record.take() {
            record.finish();
        }
    }

    fn fail(&mut self, flags: Flags) {
        if let Kind::Upstream { lease, .. } = &mut self.kind {
            lease.take();
        }
        if let Some(mut record) = self.record.take() {
            record.flags.set(flags);
            record.finish();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = match &mut this.kind {
            Kind::Full(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Kind::Upstream { incoming, deadline, .. } => {
                if let Some(deadline) = deadline
                    && deadline.as_mut().poll(cx).is_ready()
                {
                    this.fail(Flags::TIMEOUT);
                    return Poll::Ready(Some(Err("upstream request timeout".into())));
                }
                ready!(Pin::new(incoming).poll_frame(cx)).map(|frame| frame.map_err(BoxError::from))
            }
        };
        match &frame {
            None => this.finish(),
            Some(Err(_)) => this.fail(Flags::TERMINATED),
            Some(Ok(frame)) => {
                if let (Some(record), Some(data)) = (&mut this.record, frame.data_ref()) {
                    record.bytes += data.len() as u64;
                }
                if this.is_end_stream() {
                    this.finish();
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Upstream { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Upstream { incoming, .. } => incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // Only what was not ended yet is left to end: the client went away, or never read an empty body.
        if self.record.is_some() {
            if self.is_end_stream() { self.finish() } else { self.fail(Flags::DOWNSTREAM) }
        }
    }
}
