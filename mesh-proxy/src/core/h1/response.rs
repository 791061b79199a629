//! The head of a response: status, headers, and what follows it (RFC 9112, 6.3). Informational ones are told apart; whoever reads goes on.

use super::Malformed;
use super::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use std::mem::MaybeUninit;

/// Bytes of a response's head: Envoy's default (`max_response_headers_kb`).
pub const HEAD: usize = 60 * 1024;
/// Headers of a response, and of its trailers: Envoy's default (`max_headers_count`).
pub const HEADERS: usize = 100;
/// Room for headers that are added on the way to the client: mostly one more than go, and a larger map is slower to make.
const MORE: usize = 1;

/// See the module.
#[derive(Debug)]
pub enum Parsed {
    /// 1xx but 101: another head follows.
    Interim(StatusCode),
    /// The response.
    Head(Head),
}

/// A response's head.
#[derive(Debug)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// As they came.
    pub headers: HeaderMap,
    /// What follows.
    pub body: Body,
    /// The endpoint keeps the connection.
    pub keeps: bool,
}

/// Takes one head from the beginning of what has come; `None`: more is needed. Its headers get the room that is lent.
///
/// # Errors
/// Says what is wrong with it.
pub fn parse(input: &mut BytesMut, method: &Method, lend: fn() -> HeaderMap) -> Result<Option<Parsed>, Malformed> {
    // Empty lines before a head are none of it.
    let empty = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    if empty > 0 {
        input.advance(empty);
    }
    let Some(length) = end(input) else {
        return match input.len() {
            0 => Ok(None),
            1..HEAD => is_begun(input).map(|()| None),
            _ => Err(Malformed::HeadTooLarge),
        };
    };
    if length > HEAD {
        return Err(Malformed::HeadTooLarge);
    }
    read(&input.split_to(length).freeze(), method, lend()).map(Some)
}

/// Where a head ends and the body begins.
pub(super) fn end(input: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', input).find_map(|at| match input.get(at + 1..)? {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// Can what has come be the beginning of a head? What cannot is not waited for.
fn is_begun(input: &[u8]) -> Result<(), Malformed> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, input, &mut headers);
    parsed.map(drop).map_err(malformed)
}

fn read(bytes: &Bytes, method: &Method, mut headers: HeaderMap) -> Result<Parsed, Malformed> {
    let mut room = [const { MaybeUninit::uninit() }; HEADERS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, bytes, &mut room)
        .map_err(malformed)?;
    if parsed != httparse::Status::Complete(bytes.len()) {
        return Err(Malformed::Head);
    }
    let (Some(code), Some(minor)) = (response.code, response.version) else { return Err(Malformed::Head) };
    let status = StatusCode::from_u16(code).map_err(|_invalid| Malformed::Head)?;
    headers.reserve(response.headers.len() + MORE);
    let (mut closes, mut stays, mut coded, mut sized) = (false, false, false, false);
    for line in &*response.headers {
        let name = HeaderName::from_bytes(line.name.as_bytes()).map_err(|_invalid| Malformed::Head)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(line.value)).map_err(|_invalid| Malformed::Head)?;
        if name == header::CONNECTION {
            closes |= names(&value, "close");
            stays |= names(&value, "keep-alive");
        }
        coded |= name == header::TRANSFER_ENCODING;
        sized |= name == header::CONTENT_LENGTH;
        headers.append(name, value);
    }
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Parsed::Interim(status));
    }
    let body = match announced(status, method) {
        Some(body) => body,
        None if coded => coding(&headers, minor, sized)?,
        None if sized => length(&headers).map(Body::sized).ok_or(Malformed::Length)?,
        None => Body::UntilClose,
    };
    let keeps = !closes && (minor == 1 || stays) && !matches!(body, Body::Tunnel | Body::UntilClose);
    Ok(Parsed::Head(Head { status, headers, body, keeps }))
}

/// What status and method say of the body; `None`: the headers do.
fn announced(status: StatusCode, method: &Method) -> Option<Body> {
    match status.as_u16() {
        101 => Some(Body::Tunnel),
        204 | 304 => Some(Body::Ended),
        200..=299 if method == Method::CONNECT => Some(Body::Tunnel),
        _ if method == Method::HEAD => Some(Body::Ended),
        _ => None,
    }
}

/// The last coding decides.
fn coding(headers: &HeaderMap, minor: u8, sized: bool) -> Result<Body, Malformed> {
    if minor == 0 {
        return Err(Malformed::Coding);
    }
    // As in Envoy: of two lengths one was meant for somebody else.
    if sized {
        return Err(Malformed::Length);
    }
    let last = headers.get_all(header::TRANSFER_ENCODING).iter().next_back();
    let last = last.and_then(|value| value.to_str().ok()?.rsplit(',').next());
    let chunked = last.is_some_and(|coding| coding.trim().eq_ignore_ascii_case("chunked"));
    Ok(if chunked { Body::chunked() } else { Body::UntilClose })
}

/// What `content-length` says, however often, if it says one thing.
#[must_use]
pub fn length(headers: &HeaderMap) -> Option<u64> {
    let mut all = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for text in value.as_bytes().split(|byte| *byte == b',') {
            let number = number(text.trim_ascii())?;
            if all.is_some_and(|all| all != number) {
                return None;
            }
            all = Some(number);
        }
    }
    all
}

/// Of digits only: a number's own parser takes a sign, too.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    let add = |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(char::from(*digit).to_digit(10)?.into());
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

pub(super) fn names(value: &HeaderValue, token: &str) -> bool {
    let mut listed = value.as_bytes().split(|byte| *byte == b',');
    listed.any(|listed| listed.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

fn malformed(error: httparse::Error) -> Malformed {
    match error {
        httparse::Error::TooManyHeaders => Malformed::TooManyHeaders,
        _ => Malformed::Head,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a text says: status, headers, what follows, whether the connection stays, and what is left.
    type Said = Result<Option<(u16, usize, Body, bool, Vec<u8>)>, Malformed>;

    /// Skips informational heads, as a reader does.
    fn said(input: &mut BytesMut, method: &Method) -> Said {
        loop {
            match parse(input, method, HeaderMap::new)? {
                None => return Ok(None),
                Some(Parsed::Interim(_)) => {}
                Some(Parsed::Head(head)) => {
                    return Ok(Some((head.status.as_u16(), head.headers.len(), head.body, head.keeps, input.to_vec())));
                }
            }
        }
    }

    fn of(text: &str, method: &Method) -> Said {
        said(&mut BytesMut::from(text), method)
    }

    fn get(text: &str) -> Said {
        of(text, &Method::GET)
    }

    #[test]
    fn what_follows_a_head_is_what_the_standard_says() {
        let cases = [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, Body::sized(5), true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\ncontent-length: 5\r\n\r\n", 200, Body::sized(5), true),
            ("HTTP/1.1 200\r\ncontent-length: 0\r\nconnection: x, Close\r\n\r\n", 200, Body::Ended, false),
            ("HTTP/1.0 200 OK\ncontent-length: 1\n\nx", 200, Body::sized(1), false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: Keep-Alive\r\n\r\n", 200, Body::sized(1), true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ntransfer-encoding: Chunked\r\n\r\n", 200, Body::chunked(), true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, gzip\r\n\r\n", 200, Body::UntilClose, false),
            ("HTTP/1.1 404 Not Found\r\n\r\n", 404, Body::UntilClose, false),
            ("HTTP/1.1 204 No Content\r\ncontent-length: 7\r\n\r\n", 204, Body::Ended, true),
            ("HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n", 304, Body::Ended, true),
            ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nbytes", 101, Body::Tunnel, false),
            (
                "\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nlink: y\r\n\r\nHTTP/1.1 204 x\r\n\r\n",
                204,
                Body::Ended,
                true,
            ),
        ];
        for (text, status, body, keeps) in cases {
            let (found, _, follows, stays, _) = get(text).expect(text).expect(text);
            assert_eq!((found, follows, stays), (status, body, keeps), "{text:?}");
        }
        let head = of("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n", &Method::HEAD).expect("good").expect("whole");
        assert_eq!(head.2, Body::Ended);
        let connected = of("HTTP/1.1 200 OK\r\n\r\nbytes", &Method::CONNECT).expect("good").expect("whole");
        assert_eq!((connected.2, &*connected.4), (Body::Tunnel, &b"bytes"[..]));
    }

    #[test]
    fn what_is_no_http_is_said_to_be_none_by_name() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(HEADERS + 1));
        let long = format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD));
        for (text, expected) in [
            ("SSH-2.0-OpenSSH", Malformed::Head),
            ("HTTP/2.0 200 OK\r\n\r\n", Malformed::Head),
            ("HTTP/1.1 999999 x\r\n\r\n", Malformed::Head),
            ("HTTP/1.1 200 OK\r\nno header\r\n\r\n", Malformed::Head),
            ("HTTP/1.1 200 OK\r\nx : y\r\n\r\n", Malformed::Head),
            ("HTTP/1.1 200 OK\r\nx: y\r\n folded\r\n\r\n", Malformed::Head),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", Malformed::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\n", Malformed::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n", Malformed::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n", Malformed::Length),
            ("HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n", Malformed::Length),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 7\r\n\r\n", Malformed::Length),
            ("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", Malformed::Coding),
            (&many, Malformed::TooManyHeaders),
            (&long, Malformed::HeadTooLarge),
            (&format!("{long}\r\n\r\n"), Malformed::HeadTooLarge),
        ] {
            assert_eq!(get(text), Err(expected), "{:?}", &text[..text.len().min(60)]);
        }
    }

    proptest! {
        /// However the bytes come, the head is the same, and not one of them is lost.
        #[test]
        fn a_head_is_the_same_at_every_boundary(
            text in "(\r\n)?(HTTP/1\\.1 10[03] x\r\n(a: b\r\n)?\r\n)?HTTP/1\\.[01] (101|200|204|404|500) [a-z]{0,3}\r\n((content-length: [0-9]{1,2}|transfer-encoding: (chunked|gzip)|x: y|connection: (close|keep-alive))\r?\n){0,4}\r?\n[a-z\r\n]{0,9}",
        ) {
            let whole = get(&text);
            let mut input = BytesMut::new();
            let mut found = Ok(None);
            for (at, byte) in text.bytes().enumerate() {
                input.extend_from_slice(&[byte]);
                found = said(&mut input, &Method::GET);
                if !matches!(found, Ok(None)) {
                    if let Ok(Some(found)) = &mut found {
                        found.4.extend_from_slice(&text.as_bytes()[at + 1..]);
                    }
                    break;
                }
            }
            prop_assert_eq!(found, whole);
        }
    }
}
