//! The node's kernel half: loads the eBPF programs, fills their tables from the control plane, enrols pods, brokers sockets.
//!
//! A library only so that the tests under `tests/` can drive its parts; the binary is `mesh-agent`.

#![warn(missing_docs)]

mod admin;
mod admit;
pub mod audit;
pub mod balance;
mod broker;
pub mod bypass;
pub mod cgroup;
pub mod cli;
pub mod cni;
pub mod core;
pub mod dump;
mod edges;
mod egress;
mod events;
pub mod explain;
pub mod host;
pub mod inbound;
pub mod kernel;
pub mod l4lb;
mod mesos;
pub mod metrics;
pub mod netns;
mod node;
pub mod places;
pub mod pod;
mod ready;
pub mod run;
pub mod served;
pub mod status;
