//! Every port and mark of the mesh, each with its reason. ARCHITECTURE.md prints this table.

/// TCP, 127.0.0.1 inside each enrolled pod: captured outgoing connections. Istio's number, so that operators recognise it.
pub const OUTBOUND: u16 = 15001;
/// TCP, 127.0.0.1 inside pods with captured ports: connections from outside. Istio's number.
pub const INBOUND: u16 = 15006;
/// TCP and UDP inside each enrolled pod: the mesh's DNS. Istio's number.
pub const DNS: u16 = 15053;
/// TCP on the node of mesh-control: xDS (gRPC over TLS). Above the ports that Mesos agents offer (32000), below the ephemeral range.
pub const XDS: u16 = 32010;
/// TCP on the node of mesh-control: the Kubernetes-style API (HTTPS), for the same reason.
pub const API: u16 = 32443;
/// TCP: the Mesos agent. A pod's executor shares the pod's namespace and must reach its own node's agent.
pub const MESOS_AGENT: u16 = 5051;
/// The DNS port that workloads ask, at whatever address.
pub const DOMAIN: u16 = 53;

/// What nobody but the mesh, DNS and Mesos may have on a node: a gateway's port is none of these.
pub const RESERVED: [u16; 7] = [DOMAIN, MESOS_AGENT, OUTBOUND, INBOUND, DNS, XDS, API];

/// Socket mark of a captured connection inside a pod's namespace; the policy rule there matches it.
pub const CAPTURE_MARK: u32 = 0x1d5;
/// Routing table inside a pod's namespace that delivers marked connections locally.
pub const CAPTURE_TABLE: u32 = 15001;
