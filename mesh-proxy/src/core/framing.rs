//! Follows the framing of a client's HTTP/1 bytes beside the parser that serves them, for two things that the parser does not tell: a request
//! that says both `transfer-encoding` and `content-length`, of which one was meant for somebody else (request smuggling), and a head that
//! was begun and does not end. Judges nothing else: what it does not understand ends its watch, and the parser answers that.

/// Bytes of a line that are looked at. All that matters here is shorter; of longer lines the rest is skipped.
const LINE: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub struct Framing {
    state: State,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    head: Head,
    heads: u64,
    ambiguous: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    /// Between requests, or in a head.
    #[default]
    Head,
    /// So many bytes of a body are still to come.
    Body(u64),
    /// A chunk's length.
    Size,
    /// So many bytes of a chunk, then its line's end.
    Chunk(u64),
    /// The line's end after a chunk.
    Ended,
    /// Lines after the last chunk, up to an empty one.
    Trailers,
    /// Not followed any more.
    Lost,
}

/// What a head has said so far.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    begun: bool,
    length: Option<u64>,
    encoded: bool,
    /// The connection may become something else.
    leaves: bool,
}

impl Framing {
    /// More bytes of the client's.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Lost => return,
                State::Body(left) => self.skip(bytes, left, State::Body, State::Head),
                State::Chunk(left) => self.skip(bytes, left, State::Chunk, State::Ended),
                State::Head | State::Size | State::Ended | State::Trailers => self.lines(bytes),
            };
        }
    }

    /// True from a head's first byte to its last.
    #[must_use]
    pub fn in_head(&self) -> bool {
        self.state == State::Head && (self.head.begun || !self.line.is_empty())
    }

    /// Which request of the connection, counted from 1, said its length in two ways. The watch has ended with it.
    #[must_use]
    pub fn ambiguous(&self) -> Option<u64> {
        self.ambiguous
    }

    fn skip<'b>(&mut self, bytes: &'b [u8], left: u64, on: fn(u64) -> State, then: State) -> &'b [u8] {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - taken as u64;
        self.state = if left == 0 { then } else { on(left) };
        &bytes[taken..]
    }

    /// Takes one line, or the beginning of one.
    fn lines<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.keep(bytes);
            return &[];
        };
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        if self.line.is_empty() {
            self.line_ended(line);
        } else {
            self.keep(line);
            let line = std::mem::take(&mut self.line);
            self.line_ended(&line);
        }
        rest
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn line_ended(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.state = match self.state {
            State::Head if !line.is_empty() => {
                self.head.read(line);
                State::Head
            }
            // Empty lines before a request are none of it.
            State::Head if !self.head.begun => State::Head,
            State::Head => self.head_ended(),
            State::Size => match size(line) {
                Some(0) => State::Trailers,
                Some(size) => State::Chunk(size),
                None => State::Lost,
            },
            State::Ended if line.is_empty() => State::Size,
            State::Trailers if line.is_empty() => State::Head,
            State::Trailers => State::Trailers,
            _ => State::Lost,
        };
    }

    fn head_ended(&mut self) -> State {
        let head = std::mem::take(&mut self.head);
        self.heads += 1;
        match head.length {
            Some(_) if head.encoded => {
                self.ambiguous = Some(self.heads);
                State::Lost
            }
            _ if head.leaves => State::Lost,
            _ if head.encoded => State::Size,
            None | Some(0) => State::Head,
            Some(length) => State::Body(length),
        }
    }
}

impl Head {
    fn read(&mut self, line: &[u8]) {
        if !std::mem::replace(&mut self.begun, true) {
            self.leaves = line.starts_with(b"CONNECT ");
            return;
        }
        // The names that matter, told apart by their length first: this runs for every line of every request.
        let named = |name: &[u8]| line.get(name.len()) == Some(&b':') && line[..name.len()].eq_ignore_ascii_case(name);
        if named(b"content-length") {
            let value = std::str::from_utf8(&line[b"content-length:".len()..]).ok();
            // The parser refuses what is no number.
            self.length = Some(value.and_then(|value| value.trim().parse().ok()).unwrap_or(0));
        } else if named(b"transfer-encoding") {
            self.encoded = true;
        } else if named(b"upgrade") {
            self.leaves = true;
        }
    }
}

/// Of a chunk.
fn size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let digits = std::str::from_utf8(digits).ok()?.trim();
    u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Fed whole and byte by byte, which must be the same.
    fn after(text: &str) -> (Option<u64>, bool) {
        let (mut whole, mut bytes) = (Framing::default(), Framing::default());
        whole.feed(text.as_bytes());
        text.as_bytes().iter().for_each(|byte| bytes.feed(&[*byte]));
        let seen = |framing: &Framing| (framing.ambiguous(), framing.in_head());
        assert_eq!(seen(&whole), seen(&bytes), "{text:?}");
        seen(&whole)
    }

    const BOTH: &str = "POST / HTTP/1.1\r\ncontent-length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
    const SWAPPED: &str = "POST / HTTP/1.1\r\nTRANSFER-ENCODING:chunked\r\nhost: a\r\nContent-Length:0\r\n\r\n";

    #[test]
    fn the_request_that_says_both_is_found_wherever_it_is() {
        for both in [BOTH, SWAPPED] {
            assert_eq!(after(both), (Some(1), false));
            for before in [
                "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
                "\r\nGET / HTTP/1.1\nhost: a\n\n",
                "POST / HTTP/1.1\r\ncontent-length: 12\r\n\r\nhello\r\n\r\nabc",
                "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
                "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0A\r\ncontent-le\r\n0\r\nx-end: 1\r\n\r\n",
            ] {
                assert_eq!(after(&format!("{before}{both}")), (Some(2), false), "{before:?}");
            }
        }
    }

    #[test]
    fn what_only_looks_like_both_is_not() {
        let multipart = "--x\r\ncontent-length: 3\r\n\r\nabc\r\n--x--";
        let chunked =
            format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{multipart}\r\n0\r\n\r\n", multipart.len());
        let sized = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{BOTH}", BOTH.len());
        let other = "GET / HTTP/1.1\r\nx-content-length: 1\r\ncontent-lengths: 1\r\ntransfer-encoding: chunked\r\n\r\n";
        let one_each =
            "POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\nxPOST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        let long = format!(
            "GET /{} HTTP/1.1\r\nx: {}\r\ncontent-length: 0\r\n\r\n",
            "a".repeat(5000),
            "transfer-encoding: ".repeat(300)
        );
        for text in [&chunked, &sized, other, one_each, &long] {
            assert_eq!(after(text), (None, false), "{text:?}");
        }
    }

    #[test]
    fn a_head_is_begun_with_its_first_byte_and_ends_with_its_empty_line() {
        for text in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nhost: a", "GET / HTTP/1.1\r\nhost: a\r\n\r"] {
            assert_eq!(after(text), (None, true), "{text:?}");
        }
        for text in ["", "\r\n", "GET / HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nab"] {
            assert_eq!(after(text), (None, false), "{text:?}");
        }
    }

    #[test]
    fn what_becomes_something_else_is_left_alone() {
        for text in [
            "CONNECT a:1 HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        ] {
            assert_eq!(after(&format!("{text}{BOTH}")), (None, false), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn however_the_bytes_come_the_answer_is_the_same(
            text in "(GET|POST) / HTTP/1\\.1\r?\n((content-length: [0-9]|transfer-encoding: chunked|x: y|upgrade: z)\r?\n){0,4}\r?\n[0-9a-f\r\nG]{0,20}",
            cuts in prop::collection::vec(0usize..160, 0..6),
        ) {
            let (mut whole, mut parts) = (Framing::default(), Framing::default());
            whole.feed(text.as_bytes());
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut from = 0;
            for cut in cuts.into_iter().chain([text.len()]) {
                parts.feed(&text.as_bytes()[from..cut]);
                from = cut;
            }
            prop_assert_eq!((whole.ambiguous(), whole.in_head(), whole.state), (parts.ambiguous(), parts.in_head(), parts.state));
        }
    }
}
