//! The frame around a body that is written: what its head has said, and what stands between its parts (RFC 9112, 6 and 7).

use http::header::{self, HeaderMap, HeaderName};

/// What is known of a body before it is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Length {
    /// There is none.
    None,
    /// So many bytes.
    Known(u64),
    /// It ends when it ends.
    Unknown,
}

/// How a body is framed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Frame {
    /// It has so many bytes still, which the head has said.
    Sized(u64),
    /// It ends with the connection.
    UntilClose,
    /// In chunks; trailers of these names may follow.
    Chunked(Vec<HeaderName>),
}

/// A body that is not what the head has said.
#[derive(Debug, thiserror::Error)]
#[error("the body is not as long as its head says")]
pub struct WrongLength;

pub(super) fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.reserve(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// Trailers that the head announces. Others are not expected by anybody, and some would change what the head has said.
pub(super) fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    const NEVER: [HeaderName; 6] = [
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
        header::HOST,
        header::CONNECTION,
        header::TRAILER,
        header::AUTHORIZATION,
    ];
    let listed = headers.get_all(header::TRAILER).iter().filter_map(|value| value.to_str().ok());
    let names = listed.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok());
    names.filter(|name| !NEVER.contains(name)).collect()
}

impl Frame {
    /// A part of the body begins: writes what stands before it, and says what stands behind.
    ///
    /// # Errors
    /// If there was not to be so much.
    pub fn begin(&mut self, out: &mut Vec<u8>, length: usize) -> Result<&'static [u8], WrongLength> {
        match self {
            Self::Sized(left) => {
                *left = left.checked_sub(length as u64).ok_or(WrongLength)?;
                Ok(b"")
            }
            // An empty chunk would be the end.
            Self::Chunked(_) if length == 0 => Ok(b""),
            Self::UntilClose => Ok(b""),
            Self::Chunked(_) => {
                put(out, &[format!("{length:x}\r\n").as_bytes()]);
                Ok(b"\r\n")
            }
        }
    }

    /// The body has ended, maybe with trailers.
    ///
    /// # Errors
    /// If there was to be more.
    pub fn end(&mut self, out: &mut Vec<u8>, trailers: Option<&HeaderMap>) -> Result<(), WrongLength> {
        match self {
            Self::Sized(0) | Self::UntilClose => Ok(()),
            Self::Sized(_) => Err(WrongLength),
            Self::Chunked(announced) => {
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| announced.contains(name)) {
                    put(out, &[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
                }
                out.extend_from_slice(b"\r\n");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn chunks_and_announced_trailers_are_framed() {
        let mut headers = HeaderMap::new();
        for names in ["x-end, content-length", "x-more"] {
            headers.append(header::TRAILER, HeaderValue::from_static(names));
        }
        let mut frame = Frame::Chunked(announced(&headers));
        let mut out = Vec::new();
        for part in ["hello", "", "0123456789abcdef"] {
            let tail = frame.begin(&mut out, part.len()).expect("any length");
            out.extend_from_slice(part.as_bytes());
            out.extend_from_slice(tail);
        }
        let mut trailers = HeaderMap::new();
        for name in ["x-end", "x-more", "x-other", "content-length"] {
            trailers.insert(name, HeaderValue::from_static("1"));
        }
        frame.end(&mut out, Some(&trailers)).expect("ended");
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, "5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nx-end: 1\r\nx-more: 1\r\n\r\n");
    }

    #[test]
    fn a_body_is_as_long_as_it_was_said_to_be() {
        let mut out = Vec::new();
        let mut frame = Frame::Sized(5);
        assert!(frame.begin(&mut out, 3).is_ok() && frame.end(&mut out, None).is_err());
        assert!(frame.begin(&mut out, 2).is_ok() && frame.end(&mut out, None).is_ok() && frame.begin(&mut out, 1).is_err());
        assert!(out.is_empty());
        let mut frame = Frame::UntilClose;
        assert!(frame.begin(&mut out, 7).is_ok() && frame.end(&mut out, None).is_ok() && out.is_empty());
    }
}
