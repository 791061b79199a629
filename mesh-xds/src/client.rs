//! The client's half of delta xDS as a state machine without I/O.

use bytes::Bytes;

/// One response of the server.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Type of everything in it.
    pub type_url: String,
    /// To be given back with the answer.
    pub nonce: String,
    /// New or changed resources.
    pub resources: Vec<Resource>,
    /// Names that exist no longer (or never did).
    pub removed: Vec<String>,
}

/// One resource, still encoded.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its name.
    pub name: String,
    /// The server's version of it.
    pub version: String,
    /// The protobuf message of the delivery's type.
    pub body: Bytes,
}
