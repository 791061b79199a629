//! The node's kernel half: loads the eBPF programs, fills their tables from the control plane, enrols pods, brokers sockets.
//!
//! A library only so that the tests under `tests/` can drive its parts; the binary is `mesh-agent`.

#![warn(missing_docs)]

pub mod cgroup;
pub mod core;
pub mod kernel;
pub mod netns;
pub mod pod;
