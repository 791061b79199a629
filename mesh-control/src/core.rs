//! The control plane as pure functions: no clock, no randomness, no I/O.
//!
//! `translate` turns Marathon's view into the [`registry`]; `compile` turns registry and rules into what each node holds.

pub(crate) mod allot;
pub(crate) mod compile;
pub(crate) mod names;
pub(crate) mod registry;
pub(crate) mod translate;
