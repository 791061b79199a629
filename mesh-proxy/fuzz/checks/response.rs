//! Responses of endpoints: however their bytes come, they are read as the same status, headers, body and rest, or refused for the same reason.

use bytes::BytesMut;
use http::{HeaderMap, Method};
use mesh_proxy::core::h1::Malformed;
use mesh_proxy::core::h1::body::{Body, Step};
use mesh_proxy::core::h1::response::{Parsed, parse};

/// All that was read, and what is left after it.
#[derive(Debug, Default, PartialEq)]
struct Read {
    heads: Vec<(u16, usize)>,
    data: Vec<u8>,
    trailers: Option<usize>,
    ended: bool,
    rest: Vec<u8>,
    malformed: Option<Malformed>,
}

/// Panics if bytes one by one are read otherwise than all at once, or if a byte is lost.
pub(crate) fn check(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let method = [Method::GET, Method::HEAD, Method::CONNECT, Method::POST][usize::from(choice % 4)].clone();
    let whole = read(&[bytes], &method);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    let cut = bytes.len() * usize::from(*choice) / 256;
    for pieces in [&single[..], &[&bytes[..cut], &bytes[cut..]]] {
        assert_eq!(read(pieces, &method), whole, "{method} {}", bytes.escape_ascii());
    }
    assert!(whole.rest.is_empty() || bytes.ends_with(&whole.rest), "{}", bytes.escape_ascii());
}

fn read(pieces: &[&[u8]], method: &Method) -> Read {
    let (mut read, mut input, mut body) = (Read::default(), BytesMut::new(), None);
    for piece in pieces {
        input.extend_from_slice(piece);
        if !read.ended && read.malformed.is_none() {
            read.malformed = step(&mut read, &mut input, &mut body, method).err();
        }
    }
    if let Some(body) = &mut body
        && !read.ended
        && read.malformed.is_none()
    {
        read.ended = Body::close(body);
    }
    // What is wrong is found at its first byte or later: what is left then is nobody's.
    if read.ended {
        read.rest = input.to_vec();
    }
    read
}

fn step(read: &mut Read, input: &mut BytesMut, body: &mut Option<Body>, method: &Method) -> Result<(), Malformed> {
    loop {
        let Some(body) = body else {
            match parse(input, method, HeaderMap::new)? {
                None => return Ok(()),
                Some(Parsed::Interim(status)) => read.heads.push((status.as_u16(), 0)),
                Some(Parsed::Head(head)) => {
                    read.heads.push((head.status.as_u16(), head.headers.len()));
                    *body = Some(head.body);
                }
            }
            continue;
        };
        match body.next(input)? {
            Step::Data(data) => read.data.extend_from_slice(&data),
            Step::More => return Ok(()),
            end => {
                if let Step::Trailers(trailers) = end {
                    read.trailers = Some(trailers.len());
                }
                read.ended = true;
                return Ok(());
            }
        }
    }
}
