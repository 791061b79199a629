//! A small HTTP/1.1 client for localhost and unix sockets: one request per connection, whole answers. Blocking.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// `address` is `host:port`.
pub(crate) fn tcp(address: &str, method: &str, path: &str, body: Option<&str>, limit: Duration) -> Result<Answer> {
    let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(limit))?;
    exchange(stream, address, method, path, body)
}

pub(crate) fn unix(socket: &Path, method: &str, path: &str, body: Option<&str>) -> Result<Answer> {
    let stream = UnixStream::connect(socket).with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    exchange(stream, "localhost", method, path, body)
}

fn exchange(mut stream: impl Read + Write, host: &str, method: &str, path: &str, body: Option<&str>) -> Result<Answer> {
    let body = body.unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\naccept: application/json\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut raw = Vec::new();
    stream.read_to_end(&mut raw).with_context(|| format!("no whole answer to {method} {path}"))?;
    parse(&raw).with_context(|| format!("{method} {path}: not an HTTP answer"))
}

fn parse(raw: &[u8]) -> Option<Answer> {
    let end = raw.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&raw[..end]).ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.lines().any(|line| line.to_ascii_lowercase().replace(' ', "") == "transfer-encoding:chunked");
    let body = if chunked { dechunk(&raw[end + 4..])? } else { raw[end + 4..].to_vec() };
    Some(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

fn dechunk(mut raw: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let line = raw.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&raw[..line]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(out);
        }
        out.extend_from_slice(raw.get(line + 2..line + 2 + size)?);
        raw = raw.get(line + 2 + size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_and_chunked_answers() {
        let plain = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\nok";
        assert_eq!(parse(plain), Some(Answer { status: 201, body: "ok".into() }));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n";
        assert_eq!(parse(chunked), Some(Answer { status: 200, body: "abcd".into() }));
    }

    #[test]
    fn broken_answers_are_none() {
        for raw in
            [&b""[..], b"HTTP/1.1 200 OK\r\n", b"junk\r\n\r\n", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nab"]
        {
            assert_eq!(parse(raw), None);
        }
    }
}
