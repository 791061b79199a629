//! Writes a request: its head, and the frame around its body. Headers are written as they are, in their order; only what says the body's length
//! is ours (RFC 9112, 6).

use super::response;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

/// Bytes of most lines, so that the text need not grow line by line.
const LINE: usize = 64;

/// What is known of a request's body before it is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Length {
    /// There is none.
    None,
    /// So many bytes.
    Known(u64),
    /// It ends when it ends.
    Unknown,
}

/// How a body is framed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Frame {
    /// It has so many bytes still, which the head has said.
    Sized(u64),
    /// In chunks; trailers of these names may follow.
    Chunked(Vec<HeaderName>),
}

/// A body that is not what the head has said.
#[derive(Debug, thiserror::Error)]
#[error("the request's body is not as long as its head says")]
pub struct WrongLength;

/// Writes the head; says how the body follows.
pub fn head(out: &mut Vec<u8>, parts: &Parts, body: Length) -> Frame {
    let path = match (parts.uri.path_and_query(), parts.uri.authority()) {
        (Some(path), _) => path.as_str(),
        (None, Some(authority)) => authority.as_str(),
        (None, None) => "/",
    };
    let said = if body == Length::None { None } else { response::length(&parts.headers) };
    let frame = match (body, said) {
        (Length::None, _) => Frame::Sized(0),
        // The client has said it, and what comes is checked against it.
        (Length::Known(_) | Length::Unknown, Some(said)) => Frame::Sized(said),
        (Length::Known(length), None) => Frame::Sized(length),
        (Length::Unknown, None) => Frame::Chunked(announced(&parts.headers)),
    };
    out.reserve(LINE + path.len() + LINE * parts.headers.len());
    put(out, &[parts.method.as_str().as_bytes(), b" ", path.as_bytes(), b" HTTP/1.1\r\n"]);
    let mut sized = false;
    for (name, value) in &parts.headers {
        if *name == header::TRANSFER_ENCODING {
            continue;
        }
        if *name == header::CONTENT_LENGTH {
            // Of a body without chunks only; what is no number is not passed on.
            if matches!(frame, Frame::Chunked(_)) || (body != Length::None && !is_number(value)) {
                continue;
            }
            sized = true;
        }
        put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    match &frame {
        Frame::Chunked(_) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Frame::Sized(length) if !sized && body != Length::None => {
            put(out, &[b"content-length: ", length.to_string().as_bytes(), b"\r\n"]);
        }
        Frame::Sized(_) => {}
    }
    out.extend_from_slice(b"\r\n");
    frame
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.reserve(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

fn is_number(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|text| text.split(',').all(|text| text.trim().parse::<u64>().is_ok()))
}

/// Trailers that the head announces. Others are not expected by anybody, and some would change what the head has said.
fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    const NEVER: [HeaderName; 6] = [
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
        header::HOST,
        header::CONNECTION,
        header::TRAILER,
        header::AUTHORIZATION,
    ];
    let listed = headers.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
    let names = listed.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
    names.filter(|name| !NEVER.contains(name)).collect()
}

impl Frame {
    /// A part of the body begins: writes what stands before it, and says what stands behind.
    ///
    /// # Errors
    /// If there was not to be so much.
    pub fn begin(&mut self, out: &mut Vec<u8>, length: usize) -> Result<&'static [u8], WrongLength> {
        match self {
            Self::Sized(left) => {
                *left = left.checked_sub(length as u64).ok_or(WrongLength)?;
                Ok(b"")
            }
            // An empty chunk would be the end.
            Self::Chunked(_) if length == 0 => Ok(b""),
            Self::Chunked(_) => {
                put(out, &[format!("{length:x}\r\n").as_bytes()]);
                Ok(b"\r\n")
            }
        }
    }

    /// The body has ended, maybe with trailers.
    ///
    /// # Errors
    /// If there was to be more.
    pub fn end(&mut self, out: &mut Vec<u8>, trailers: Option<&HeaderMap>) -> Result<(), WrongLength> {
        match self {
            Self::Sized(0) => Ok(()),
            Self::Sized(_) => Err(WrongLength),
            Self::Chunked(announced) => {
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| announced.contains(name)) {
                    put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
                }
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(request: http::request::Builder, body: Length) -> (String, Frame) {
        let mut out = Vec::new();
        let frame = head(&mut out, &request.body(()).expect("valid").into_parts().0, body);
        (String::from_utf8(out).expect("text"), frame)
    }

    #[test]
    fn the_length_is_said_once_and_by_us() {
        let post = || http::Request::post("/a?b=c").header("host", "reviews");
        let start = "POST /a?b=c HTTP/1.1\r\nhost: reviews\r\n";
        let chunked = || Frame::Chunked(Vec::new());
        for (request, body, rest, frame) in [
            (post(), Length::None, "", Frame::Sized(0)),
            (post().header("content-length", "0"), Length::None, "content-length: 0\r\n", Frame::Sized(0)),
            (post(), Length::Known(5), "content-length: 5\r\n", Frame::Sized(5)),
            (post().header("content-length", "5"), Length::Known(5), "content-length: 5\r\n", Frame::Sized(5)),
            (post().header("content-length", "5"), Length::Unknown, "content-length: 5\r\n", Frame::Sized(5)),
            (post().header("content-length", "x"), Length::Known(5), "content-length: 5\r\n", Frame::Sized(5)),
            (post().header("content-length", "x"), Length::Unknown, "transfer-encoding: chunked\r\n", chunked()),
            (post().header("transfer-encoding", "gzip"), Length::Unknown, "transfer-encoding: chunked\r\n", chunked()),
        ] {
            assert_eq!(written(request, body), (format!("{start}{rest}\r\n"), frame), "{body:?}");
        }
        assert_eq!(written(http::Request::get("http://a"), Length::None).0, "GET / HTTP/1.1\r\n\r\n");
        assert_eq!(written(http::Request::options("*"), Length::None).0, "OPTIONS * HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn chunks_and_announced_trailers_are_framed() {
        let request = http::Request::post("/").header("trailer", "x-end, content-length").header("trailer", "x-more");
        let (_, mut frame) = written(request, Length::Unknown);
        let mut out = Vec::new();
        for part in ["hello", "", "0123456789abcdef"] {
            let tail = frame.begin(&mut out, part.len()).expect("any length");
            out.extend_from_slice(part.as_bytes());
            out.extend_from_slice(tail);
        }
        let mut trailers = HeaderMap::new();
        for name in ["x-end", "x-more", "x-other", "content-length"] {
            trailers.insert(name, HeaderValue::from_static("1"));
        }
        frame.end(&mut out, Some(&trailers)).expect("ended");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, "5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nx-end: 1\r\nx-more: 1\r\n\r\n");
    }

    #[test]
    fn a_body_is_as_long_as_it_was_said_to_be() {
        let mut out = Vec::new();
        let mut frame = Frame::Sized(5);
        assert!(frame.begin(&mut out, 3).is_ok() && frame.end(&mut out, None).is_err());
        assert!(frame.begin(&mut out, 2).is_ok() && frame.end(&mut out, None).is_ok() && frame.begin(&mut out, 1).is_err());
        assert!(out.is_empty());
    }
}
