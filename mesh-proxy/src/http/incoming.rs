//! What comes with a request's head, by either version of HTTP.

use super::body::BoxError;
use super::http1::Coming;
use super::tunnel::Client;
use crate::core::h1::asked::Misframed;
use bytes::Bytes;
use http_body::{Body, Frame};
use std::pin::Pin;
use std::task::{Context, Poll};

/// A request's body as its client sends it.
pub(super) enum Incoming {
    /// There is none.
    Nothing,
    /// The rest of what its connection brings for this request.
    Http1(Coming),
    /// A stream's.
    Http2(hyper::body::Incoming),
}

/// What comes with a request's head.
pub(super) struct Brought {
    /// The body.
    pub(super) body: Incoming,
    /// The connection, if it may become something else.
    pub(super) client: Option<Client>,
    /// The body's length can be read in two ways.
    pub(super) misframed: Option<Misframed>,
    /// No header concerns the connection alone, or asks for something before the body.
    pub(super) plain: bool,
}

impl Incoming {
    /// Has all of it come?
    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Http1(coming) => coming.left() == Some(0),
            Self::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    /// Bytes that are still to come, if that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self {
            Self::Nothing => Some(0),
            Self::Http1(coming) => coming.left(),
            Self::Http2(incoming) => incoming.size_hint().exact(),
        }
    }

    /// The next of it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Nothing => Poll::Ready(None),
            Self::Http1(coming) => coming.poll(cx),
            Self::Http2(incoming) => Pin::new(incoming).poll_frame(cx).map_err(BoxError::from),
        }
    }
}
