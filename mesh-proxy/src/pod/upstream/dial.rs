//! A new connection to an endpoint: TCP from inside the pod, TLS if the cluster wants it, HTTP/1 or HTTP/2. All of it within the cluster's
//! `connect_timeout`.

use super::counts::{Counts, count};
use super::http1::Http1;
use super::pool::{Key, Many, One, Open};
use crate::buffers::Readable;
use crate::config::{Http2, Keepalive, PoolSettings, Protocol};
use crate::http::body::RequestBody;
use crate::pod::{ConnectError, Pod};
use crate::upstream_tls::Inside;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::client::TlsStream;

/// How long an endpoint may take for the end of TLS.
const CLOSING: Duration = Duration::from_secs(1);

/// Bytes to and from an endpoint.
pub enum Transport {
    /// As they are.
    Plain(TcpStream),
    /// In TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

pub(super) enum Dialled {
    One(Box<One>),
    Many(Many),
}

pub(super) type Http2Connection = http2::Connection<TokioIo<Transport>, RequestBody, Local>;

/// Runs hyper's tasks on the thread that owns the pod.
#[derive(Clone, Copy)]
pub(super) struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Connects up to TLS, as `client` if the endpoint is to see it.
pub(super) async fn transport(
    pod: &Pod,
    settings: &PoolSettings,
    (inside, server_name): (Inside, Option<&str>),
    (client, address): (Option<SocketAddr>, SocketAddr),
) -> Result<Transport, ConnectError> {
    if settings.tls.as_ref().is_some_and(|tls| !tls.is_ready()) {
        pod.shared.metrics.secrets_missing.inc();
        return Err(ConnectError::NoSecret);
    }
    let connect = async {
        let stream = pod.connect_as(client, address, settings.connect_timeout).await?;
        if let Some(keepalive) = settings.keepalive {
            keep_alive(&stream, keepalive);
        }
        let Some(tls) = &settings.tls else { return Ok(Transport::Plain(stream)) };
        let stream = tls.connect(stream, inside, server_name, address.ip()).await;
        Ok(Transport::Tls(Box::new(stream.map_err(ConnectError::Tls)?)))
    };
    tokio::time::timeout(settings.connect_timeout, connect).await.unwrap_or(Err(ConnectError::Timeout))
}

/// Connects; `open` counts the connection until it ends.
pub(super) async fn dial(
    pod: &Pod,
    settings: &PoolSettings,
    key: &Key,
    address: SocketAddr,
    (open, counts): (&Rc<Open>, &Counts),
) -> Result<Dialled, ConnectError> {
    let inside = match key.protocol {
        Protocol::Http1 | Protocol::Downstream => Inside::Http1,
        Protocol::Http2 => Inside::Http2,
        Protocol::Negotiated => Inside::Either,
    };
    let transport = transport(pod, settings, (inside, key.server_name.as_deref()), (None, address)).await?;
    let http2 = match key.protocol {
        Protocol::Http1 | Protocol::Downstream => false,
        Protocol::Http2 => true,
        Protocol::Negotiated => transport.negotiated_http2(),
    };
    if http2 {
        let io = TokioIo::new(transport);
        let broken = |error: hyper::Error| ConnectError::Failed(io::Error::other(error));
        count(&counts.cx_http2_total);
        let (sender, connection) = builder(&settings.http2).handshake(io).await.map_err(broken)?;
        let connection = Rc::new(RefCell::new(Some(connection)));
        drive(shared(Rc::clone(&connection)), Rc::clone(open), address);
        let now = Instant::now();
        let (streams, used, idle_since) = (Cell::new(0), Cell::new(0), Cell::new(now));
        return Ok(Dialled::Many(Many { sender, connection, since: now, streams, used, idle_since }));
    }
    count(&counts.cx_http1_total);
    let now = Instant::now();
    Ok(Dialled::One(Box::new(One { http1: Http1::new(transport), open: Rc::clone(open), since: now, used: 0, idle_since: now })))
}

fn builder(settings: &Http2) -> http2::Builder<Local> {
    let mut builder = http2::Builder::new(Local);
    builder.timer(TokioTimer::new());
    // Until the endpoint says its own limit, ours counts.
    builder.initial_max_send_streams(usize::try_from(settings.max_streams).ok());
    if let Some(window) = settings.stream_window {
        builder.initial_stream_window_size(window);
    }
    if let Some(window) = settings.connection_window {
        builder.initial_connection_window_size(window);
    }
    if let Some((interval, timeout)) = settings.ping {
        builder.keep_alive_interval(interval).keep_alive_timeout(timeout).keep_alive_while_idle(true);
    }
    builder
}

/// Drives a connection that the pool may ask for its limits. With its end it is dropped, and with it what was queued and is not sent any more.
async fn shared(connection: Rc<RefCell<Option<Http2Connection>>>) -> hyper::Result<()> {
    let ended = poll_fn(|cx| match &mut *connection.borrow_mut() {
        Some(connection) => Pin::new(connection).poll(cx),
        None => Poll::Ready(Ok(())),
    });
    let ended = ended.await;
    connection.borrow_mut().take();
    ended
}

fn drive(connection: impl Future<Output = hyper::Result<()>> + 'static, open: Rc<Open>, address: SocketAddr) {
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%address, %error, "upstream connection ended");
        }
        drop(open);
    });
}

fn keep_alive(stream: &TcpStream, keepalive: Keepalive) {
    let mut wanted = socket2::TcpKeepalive::new();
    if let Some(time) = keepalive.time {
        wanted = wanted.with_time(time);
    }
    if let Some(interval) = keepalive.interval {
        wanted = wanted.with_interval(interval);
    }
    if let Some(probes) = keepalive.probes {
        wanted = wanted.with_retries(probes);
    }
    // The connection works without; the kernel takes every value from 1 to 32767.
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_keepalive(&wanted) {
        tracing::debug!(%error, "tcp_keepalive is not set");
    }
}

impl Transport {
    /// Ends both directions for all who hold it.
    pub(super) fn cut(&self) {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        };
        // Else it has ended already.
        let _ = socket2::SockRef::from(stream).shutdown(Shutdown::Both);
    }

    /// Ends a connection in order: in TLS that is said first. Nobody waits for it.
    pub(super) fn close(mut self) {
        if matches!(self, Self::Tls(_)) {
            // An endpoint that does not take it is left alone.
            tokio::task::spawn_local(async move { drop(tokio::time::timeout(CLOSING, self.shutdown()).await) });
        }
    }

    fn negotiated_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }
}

impl Readable for Transport {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(cx),
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
