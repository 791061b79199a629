//! Marathon: what it says over REST, when to ask again, and the last good answer.
//!
//! [`client`] speaks HTTP, [`follow`] keeps a view up to date with it; [`sse`], [`hints`], [`overlay`] and [`types`] are pure.

pub(crate) mod client;
pub(crate) mod fetch;
pub(crate) mod follow;
pub(crate) mod hints;
pub(crate) mod overlay;
pub(crate) mod sse;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod types;
