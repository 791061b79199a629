//! A client's HTTP/1 bytes on their way to the parser. Watches their framing, so that a request of two lengths is told from others, and
//! answers a head that does not end in time; the bytes stay as they are.

use super::life::Life;
use crate::core::framing::Framing;
use bytes::Bytes;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Envoy's answer. There is no request that anything else could be said about.
const LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\ncontent-length: 22\r\nconnection: close\r\n\r\nrequest header timeout";

pub(super) struct Wire<S> {
    /// Was read before.
    head: Bytes,
    stream: S,
    framing: Framing,
    life: Arc<Life>,
    /// How long a head may take from its first byte.
    limit: Option<Duration>,
    /// Runs while a head is incomplete.
    late: Option<Pin<Box<Sleep>>>,
}

impl<S> Wire<S> {
    pub(super) fn new(head: Bytes, stream: S, life: Arc<Life>, limit: Option<Duration>) -> Self {
        Self { head, stream, framing: Framing::default(), life, limit, late: None }
    }

    fn follow(&mut self, bytes: &[u8]) {
        self.framing.feed(bytes);
        if let Some(number) = self.framing.ambiguous() {
            self.life.mark_ambiguous(number);
        }
        if !self.framing.in_head() {
            self.late = None;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Nothing came. Is that too little? A head that is read ahead, while another request is being answered, has time.
    fn waited(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(limit) = self.limit.filter(|_| self.framing.in_head() && !self.life.is_active()) else { return Poll::Pending };
        let late = self.late.get_or_insert_with(|| Box::pin(sleep(limit)));
        if late.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.life.mark_late();
        // Where it does not fit the client does not read either.
        let _ = Pin::new(&mut self.stream).poll_write(cx, LATE);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.head.is_empty() {
            let length = self.head.len().min(buf.remaining());
            let head = self.head.split_to(length);
            buf.put_slice(&head);
            self.follow(&head);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                self.follow(&buf.filled()[before..]);
                Poll::Ready(Ok(()))
            }
            Poll::Pending => self.waited(cx),
            failed => failed,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
