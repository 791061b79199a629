//! Decisions as pure functions: no I/O, no allocation, no panic. Callers look up, act, count and log.

pub mod choose;
pub mod l4;
pub mod packet;
