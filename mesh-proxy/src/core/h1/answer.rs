//! Writes the head of a response to a client. Headers are written as they are, in their order; only what says the body's length and whether the
//! connection stays is ours (RFC 9112, 6.3 and 9.3).

use super::frame::{Frame, Length, announced, put};
use super::response;
use http::header::{self, HeaderMap};
use http::{Method, StatusCode, Version};

/// Bytes of most lines, so that the text need not grow line by line.
const LINE: usize = 48;

/// What is answered.
#[derive(Clone, Copy, Debug)]
pub struct To<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The client's version.
    pub version: Version,
    /// The client takes trailers.
    pub trailers: bool,
    /// Both sides keep the connection, as far as is known.
    pub keeps: bool,
    /// For `date`, if the answer has none.
    pub date: &'a str,
}

/// What follows a head.
#[derive(Debug, Eq, PartialEq)]
pub struct Follows {
    /// The body; `None` where there is none, whatever the answer has.
    pub frame: Option<Frame>,
    /// The connection stays.
    pub keeps: bool,
    /// It is HTTP no more.
    pub leaves: bool,
}

/// Writes the head; says what follows.
pub fn head(out: &mut Vec<u8>, to: &To<'_>, status: StatusCode, headers: &HeaderMap, body: Length) -> Follows {
    out.reserve(2 * LINE + LINE * headers.len());
    let old = to.version == Version::HTTP_10;
    match (old, status) {
        (false, StatusCode::OK) => out.extend_from_slice(b"HTTP/1.1 200 OK\r\n"),
        _ => {
            let version: &[u8] = if old { b"HTTP/1.0 " } else { b"HTTP/1.1 " };
            let reason = status.canonical_reason().unwrap_or("Unknown");
            put(out, &[version, status.as_str().as_bytes(), b" ", reason.as_bytes(), b"\r\n"]);
        }
    }
    let leaves = status == StatusCode::SWITCHING_PROTOCOLS || (to.method == Method::CONNECT && status.is_success());
    let nothing = leaves || status.is_informational() || status == StatusCode::NO_CONTENT;
    let bodiless = nothing || to.method == Method::HEAD || status == StatusCode::NOT_MODIFIED;
    let length = match body {
        _ if nothing => None,
        // What a body would have been.
        Length::None | Length::Unknown if bodiless => response::length(headers),
        Length::Known(_) if status == StatusCode::NOT_MODIFIED => response::length(headers),
        Length::Known(length) => Some(length),
        Length::None => Some(0),
        // What follows is checked against it.
        Length::Unknown => response::length(headers),
    };
    let frame = match length {
        _ if bodiless => None,
        Some(length) => Some(Frame::Sized(length)),
        None if old => Some(Frame::UntilClose),
        None => Some(Frame::Chunked(if to.trailers { announced(headers) } else { Vec::new() })),
    };
    let chunked = matches!(frame, Some(Frame::Chunked(_)));
    let said = lines(out, headers, chunked);
    if let Some(length) = length {
        put(out, &[b"content-length: ", length.to_string().as_bytes(), b"\r\n"]);
    }
    if chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    let keeps = to.keeps && !said.closes && !leaves && frame != Some(Frame::UntilClose);
    match (keeps, leaves) {
        (_, true) => {}
        (false, _) if !said.closes => out.extend_from_slice(b"connection: close\r\n"),
        (true, _) if old => out.extend_from_slice(b"connection: keep-alive\r\n"),
        _ => {}
    }
    if !said.dated {
        put(out, &[b"date: ", to.date.as_bytes(), b"\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
    Follows { frame, keeps, leaves }
}

/// What the headers said.
#[derive(Default)]
struct Lines {
    closes: bool,
    dated: bool,
}

fn lines(out: &mut Vec<u8>, headers: &HeaderMap, chunked: bool) -> Lines {
    let mut said = Lines::default();
    for (name, value) in headers {
        match *name {
            header::CONTENT_LENGTH | header::TRANSFER_ENCODING => continue,
            header::TRAILER if !chunked => continue,
            header::CONNECTION => said.closes |= response::names(value, "close"),
            header::DATE => said.dated = true,
            _ => {}
        }
        put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const GET: To<'_> = To { method: &Method::GET, version: Version::HTTP_11, trailers: false, keeps: true, date: "now" };

    fn written(to: &To<'_>, status: u16, lines: &[(&'static str, &'static str)], body: Length) -> (String, Follows) {
        let (mut out, mut headers) = (Vec::new(), HeaderMap::new());
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let follows = head(&mut out, to, StatusCode::from_u16(status).expect("valid"), &headers, body);
        (String::from_utf8(out).expect("text"), follows)
    }

    #[test]
    fn the_length_is_said_once_where_there_may_be_one() {
        let (post, head, connect) = (GET, To { method: &Method::HEAD, ..GET }, To { method: &Method::CONNECT, ..GET });
        let (five, sized) = ([("content-length", "5")], |length| Some(Frame::Sized(length)));
        let chunked = || Some(Frame::Chunked(Vec::new()));
        for (to, status, headers, body, lines, frame) in [
            (&post, 200, &five[..], Length::Known(5), "content-length: 5\r\n", sized(5)),
            (&post, 200, &five, Length::Unknown, "content-length: 5\r\n", sized(5)),
            (
                &post,
                200,
                &[("content-length", "5, 5"), ("content-length", "5")],
                Length::Unknown,
                "content-length: 5\r\n",
                sized(5),
            ),
            (&post, 200, &five, Length::None, "content-length: 0\r\n", sized(0)),
            (&post, 200, &[], Length::None, "content-length: 0\r\n", sized(0)),
            (&post, 200, &[], Length::Unknown, "transfer-encoding: chunked\r\n", chunked()),
            (&post, 200, &[("content-length", "x")], Length::Unknown, "transfer-encoding: chunked\r\n", chunked()),
            (&post, 200, &[("transfer-encoding", "gzip")], Length::Unknown, "transfer-encoding: chunked\r\n", chunked()),
            (&post, 204, &five, Length::None, "", None),
            (&post, 304, &five, Length::None, "content-length: 5\r\n", None),
            (&post, 304, &[], Length::Known(7), "", None),
            (&post, 101, &five, Length::None, "", None),
            (&head, 200, &five, Length::None, "content-length: 5\r\n", None),
            (&head, 404, &[], Length::Known(9), "content-length: 9\r\n", None),
            (&head, 200, &[], Length::None, "", None),
            (&connect, 200, &five, Length::None, "", None),
            (&connect, 503, &[], Length::Known(4), "content-length: 4\r\n", sized(4)),
        ] {
            let (text, follows) = written(to, status, headers, body);
            let line = format!("HTTP/1.1 {} \r\n", StatusCode::from_u16(status).expect("valid"));
            assert_eq!(text, format!("{}{lines}date: now\r\n\r\n", line.replace(" \r", "\r")), "{body:?}");
            assert_eq!(follows.frame, frame, "{text}");
            assert_eq!(follows.leaves, status == 101 || (to.method == Method::CONNECT && status == 200), "{text}");
        }
    }

    #[test]
    fn who_ends_the_connection_is_told() {
        let (last, old) = (To { keeps: false, ..GET }, To { version: Version::HTTP_10, ..GET });
        let closing = To { keeps: false, ..old };
        let none: &[(&str, &str)] = &[];
        for (to, headers, body, lines, keeps) in [
            (&GET, none, Length::None, "content-length: 0\r\n", true),
            (&last, none, Length::None, "content-length: 0\r\nconnection: close\r\n", false),
            (&GET, &[("connection", "x, close")], Length::None, "connection: x, close\r\ncontent-length: 0\r\n", false),
            (&old, none, Length::None, "content-length: 0\r\nconnection: keep-alive\r\n", true),
            (&closing, none, Length::None, "content-length: 0\r\nconnection: close\r\n", false),
            (&old, none, Length::Unknown, "connection: close\r\n", false),
        ] {
            let (text, follows) = written(to, 200, headers, body);
            let version = if to.version == Version::HTTP_10 { "1.0" } else { "1.1" };
            assert_eq!(text, format!("HTTP/{version} 200 OK\r\n{lines}date: now\r\n\r\n"));
            assert_eq!(follows.keeps, keeps, "{text}");
        }
        // What it becomes is said by whoever agreed to it.
        let (text, follows) = written(&last, 101, &[("connection", "upgrade"), ("date", "then")], Length::None);
        assert_eq!(text, "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\ndate: then\r\n\r\n");
        assert!(follows.leaves && !follows.keeps);
    }

    #[test]
    fn trailers_are_for_clients_that_take_them() {
        let trailer = [("trailer", "x-end")];
        let takes = To { trailers: true, ..GET };
        let names = |to| written(to, 200, &trailer, Length::Unknown).1.frame;
        assert_eq!(names(&takes), Some(Frame::Chunked(vec!["x-end".parse().expect("a name")])));
        assert_eq!(names(&GET), Some(Frame::Chunked(Vec::new())));
        assert!(!written(&takes, 200, &trailer, Length::Known(2)).0.contains("trailer"));
        let (text, _) = written(&GET, 299, &[], Length::None);
        assert!(text.starts_with("HTTP/1.1 299 Unknown\r\n"), "{text}");
    }
}
