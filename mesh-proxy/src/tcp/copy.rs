//! Bytes both ways until both ends have closed, counted as they pass. When one end closes, the other is told so and may go on sending
//! (half-close): many protocols end their request that way.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Duration, Instant, sleep_until};

/// Held for each direction while it lasts: what one system call moves without many of them for bulk, and small for many idle connections.
const BUFFER: usize = 16 * 1024;

/// Why it ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Both ends have closed.
    Closed,
    /// Nothing has passed for too long.
    Idle,
    /// A socket failed: reset, mostly.
    Failed(io::Error),
}

/// Copies. The counts (from `a`, to `a`) are right whenever this future is dropped.
pub(super) async fn copy<A, B>(a: &mut A, b: &mut B, idle: Option<Duration>, counts: (&mut u64, &mut u64)) -> Ended
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let moved = Cell::new(Instant::now());
    let (mut to_b, mut to_a) = (Half::new(counts.0), Half::new(counts.1));
    let both = poll_fn(|cx| {
        let there = to_b.poll(cx, a, b, &moved);
        let back = to_a.poll(cx, b, a, &moved);
        match (there, back) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(Ended::Failed(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ended::Closed),
            _ => Poll::Pending,
        }
    });
    match idle {
        None => both.await,
        Some(limit) => tokio::select! {
            ended = both => ended,
            () = silent(&moved, limit) => Ended::Idle,
        },
    }
}

/// Returns when nothing has moved for `limit`.
async fn silent(moved: &Cell<Instant>, limit: Duration) {
    loop {
        let until = moved.get() + limit;
        if until <= Instant::now() {
            return;
        }
        sleep_until(until).await;
    }
}

/// One direction.
struct Half<'c> {
    buffer: Box<[u8]>,
    /// What is in the buffer and not written yet.
    from: usize,
    to: usize,
    unflushed: bool,
    state: State,
    count: &'c mut u64,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum State {
    Open,
    /// The reader has ended; the writer must be told.
    Ending,
    Done,
}

impl<'c> Half<'c> {
    fn new(count: &'c mut u64) -> Self {
        Self { buffer: vec![0; BUFFER].into(), from: 0, to: 0, unflushed: false, state: State::Open, count }
    }

    fn poll<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W, moved: &Cell<Instant>) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            while self.from < self.to {
                let written = ready!(Pin::new(&mut *writer).poll_write(cx, &self.buffer[self.from..self.to]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.from += written;
                *self.count += written as u64;
                self.unflushed = true;
                moved.set(Instant::now());
            }
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx))?;
                    self.state = State::Done;
                }
                State::Open => ready!(self.fill(cx, reader, writer, moved))?,
            }
        }
    }

    fn fill<R, W>(&mut self, cx: &mut Context<'_>, reader: &mut R, writer: &mut W, moved: &Cell<Instant>) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        match Pin::new(reader).poll_read(cx, &mut buffer) {
            Poll::Ready(read) => {
                read?;
                (self.from, self.to) = (0, buffer.filled().len());
                moved.set(Instant::now());
                if self.to == 0 {
                    self.state = State::Ending;
                }
                Poll::Ready(Ok(()))
            }
            // Nothing more for now: what TLS holds back must leave.
            Poll::Pending if self.unflushed => {
                ready!(Pin::new(writer).poll_flush(cx))?;
                self.unflushed = false;
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn an_end_that_has_closed_still_gets_its_answer() {
        let ((mut client, mut a), (mut b, mut server)) = (duplex(64), duplex(64));
        let (mut received, mut sent) = (0, 0);
        let talk = async {
            client.write_all(&[1; 1000]).await.expect("write");
            client.shutdown().await.expect("shutdown");
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.expect("answer");
            answer.len()
        };
        let serve = async {
            let mut question = Vec::new();
            server.read_to_end(&mut question).await.expect("the end is passed on");
            server.write_all(&vec![2; question.len() * 2]).await.expect("write");
            server.shutdown().await.expect("shutdown");
        };
        let (ended, answer, ()) = tokio::join!(copy(&mut a, &mut b, None, (&mut received, &mut sent)), talk, serve);
        assert!(matches!(ended, Ended::Closed), "{ended:?}");
        assert_eq!((answer, received, sent), (2000, 1000, 2000));
    }

    #[tokio::test]
    async fn silence_ends_it_and_bytes_of_either_end_do_not() {
        let ((mut client, mut a), (mut b, mut server)) = (duplex(64), duplex(64));
        let (limit, gap, rounds) = (Duration::from_secs(1), Duration::from_millis(100), 12);
        let began = Instant::now();
        let (mut received, mut sent) = (0, 0);
        let talk = async {
            for round in 0..rounds {
                tokio::time::sleep(gap).await;
                let end = if round % 2 == 0 { &mut client } else { &mut server };
                end.write_all(b"x").await.expect("still open");
            }
            std::future::pending::<()>().await
        };
        let ended = tokio::select! {
            ended = copy(&mut a, &mut b, Some(limit), (&mut received, &mut sent)) => ended,
            () = talk => unreachable!("never ends"),
        };
        assert!(matches!(ended, Ended::Idle), "{ended:?}");
        assert_eq!((received, sent), (6, 6));
        assert!(began.elapsed() >= gap * rounds + limit, "{:?}", began.elapsed());
    }
}
