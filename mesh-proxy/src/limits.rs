//! Every limit of the data path, each with its reason and with what happens when it is reached.

use std::time::Duration;

/// Brokered sockets per pod and family that are kept while the process stops: its open connections need few, and the next process has a
/// stock of its own. The stock of a process that serves is in [`crate::core::stock`].
pub const STOCK_STOPPING: usize = 64;
/// How long a request may wait for a brokered socket when the stock is empty. Then 503, `no brokered socket`.
pub const STOCK_WAIT: Duration = Duration::from_secs(1);
/// Requests of a pod that may wait for a socket. Beyond: 503 at once, `no brokered socket`.
pub const STOCK_WAITERS: usize = 1024;
/// Asked again after this if the agent sent none: its own limit was reached.
pub const STOCK_AGAIN: Duration = Duration::from_secs(1);

/// Open client connections per pod. Beyond: closed and counted as `connection_limit`. A few times what one Envoy sidecar sees.
pub const CONNECTIONS: usize = 10_000;
/// Bytes of a request's head, unless the listener says otherwise: Envoy's default. Beyond: 431.
pub const HEAD_BYTES: usize = 60 * 1024;
/// Headers of a request, unless the listener says otherwise: Envoy's default. Beyond: 431.
pub const HEADERS: usize = 100;
/// The most that a listener may say: a third of what the library can hold, whose room for them is made for every request.
pub const HEADERS_MOST: u32 = 10_000;
/// The most that a listener may say, in KiB: Envoy's.
pub const HEAD_KB_MOST: u32 = 8192;
/// Bytes of a request's body that are kept for its copies to mirrors: Envoy's buffer. Beyond: it is not mirrored, `mirror_body_too_large`.
pub const MIRROR_BODY: usize = 1024 * 1024;
/// The same of all requests of a thread's pods together, so that a slow mirror costs no more than this. Beyond: `mirror_overflow`.
pub const MIRROR_BODIES: usize = 32 * 1024 * 1024;
/// Copies in flight from a thread: as many as Envoy lets go to a cluster. Beyond: `mirror_overflow`.
pub const MIRRORS: usize = 1024;
/// A copy whose route has no timeout is given up after this: nobody waits for its answer, and it holds memory.
pub const MIRROR_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of a request's body that are kept for a retry. Beyond: the request is sent once and not repeated.
pub const RETRY_BODY: usize = 64 * 1024;
/// Idle connections kept per pod and endpoint: as many as Envoy lets a cluster open if nobody says otherwise (Envoy itself keeps all). Fewer than
/// are in flight at a time would have every burst dial anew. Beyond: closed after use.
pub const IDLE_CONNECTIONS: usize = 1024;
/// Requests of a pod that may wait for a connection to a cluster, whatever the cluster says. Beyond: 503, flag UO. As many as the pod may have
/// connections, so that only HTTP/2 clients can get here.
pub const PENDING: u32 = 10_000;
/// Requests at a time on one HTTP/2 connection to an endpoint. Beyond: one more connection. Envoy's default.
pub const STREAMS: u32 = 1024;
/// How long a TLS handshake of a client may take, as Envoy's listener filters. Then the connection is closed, `tls_handshake_timeout`. The
/// same for the beginning of HTTP/2 after an upgrade to it, `client_gone`.
pub const HANDSHAKE: Duration = Duration::from_secs(15);
/// How long a client that still sends is read from after its last answer, which it could lose otherwise: Envoy's `delayed_close_timeout`. Then the
/// connection is closed.
pub const LINGER: Duration = Duration::from_secs(1);
/// How often idle connections are looked through.
pub const SWEEP: Duration = Duration::from_secs(5);
/// Pause after `accept` failed: out of descriptors, or the listener was shut down and the agent will revive it.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
