//! The node's L7 proxy, as a library so that tests can run all of it in one process.
//!
//! One process serves every pod of a node and holds no privilege: sockets in pods come from mesh-agent ([`broker`]), configuration from
//! mesh-control ([`mesh_xds`]). `main` parses the command line; everything else is here.

#![forbid(unsafe_code)]

pub mod accept;
pub mod admin;
pub mod broker;
pub mod buffers;
pub mod clock;
pub mod config;
pub mod convert;
pub mod core;
pub mod dns;
pub mod drain;
pub mod gateway;
pub mod http;
pub mod inspect;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod pod;
pub mod privilege;
pub mod run;
pub mod shared;
pub mod spread;
pub mod stream;
pub mod tcp;
pub mod telemetry;
pub mod tls;
mod unix_http;
pub mod upstream_tls;
pub mod worker;
pub mod xds;
