//! From Envoy's messages to our own types. Pure. A field that would have no effect is refused by name: nothing is ignored in silence.
//!
//! Each function takes the fields it knows out of the message and hands the rest to [`at::At::nothing_else`].

mod access_log;
mod action;
pub mod at;
pub mod chain;
pub mod cluster;
mod common;
mod cors;
mod downstream;
mod fault;
mod filters;
mod hash;
pub mod hcm;
mod headers;
mod http2;
pub mod listener;
mod retry;
pub mod route;
mod tcp;
#[cfg(test)]
mod tests;
pub mod tls;
mod tracing;

pub use at::Invalid;
