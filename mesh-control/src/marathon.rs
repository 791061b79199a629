//! Marathon: what it says over REST, when to ask again, and the last good answer.

pub(crate) mod sse;
pub(crate) mod types;
