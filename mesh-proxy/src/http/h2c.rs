//! HTTP/2 by `Upgrade: h2c`: the request that offers it becomes the new connection's first stream. Nothing of the upgrade passes to endpoints,
//! which is what made it dangerous elsewhere. Offers with a body, over TLS, or too long for one frame are declined by being served as they are.

use super::rewind::Rewind;
use crate::limits::HANDSHAKE;
use bytes::{BufMut, Bytes, BytesMut};
use http::Version;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

const SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// What the upgrade is called.
pub(super) const NAME: HeaderValue = HeaderValue::from_static("h2c");
/// How a client's half of an HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Of every frame: length, type, flags, stream.
const FRAME: usize = 9;
/// The longest frame that every receiver takes.
const FRAME_MOST: usize = 16 * 1024;
const TYPE_SETTINGS: u8 = 4;
const TYPE_HEADERS: u8 = 1;
const END_STREAM_AND_HEADERS: u8 = 0x5;

/// The first stream's request as a frame, if a request without a body offers to go on by HTTP/2.
pub(super) fn offered(parts: &Parts) -> Option<Bytes> {
    // Said by nearly nobody: found out first.
    let upgrade = parts.headers.get(header::UPGRADE)?;
    let lists = |value: &HeaderValue, token: &str| {
        value.to_str().is_ok_and(|value| value.split(',').any(|listed| listed.trim().eq_ignore_ascii_case(token)))
    };
    let connection = |token: &str| parts.headers.get_all(header::CONNECTION).iter().any(|value| lists(value, token));
    let offers = parts.version == Version::HTTP_11
        && lists(upgrade, "h2c")
        && connection("upgrade")
        && connection(SETTINGS.as_str())
        && parts.headers.get_all(SETTINGS).iter().count() == 1;
    if offers { frame(parts) } else { None }
}

/// The connection from its preface on; it begins with the request that was made already.
///
/// # Errors
/// If the client does not begin HTTP/2, or not in time.
pub(super) async fn begin<S: AsyncRead + Unpin>(mut io: S, frame: Bytes) -> io::Result<Rewind<S>> {
    let first = tokio::time::timeout(HANDSHAKE, first(&mut io, frame)).await;
    Ok(Rewind::new(first.map_err(|_late| io::Error::from(io::ErrorKind::TimedOut))??, io))
}

/// The client's preface and settings, and after them the request that it has made already.
async fn first<S: AsyncRead + Unpin>(io: &mut S, frame: Bytes) -> io::Result<Bytes> {
    let mut bytes = vec![0; PREFACE.len() + FRAME];
    io.read_exact(&mut bytes).await?;
    let settings = &bytes[PREFACE.len()..];
    let length = usize::from(settings[0]) << 16 | usize::from(settings[1]) << 8 | usize::from(settings[2]);
    if !bytes.starts_with(PREFACE) || settings[3] != TYPE_SETTINGS || length > FRAME_MOST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let begun = bytes.len();
    bytes.resize(begun + length, 0);
    io.read_exact(&mut bytes[begun..]).await?;
    bytes.extend_from_slice(&frame);
    Ok(bytes.into())
}

/// HEADERS of stream 1. Its fields are literals that no table remembers, so that the client's own tables are not disturbed.
fn frame(parts: &Parts) -> Option<Bytes> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let host = parts.headers.get(header::HOST);
    let authority =
        parts.uri.authority().map(|authority| authority.as_str().as_bytes()).or_else(|| host.map(HeaderValue::as_bytes));
    let mut block = BytesMut::with_capacity(512);
    let pseudo = [
        (":method", Some(parts.method.as_str().as_bytes())),
        (":scheme", Some(b"http".as_slice())),
        (":path", Some(path.as_bytes())),
        (":authority", authority),
    ];
    for (name, value) in pseudo {
        if let Some(value) = value {
            literal(&mut block, name.as_bytes(), value);
        }
    }
    for (name, value) in &parts.headers {
        if !of_connection(name, value) {
            literal(&mut block, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    let length = u32::try_from(block.len()).ok().filter(|_| block.len() <= FRAME_MOST)?;
    let mut frame = BytesMut::with_capacity(FRAME + block.len());
    frame.put_slice(&length.to_be_bytes()[1..]);
    frame.put_slice(&[TYPE_HEADERS, END_STREAM_AND_HEADERS, 0, 0, 0, 1]);
    frame.put_slice(&block);
    Some(frame.freeze())
}

/// Not said in HTTP/2.
fn of_connection(name: &HeaderName, value: &HeaderValue) -> bool {
    let names = [header::CONNECTION, header::UPGRADE, header::HOST, header::TRANSFER_ENCODING, SETTINGS];
    let others = ["keep-alive", "proxy-connection"];
    names.contains(name) || others.contains(&name.as_str()) || (*name == header::TE && value != "trailers")
}

/// RFC 7541, 6.2.2: a field without indexing, name and value in plain octets.
fn literal(block: &mut BytesMut, name: &[u8], value: &[u8]) {
    block.put_u8(0);
    for text in [name, value] {
        integer(block, text.len());
        block.put_slice(text);
    }
}

/// RFC 7541, 5.1, in the lower seven bits.
fn integer(block: &mut BytesMut, value: usize) {
    const ALL: u8 = 0x7f;
    let Some(small) = u8::try_from(value).ok().filter(|small| *small < ALL) else {
        block.put_u8(ALL);
        let mut rest = value - usize::from(ALL);
        while rest >= 0x80 {
            block.put_u8((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        return block.put_u8(rest as u8);
    };
    block.put_u8(small);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(request: http::request::Builder) -> Parts {
        request.body(()).expect("valid").into_parts().0
    }

    #[test]
    fn lengths_are_coded_as_hpack_has_them() {
        // The last is RFC 7541's own example (C.1.2) for a prefix of seven bits.
        for (value, expected) in
            [(0, &[0][..]), (126, &[126]), (127, &[127, 0]), (128, &[127, 1]), (255, &[127, 0x80, 1]), (1337, &[127, 0xba, 9])]
        {
            let mut block = BytesMut::new();
            integer(&mut block, value);
            assert_eq!(block, expected, "{value}");
        }
    }

    #[test]
    fn what_concerns_the_connection_stays_behind_and_what_is_too_long_is_declined() {
        let builder = || http::Request::get("/a?b=c").header("host", "reviews").header("connection", "Upgrade, HTTP2-Settings");
        let frame =
            frame(&parts(builder().header("upgrade", "h2c").header("http2-settings", "AA").header("x", "1"))).expect("short");
        let block = [":method", "GET", ":scheme", "http", ":path", "/a?b=c", ":authority", "reviews", "x", "1"];
        let mut expected = Vec::new();
        for field in block.chunks(2) {
            expected.push(0);
            for text in field {
                expected.push(u8::try_from(text.len()).expect("short"));
                expected.extend(text.bytes());
            }
        }
        assert_eq!(
            (frame[..9].to_vec(), &frame[9..]),
            (vec![0, 0, u8::try_from(expected.len()).expect("short"), 1, 5, 0, 0, 0, 1], &expected[..])
        );
        assert!(super::frame(&parts(builder().header("x", "y".repeat(FRAME_MOST)))).is_none());
    }

    #[tokio::test]
    async fn the_clients_beginning_is_taken_whole_and_anything_else_is_refused() {
        let settings = [PREFACE, &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0], b"next"].concat();
        let mut io = &settings[..];
        let first_bytes = first(&mut io, Bytes::from_static(b"frame")).await.expect("settings");
        assert_eq!((first_bytes, io), ([&settings[..settings.len() - 4], b"frame"].concat().into(), &b"next"[..]));
        let no_settings = [PREFACE, &[0, 0, 0, 1, 0, 0, 0, 0, 0]].concat();
        for bytes in [&no_settings[..], b"GET / HTTP/1.1\r\nhost: somebody else's\r\n\r\n", b"PRI"] {
            assert!(first(&mut &bytes[..], Bytes::new()).await.is_err());
        }
    }
}
