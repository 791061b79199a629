//! Protocol detection: the answer is that of a plain model, comes at [`MOST`] bytes at the latest, and never changes with more bytes.

use mesh_proxy::core::detect::{MOST, Protocol, detect, spoken};

/// Longest request line that is waited for here.
const LINE: usize = 48;

/// Panics if detection is wrong about these bytes.
pub(crate) fn check(bytes: &[u8]) {
    let mut decided = None;
    for length in 0..=bytes.len().min(MOST + 8) {
        let now = detect(&bytes[..length]);
        assert_eq!(now, model(&bytes[..length]), "{}", bytes[..length].escape_ascii());
        assert!(now.is_some() || length < MOST, "undecided at {length} bytes");
        assert!(decided.is_none() || now == decided, "{decided:?} became {now:?}");
        decided = now;
    }
    let mut decided = None;
    for length in 0..=bytes.len() {
        let now = spoken(&bytes[..length], LINE);
        assert!(now.is_some() || length < LINE, "undecided at {length} bytes");
        assert!(decided.is_none() || now == decided, "{decided:?} became {now:?}");
        decided = now;
    }
}

/// What the module's documentation says, without any cleverness.
fn model(bytes: &[u8]) -> Option<Protocol> {
    let seen = &bytes[..bytes.len().min(MOST)];
    if seen == b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" {
        return Some(Protocol::Http2);
    }
    if b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".starts_with(seen) || seen == [0x16] {
        return None;
    }
    if seen[0] == 0x16 {
        return Some(if seen[1] == 3 { Protocol::Tls } else { Protocol::Other });
    }
    for (place, byte) in seen.iter().enumerate() {
        match byte {
            b' ' if place > 0 => return Some(Protocol::Http1),
            0..=b' ' | 0x7f.. | b'"' | b'(' | b')' | b',' | b'/' | b':'..=b'@' | b'['..=b']' | b'{' | b'}' => {
                return Some(Protocol::Other);
            }
            _ => {}
        }
    }
    if seen.len() == MOST { Some(Protocol::Other) } else { None }
}
