//! Which protocol a client speaks, from its first bytes.

/// What follows on the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Protocol {
    /// A request line.
    Http1,
    /// HTTP/2's connection preface (prior knowledge).
    Http2,
    /// A TLS record with a handshake.
    Tls,
    /// Anything else.
    Other,
}

/// HTTP/2's connection preface.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// [`detect`] never needs more bytes than this.
pub const MOST: usize = PREFACE.len();

/// Reads the first bytes; `None` if more are needed. Decides at [`MOST`] bytes at the latest.
#[must_use]
pub fn detect(bytes: &[u8]) -> Option<Protocol> {
    let bytes = &bytes[..bytes.len().min(MOST)];
    match bytes {
        [] | [0x16] => return None,
        [0x16, major, ..] => return Some(if *major == 3 { Protocol::Tls } else { Protocol::Other }),
        _ => {}
    }
    if bytes == PREFACE {
        return Some(Protocol::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    let method = bytes.iter().take_while(|b| is_token(**b)).count();
    match bytes.get(method) {
        Some(b' ') if method > 0 => Some(Protocol::Http1),
        Some(_) => Some(Protocol::Other),
        // No method is that long.
        None if bytes.len() == MOST => Some(Protocol::Other),
        None => None,
    }
}

/// What a plain connection speaks, as Envoy's `http_inspector` names it for `application_protocols`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spoken {
    /// HTTP/1.0 or 0.9-like lines that say so.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2 with prior knowledge.
    H2c,
    /// No HTTP.
    Other,
}

impl Spoken {
    /// The name; `None` for what has none.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::Http10 => Some("http/1.0"),
            Self::Http11 => Some("http/1.1"),
            Self::H2c => Some("h2c"),
            Self::Other => None,
        }
    }
}

/// Reads the first bytes until they are surely HTTP or surely not: stricter than [`detect`], since here the answer decides between two ways
/// of serving (`SSH-2.0-x y` begins as a request line does, too). `None` if more are needed; decides at `most` bytes at the latest.
#[must_use]
pub fn spoken(bytes: &[u8], most: usize) -> Option<Spoken> {
    match detect(bytes)? {
        Protocol::Http2 => return Some(Spoken::H2c),
        Protocol::Tls | Protocol::Other => return Some(Spoken::Other),
        Protocol::Http1 => {}
    }
    // However many came at once: the answer is that to the first bytes that have one.
    let bytes = &bytes[..bytes.len().min(most)];
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let line = &bytes[..end.unwrap_or(bytes.len())];
    if !line.iter().all(|byte| *byte >= b' ' || *byte == b'\r' || *byte == b'\t') {
        return Some(Spoken::Other);
    }
    if end.is_none() {
        // A line without an end, so far or for good.
        return (bytes.len() == most).then_some(Spoken::Other);
    }
    let line = line.trim_ascii_end();
    Some(match line.rsplit(|byte| *byte == b' ').next() {
        Some(b"HTTP/1.1") => Spoken::Http11,
        Some(b"HTTP/1.0") => Spoken::Http10,
        _ => Spoken::Other,
    })
}

/// RFC 9110's `tchar`.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_beginnings() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Protocol::Http1)),
            (b"PROPFIND /x", Some(Protocol::Http1)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Some(Protocol::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", None),
            (b"PRI * HTTP/1.1\r\n", Some(Protocol::Http1)),
            (b"\x16\x03\x01", Some(Protocol::Tls)),
            (b"\x16\x05", Some(Protocol::Other)),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Some(Protocol::Other)),
            (b"\0\0\0\x10", Some(Protocol::Other)),
            (b" / HTTP/1.1", Some(Protocol::Other)),
            (b"GE", None),
            (b"", None),
        ] {
            assert_eq!(detect(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn only_a_whole_request_line_is_http() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Spoken::Http11)),
            (b"GET / HTTP/1.0\n", Some(Spoken::Http10)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(Spoken::H2c)),
            (b"GET / HTTP/1.", None),
            (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", Some(Spoken::Other)),
            (b"SET key 0 0 5\r\n", Some(Spoken::Other)),
            (b"GET \0", Some(Spoken::Other)),
            (b"GET /\x01 HTTP/1.1\r\n", Some(Spoken::Other)),
            (b"\x16\x03", Some(Spoken::Other)),
        ] {
            assert_eq!(spoken(bytes, 100), expected, "{}", bytes.escape_ascii());
        }
        assert_eq!(spoken(&[b"GET /".as_slice(), &[b'a'; 95]].concat(), 100), Some(Spoken::Other));
        // Found by fuzzing: what comes in one piece is judged as what comes in two.
        assert_eq!(spoken(&[b"GET /".as_slice(), &[b'a'; 95], b" HTTP/1.1\r\n"].concat(), 100), Some(Spoken::Other));
    }

    proptest! {
        #[test]
        fn decides_at_most_bytes_and_never_changes_its_mind(bytes in proptest::collection::vec(any::<u8>(), MOST..64), from_preface: bool) {
            let mut bytes = bytes;
            if from_preface {
                bytes[..8].copy_from_slice(&PREFACE[..8]);
            }
            prop_assert!(detect(&bytes[..MOST]).is_some());
            let mut first = None;
            for length in 0..bytes.len() {
                let now = detect(&bytes[..length]);
                if let Some(decided) = first {
                    prop_assert_eq!(now, Some(decided));
                }
                first = first.or(now);
            }
        }
    }
}
