//! An HTTP/1 connection to an endpoint. It has no task: whoever waits for a response polls it, and the pool's watch polls those that rest
//! (docs/design/0016, 0028). At rest it holds no buffer. Knows one exchange at a time; how HTTP/1 looks as bytes is [`crate::core::h1`].

use super::dial::Transport;
use crate::buffers::{Input, Output, Readable, headers};
use crate::core::h1::Malformed;
use crate::core::h1::body::{Body, Step};
use crate::core::h1::frame::{Frame, Length, WrongLength};
use crate::core::h1::request;
use crate::core::h1::response::{self, Head, Parsed};
use crate::http::body::{BoxError, RequestBody};
use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use http_body::Body as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};

/// See the module.
pub(super) struct Http1 {
    io: Transport,
    input: Input,
    output: Output,
    sending: Sending,
    receiving: Body,
    method: Method,
    /// The endpoint keeps the connection after this exchange.
    keeps: bool,
}

/// Of a request.
enum Sending {
    /// All of it is in the output.
    Done,
    Body(RequestBody, Frame),
    /// Not more of it can be sent. What the endpoint has said before that is read all the same.
    Broken,
}

/// Why an exchange did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// What came is no HTTP.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The connection ended.
    #[error("connection closed")]
    Closed(#[source] Option<io::Error>),
    /// The request's own body is none.
    #[error("the request's body failed")]
    Body(#[source] BoxError),
}

impl Http1 {
    pub(super) fn new(io: Transport) -> Self {
        Self {
            io,
            input: Input::default(),
            output: Output::default(),
            sending: Sending::Done,
            receiving: Body::Ended,
            method: Method::GET,
            keeps: true,
        }
    }

    /// Has it ended while it rested, or said what nobody asked for? If not, the task is woken when that happens.
    pub(super) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let (byte, io) = (&mut [0; 1], &mut self.io);
        io.poll_readable(cx).is_ready() && Pin::new(io).poll_read(cx, &mut ReadBuf::new(byte)).is_ready()
    }

    /// After an exchange: may another follow? Then its buffers are given back.
    pub(super) fn rest(&mut self) -> bool {
        let rests = self.keeps && self.receiving.is_ended() && self.is_sent() && self.input.bytes.is_empty();
        self.input.rest();
        self.output = Output::default();
        rests
    }

    /// A request. What is sent of it and when is up to the polls that follow.
    pub(super) fn begin(&mut self, parts: &Parts, body: RequestBody) {
        let length =
            if body.is_end_stream() { Length::None } else { body.size_hint().exact().map_or(Length::Unknown, Length::Known) };
        let frame = request::head(self.output.text(), parts, length);
        self.sending = if length == Length::None { Sending::Done } else { Sending::Body(body, frame) };
        self.method = parts.method.clone();
        self.keeps = false;
    }

    /// Was nothing of the request sent?
    pub(super) fn is_unsent(&self) -> bool {
        !self.output.has_begun()
    }

    /// Has all of the request been sent?
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.sending, Sending::Done) && self.output.is_empty()
    }

    /// Sends what there is to send. Ready when that was all of it, or when no more can be sent, which the response's side will find out.
    ///
    /// # Errors
    /// If the request's body fails.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            // As much as goes out together.
            let more = self.collect(cx)?;
            match self.output.poll(&mut self.io, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "a request was not sent to its end");
                    self.output.clear();
                    self.sending = Sending::Broken;
                }
            }
            match (&self.sending, more) {
                (Sending::Done | Sending::Broken, _) => return Poll::Ready(Ok(())),
                (Sending::Body(..), Poll::Pending) => return Poll::Pending,
                (Sending::Body(..), Poll::Ready(())) => {}
            }
        }
    }

    /// Takes the next of the body until the output has enough. Pending: there is no more of it now.
    fn collect(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, Broken> {
        while let Sending::Body(body, frame) = &mut self.sending {
            if self.output.has_enough() {
                break;
            }
            let next = if body.is_end_stream() {
                None
            } else {
                let Poll::Ready(next) = Pin::new(&mut *body).poll_frame(cx) else { return Ok(Poll::Pending) };
                next.transpose().map_err(Broken::Body)?
            };
            let wrong = |error: WrongLength| Broken::Body(error.into());
            let trailers = match next.map(http_body::Frame::into_data) {
                Some(Ok(data)) => {
                    let tail = frame.begin(self.output.text(), data.len()).map_err(wrong)?;
                    self.output.push(data, tail);
                    continue;
                }
                Some(Err(frame)) => frame.into_trailers().ok(),
                None => None,
            };
            frame.end(self.output.text(), trailers.as_ref()).map_err(wrong)?;
            self.sending = Sending::Done;
        }
        Ok(Poll::Ready(()))
    }

    /// Sends what there is to send until the response's head is there.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, Broken>> {
        if let Poll::Ready(sent) = self.poll_send(cx) {
            sent?;
        }
        loop {
            match response::parse(&mut self.input.bytes, &self.method, headers::lend)? {
                Some(Parsed::Head(mut head)) => {
                    self.receiving = std::mem::replace(&mut head.body, Body::Ended);
                    self.keeps = head.keeps;
                    return Poll::Ready(Ok(head));
                }
                Some(Parsed::Interim(status)) => {
                    if status == StatusCode::CONTINUE
                        && let Sending::Body(body, _) = &self.sending
                    {
                        body.asked();
                        if let Poll::Ready(sent) = self.poll_send(cx) {
                            sent?;
                        }
                    }
                }
                None => match ready!(self.input.poll_fill(&mut self.io, cx)) {
                    Ok(0) => return Poll::Ready(Err(Broken::Closed(None))),
                    Ok(_) => {}
                    Err(error) => return Poll::Ready(Err(Broken::Closed(Some(error)))),
                },
            }
        }
    }

    /// The next of the response's body, and what is to come then.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Broken>>> {
        loop {
            match self.receiving.next(&mut self.input.bytes) {
                Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(http_body::Frame::data(data)))),
                Ok(Step::Trailers(trailers)) => return Poll::Ready(Some(Ok(http_body::Frame::trailers(trailers)))),
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(malformed) => return Poll::Ready(Some(Err(malformed.into()))),
            }
            match ready!(self.input.poll_fill(&mut self.io, cx)) {
                Ok(0) if self.receiving.close() => return Poll::Ready(None),
                Ok(0) => return Poll::Ready(Some(Err(Broken::Closed(None)))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(Broken::Closed(Some(error))))),
            }
        }
    }

    /// What is still to come of the response.
    pub(super) fn receiving(&self) -> &Body {
        &self.receiving
    }

    /// Ends both directions at once, for whoever else holds it.
    pub(super) fn cut(&self) {
        self.io.cut();
    }

    /// It is HTTP no more: what was read beyond, and the stream.
    pub(super) fn into_stream(self) -> (Bytes, Transport) {
        (self.input.freeze(), self.io)
    }
}
