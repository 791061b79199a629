//! Bodies in both directions: a request's that can be sent again, and a response's that knows when it ends.

use super::expect::{Gate, Passage};
use super::incoming::Incoming;
use super::life::Active;
use super::mirror::Tap;
use super::pulse::{Pulse, Silence};
use super::record::Record;
use crate::core::flags::Flags;
use crate::limits::RETRY_BODY;
use crate::pod::upstream::{Broken, Inflow, Lease};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::time::{Instant, Sleep};

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
    /// `None`: all of it is in `kept`.
    incoming: Option<Incoming>,
    tap: Option<Tap>,
    pulse: Option<Pulse>,
    kept: Vec<Bytes>,
    bytes: usize,
    /// Bytes that came from the client.
    received: u64,
    /// All that was read is in `kept`.
    whole: bool,
    ended: bool,
    /// Holds it back until it is wanted.
    gate: Option<Gate>,
    /// What came from the client was no body.
    broken: bool,
}

impl Replay {
    /// `keep`: it may have to be sent twice. Others may want to know what passes.
    #[must_use]
    pub(super) fn new(incoming: Incoming, keep: bool, tap: Option<Tap>, pulse: Option<Pulse>) -> Self {
        let incoming = Some(incoming);
        Self(Rc::new(RefCell::new(Source {
            incoming,
            tap,
            pulse,
            kept: Vec::new(),
            bytes: 0,
            received: 0,
            whole: keep,
            ended: false,
            gate: None,
            broken: false,
        })))
    }

    /// A body that is there already.
    #[must_use]
    pub(super) fn whole(kept: Vec<Bytes>) -> Self {
        let bytes = kept.iter().map(Bytes::len).sum();
        Self(Rc::new(RefCell::new(Source {
            incoming: None,
            tap: None,
            pulse: None,
            kept,
            bytes,
            received: bytes as u64,
            whole: true,
            ended: true,
            gate: None,
            broken: false,
        })))
    }

    /// It is held back until the gate opens.
    pub(super) fn wait_at(&self, gate: Gate) {
        self.0.borrow_mut().gate = Some(gate);
    }

    /// What holds it back.
    pub(super) fn gate(&self) -> Option<Gate> {
        self.0.borrow().gate.clone()
    }

    /// Did the client send what is no body? Then nobody else is to blame.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.borrow().broken
    }

    /// Has all of it come?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let source = self.0.borrow();
        source.ended || source.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    /// Bytes that the client has sent of it.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.0.borrow().received
    }

    /// True if an attempt can read it from the start: nothing was read, or all that was read is kept.
    #[must_use]
    pub fn repeatable(&self) -> bool {
        let source = self.0.borrow();
        !source.broken && (source.whole || (source.bytes == 0 && !source.ended))
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
        if let Some(gate) = &self.gate
            && let Passage::Refused = ready!(gate.poll(cx))
        {
            return Poll::Ready(Some(Err("the body was not asked for".into())));
        }
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = ready!(incoming.poll(cx));
        let last = incoming.is_end_stream();
        self.passed(&frame, last);
        match frame {
            None => {
                self.ended = true;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.broken = true;
                Poll::Ready(Some(Err(error)))
            }
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
                self.received += frame.data_ref().map_or(0, |data| data.len() as u64);
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

impl Source {
    /// Tells those who want to know. After the last frame nobody may poll again.
    fn passed(&mut self, frame: &Option<Result<Frame<Bytes>, BoxError>>, last: bool) {
        let ends = last || matches!(frame, None | Some(Err(_)));
        if let Some(pulse) = &self.pulse {
            if ends { pulse.complete() } else { pulse.beat() }
        }
        if matches!(frame, Some(Err(_))) {
            self.tap = None;
        }
        if let (Some(tap), Some(Ok(frame))) = (&mut self.tap, frame)
            && let Some(data) = frame.data_ref()
            && !tap.chunk(data)
        {
            self.tap = None;
        }
        if ends && let Some(tap) = self.tap.take() {
            tap.send();
        }
    }
}

impl RequestBody {
    /// The endpoint asks for it.
    pub fn asked(&self) {
        if let Self::Replay(replay, _) = self
            && let Some(gate) = replay.gate()
        {
            gate.open();
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
                *position >= source.kept.len() && (source.ended || source.incoming.as_ref().is_none_or(Incoming::is_end_stream))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Replay(replay, position) => {
                let source = replay.0.borrow();
                let kept: usize = source.kept.iter().skip(*position).map(Bytes::len).sum();
                match source.incoming.as_ref().map_or(Some(0), Incoming::left) {
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
    record: Option<Box<Record>>,
    /// On its client's connection.
    active: Option<Active>,
    /// It ended before the request's body was asked for.
    unasked: bool,
}

enum Kind {
    Full(Option<Bytes>),
    Upstream { incoming: Inflow, lease: Option<Lease>, deadline: Option<Pin<Box<Sleep>>>, silence: Option<Silence> },
}

/// How long an upstream's answer may take.
#[derive(Clone)]
pub struct Terms {
    /// The rest must come before this.
    pub deadline: Option<Instant>,
    /// Something must pass now and then.
    pub pulse: Option<Pulse>,
}

impl ResponseBody {
    /// Made here.
    #[must_use]
    pub fn full(bytes: Bytes, record: Box<Record>) -> Self {
        Self {
            kind: Kind::Full(Some(bytes).filter(|bytes| !bytes.is_empty())),
            record: Some(record),
            active: None,
            unasked: false,
        }
    }

    /// Made here, whatever the request's body was: nobody reads that.
    pub(super) fn is_local(&self) -> bool {
        matches!(self.kind, Kind::Full(_))
    }

    /// Its request's body was not asked for, and does not come any more.
    pub(super) fn leaves_request(&self) -> bool {
        let gate = self.record.as_ref().and_then(|record| record.body.as_ref()?.gate());
        self.unasked || gate.is_some_and(|gate| !gate.is_open())
    }

    /// Its request is under way on its connection until all of it is sent.
    pub(super) fn hold(&mut self, active: Active) {
        self.active = Some(active);
    }

    /// From an endpoint.
    #[must_use]
    pub fn upstream(incoming: Inflow, lease: Lease, terms: Terms, record: Box<Record>) -> Self {
        let deadline = terms.deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        let silence = terms.pulse.as_ref().map(Pulse::silence);
        let kind = Kind::Upstream { incoming, lease: Some(lease), deadline, silence };
        let mut body = Self { kind, record: Some(record), active: None, unasked: false };
        if body.is_end_stream() {
            body.finish();
        }
        body
    }

    fn finish(&mut self) {
        let now = Instant::now();
        if let Kind::Upstream { lease, .. } = &mut self.kind
            && let Some(lease) = lease.take()
        {
            let gate = self.record.as_ref().and_then(|record| record.body.as_ref()?.gate());
            // An endpoint that still waits for a body cannot have another request.
            self.unasked = gate.is_some_and(|gate| gate.refuse());
            if !self.unasked {
                lease.complete(now);
            }
        }
        if let Some(mut record) = self.record.take() {
            record.finish(now);
        }
    }

    fn fail(&mut self, flags: Flags) {
        if let Kind::Upstream { lease, .. } = &mut self.kind {
            lease.take();
        }
        if let Some(mut record) = self.record.take() {
            record.flags.set(flags);
            record.finish(Instant::now());
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
            Kind::Upstream { incoming, lease, deadline, silence } => {
                if let Some(deadline) = deadline
                    && deadline.as_mut().poll(cx).is_ready()
                {
                    this.fail(Flags::TIMEOUT);
                    return Poll::Ready(Some(Err("upstream request timeout".into())));
                }
                // The lease is there until the body has ended.
                let Some(lease) = lease else { return Poll::Ready(None) };
                let frame = lease.poll_body(cx, incoming);
                if let Some(silence) = silence {
                    match &frame {
                        Poll::Ready(_) => silence.pulse.beat(),
                        Poll::Pending if Pin::new(silence).poll(cx).is_ready() => {
                            this.fail(Flags::STREAM_IDLE);
                            return Poll::Ready(Some(Err("stream timeout".into())));
                        }
                        Poll::Pending => {}
                    }
                }
                ready!(frame)
            }
        };
        match &frame {
            None => this.finish(),
            Some(Err(error)) => {
                if let (Some(Broken::Malformed(malformed)), Some(record)) = (error.downcast_ref(), &this.record) {
                    record.malformed(*malformed);
                }
                this.fail(Flags::TERMINATED);
            }
            Some(Ok(frame)) => {
                if let Some(record) = &mut this.record {
                    record.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                    if let Some(trailers) = frame.trailers_ref() {
                        record.grpc_status(trailers);
                    }
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
