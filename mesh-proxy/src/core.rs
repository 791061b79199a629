//! Every decision of the proxy as a pure function: time, randomness and input are arguments; no sockets, no clocks, no locks.

pub mod access;
pub mod balance;
pub mod budget;
pub mod chain;
pub mod cors;
pub mod detect;
pub mod fault;
pub mod flags;
pub mod format;
pub mod forwarded;
pub mod h1;
pub mod hash;
pub mod headers;
pub mod matching;
pub mod outlier;
pub mod path;
pub mod peer;
pub mod retry;
pub mod rewrite;
pub mod route;
pub mod sni;
pub mod stock;
pub mod table;
pub mod timeouts;
pub mod trace;
