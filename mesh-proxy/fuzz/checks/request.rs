//! Requests of clients, one after another on a connection: however their bytes come, they are read as the same methods, targets, headers and bodies,
//! or refused for the same reason. What is passed on is read again, by the same rules, as the one request that it was.

use bytes::BytesMut;
use http::HeaderMap;
use mesh_proxy::core::h1::Malformed;
use mesh_proxy::core::h1::asked::{Head, Limits, Misframed, Refused, parse};
use mesh_proxy::core::h1::body::{Body, Step};
use mesh_proxy::core::h1::frame::Length;
use mesh_proxy::core::h1::request;

/// One request.
#[derive(Debug, Default, PartialEq)]
struct Request {
    line: String,
    headers: Vec<(String, Vec<u8>)>,
    misframed: Option<Misframed>,
    keeps: bool,
    data: Vec<u8>,
    trailers: usize,
    ended: bool,
}

/// All that was read.
#[derive(Debug, Default, PartialEq)]
struct Read {
    requests: Vec<Request>,
    refused: Option<Refused>,
    malformed: Option<Malformed>,
    /// What follows is nobody's.
    over: bool,
}

/// Panics if bytes one by one are read otherwise than all at once, or if a request is not passed on as one.
pub(crate) fn check(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let limits = if choice % 2 == 0 { Limits { bytes: 60 * 1024, headers: 100 } } else { Limits { bytes: 96, headers: 4 } };
    let whole = read(&[bytes], limits);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    let cut = bytes.len() * usize::from(*choice) / 256;
    for pieces in [&single[..], &[&bytes[..cut], &bytes[cut..]]] {
        assert_eq!(read(pieces, limits), whole, "{}", bytes.escape_ascii());
    }
}

fn read(pieces: &[&[u8]], limits: Limits) -> Read {
    let (mut read, mut input, mut body) = (Read::default(), BytesMut::new(), None);
    for piece in pieces {
        input.extend_from_slice(piece);
        step(&mut read, &mut input, &mut body, limits);
    }
    read
}

fn step(read: &mut Read, input: &mut BytesMut, body: &mut Option<Body>, limits: Limits) {
    while read.refused.is_none() && read.malformed.is_none() && !read.over {
        let (Some(coming), Some(request)) = (body.as_mut(), read.requests.last_mut()) else {
            match parse(input, limits, HeaderMap::new) {
                Ok(None) => return,
                Err(refused) => read.refused = Some(refused),
                Ok(Some(head)) => {
                    passes_on(&head);
                    read.requests.push(told(&head));
                    read.over = head.misframed.is_some();
                    *body = Some(head.body);
                }
            }
            continue;
        };
        match coming.next(input) {
            Ok(Step::Data(data)) => request.data.extend_from_slice(&data),
            Ok(Step::More) => return,
            Ok(end) => {
                if let Step::Trailers(trailers) = end {
                    request.trailers = trailers.len();
                }
                request.ended = true;
                *body = None;
            }
            Err(malformed) => read.malformed = Some(malformed),
        }
    }
}

fn told(head: &Head) -> Request {
    let parts = &head.parts;
    let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
    let line = format!("{} {} {:?}", parts.method, parts.uri, parts.version);
    Request { line, headers, misframed: head.misframed, keeps: head.keeps, ..Request::default() }
}

/// The head as an endpoint gets it ends where it should, and says the same length.
fn passes_on(head: &Head) {
    if head.misframed.is_some() {
        return;
    }
    let length = if head.body.is_ended() { Length::None } else { head.body.left().map_or(Length::Unknown, Length::Known) };
    let mut out = Vec::new();
    request::head(&mut out, &head.parts, length);
    let mut input = BytesMut::from(&out[..]);
    let again = parse(&mut input, Limits { bytes: usize::MAX, headers: 200 }, HeaderMap::new);
    let again = again.expect("what is passed on is a request").expect("a whole one");
    assert!(input.is_empty() && again.misframed.is_none(), "{}", out.escape_ascii());
    assert_eq!((again.body, again.parts.method), (head.body.clone(), head.parts.method.clone()), "{}", out.escape_ascii());
}
