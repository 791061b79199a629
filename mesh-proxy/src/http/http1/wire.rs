//! A client's connection while it speaks HTTP/1: its bytes in both directions, and how far the request under way was read. Shared, on one thread, by
//! the task that answers and by whoever reads the request's body; nothing is between them. Knows no time, and not what is asked.

use super::super::body::{BoxError, ResponseBody};
use crate::buffers::{Input, Output, headers};
use crate::core::h1::answer::{self, Follows, To};
use crate::core::h1::asked::{self, Head, Limits, Refused};
use crate::core::h1::body::{Body, Step};
use crate::core::h1::frame::{Frame, Length};
use crate::stream::Stream;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Bytes of a body that nobody wants which are taken from a connection so that it can stay. Beyond: it is closed.
const UNWANTED: usize = 64 * 1024;

/// See the module.
pub(super) struct Wire(RefCell<Inner>);

struct Inner {
    /// `None`: it was taken away.
    io: Option<Stream>,
    input: Input,
    output: Output,
    /// Of the request under way.
    body: Body,
    /// Which request that is.
    number: u64,
    /// Its client waits to be asked for the body.
    expects: bool,
    /// Its answer was begun.
    answers: bool,
    /// Who waits for the body.
    reader: Option<Waker>,
}

/// Why no further request comes.
#[derive(Debug)]
pub(super) enum Broken {
    /// What came is none.
    Refused(Refused),
    /// The connection failed, or ended in a head.
    Gone(io::Error),
}

/// The body of one request, as its client sends it. Outlives the request harmlessly: then it has failed.
pub(in crate::http) struct Coming {
    wire: Rc<Wire>,
    number: u64,
    /// All of it was read.
    ended: bool,
}

/// An answer's body on its way.
pub(super) struct Sending {
    pub(super) body: ResponseBody,
    pub(super) frame: Option<Frame>,
    pub(super) ended: bool,
}

/// Why an answer did not come to its end.
#[derive(Debug)]
pub(super) enum Cut {
    /// Its body failed, and is not made whole.
    Body,
    /// The client does not take it.
    Gone(io::Error),
}

impl Wire {
    pub(super) fn new(io: Stream, input: Input) -> Rc<Self> {
        Rc::new(Self(RefCell::new(Inner {
            io: Some(io),
            input,
            output: Output::default(),
            body: Body::Ended,
            number: 0,
            expects: false,
            answers: false,
            reader: None,
        })))
    }

    /// The next request's head; `None`: the client has ended the connection between two.
    pub(super) fn poll_head(&self, limits: Limits, cx: &mut Context<'_>) -> Poll<Result<Option<Head>, Broken>> {
        let inner = &mut *self.0.borrow_mut();
        loop {
            if let Some(head) = asked::parse(&mut inner.input.bytes, limits, headers::lend).map_err(Broken::Refused)? {
                inner.body.clone_from(&head.body);
                inner.number += 1;
                (inner.expects, inner.answers) = (head.expects, false);
                return Poll::Ready(Ok(Some(head)));
            }
            match ready!(inner.poll_fill(cx)) {
                Ok(0) if asked::begins(&mut inner.input.bytes) => {
                    return Poll::Ready(Err(Broken::Gone(io::ErrorKind::UnexpectedEof.into())));
                }
                Ok(0) => return Poll::Ready(Ok(None)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Broken::Gone(error))),
            }
        }
    }

    /// Has a head begun that has not ended?
    pub(super) fn is_in_head(&self) -> bool {
        asked::begins(&mut self.0.borrow_mut().input.bytes)
    }

    /// The body of the request under way; `None`: there is none.
    pub(super) fn body(self: &Rc<Self>) -> Option<Coming> {
        let inner = self.0.borrow();
        (!inner.body.is_ended()).then(|| Coming { wire: Rc::clone(self), number: inner.number, ended: false })
    }

    /// Ready when the client has gone away while it is answered. Requests that it sends ahead wait; while there are any it is not known.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let inner = &mut *self.0.borrow_mut();
        if !inner.body.is_ended() || !inner.input.bytes.is_empty() {
            return Poll::Pending;
        }
        match ready!(inner.poll_fill(cx)) {
            Ok(0) => Poll::Ready(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Poll::Pending,
            Err(error) => Poll::Ready(error),
        }
    }

    /// Has all of the request come? `unwanted`: nobody reads it any more, and what of it is there is thrown away.
    pub(super) fn is_whole(&self, unwanted: bool, cx: &mut Context<'_>) -> bool {
        let inner = &mut *self.0.borrow_mut();
        if unwanted {
            // Whoever still holds it has not read it to its end.
            inner.number += 1;
        }
        let mut thrown = 0;
        // Who was not asked may send it or not: nobody can tell what comes next.
        while unwanted && !inner.expects && thrown < UNWANTED {
            match inner.body.next(&mut inner.input.bytes) {
                Ok(Step::Data(data)) => thrown += data.len(),
                Ok(Step::More) if matches!(inner.poll_fill(cx), Poll::Ready(Ok(1..))) => {}
                _ => break,
            }
        }
        inner.body.is_ended()
    }

    /// Begins an answer: says what follows its head.
    pub(super) fn begin(&self, to: &To<'_>, status: StatusCode, headers: &HeaderMap, length: Length) -> Follows {
        let inner = &mut *self.0.borrow_mut();
        inner.answers = true;
        answer::head(inner.output.text(), to, status, headers, length)
    }

    /// Says something of our own.
    pub(super) fn say(&self, text: &[u8]) {
        self.0.borrow_mut().output.text().extend_from_slice(text);
    }

    /// Sends an answer to its end.
    pub(super) fn poll_answer(&self, sending: &mut Sending, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        loop {
            // As much as goes out together.
            let collected = self.collect(sending, cx);
            let flushed = self.poll_flush(cx);
            let more = collected?;
            ready!(flushed).map_err(Cut::Gone)?;
            if sending.ended {
                return Poll::Ready(Ok(()));
            }
            if more.is_pending() {
                // Else the write would have found out.
                return self.poll_gone(cx).map(|error| Err(Cut::Gone(error)));
            }
        }
    }

    /// Takes the next of the body until the output has enough. Pending: there is no more of it now.
    fn collect(&self, sending: &mut Sending, cx: &mut Context<'_>) -> Result<Poll<()>, Cut> {
        while !sending.ended && !self.0.borrow().output.has_enough() {
            let next = if sending.body.is_end_stream() {
                None
            } else if sending.frame.is_none() {
                // A body that is not wanted is not waited for.
                let _ = Pin::new(&mut sending.body).poll_frame(cx);
                None
            } else {
                let Poll::Ready(next) = Pin::new(&mut sending.body).poll_frame(cx) else { return Ok(Poll::Pending) };
                next.transpose().map_err(|_told| Cut::Body)?
            };
            let Some(frame) = &mut sending.frame else {
                sending.ended = true;
                break;
            };
            let output = &mut self.0.borrow_mut().output;
            let trailers = match next.map(http_body::Frame::into_data) {
                Some(Ok(data)) => {
                    let tail = frame.begin(output.text(), data.len()).map_err(|_wrong| Cut::Body)?;
                    output.push(data, tail);
                    continue;
                }
                Some(Err(frame)) => frame.into_trailers().ok(),
                None => None,
            };
            frame.end(output.text(), trailers.as_ref()).map_err(|_wrong| Cut::Body)?;
            sending.ended = true;
        }
        Ok(Poll::Ready(()))
    }

    /// Writes what there is to write.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_flush(cx)
    }

    /// After an answer: gives the buffers back, if no further request is there already. False: the connection cannot stay.
    pub(super) fn rest(&self) -> bool {
        let inner = &mut *self.0.borrow_mut();
        if inner.input.bytes.is_empty() {
            inner.input.rest();
            inner.output = Output::default();
        }
        inner.body.is_ended()
    }

    /// Is there nothing to read that nobody will?
    pub(super) fn is_read(&self) -> bool {
        let inner = self.0.borrow();
        inner.body.is_ended() && inner.input.bytes.is_empty()
    }

    /// Ends it for all who hold it: the stream, and what was read of it. Once.
    pub(super) fn take(&self) -> Option<(Stream, Input)> {
        let inner = &mut *self.0.borrow_mut();
        inner.number += 1;
        if let Some(reader) = inner.reader.take() {
            reader.wake();
        }
        inner.io.take().map(|io| (io, std::mem::take(&mut inner.input)))
    }
}

impl Inner {
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Ok(0)) };
        self.input.poll_fill(io, cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = &mut self.io else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        self.output.poll(io, cx)
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        if std::mem::take(&mut self.expects) && !self.answers {
            self.output.text().extend_from_slice(CONTINUE);
        }
        if !self.answers && !self.output.is_empty() {
            // That it fails is found by who reads.
            let _ = self.poll_flush(cx);
        }
        loop {
            match self.body.next(&mut self.input.bytes) {
                Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(http_body::Frame::data(data)))),
                Ok(Step::Trailers(trailers)) => return Poll::Ready(Some(Ok(http_body::Frame::trailers(trailers)))),
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(malformed) => return Poll::Ready(Some(Err(malformed.into()))),
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()))),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Pending => {
                    self.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Coming {
    pub(in crate::http) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let inner = &mut *self.wire.0.borrow_mut();
        if inner.number != self.number {
            return Poll::Ready(Some(Err("the request is over".into())));
        }
        let frame = inner.poll_body(cx);
        self.ended = inner.body.is_ended();
        frame
    }

    /// Bytes that are still to come, if that is known; 0: all was read.
    pub(in crate::http) fn left(&self) -> Option<u64> {
        let inner = self.wire.0.borrow();
        if self.ended {
            Some(0)
        } else {
            // Of a request that is over what is missing will not come, and it must not look whole.
            inner.body.left().filter(|_| inner.number == self.number)
        }
    }
}
