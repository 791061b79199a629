//! What the DNS process decides, without I/O: `now` and every byte are arguments.
//!
//! A message goes through [`query`] (what is asked), [`zone`] (does the mesh know it), [`cache`] (did a resolver say it lately) and
//! [`answer`] or [`reply`] (the bytes of the answer); where an egress rule names it, [`learn`] says that the agent comes first. [`handler`] is that path in order; the sockets outside call only it.

pub(super) mod answer;
pub(super) mod attempts;
pub(super) mod cache;
pub(super) mod config;
pub(super) mod handler;
pub(super) mod heard;
pub(super) mod learn;
pub(super) mod name;
pub(super) mod query;
pub(super) mod reply;
pub(super) mod wire;
pub(super) mod zone;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
pub(super) mod samples;
