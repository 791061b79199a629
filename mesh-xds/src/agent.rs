//! The resources that mesh-agent and the DNS process take. The messages are written with prost's derive; the field numbers here are
//! the wire format, documented in docs/xds.md.
//!
//! Addresses are text (`9.0.1.2`, `fd01:c::1`), so that a dump is readable; a resource with an address that does not parse is NACKed by
//! the receiver with the field's name.

use std::collections::HashMap;

/// Type URL of [`Service`].
pub const SERVICE: &str = "type.googleapis.com/mesh.agent.v1.Service";
/// Type URL of [`Workload`].
pub const WORKLOAD: &str = "type.googleapis.com/mesh.agent.v1.Workload";
/// Type URL of [`Mesh`].
pub const MESH: &str = "type.googleapis.com/mesh.agent.v1.Mesh";
/// Type URL of [`Egress`].
pub const EGRESS: &str = "type.googleapis.com/mesh.agent.v1.Egress";
/// Name of the one [`Mesh`] resource.
pub const MESH_NAME: &str = "mesh";

/// A service: names, VIPs and backends. Its resource name is [`Service::name`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Service {
    /// `reviews.marathon.l4lb.thisdcos.directory`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Every name under which DNS answers with [`Self::addresses`], lower case, without trailing dot; contains `name`.
    #[prost(string, repeated, tag = "2")]
    pub names: Vec<String>,
    /// The VIPs, IPv4 and IPv6.
    #[prost(string, repeated, tag = "3")]
    pub addresses: Vec<String>,
    /// The ports of the VIPs.
    #[prost(message, repeated, tag = "4")]
    pub ports: Vec<ServicePort>,
}

/// One port of a service.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServicePort {
    /// The port that clients dial.
    #[prost(uint32, tag = "1")]
    pub port: u32,
    /// TCP or UDP.
    #[prost(enumeration = "Transport", tag = "2")]
    pub transport: i32,
    /// Who carries it.
    #[prost(enumeration = "Mode", tag = "3")]
    pub mode: i32,
    /// Istio's protocol name: `HTTP`, `HTTP2`, `GRPC`, `TCP`, ...
    #[prost(string, tag = "4")]
    pub protocol: String,
    /// Who serves it, as the receiving node must dial it.
    #[prost(message, repeated, tag = "5")]
    pub backends: Vec<Backend>,
    /// How the kernel picks one of them.
    #[prost(enumeration = "Balance", tag = "6")]
    pub balance: i32,
    /// Namespaces whose workloads may dial it (`exportTo` of the ServiceEntry that declares it); empty: all.
    #[prost(string, repeated, tag = "7")]
    pub namespaces: Vec<String>,
}

/// One backend of a service's port.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Backend {
    /// Address to dial.
    #[prost(string, tag = "1")]
    pub address: String,
    /// Port to dial.
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// 0: takes no new connection (draining or unhealthy); else the relative weight.
    #[prost(uint32, tag = "3")]
    pub weight: u32,
    /// [`Workload::id`] of the instance.
    #[prost(string, tag = "4")]
    pub workload: String,
    /// 0 is nearest to the receiving node. Of the backends that take connections, only those of the lowest number are used.
    #[prost(uint32, tag = "5")]
    pub priority: u32,
    /// `AGENT:HOSTPORT`, where that leads to it too and is not what is dialled: DC/OS' own load balancer knows it by this.
    #[prost(string, tag = "6")]
    pub published: String,
}

/// How the kernel picks a backend; a proxy is told by its cluster.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, prost::Enumeration)]
#[repr(i32)]
pub enum Balance {
    /// Of two that are drawn by weight, the one with fewer connections for its weight.
    LeastConnections = 0,
    /// Drawn by weight.
    Random = 1,
    /// By the client's address (Maglev): one client stays with its backend as long as that is there.
    Source = 2,
}

/// Layer 4 protocol.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, prost::Enumeration)]
#[repr(i32)]
pub enum Transport {
    /// TCP.
    Tcp = 0,
    /// UDP.
    Udp = 1,
}

/// Who carries a port's connections.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, prost::Enumeration)]
#[repr(i32)]
pub enum Mode {
    /// Left alone.
    Direct = 0,
    /// The kernel picks a backend in connect().
    Kernel = 1,
    /// Handed to mesh-proxy.
    Proxy = 2,
}

/// An instance of an app or pod, on any node. Its resource name is [`Workload::id`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Workload {
    /// Marathon's instance id, `reviews-v2.instance-<uuid>`.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Marathon's path, `/reviews-v2`.
    #[prost(string, tag = "2")]
    pub app: String,
    /// Istio's namespace: label `istio.io/namespace`, else `default`.
    #[prost(string, tag = "3")]
    pub namespace: String,
    /// Address (or host name) of the Mesos agent that runs it.
    #[prost(string, tag = "4")]
    pub node: String,
    /// Its own addresses; empty on the host network.
    #[prost(string, repeated, tag = "5")]
    pub addresses: Vec<String>,
    /// Marathon's labels.
    #[prost(map = "string, string", tag = "6")]
    pub labels: HashMap<String, String>,
    /// The wish to be in the mesh. The state is what the node's kernel holds.
    #[prost(bool, tag = "7")]
    pub enrol: bool,
    /// It uses its node's own network namespace.
    #[prost(bool, tag = "8")]
    pub host_network: bool,
    /// Its own ports whose connections from outside are handed to the proxy.
    #[prost(uint32, repeated, tag = "9")]
    pub inbound_ports: Vec<u32>,
    /// What happens to its destinations that the mesh does not know; absent: as [`Mesh::outbound_policy`] says.
    #[prost(enumeration = "OutboundPolicy", optional, tag = "10")]
    pub outbound_policy: Option<i32>,
}

/// Settings of the whole mesh.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Mesh {
    /// What happens to destinations that the mesh does not know.
    #[prost(enumeration = "OutboundPolicy", tag = "1")]
    pub outbound_policy: i32,
    /// The VIP ranges in CIDR notation (`11.0.0.0/8`): an address in them that no service owns is refused.
    #[prost(string, repeated, tag = "2")]
    pub vip_ranges: Vec<String>,
    /// Control-plane and admin endpoints that no workload may dial.
    #[prost(message, repeated, tag = "3")]
    pub protected: Vec<Endpoint>,
    /// DNS zones for which the mesh is the only authority (`l4lb.thisdcos.directory`): an unknown name there is NXDOMAIN, not forwarded.
    #[prost(string, repeated, tag = "4")]
    pub zones: Vec<String>,
}

/// An address and port.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Endpoint {
    /// IPv4 or IPv6.
    #[prost(string, tag = "1")]
    pub address: String,
    /// Port.
    #[prost(uint32, tag = "2")]
    pub port: u32,
    /// TCP or UDP.
    #[prost(enumeration = "Transport", tag = "3")]
    pub transport: i32,
}

/// MeshConfig.outboundTrafficPolicy.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, prost::Enumeration)]
#[repr(i32)]
pub enum OutboundPolicy {
    /// Refuse what no ServiceEntry allows: the default, so that an empty message denies.
    RegistryOnly = 0,
    /// Let it pass.
    AllowAny = 1,
    /// Let it pass, and count what [`Self::RegistryOnly`] would have refused.
    Audit = 2,
}

/// What a ServiceEntry allows: destinations outside the mesh. Its resource name is `NAMESPACE/NAME` of the ServiceEntry.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Egress {
    /// `NAMESPACE/NAME` of the ServiceEntry.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Hosts, lower case: `httpbin.org` or `*.example.com`. Their addresses are learned from DNS answers where `resolution` is not STATIC.
    #[prost(string, repeated, tag = "2")]
    pub hosts: Vec<String>,
    /// The ports that are allowed, and no others.
    #[prost(message, repeated, tag = "3")]
    pub ports: Vec<EgressPort>,
    /// Addresses that are allowed whatever DNS says: `203.0.113.20` or `203.0.113.0/24` (ServiceEntry `addresses`, or `endpoints` of STATIC).
    #[prost(string, repeated, tag = "4")]
    pub addresses: Vec<String>,
    /// True if addresses are learned from DNS answers for `hosts` (resolution NONE, DNS, DNS_ROUND_ROBIN, DYNAMIC_DNS).
    #[prost(bool, tag = "5")]
    pub learn: bool,
    /// Namespaces whose workloads it lets out (`exportTo`); empty: all.
    #[prost(string, repeated, tag = "6")]
    pub namespaces: Vec<String>,
    /// Connections that it has let out end when it no longer does (annotation `mesh.io/terminate-on-revoke`).
    #[prost(bool, tag = "7")]
    pub terminate_on_revoke: bool,
}

/// One allowed port.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EgressPort {
    /// The port.
    #[prost(uint32, tag = "1")]
    pub port: u32,
    /// TCP or UDP.
    #[prost(enumeration = "Transport", tag = "2")]
    pub transport: i32,
    /// Istio's protocol name, for logs and `explain`.
    #[prost(string, tag = "3")]
    pub protocol: String,
    /// [`Mode::Direct`]: past the proxy; [`Mode::Proxy`]: TCP is handed to the proxy, which has routes for the hosts.
    #[prost(enumeration = "Mode", tag = "4")]
    pub mode: i32,
}
