//! The bytes of HTTP/1 connections, clients' and endpoints', on their way: what was read and not taken yet ([`Input`]), and what waits to be written
//! ([`Output`]); and room for their [`headers`]. Knows nothing of what they say.

pub mod headers;
mod input;
mod output;

pub use input::{Input, Readable};
pub use output::Output;
