//! The head of a request, as a client's connection brings it: method, target, headers, and what follows (RFC 9112, 3 and 6.3). A request that says
//! its length in two ways, or in a way that we do not know, is one all the same, with a mark: it gets its answer, and nothing after it.

use super::body::Body;
use super::response::{end, names, number};
use crate::core::headers::{KEEP_ALIVE, PROXY_CONNECTION};
use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode, Uri, Version};
use std::mem::MaybeUninit;

/// Headers for which there is room on the stack: Envoy's default for a request.
const HEADERS: usize = 100;
/// Room for headers that are added on the way: mostly so many come, and a larger map is slower to make.
const MORE: usize = 4;
/// Bytes of a target: what `http` takes.
const TARGET: usize = 65_534;
const CHUNKED: &[u8] = b"chunked";

/// What a head may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// So many bytes.
    pub bytes: usize,
    /// So many headers.
    pub headers: usize,
}

/// A request's head.
#[derive(Debug)]
pub struct Head {
    /// As it came; of equal `content-length` lines there is one, and no `connection` that only says whether the connection stays.
    pub parts: Parts,
    /// What follows.
    pub body: Body,
    /// The client keeps the connection.
    pub keeps: bool,
    /// The body comes when it is asked for.
    pub expects: bool,
    /// Trailers may be answered.
    pub trailers: bool,
    /// The connection may become something else.
    pub leaves: bool,
    /// No header concerns the connection alone, or asks for something before the body.
    pub plain: bool,
    /// See the module. Then what follows is nobody's.
    pub misframed: Option<Misframed>,
}

/// Marks a request whose framing could be read otherwise by somebody else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Misframed {
    /// It says its length in two ways.
    TwoLengths,
    /// Its body is encoded in a way that we do not know, inside of the chunks.
    Coding,
}

/// Why what a client sent is no request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// No request line, or lines that are no headers.
    Head,
    /// A head that is longer than the listener lets it be.
    HeadTooLarge,
    /// More headers than that.
    TooManyHeaders,
    /// Several lengths, one that is no number, or one where there is no body.
    Length,
    /// A coding whose end nobody knows, or one in HTTP/1.0, which has none.
    Coding,
}

impl Refused {
    /// Its name in counters and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Head => "request_head",
            Self::HeadTooLarge => "request_head_too_large",
            Self::TooManyHeaders => "request_headers_too_many",
            Self::Length => "request_length",
            Self::Coding => "request_coding",
        }
    }

    /// How it is answered.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Head | Self::Length | Self::Coding => StatusCode::BAD_REQUEST,
            Self::HeadTooLarge | Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }
}

/// Is there the beginning of a head? Empty lines before one are none of it, and are taken.
pub fn begins(input: &mut BytesMut) -> bool {
    let mut empty = 0;
    loop {
        empty += match &input[empty..] {
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            _ => break,
        };
    }
    if empty > 0 {
        input.advance(empty);
    }
    !matches!(&input[..], [] | [b'\r'])
}

/// Takes one head from the beginning of what has come; `None`: more is needed. Its headers get the room that is lent.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse(input: &mut BytesMut, limits: Limits, lend: fn() -> HeaderMap) -> Result<Option<Head>, Refused> {
    if !begins(input) {
        return Ok(None);
    }
    // What is beyond the limit is not looked at: however much comes at once, the answer is the same.
    let seen = &input[..input.len().min(limits.bytes)];
    match end(seen) {
        Some(length) => read(&input.split_to(length).freeze(), limits.headers, lend()).map(Some),
        None if seen.len() < limits.bytes => with_room(seen, limits.headers, |_| Ok(None)),
        None => with_room(seen, limits.headers, |_| Err(Refused::HeadTooLarge)),
    }
}

/// Parses what has come, and goes on with it if it is whole. What cannot be the beginning of a head is not waited for.
fn with_room<T>(
    bytes: &[u8],
    headers: usize,
    then: impl FnOnce(Option<&httparse::Request<'_, '_>>) -> Result<T, Refused>,
) -> Result<T, Refused> {
    let mut few = [const { MaybeUninit::uninit() }; HEADERS];
    let mut many;
    let room = if headers <= HEADERS {
        &mut few[..headers]
    } else {
        many = vec![MaybeUninit::uninit(); headers];
        &mut many[..]
    };
    let mut request = httparse::Request::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, bytes, room);
    match parsed {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => then(Some(&request)),
        Ok(httparse::Status::Partial) => then(None),
        Err(httparse::Error::TooManyHeaders) => Err(Refused::TooManyHeaders),
        Ok(httparse::Status::Complete(_)) | Err(_) => Err(Refused::Head),
    }
}

fn read(bytes: &Bytes, most: usize, mut room: HeaderMap) -> Result<Head, Refused> {
    with_room(bytes, most, |request| {
        let Some(httparse::Request { method: Some(method), path: Some(path), version: Some(minor), headers }) = request else {
            return Err(Refused::Head);
        };
        if path.len() > TARGET {
            return Err(Refused::HeadTooLarge);
        }
        let method = Method::from_bytes(method.as_bytes()).map_err(|_invalid| Refused::Head)?;
        let uri = Uri::from_maybe_shared(bytes.slice_ref(path.as_bytes())).map_err(|_invalid| Refused::Head)?;
        let version = if *minor == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
        room.reserve(headers.len() + MORE);
        let mut lines = Lines { headers: room, ..Lines::default() };
        for line in &**headers {
            let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_invalid| Refused::Head)?;
            let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value)).map_err(|_invalid| Refused::Head)?;
            lines.add(name, value)?;
        }
        lines.head(method, uri, version)
    })
}

/// What the headers say, one after another.
#[derive(Default)]
struct Lines {
    headers: HeaderMap,
    length: Option<u64>,
    codings: usize,
    /// The first of them is `chunked` and no other.
    only_chunked: bool,
    /// The last of them is.
    chunked: bool,
    /// Something concerns the connection alone.
    special: bool,
    closes: bool,
    stays: bool,
    expects: bool,
    trailers: bool,
    upgrades: bool,
}

impl Lines {
    fn add(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), Refused> {
        match name {
            header::CONTENT_LENGTH => {
                let length = number(value.as_bytes()).ok_or(Refused::Length)?;
                match self.length.replace(length) {
                    Some(said) if said != length => return Err(Refused::Length),
                    Some(_) => return Ok(()),
                    None => {}
                }
            }
            header::TRANSFER_ENCODING => {
                let last = value.as_bytes().rsplit(|byte| *byte == b',').next().unwrap_or_default();
                self.chunked = last.trim_ascii().eq_ignore_ascii_case(CHUNKED);
                self.only_chunked = self.codings == 0 && value.as_bytes().eq_ignore_ascii_case(CHUNKED);
                self.codings += 1;
                self.special = true;
            }
            header::CONNECTION => {
                if !self.connection(&value) {
                    return Ok(());
                }
                self.special = true;
            }
            header::EXPECT => {
                self.expects = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
                self.special = true;
            }
            header::TE => {
                self.trailers |= names(&value, "trailers");
                self.special = true;
            }
            header::UPGRADE => (self.upgrades, self.special) = (true, true),
            _ => self.special |= [KEEP_ALIVE, PROXY_CONNECTION].contains(&name),
        }
        self.headers.append(name, value);
        Ok(())
    }

    /// True if it says more than whether the connection stays.
    fn connection(&mut self, value: &HeaderValue) -> bool {
        let mut more = false;
        for token in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                self.closes = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.stays = true;
            } else {
                more = true;
            }
        }
        more
    }

    fn head(mut self, method: Method, uri: Uri, version: Version) -> Result<Head, Refused> {
        let (coded, new) = (self.codings > 0, version == Version::HTTP_11);
        let connects = method == Method::CONNECT;
        if coded && !(new && self.chunked) {
            return Err(Refused::Coding);
        }
        if connects && self.length.is_some_and(|length| length > 0) {
            // As in Envoy: what follows is not the request's.
            return Err(Refused::Length);
        }
        let misframed = match self.length {
            Some(_) if coded => Some(Misframed::TwoLengths),
            _ if coded && (connects || !self.only_chunked) => Some(Misframed::Coding),
            _ => None,
        };
        let body = match self.length {
            _ if misframed.is_some() || connects => Body::Ended,
            _ if coded => Body::chunked(),
            Some(length) => Body::sized(length),
            None => Body::Ended,
        };
        if connects && self.length.is_some() {
            self.headers.remove(header::CONTENT_LENGTH);
        }
        let (mut parts, ()) = http::Request::new(()).into_parts();
        (parts.method, parts.uri, parts.version, parts.headers) = (method, uri, version, self.headers);
        Ok(Head {
            parts,
            keeps: !self.closes && (new || self.stays) && misframed.is_none(),
            expects: self.expects && new && !body.is_ended(),
            body,
            trailers: self.trailers,
            leaves: connects || (self.upgrades && new),
            plain: !self.special,
            misframed,
        })
    }
}

#[cfg(test)]
mod tests;
