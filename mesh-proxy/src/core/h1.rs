//! HTTP/1 as bytes and without sockets, on both sides. To endpoints [`request`] writes what is asked, and [`response`] reads the head of what is
//! answered; of clients [`asked`] reads the head of a request, and [`answer`] writes that of its response. [`body`] reads what follows a head,
//! [`frame`] writes it. What no HTTP is has one of the names of [`Malformed`] or [`asked::Refused`]; nothing is guessed, as what two
//! parties read differently is how requests are smuggled.

pub mod answer;
pub mod asked;
pub mod body;
pub mod frame;
pub mod request;
pub mod response;

use std::fmt;

/// Why what somebody sent is no HTTP/1; named for endpoints.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Malformed {
    /// No status line, or lines that are no headers.
    Head,
    /// A head that is longer than [`response::HEAD`].
    HeadTooLarge,
    /// More than [`response::HEADERS`] headers.
    TooManyHeaders,
    /// Several lengths, or one that is no number.
    Length,
    /// A coding in HTTP/1.0, which has none.
    Coding,
    /// A chunk without a proper length or end.
    Chunk,
    /// Lines after the last chunk that are no headers, or too many.
    Trailers,
}

impl Malformed {
    /// Its name in counters, logs and errors.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Head => "response_head",
            Self::HeadTooLarge => "response_head_too_large",
            Self::TooManyHeaders => "response_headers_too_many",
            Self::Length => "response_length",
            Self::Coding => "response_coding",
            Self::Chunk => "response_chunk",
            Self::Trailers => "response_trailers",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl std::error::Error for Malformed {}
