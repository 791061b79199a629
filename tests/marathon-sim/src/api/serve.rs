//! Serves a router on a listener of any namespace. Puts `HTTP/1.1` on the status line of answers that end by closing: hyper writes those
//! as 1.0, Jetty as 1.1.

use std::io::{IoSlice, Result};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Jetty(pub(crate) TcpListener);

impl Listener for Jetty {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        let _ = stream.set_nodelay(true);
        (Connection(stream), address)
    }

    fn local_addr(&self) -> Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[derive(Clone, Copy)]
pub(crate) struct Remote(pub(crate) SocketAddr);

impl axum::extract::connect_info::Connected<IncomingStream<'_, Jetty>> for Remote {
    fn connect_info(stream: IncomingStream<'_, Jetty>) -> Self {
        Self(*stream.remote_addr())
    }
}

pub(crate) struct Connection(TcpStream);

const OLD: &[u8] = b"HTTP/1.0 ";
const NEW: &[u8] = b"HTTP/1.1 ";

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<Result<usize>> {
        let bytes = if buffer.starts_with(OLD) { NEW } else { buffer };
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        let first = buffers.iter().find(|b| !b.is_empty()).map_or(&[][..], |b| b);
        self.poll_write(cx, first)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

pub(crate) fn spawn(listener: TcpListener, router: Router) {
    let service = router.into_make_service_with_connect_info::<Remote>();
    tokio::spawn(async move {
        if let Err(error) = axum::serve(Jetty(listener), service).await {
            tracing::error!("API: {error}");
        }
    });
}
