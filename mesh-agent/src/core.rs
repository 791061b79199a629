//! What the agent does, without doing it: resources in, ordered operations out. No I/O, no clock, no kernel.

pub mod desired;
pub mod enrol;
pub mod reconcile;
pub mod resources;
