//! Heads of requests, good and bad, whole and cut.

use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits { bytes: 60 * 1024, headers: HEADERS };

/// Method, path, number of headers, what follows, whether the connection stays, the mark, and what is left.
type Said = Result<Option<(Method, String, usize, Body, bool, Option<Misframed>, Vec<u8>)>, Refused>;

fn said(input: &mut BytesMut, limits: Limits) -> Said {
    let Some(head) = parse(input, limits, HeaderMap::new)? else { return Ok(None) };
    let (parts, path) = (&head.parts, head.parts.uri.to_string());
    Ok(Some((parts.method.clone(), path, parts.headers.len(), head.body, head.keeps, head.misframed, input.to_vec())))
}

fn of(text: &str) -> Said {
    said(&mut BytesMut::from(text), LIMITS)
}

#[test]
fn what_follows_a_head_is_what_the_standard_says() {
    let chunked = Body::chunked;
    for (text, body, keeps) in [
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\nGET", Body::Ended, true),
        ("\r\n\nGET / HTTP/1.1\nhost: a\n\n", Body::Ended, true),
        ("GET / HTTP/1.1\r\nconnection: x, Close\r\n\r\n", Body::Ended, false),
        ("GET / HTTP/1.1\r\nconnection: close\r\nconnection: keep-alive\r\n\r\n", Body::Ended, false),
        ("GET / HTTP/1.0\r\n\r\n", Body::Ended, false),
        ("GET / HTTP/1.0\r\nconnection: Keep-Alive\r\n\r\n", Body::Ended, true),
        ("POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello", Body::sized(5), true),
        ("POST / HTTP/1.1\r\ncontent-length: 5\r\nContent-Length: 05\r\n\r\n", Body::sized(5), true),
        ("POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", Body::Ended, true),
        ("GET / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n", chunked(), true),
        ("CONNECT a:80 HTTP/1.1\r\ncontent-length: 0\r\n\r\nbytes", Body::Ended, true),
    ] {
        let (.., found, stays, misframed, _) = of(text).expect(text).expect(text);
        assert_eq!((found, stays, misframed), (body, keeps, None), "{text:?}");
    }
    let head = |text: &str| parse(&mut BytesMut::from(text), LIMITS, HeaderMap::new).expect("good").expect("whole");
    assert!(head("POST / HTTP/1.1\r\nexpect: 100-Continue\r\ncontent-length: 1\r\n\r\n").expects);
    assert!(!head("POST / HTTP/1.1\r\nexpect: 100-continue\r\n\r\n").expects, "nothing can come");
    assert!(!head("POST / HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\n").expects);
    assert!(head("GET / HTTP/1.1\r\nTE: gzip, trailers\r\nupgrade: x\r\n\r\n").trailers);
    assert!(head("GET / HTTP/1.1\r\nupgrade: x\r\n\r\n").leaves && head("CONNECT a:1 HTTP/1.1\r\n\r\n").leaves);
    assert!(!head("GET / HTTP/1.0\r\nupgrade: x\r\n\r\n").leaves);
    assert!(head("GET / HTTP/1.1\r\nhost: a\r\nConnection: Keep-Alive, close\r\n\r\n").plain);
    for line in [
        "connection: x",
        "keep-alive: 5",
        "proxy-connection: x",
        "te: x",
        "upgrade: x",
        "expect: x",
        "transfer-encoding: chunked",
    ] {
        let head = head(&format!("GET / HTTP/1.1\r\n{line}\r\n\r\n"));
        assert!(!head.plain && head.parts.headers.len() == 1, "{line}");
    }
    let twice = head("POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n");
    assert_eq!(twice.parts.headers.get_all("content-length").iter().count(), 1);
}

#[test]
fn a_request_that_two_could_read_in_two_ways_is_marked() {
    for (headers, expected) in [
        ("content-length: 5\r\ntransfer-encoding: chunked\r\n", Misframed::TwoLengths),
        ("TRANSFER-ENCODING:chunked\r\nhost: a\r\nContent-Length:0\r\n", Misframed::TwoLengths),
        ("transfer-encoding: gzip, chunked\r\n", Misframed::Coding),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", Misframed::Coding),
    ] {
        let (.., body, keeps, misframed, _) = of(&format!("POST / HTTP/1.1\r\n{headers}\r\n")).expect("one").expect("whole");
        assert_eq!((body, keeps, misframed), (Body::Ended, false, Some(expected)), "{headers:?}");
    }
}

#[test]
fn what_is_no_request_is_said_to_be_none_by_name() {
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(HEADERS + 1));
    let long = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(LIMITS.bytes));
    let target = format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(LIMITS.bytes));
    for (text, expected) in [
        ("SSH-2.0-OpenSSH\r\n", Refused::Head),
        ("GET / HTTP/2.0\r\n\r\n", Refused::Head),
        ("GET  / HTTP/1.1\r\n\r\n", Refused::Head),
        ("GET /\r\n\r\n", Refused::Head),
        ("\rGET / HTTP/1.1\r\n\r\n", Refused::Head),
        ("GET / HTTP/1.1\r\nno header\r\n\r\n", Refused::Head),
        ("GET / HTTP/1.1\r\nx : y\r\n\r\n", Refused::Head),
        ("GET / HTTP/1.1\r\nx: y\r\n folded\r\n\r\n", Refused::Head),
        ("GET / HTTP/1.1\r\nx: y\rz: a\r\n\r\n", Refused::Head),
        ("POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n", Refused::Length),
        ("POST / HTTP/1.1\r\ncontent-length: 5, 5\r\n\r\n", Refused::Length),
        ("POST / HTTP/1.1\r\ncontent-length: +5\r\n\r\n", Refused::Length),
        ("POST / HTTP/1.1\r\ncontent-length:\r\n\r\n", Refused::Length),
        ("POST / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n", Refused::Length),
        ("CONNECT a:80 HTTP/1.1\r\ncontent-length: 5\r\n\r\n", Refused::Length),
        ("POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", Refused::Coding),
        ("POST / HTTP/1.1\r\ntransfer-encoding: chunked, gzip\r\n\r\n", Refused::Coding),
        ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", Refused::Coding),
        (&many, Refused::TooManyHeaders),
        (&long, Refused::HeadTooLarge),
        (&target, Refused::HeadTooLarge),
        (&format!("{long}\r\n\r\n"), Refused::HeadTooLarge),
    ] {
        assert_eq!(of(text), Err(expected), "{:?}", &text[..text.len().min(60)]);
    }
}

#[test]
fn the_listener_sets_the_limits() {
    let (few, many) = (Limits { headers: 2, ..LIMITS }, Limits { headers: 150, bytes: 4096 });
    let head = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(count));
    for (limits, count, expected) in
        [(few, 2, None), (few, 3, Some(Refused::TooManyHeaders)), (many, 150, None), (many, 151, Some(Refused::TooManyHeaders))]
    {
        assert_eq!(said(&mut BytesMut::from(&*head(count)), limits).err(), expected, "{count}");
    }
    let exactly = head(2);
    let limits = |bytes| Limits { bytes, ..LIMITS };
    assert!(said(&mut BytesMut::from(&*exactly), limits(exactly.len())).is_ok());
    assert_eq!(said(&mut BytesMut::from(&*exactly), limits(exactly.len() - 1)), Err(Refused::HeadTooLarge));
}

#[test]
fn a_head_is_begun_with_its_first_byte() {
    for (text, begun) in [("", false), ("\r", false), ("\r\n\n\r", false), ("G", true), ("\r\nG", true), ("\rG", true)] {
        assert_eq!(begins(&mut BytesMut::from(text)), begun, "{text:?}");
    }
}

proptest! {
    /// However the bytes come, the head is the same, and not one of them is lost.
    #[test]
    fn a_head_is_the_same_at_every_boundary(
        text in "(\r?\n){0,2}(GET|POST|CONNECT) (/[a-z]{0,3}|a:1|\\*) HTTP/1\\.[01]\r?\n((content-length: ?[0-9]{1,2}|transfer-encoding: (chunked|gzip)|x: y|connection: (close|keep-alive)|expect: 100-continue)\r?\n){0,4}\r?\n[a-z\r\n]{0,9}",
        noise in prop::option::of((0usize..80, any::<u8>())),
        bytes in 20usize..120,
    ) {
        let mut text = text.into_bytes();
        if let Some((at, byte)) = noise {
            let at = at % text.len();
            text[at] = byte;
        }
        for limits in [LIMITS, Limits { bytes, headers: 3 }] {
            let whole = said(&mut BytesMut::from(&text[..]), limits);
            for cut in 0..text.len() {
                let mut input = BytesMut::from(&text[..cut]);
                let mut found = said(&mut input, limits);
                match &mut found {
                    Ok(None) => {
                        input.extend_from_slice(&text[cut..]);
                        found = said(&mut input, limits);
                    }
                    Ok(Some(found)) => found.6.extend_from_slice(&text[cut..]),
                    Err(_) => {}
                }
                prop_assert_eq!(&found, &whole, "{} at {}", text.escape_ascii(), cut);
            }
        }
    }
}
