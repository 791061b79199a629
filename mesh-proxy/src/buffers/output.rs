//! What waits to be written: text, then at most one part of a body that is not copied, and what stands behind it.

use bytes::{Buf, Bytes};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Parts of a body up to so many bytes are copied behind the text: cheaper than a slice of their own in the system call.
const COPIED: usize = 4 * 1024;
/// Text that is collected before it is written.
const ENOUGH: usize = 16 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Output {
    text: Vec<u8>,
    /// Of the text.
    written: usize,
    part: Bytes,
    tail: &'static [u8],
    /// Something was written since the exchange began.
    begun: bool,
    /// Written, and maybe kept back by TLS.
    unflushed: bool,
}

impl Output {
    /// For what comes next.
    pub fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Part of a body, after the text. Only while there [is not enough](Self::has_enough).
    pub fn push(&mut self, part: Bytes, tail: &'static [u8]) {
        if part.len() <= COPIED {
            self.text.extend_from_slice(&part);
            self.text.extend_from_slice(tail);
        } else {
            (self.part, self.tail) = (part, tail);
        }
    }

    /// It is to be written before more comes.
    #[must_use]
    pub fn has_enough(&self) -> bool {
        !self.part.is_empty() || !self.tail.is_empty() || self.text.len() >= ENOUGH
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.part.is_empty() && self.tail.is_empty() && !self.unflushed
    }

    /// Was anything written?
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Nobody takes it any more.
    pub fn clear(&mut self) {
        *self = Self { begun: self.begun, ..Self::default() };
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// If the connection takes no more.
    pub fn poll(&mut self, io: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !(self.text.is_empty() && self.part.is_empty() && self.tail.is_empty()) {
            let text = &self.text[self.written..];
            let written = if self.part.is_empty() && self.tail.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, text))?
            } else {
                let slices = [IoSlice::new(text), IoSlice::new(&self.part), IoSlice::new(self.tail)];
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            (self.begun, self.unflushed) = (true, true);
            self.advance(written);
        }
        if self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        let of_text = written.min(self.text.len() - self.written);
        self.written += of_text;
        if self.written == self.text.len() {
            self.text.clear();
            self.written = 0;
        }
        written -= of_text;
        let of_part = written.min(self.part.len());
        self.part.advance(of_part);
        self.tail = &self.tail[written - of_part..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_taken_at_a_time_the_rest_follows() {
        let large = Bytes::from(vec![b'x'; COPIED + 1]);
        let whole = [b"head\r\n", &large[..], b"\r\n"].concat();
        for step in [1, 3, 7, COPIED, whole.len()] {
            let mut output = Output::default();
            output.text().extend_from_slice(b"head\r\n");
            output.push(large.clone(), b"\r\n");
            assert!(output.has_enough());
            let mut taken = Vec::new();
            while !output.is_empty() {
                let all = [&output.text[output.written..], &output.part, output.tail].concat();
                let now = step.min(all.len());
                taken.extend_from_slice(&all[..now]);
                output.advance(now);
            }
            assert!(taken == whole, "{step} at a time");
        }
    }

    #[test]
    fn small_parts_are_copied_until_there_is_enough() {
        let mut output = Output::default();
        let mut parts = 0;
        while !output.has_enough() {
            output.push(Bytes::from(vec![b'x'; COPIED]), b"");
            parts += 1;
        }
        assert_eq!((parts, output.text.len()), (ENOUGH / COPIED, ENOUGH));
    }
}
