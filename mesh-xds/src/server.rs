//! The server's half of delta xDS as a state machine without I/O: what one client holds, and what to send it next.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything that one client may hold, at one moment. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By type URL, then by name.
    pub types: BTreeMap<&'static str, Arc<BTreeMap<String, Versioned>>>,
}

/// A resource and its version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Versioned {
    /// Changes if and only if the body changes (a hash of it).
    pub version: String,
    /// The encoded message (not wrapped into Any).
    pub body: Bytes,
}
