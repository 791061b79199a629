//! What the agent does, without doing it: resources in, ordered operations out. No I/O, no clock, no kernel.

pub mod audit;
pub mod budget;
pub mod bypass;
mod cells;
pub mod cni;
pub mod desired;
pub mod drift;
pub mod edges;
pub mod egress;
pub mod enrol;
pub mod gateway;
pub mod l4lb;
pub mod learned;
pub mod limit;
pub mod mesos;
pub mod policies;
pub mod reconcile;
pub mod resources;
pub mod slots;
