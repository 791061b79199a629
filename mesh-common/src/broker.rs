//! The messages between mesh-agent, which may create sockets in pods, and mesh-proxy, which may not.
//!
//! Wire: a unix `SOCK_SEQPACKET` socket ([`SOCKET`]); one JSON message per packet, file descriptors attached (`SCM_RIGHTS`) in the order
//! that the message states. A packet is at most [`MESSAGE_BYTES`] long. This module holds the messages only; both ends do their own I/O.
//!
//! A conversation: the client says [`ToAgent::Hello`]; the agent answers with one [`ToProxy::Pod`] per enrolled pod, then [`ToProxy::Ready`],
//! and later with a `Pod` or `PodGone` for every change. A client asks for sockets with [`ToAgent::Refill`] and gets [`ToProxy::Sockets`].
//! An agent that restarts closes the connection; the client keeps what it has, connects again, and gets the whole list anew: a pod that is
//! not in it by `Ready` is gone.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Where the agent listens, by default.
pub const SOCKET: &str = "/run/mesh/agent.sock";
/// Raised with every incompatible change of the messages.
pub const VERSION: u32 = 4;
/// Longest message. A pod's labels dominate it; Marathon refuses labels far below this.
pub const MESSAGE_BYTES: usize = 64 * 1024;
/// Most descriptors in one message: 32 a batch cost 7 µs each, one at a time 60 µs; the kernel's limit is 253.
pub const BATCH: usize = 32;

/// From mesh-proxy (or its DNS process) to mesh-agent.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToAgent {
    /// The first message.
    Hello {
        /// [`VERSION`] of the client; the agent closes the connection if it does not speak it.
        version: u32,
        /// Which listeners the client serves.
        role: Role,
    },
    /// Please broker sockets in this pod: unconnected, non-blocking TCP, tagged as the pod's. With the slot of [`ToProxy::Listening`] they are
    /// the gateway's, in the node's own namespace.
    Refill {
        /// The pod, by the number from [`ToProxy::Pod`].
        slot: u32,
        /// Which address family.
        family: Family,
        /// How many, at most [`BATCH`].
        count: usize,
    },
    /// From the DNS process: a name that an egress rule may name (or, with id 0, any that a pod has asked for) has these addresses. The agent answers with [`ToProxy::Learned`] once the
    /// kernel's allowlist holds them; only then may the pod have its answer, or its first connect would be refused.
    Learned {
        /// Given back in the answer.
        id: u64,
        /// The name that was asked for, lower case, without trailing dot.
        name: String,
        /// What the node's resolver answered.
        addresses: Vec<IpAddr>,
        /// The shortest TTL of the answer, in seconds.
        ttl_seconds: u32,
    },
    /// From mesh-proxy: the node's own addresses and ports that it serves as a gateway are exactly these, at most [`GATEWAY_LISTENERS`].
    /// The agent answers with [`ToProxy::Listening`] and closes what it held beyond them. To be said again after [`ToProxy::Ready`].
    Listen {
        /// Where to listen in the node's network namespace.
        addresses: Vec<SocketAddr>,
    },
}

/// Most listeners of a node's gateway: their descriptors travel in one message.
pub const GATEWAY_LISTENERS: usize = BATCH;

/// What a client serves, and so which listeners it gets with each pod.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// mesh-proxy: [`Listener::OutboundV4`], of pods with captured ports [`Listener::InboundV4`], and the same of IPv6 where the pod has it.
    Proxy,
    /// `mesh-proxy dns`: [`Listener::DnsUdp`] and [`Listener::DnsTcpV4`].
    Dns,
}

/// Address family of a brokered socket.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`.
    V6,
}

/// A listening socket in a pod's namespace.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Listener {
    /// Captured TCP. `getsockname` on an accepted connection is the original destination. A connection whose local address is the
    /// listener's own was dialled directly and must be refused.
    OutboundV4,
    /// The same over IPv6.
    OutboundV6,
    /// TCP that comes to the pod from outside, to a port that the proxy takes. `getsockname` on an accepted connection is the pod's address and
    /// that port, `getpeername` the client's. The proxy dials the application there; a brokered socket that it has bound to the client's address
    /// before shows the application that address.
    InboundV4,
    /// The same over IPv6.
    InboundV6,
    /// DNS over UDP: one wildcard socket with IP_PKTINFO; a reply must leave from the address that was asked.
    DnsUdp,
    /// DNS over TCP.
    DnsTcpV4,
}

/// From mesh-agent to mesh-proxy.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToProxy {
    /// A pod is enrolled (or its description changed). Carries one descriptor for each listener, in that order.
    Pod {
        /// The pod's number on this node, until [`ToProxy::PodGone`].
        slot: u32,
        /// Who it is.
        workload: Workload,
        /// What the attached descriptors are.
        listeners: Vec<Listener>,
    },
    /// A pod has left: close its listeners and drop its stock. Its open connections may finish.
    PodGone {
        /// The pod's number.
        slot: u32,
    },
    /// The list of pods is complete.
    Ready,
    /// The addresses of [`ToAgent::Learned`] are in force (or no rule wants them).
    Learned {
        /// From the message that is answered.
        id: u64,
    },
    /// The answer to [`ToAgent::Listen`]; carries one descriptor for each of `addresses`, in that order. The agent keeps duplicates: while the
    /// proxy is away, connections wait in the backlog.
    Listening {
        /// The gateway's number, for [`ToAgent::Refill`]: it dials as a workload of its own, not as any pod.
        slot: u32,
        /// Where the attached sockets listen. Their connections were dialled there directly: they are not captured.
        addresses: Vec<SocketAddr>,
        /// Where the agent does not listen.
        refused: Vec<Refused>,
    },
    /// The answer to [`ToAgent::Refill`]; carries `count` descriptors, fewer than asked if the agent's own limit was reached.
    Sockets {
        /// The pod's number.
        slot: u32,
        /// Address family of all of them.
        family: Family,
        /// How many are attached.
        count: usize,
    },
}

/// An address at which the agent does not listen for the gateway.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// As it was asked for.
    pub address: SocketAddr,
    /// Why not, for the operator.
    pub reason: String,
}

/// What the proxy must know of a pod: for source matches, metrics and logs.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Marathon's instance id: `reviews-v2.instance-<uuid>`.
    pub id: String,
    /// Marathon's path of the app or pod: `/reviews-v2`.
    pub app: String,
    /// Istio's namespace of the workload: its label `istio.io/namespace`, else `default`.
    pub namespace: String,
    /// The addresses of the pod.
    pub addresses: Vec<IpAddr>,
    /// Marathon's labels.
    pub labels: BTreeMap<String, String>,
}

/// Why a packet was no message.
#[derive(Debug, thiserror::Error)]
pub enum InvalidMessage {
    /// Longer than [`MESSAGE_BYTES`].
    #[error("a broker message of {0} bytes is longer than the limit of {MESSAGE_BYTES}")]
    TooLong(usize),
    /// Not what the protocol allows; the source names the field and the byte.
    #[error("a broker message is not valid: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes a message.
///
/// # Errors
/// If it would be longer than a packet may be.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, InvalidMessage> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_BYTES { Err(InvalidMessage::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// Reads a message.
///
/// # Errors
/// Names the field or byte that is wrong.
pub fn decode<'a, T: Deserialize<'a>>(packet: &'a [u8]) -> Result<T, InvalidMessage> {
    if packet.len() > MESSAGE_BYTES {
        return Err(InvalidMessage::TooLong(packet.len()));
    }
    Ok(serde_json::from_slice(packet)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip() {
        let pod = ToProxy::Pod {
            slot: 4,
            workload: Workload {
                id: "reviews-v2.instance-1".to_owned(),
                app: "/reviews-v2".to_owned(),
                namespace: "default".to_owned(),
                addresses: vec![IpAddr::from([9, 0, 1, 3])],
                labels: BTreeMap::from([("version".to_owned(), "v2".to_owned())]),
            },
            listeners: vec![Listener::OutboundV4],
        };
        let bytes = encode(&pod).expect("fits");
        assert_eq!(decode::<ToProxy>(&bytes).expect("valid"), pod);
    }

    #[test]
    fn bad_messages_are_named() {
        let error = decode::<ToAgent>(br#"{"refill":{"slot":1,"family":"v5","count":1}}"#).expect_err("no such family");
        assert!(error.to_string().contains("v5"), "{error}");
        let error = decode::<ToAgent>(br#"{"refill":{"slot":1,"family":"v4","count":1,"uid":0}}"#).expect_err("no such field");
        assert!(error.to_string().contains("uid"), "{error}");
        assert!(matches!(decode::<ToAgent>(&vec![b' '; MESSAGE_BYTES + 1]), Err(InvalidMessage::TooLong(_))));
    }
}
