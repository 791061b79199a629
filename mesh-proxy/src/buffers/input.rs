//! What was read and not taken yet. At rest it holds no memory: a buffer is made when there is something to read, and given back to those that
//! the thread keeps warm.

use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// Bytes that are read at once, at first: most heads and many bodies fit.
const ROOM: usize = 8 * 1024;
/// And at most, when there is more ready each time: beyond it system calls are no cost any more. No power of two: a body of 1 MiB and its head
/// would end with a read of the head's length.
const ROOM_MOST: usize = 400 * 1024;
/// Buffers of a thread that wait for their next use, half a MiB together: as many as requests are read, and not answered yet, in most turns of a
/// thread. Beyond: freed.
const SPARES: usize = 64;

thread_local! {
    /// What was read into last is taken first: it is warm.
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// A stream that says whether a read may bring something.
pub trait Readable {
    /// May there be something to read? What TLS keeps it tells only who reads.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// See the module.
#[derive(Debug)]
pub struct Input {
    /// Read, and not taken yet.
    pub bytes: BytesMut,
    /// What the next read may bring: more where reads are filled, less again where they are not.
    room: usize,
    /// What one brought at most since the last rest.
    most: usize,
}

impl Default for Input {
    fn default() -> Self {
        Self { bytes: BytesMut::new(), room: ROOM, most: 0 }
    }
}

impl Input {
    /// Reads more; 0: there is no more.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn poll_fill(&mut self, io: &mut (impl AsyncRead + Readable + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        ready!(io.poll_readable(cx))?;
        if self.bytes.capacity() == 0 {
            self.bytes = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
            self.bytes.clear();
        }
        self.bytes.reserve(self.room);
        let Poll::Ready(read) = poll_read_buf(Pin::new(io), cx, &mut self.bytes) else {
            if self.bytes.is_empty() {
                self.give();
            }
            return Poll::Pending;
        };
        let read = read?;
        self.most = self.most.max(read);
        if read >= self.room {
            self.room = (self.room * 2).min(ROOM_MOST);
        }
        Poll::Ready(Ok(read))
    }

    /// An exchange has ended: gives its buffer back, and what is left in it up.
    pub fn rest(&mut self) {
        self.give();
        if self.most < self.room / 2 && self.room > ROOM {
            self.room /= 2;
        }
        self.most = 0;
    }

    fn give(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if self.room == ROOM && bytes.capacity() > 0 {
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < SPARES {
                    spare.push(bytes)
                }
            });
        }
    }

    /// What was read beyond, for whoever goes on with the stream.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        self.bytes.freeze()
    }
}
