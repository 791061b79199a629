//! The control plane as pure functions: no clock, no randomness, no I/O.
//!
//! `translate` turns Marathon's view into the [`registry`]; `compile` turns registry and rules into what each node holds, and
//! `flip` says when a node may hold it; `programmed` says which objects nodes hold, and `enrolment` which
//! workloads they have in the mesh.

pub(crate) mod allot;
pub(crate) mod compile;
pub(crate) mod enrolment;
pub(crate) mod flip;
pub(crate) mod health;
pub(crate) mod mesos;
pub(crate) mod names;
pub(crate) mod programmed;
pub(crate) mod registry;
pub(crate) mod translate;
pub(crate) mod wish;
