//! The wire between the control plane and the nodes: delta xDS, standard Envoy v3 resources for proxies and three small resources of
//! our own for agents and DNS.
//!
//! [`client`], [`server`] and [`sotw`] (the older form, for stock Envoys) are state machines without I/O; [`stream`] and [`serve`] are the only asynchronous files and pump gRPC
//! streams into them. [`operators`] is how both ends read the commands in texts. The crate knows no policy: it moves versioned bytes and acknowledgements.

#![warn(missing_docs)]

pub mod agent;
pub mod client;
pub mod names;
pub mod node;
pub mod operators;
pub mod report;
pub mod serve;
pub mod server;
pub mod sotw;
pub mod stream;
