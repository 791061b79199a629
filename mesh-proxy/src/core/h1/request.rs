//! Writes a request's head. Headers are written as they are, in their order; only what says the body's length is ours (RFC 9112, 6).

use super::frame::{Frame, Length, announced, put};
use super::response;
use http::header::{self, HeaderValue};
use http::request::Parts;

/// Bytes of most lines, so that the text need not grow line by line.
const LINE: usize = 64;

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
        Frame::Sized(_) | Frame::UntilClose => {}
    }
    out.extend_from_slice(b"\r\n");
    frame
}

fn is_number(value: &HeaderValue) -> bool {
    value.to_str().is_ok_and(|text| text.split(',').all(|text| text.trim().parse::<u64>().is_ok()))
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
}
