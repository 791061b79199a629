//! What follows a head: nothing, so many bytes, chunks (RFC 9112, 7.1), or all until the connection ends.

use super::Malformed;
use super::response::HEADERS;
use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Bytes of chunk lines beyond their lengths, all of a body's together: nobody uses extensions, and a body that consists of them has no end.
const EXTENSIONS: usize = 16 * 1024;
/// Bytes of trailers, all lines together: a quarter of a head, which is more than status words need.
const TRAILERS: usize = 16 * 1024;
/// Hexadecimal digits of a chunk's length: what 64 bits hold.
const DIGITS: usize = 16;

/// What is still to come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Body {
    /// Nothing.
    Ended,
    /// So many bytes, at least one.
    Sized(u64),
    /// See the type.
    Chunked(Chunks),
    /// All that comes.
    UntilClose,
    /// Bytes that are HTTP no more, in both directions.
    Tunnel,
}

/// Chunks up to an empty one, and trailers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chunks {
    state: State,
    /// Of the lines so far.
    extensions: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// A line with a length.
    Size,
    /// So many bytes, at least one.
    Data(u64),
    /// The line's end after them.
    DataEnd,
    /// Lines up to an empty one.
    Trailers,
}

/// What has come.
#[derive(Debug)]
pub enum Step {
    /// Part of the body, not empty.
    Data(Bytes),
    /// The last of it.
    Trailers(HeaderMap),
    /// There is no more.
    End,
    /// Not enough: more is needed.
    More,
}

impl Body {
    /// So many bytes.
    #[must_use]
    pub fn sized(length: u64) -> Self {
        if length == 0 { Self::Ended } else { Self::Sized(length) }
    }

    /// Chunks.
    #[must_use]
    pub fn chunked() -> Self {
        Self::Chunked(Chunks { state: State::Size, extensions: 0 })
    }

    /// Has all of it been taken?
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self, Self::Ended | Self::Tunnel)
    }

    /// Bytes that are still to come, if that is known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        match self {
            Self::Ended | Self::Tunnel => Some(0),
            Self::Sized(left) => Some(*left),
            Self::Chunked(_) | Self::UntilClose => None,
        }
    }

    /// The connection has ended. True if that is the body's end.
    #[must_use]
    pub fn close(&mut self) -> bool {
        if *self == Self::UntilClose {
            *self = Self::Ended;
        }
        self.is_ended()
    }

    /// Takes what has come of it.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Step, Malformed> {
        match self {
            Self::Ended | Self::Tunnel => Ok(Step::End),
            _ if input.is_empty() => Ok(Step::More),
            Self::Sized(left) => {
                let data = take(input, left);
                if *left == 0 {
                    *self = Self::Ended;
                }
                Ok(Step::Data(data))
            }
            Self::UntilClose => Ok(Step::Data(input.split().freeze())),
            Self::Chunked(chunks) => {
                let step = chunks.next(input)?;
                if matches!(step, Step::End | Step::Trailers(_)) {
                    *self = Self::Ended;
                }
                Ok(step)
            }
        }
    }
}

fn take(input: &mut BytesMut, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
    *left -= length as u64;
    input.split_to(length).freeze()
}

impl Chunks {
    fn next(&mut self, input: &mut BytesMut) -> Result<Step, Malformed> {
        loop {
            match &mut self.state {
                State::Size => match self.size(input)? {
                    None => return Ok(Step::More),
                    Some(0) => self.state = State::Trailers,
                    Some(size) => self.state = State::Data(size),
                },
                State::Data(_) if input.is_empty() => return Ok(Step::More),
                State::Data(left) => {
                    let data = take(input, left);
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok(Step::Data(data));
                }
                State::DataEnd => match &input[..] {
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        self.state = State::Size;
                    }
                    [] | [b'\r'] => return Ok(Step::More),
                    _ => return Err(Malformed::Chunk),
                },
                State::Trailers => return trailers(input),
            }
        }
    }

    /// Takes a line with a chunk's length; `None`: it has not come whole.
    fn size(&mut self, input: &mut BytesMut) -> Result<Option<u64>, Malformed> {
        let end = memchr::memchr(b'\n', input);
        let line = &input[..end.unwrap_or(input.len())];
        let ((Some(_), [line @ .., b'\r']) | (None, [line @ .., b'\r'] | line)) = (end, line) else {
            return Err(Malformed::Chunk);
        };
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let rest = &line[digits..];
        let begun = rest.iter().find(|byte| !matches!(byte, b' ' | b'\t')).is_none_or(|byte| *byte == b';');
        // A return that ends no line is one that somebody else may take for its end.
        let extended = self.extensions + rest.len();
        let known = digits > 0 || (end.is_none() && line.is_empty());
        if !known || digits > DIGITS || !begun || rest.contains(&b'\r') || extended > EXTENSIONS {
            return Err(Malformed::Chunk);
        }
        let Some(end) = end else { return Ok(None) };
        let text = std::str::from_utf8(&line[..digits]).map_err(|_never| Malformed::Chunk)?;
        let size = u64::from_str_radix(text, 16).map_err(|_never| Malformed::Chunk)?;
        self.extensions = extended;
        input.advance(end + 1);
        Ok(Some(size))
    }
}

fn trailers(input: &mut BytesMut) -> Result<Step, Malformed> {
    match &input[..] {
        [b'\r', b'\n', ..] => {
            input.advance(2);
            return Ok(Step::End);
        }
        [] | [b'\r'] => return Ok(Step::More),
        _ => {}
    }
    let Some(end) = memchr::memmem::find(input, b"\r\n\r\n") else {
        return if input.len() < TRAILERS { Ok(Step::More) } else { Err(Malformed::Trailers) };
    };
    let lines = input.split_to(end + 4).freeze();
    if lines.len() > TRAILERS {
        return Err(Malformed::Trailers);
    }
    let mut room = [httparse::EMPTY_HEADER; HEADERS];
    let Ok(httparse::Status::Complete((length, found))) = httparse::parse_headers(&lines, &mut room) else {
        return Err(Malformed::Trailers);
    };
    if length != lines.len() {
        return Err(Malformed::Trailers);
    }
    let mut headers = HeaderMap::with_capacity(found.len());
    for line in found {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_invalid| Malformed::Trailers)?;
        let value = HeaderValue::from_maybe_shared(lines.slice_ref(line.value)).map_err(|_invalid| Malformed::Trailers)?;
        headers.append(name, value);
    }
    Ok(Step::Trailers(headers))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The data, the trailers' number if there are any, and what is left; `None`: it has not come whole.
    type Read = Result<Option<(Vec<u8>, Option<usize>, Vec<u8>)>, Malformed>;

    /// Fed in such pieces.
    fn read(mut body: Body, pieces: &[&[u8]]) -> Read {
        let (mut input, mut data) = (BytesMut::new(), Vec::new());
        for (number, piece) in pieces.iter().enumerate() {
            input.extend_from_slice(piece);
            let rest = |input: BytesMut| [&input[..], &pieces[number + 1..].concat()].concat();
            loop {
                match body.next(&mut input)? {
                    Step::Data(bytes) => data.extend_from_slice(&bytes),
                    Step::Trailers(trailers) => return Ok(Some((data, Some(trailers.len()), rest(input)))),
                    Step::End => return Ok(Some((data, None, rest(input)))),
                    Step::More => break,
                }
            }
        }
        Ok(if body.close() { Some((data, None, Vec::new())) } else { None })
    }

    fn chunked(text: &str) -> Read {
        read(Body::chunked(), &[text.as_bytes()])
    }

    #[test]
    fn each_kind_ends_where_it_says() {
        let whole = |data: &str, trailers, rest: &str| Ok(Some((data.as_bytes().to_vec(), trailers, rest.as_bytes().to_vec())));
        assert_eq!(read(Body::sized(5), &[b"hel", b"loHTTP"]), whole("hello", None, "HTTP"));
        assert_eq!(read(Body::sized(5), &[b"hel"]), Ok(None));
        assert_eq!(read(Body::UntilClose, &[b"hel", b"lo"]), whole("hello", None, ""));
        assert_eq!(read(Body::sized(0), &[b"HTTP"]), whole("", None, "HTTP"));
        assert_eq!(chunked("5\r\nhello\r\n0\r\n\r\nHTTP"), whole("hello", None, "HTTP"));
        assert_eq!(chunked("05 ;a=\"b\"\r\nhello\r\nC\r\n hello again\r\n000\r\n\r\n"), whole("hello hello again", None, ""));
        assert_eq!(chunked("0\r\nx: y\r\ngrpc-status: 0\r\n\r\nHTTP"), whole("", Some(2), "HTTP"));
        assert_eq!(chunked("5\r\nhello\r\n"), Ok(None));
    }

    #[test]
    fn what_is_no_chunk_is_said_to_be_none() {
        let long = format!("1{}\r\n", " ".repeat(EXTENSIONS + 1));
        let many = format!("0\r\n{}\r\n", "x: y\r\n".repeat(HEADERS + 1));
        let endless = format!("0\r\nx: {}", "y".repeat(TRAILERS));
        let drip = format!("1;{}\r\nx\r\n", "y".repeat(1000)).repeat(17);
        for text in [
            "x\r\n",
            "\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            "1\n",
            "1 x\r\n",
            "1;\rx\r\n",
            "12345678901234567\r\n",
            "1\r\nxy\r\n",
        ] {
            assert_eq!(chunked(text), Err(Malformed::Chunk), "{text:?}");
        }
        for text in [&long, &drip] {
            assert_eq!(chunked(text), Err(Malformed::Chunk));
        }
        for text in ["0\r\nno trailer\r\n\r\n", "0\r\n: x\r\n\r\n", &many, &endless] {
            assert_eq!(chunked(text), Err(Malformed::Trailers), "{:?}", &text[..text.len().min(60)]);
        }
    }

    proptest! {
        /// However the bytes come, what they say is the same.
        #[test]
        fn chunks_are_the_same_at_every_boundary(
            text in "([1-9a-f]( ?;[a-z]{0,3})?\r\n[a-z\r\n]{0,12}\r\n){0,3}(0\r\n(x: y\r\n){0,2}\r\n)?[a-zHTP0-9\r\n]{0,6}",
            chunks in prop::collection::vec("[a-z\r\n]{1,40}", 0..4),
        ) {
            let good: String = chunks.iter().map(|chunk| format!("{:x};q\r\n{chunk}\r\n", chunk.len())).collect();
            for text in [text, format!("{good}0\r\nx: y\r\n\r\nrest")] {
                let bytes = text.as_bytes();
                let single: Vec<&[u8]> = bytes.chunks(1).collect();
                let whole = chunked(&text);
                prop_assert_eq!(&read(Body::chunked(), &single), &whole, "{:?}", text);
                for cut in 0..bytes.len() {
                    prop_assert_eq!(&read(Body::chunked(), &[&bytes[..cut], &bytes[cut..]]), &whole, "{:?} at {}", text, cut);
                }
            }
            let data = chunks.concat().into_bytes();
            prop_assert_eq!(chunked(&format!("{good}0\r\n\r\n")), Ok(Some((data, None, Vec::new()))));
        }
    }
}
