//! The control plane: Marathon's registry and Istio's rules in, delta xDS out.
//!
//! `run` wires the rest; `core` is pure and knows neither files nor sockets.

mod admin;
mod api;
mod auth;
mod config;
mod core;
mod istio;
mod marathon;
mod metrics;
mod pki;
mod run;
mod serve;
mod store;

fn main() {}
