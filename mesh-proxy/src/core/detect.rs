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
