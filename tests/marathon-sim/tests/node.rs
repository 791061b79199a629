//! Nodes on this machine.
