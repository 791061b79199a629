//! HTTP/1 as clients speak it: request after request on one connection, each answered before the next is read. How it looks as bytes is
//! [`crate::core::h1`]; what is asked is for [`exchange`]. Decides how long a connection may rest, and which answer is its last.

mod wire;

use super::body::ResponseBody;
use super::incoming::{Brought, Incoming};
use super::life::Life;
use super::patience::Patience;
use super::rewind::Rewind;
use super::server::{self, Ended};
use super::tunnel::Client;
use super::{Connection, date, exchange, h2c};
use crate::buffers::{Input, headers};
use crate::config::Downstream;
use crate::core::h1::answer::To;
use crate::core::h1::asked::{Head, Limits};
use crate::core::h1::frame::Length;
use crate::limits::LINGER;
use crate::shared::Shared;
use crate::stream::Stream;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use http_body::Body as _;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};
pub(super) use wire::Coming;
use wire::{Broken, Cut, Sending, Wire};

/// Envoy's answer to a head that does not end in time.
const LATE: &str = "request header timeout";

/// What becomes of a connection after an answer.
enum After {
    /// The next request.
    Next,
    /// It ends.
    End,
    /// It goes on by HTTP/2, and this is its first request.
    Http2(bytes::Bytes),
}

struct Server<'c> {
    connection: &'c Rc<Connection>,
    options: &'c Downstream,
    shared: &'c Shared,
    wire: Rc<Wire>,
    life: Rc<Life>,
    patience: Patience,
    /// Runs while a head is incomplete.
    late: Option<Pin<Box<Sleep>>>,
    /// What ends a connection that rests was asked before, and wakes us.
    asked: bool,
    /// It has said so.
    closes: bool,
}

/// Serves a connection to its end; `input` was read of it already.
pub(super) async fn serve(connection: &Rc<Connection>, input: Input, stream: Stream) -> Result<(), Ended> {
    let (shared, options) = (Arc::clone(&connection.guest.pod().shared), Arc::clone(&connection.options));
    let options = &options.downstream;
    let life = Rc::<Life>::default();
    let mut server = Server {
        connection,
        options,
        shared: &shared,
        wire: Wire::new(stream, input),
        life: Rc::clone(&life),
        patience: Patience::new(options.idle_timeout),
        late: None,
        asked: false,
        closes: false,
    };
    let mut closing = pin!(closing(&shared, &life, options));
    let served = loop {
        server.patience.rest();
        let head = match poll_fn(|cx| server.poll_next(closing.as_mut(), cx)).await {
            Ok(Some(head)) => head,
            Ok(None) => break Ok(()),
            Err(ended) => break Err(ended),
        };
        match server.answer(head).await {
            Ok(After::Next) => {}
            Ok(After::End) => break Ok(()),
            Ok(After::Http2(first)) => return Box::pin(server.go_on_by_http2(first)).await,
            Err(ended) => break Err(ended),
        }
    };
    server.end(&served).await;
    served
}

/// Returns when a connection is to be closed if it is idle, and after its answer if not.
async fn closing(shared: &Shared, life: &Life, options: &Downstream) {
    tokio::select! {
        () = shared.drain.closing() => {}
        () = life.aged(options) => {}
    }
}

impl Server<'_> {
    /// The next request's head. `None`: there is none, and nobody is to blame.
    fn poll_next(
        &mut self,
        closing: Pin<&mut impl Future<Output = ()>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Head>, Ended>> {
        let limits = Limits { bytes: self.options.head_bytes, headers: self.options.headers };
        if let Poll::Ready(head) = self.wire.poll_head(limits, cx) {
            self.late = None;
            return Poll::Ready(head.map_err(|broken| match broken {
                Broken::Refused(refused) => Ended::Refused(refused),
                Broken::Gone(error) => Ended::Gone(error),
            }));
        }
        let in_head = self.wire.is_in_head();
        if let Some(limit) = self.options.request_headers_timeout.filter(|_| in_head) {
            let late = self.late.get_or_insert_with(|| Box::pin(sleep(limit)));
            if late.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Ended::Late));
            }
        }
        if self.patience.poll(cx).is_ready() {
            return Poll::Ready(Ok(None));
        }
        // It wakes us, and to ask it at each rest costs more than a flag.
        let news = || self.options.max_connection_duration.is_some() || self.shared.drain.is_begun();
        let asks = !std::mem::replace(&mut self.asked, true) || news();
        self.closes |= !self.closes && asks && closing.poll(cx).is_ready();
        // What has begun to come is served, even at the last moment.
        if self.closes && !in_head { Poll::Ready(Ok(None)) } else { Poll::Pending }
    }

    /// Answers a request.
    async fn answer(&mut self, head: Head) -> Result<After, Ended> {
        let Head { mut parts, body, keeps, trailers, leaves, plain, misframed, .. } = head;
        self.life.count();
        if leaves
            && !self.connection.tls
            && body.is_ended()
            && let Some(first) = h2c::offered(&parts)
        {
            return Ok(After::Http2(first));
        }
        let (handover, client) = if leaves {
            let (handover, client) = oneshot::channel();
            (Some(handover), Some(Client::Http1(client)))
        } else {
            (None, None)
        };
        let body = self.wire.body().map_or(Incoming::Nothing, Incoming::Http1);
        let brought = Brought { body, client, misframed, plain };
        let (method, version) = (parts.method.clone(), parts.version);
        let response = {
            // In a box while there is a request: a connection that rests holds no room for it.
            let mut handling = Box::pin(exchange::handle(self.connection, &mut parts, brought));
            poll_fn(|cx| match handling.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Ok(response)),
                Poll::Pending => self.wire.poll_gone(cx).map(|error| Err(Ended::Gone(error))),
            })
            .await?
        };
        headers::give(std::mem::take(&mut parts.headers));
        let last = response.body().leaves_request() || self.life.ends(self.options) || self.shared.drain.is_begun();
        let to = To { method: &method, version, trailers, keeps: keeps && !last, date: "" };
        self.send(response, to, handover).await
    }

    /// Sends an answer.
    async fn send(
        &self,
        response: Response<ResponseBody>,
        to: To<'_>,
        handover: Option<oneshot::Sender<Rewind<Stream>>>,
    ) -> Result<After, Ended> {
        let (parts, body) = response.into_parts();
        // As in Envoy: a request that is not whole when its answer begins is the connection's last.
        let whole = poll_fn(|cx| Poll::Ready(self.wire.is_whole(body.is_local(), cx))).await;
        let length = length(&body);
        let follows = date::with(SystemTime::now(), |date| {
            let to = To { keeps: to.keeps && whole, date, ..to };
            self.wire.begin(&to, parts.status, &parts.headers, length)
        });
        headers::give(parts.headers);
        let mut sending = Sending { body, frame: follows.frame, ended: false };
        let sent = poll_fn(|cx| self.wire.poll_answer(&mut sending, cx)).await;
        drop(sending);
        match sent {
            Ok(()) => {}
            Err(Cut::Gone(error)) => return Err(Ended::Gone(error)),
            // It was told of where it happened. Nothing that follows could be read rightly.
            Err(Cut::Body) => {
                self.wire.take();
                return Ok(After::End);
            }
        }
        if follows.leaves {
            if let (Some(handover), Some((stream, input))) = (handover, self.wire.take()) {
                // Else nobody wants it any more.
                let _ = handover.send(Rewind::new(input.freeze(), stream));
            }
            return Ok(After::End);
        }
        Ok(if follows.keeps && self.wire.rest() { After::Next } else { After::End })
    }

    /// The upgrade is agreed to, and its request is the new connection's first.
    async fn go_on_by_http2(self, first: bytes::Bytes) -> Result<(), Ended> {
        let (method, mut headers) = (Method::GET, HeaderMap::with_capacity(2));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, h2c::NAME);
        date::with(SystemTime::now(), |date| {
            let to = To { method: &method, version: Version::HTTP_11, trailers: false, keeps: true, date };
            self.wire.begin(&to, StatusCode::SWITCHING_PROTOCOLS, &headers, Length::None);
        });
        poll_fn(|cx| self.wire.poll_flush(cx)).await.map_err(Ended::Gone)?;
        let Some((stream, input)) = self.wire.take() else { return Ok(()) };
        let stream = h2c::begin(Rewind::new(input.freeze(), stream), first).await.map_err(Ended::Gone)?;
        server::http2(Rc::clone(self.connection), stream).await
    }

    /// Ends the connection in order. Who still sends could lose what was answered last: what comes is read for a while, and thrown away.
    async fn end(&self, served: &Result<(), Ended>) {
        let refused = match served {
            Ok(()) => None,
            Err(Ended::Refused(refused)) => Some((refused.status(), refused.status().canonical_reason().unwrap_or_default())),
            Err(Ended::Late) => Some((StatusCode::REQUEST_TIMEOUT, LATE)),
            Err(Ended::Gone(_) | Ended::Failed(_)) => return drop(self.wire.take()),
        };
        if let Some((status, text)) = refused {
            self.refuse(status, text);
        }
        let lingers = refused.is_some() || !self.wire.is_read();
        let flushed = async { poll_fn(|cx| self.wire.poll_flush(cx)).await };
        if lingers && !matches!(tokio::time::timeout(LINGER, flushed).await, Ok(Ok(()))) {
            return drop(self.wire.take());
        }
        match self.wire.take() {
            Some((stream, _)) if lingers => Box::pin(linger(stream)).await,
            // The kernel says the end of the stream for us; of TLS we do.
            Some((mut stream @ Stream::Tls(_), _)) => drop(tokio::time::timeout(LINGER, stream.shutdown()).await),
            Some((Stream::Plain(_), _)) | None => {}
        }
    }

    /// The last words to who sends what is no request, as Envoy says them.
    fn refuse(&self, status: StatusCode, text: &str) {
        let (method, mut headers) = (Method::GET, HeaderMap::with_capacity(1));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let length = Length::Known(text.len() as u64);
        date::with(SystemTime::now(), |date| {
            let to = To { method: &method, version: Version::HTTP_11, trailers: false, keeps: false, date };
            self.wire.begin(&to, status, &headers, length)
        });
        self.wire.say(text.as_bytes());
    }
}

fn length(body: &ResponseBody) -> Length {
    match body.size_hint().exact() {
        _ if body.is_end_stream() => Length::None,
        Some(length) => Length::Known(length),
        None => Length::Unknown,
    }
}

/// Says that there is no more, and reads until the client says so too, or its time is over.
async fn linger(mut stream: Stream) {
    let reading = async {
        stream.shutdown().await?;
        let mut thrown = vec![0; 16 * 1024];
        while stream.read(&mut thrown).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    // However it ends, there is nobody to tell.
    let _ = tokio::time::timeout(LINGER, reading).await;
}
