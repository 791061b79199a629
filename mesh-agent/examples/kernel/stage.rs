//! A client's pod and a server's pod on one node, once for each variant; what lies between the two is all that differs.

use std::fs;
use std::time::Duration;

use mesh_agent::core::desired::Desired;
use mesh_agent::core::desired::addr;
use mesh_agent::kernel::Kernel;
use mesh_agent::netns::PodSockets;
use mesh_common::abi::{Pod, mode};
use socket2::{Domain, SockAddr, Socket, Type};

use super::common::{Node, Ns, at, config, ip, port, tcp};
use super::load::{self, Asked, Sample};
use super::rules;

const CLIENT: &str = "9.0.1.2";
const SERVER: &str = "9.0.2.2";
const PORTS: [u16; 3] = [8080, 8081, 8082];

/// What makes a service of an address.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Variant {
    Direct,
    Kernel,
    Iptables,
    Nftables,
    HandOver,
    Redirect,
}

impl Variant {
    pub(crate) const ALL: [Self; 6] =
        [Self::Direct, Self::Kernel, Self::Iptables, Self::Nftables, Self::HandOver, Self::Redirect];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Kernel => "kernel mode",
            Self::Iptables => "iptables DNAT",
            Self::Nftables => "nftables DNAT",
            Self::HandOver => "eBPF hand-over",
            Self::Redirect => "iptables REDIRECT",
        }
    }
}

/// Client, node and server, joined by veths as pods are.
struct Trio {
    client: Ns,
    node: Ns,
    server: Ns,
    listeners: Vec<Socket>,
}

impl Trio {
    fn new() -> Self {
        let (client, node, server) = (Ns::new(), Ns::new(), Ns::new());
        for (pod, own, host, device) in [(&client, CLIENT, "9.0.1.1", "hv1"), (&server, SERVER, "9.0.2.1", "hv2")] {
            pod.ip(&["link", "add", "eth0", "type", "veth", "peer", "name", device, "netns", &node.name]);
            pod.ip(&["addr", "add", &format!("{own}/24"), "dev", "eth0"]);
            node.ip(&["addr", "add", &format!("{host}/24"), "dev", device]);
            pod.ip(&["link", "set", "eth0", "up"]);
            node.ip(&["link", "set", device, "up"]);
            pod.ip(&["route", "add", "default", "via", host]);
        }
        node.run(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("may forward"));
        let listeners = server.run(|| PORTS.map(|port| listen(&format!("{SERVER}:{port}"))).into());
        Self { client, node, server, listeners }
    }
}

fn listen(address: &str) -> Socket {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    listener.bind(&SockAddr::from(at(address))).expect("free");
    listener.listen(1024).expect("listens");
    listener.set_nonblocking(true).expect("set");
    listener
}

/// A world of so many services.
pub(crate) struct Stage {
    vips: Vec<SockAddr>,
    handed: Vec<SockAddr>,
    backends: Vec<SockAddr>,
    plain: Trio,
    iptables: Trio,
    nftables: Trio,
    redirect: Trio,
    redirected: Vec<Socket>,
    captured: Vec<Socket>,
    mesh: Trio,
    _pods: [PodSockets; 2],
    _kernel: Kernel,
    node: Node,
}

impl Stage {
    pub(crate) fn new(services: u32) -> Self {
        let vip = |high: u8, number: u32| {
            let [_, b, c, d] = (number + 1).to_be_bytes();
            format!("11.{}.{c}.{d}", high + b)
        };
        let vips: Vec<String> = (0..services).map(|number| vip(0, number)).collect();
        let handed: Vec<String> = (0..services).map(|number| vip(128, number)).collect();
        let backends = PORTS.map(|port| format!("{SERVER}:{port}"));
        let node = Node::new();
        leave(&node);
        let (plain, iptables, nftables, redirect) = (Trio::new(), Trio::new(), Trio::new(), Trio::new());
        rules::apply(&iptables.node, &["iptables-restore"], &rules::iptables(&vips, &backends));
        rules::apply(&nftables.node, &["nft", "-f", "-"], &rules::nftables(&vips, &backends));
        rules::apply(&redirect.client, &["iptables-restore"], rules::REDIRECT);
        for ns in [&iptables.node, &nftables.node, &redirect.client] {
            // Closed connections leave conntrack soon, so that its table is never full.
            ns.run(|| fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close", "1").expect("set"));
        }
        let redirected = vec![redirect.client.run(|| listen("0.0.0.0:15001"))];
        enter(&node);
        let mesh = Trio::new();
        let kernel = node.kernel();
        let pods = [(&mesh.client, 7, CLIENT), (&mesh.server, 8, SERVER)]
            .map(|(ns, slot, own)| enrol(&kernel, &mesh.node, ns, slot, own));
        fill(&kernel, &vips, &handed, &backends);
        let captured = vec![Socket::from(pods[0].outbound_v4.try_clone().expect("a duplicate"))];
        captured[0].set_nonblocking(true).expect("set");
        leave(&node);
        let addresses = |all: &[String]| all.iter().map(|text| SockAddr::from(at(&format!("{text}:80")))).collect();
        Self {
            vips: addresses(&vips),
            handed: addresses(&handed),
            backends: backends.iter().map(|text| SockAddr::from(at(text))).collect(),
            plain,
            iptables,
            nftables,
            redirect,
            redirected,
            captured,
            mesh,
            _pods: pods,
            _kernel: kernel,
            node,
        }
    }

    /// The loads that say something of this variant, each for one slice.
    pub(crate) fn measure(&self, variant: Variant, slice: Duration) -> Vec<(&'static str, Sample)> {
        let (trio, to, listeners, asked) = match variant {
            Variant::Direct => (&self.plain, &self.backends, &self.plain.listeners, Asked::Nothing),
            Variant::Kernel => (&self.mesh, &self.vips, &self.mesh.listeners, Asked::Nothing),
            Variant::Iptables => (&self.iptables, &self.vips, &self.iptables.listeners, Asked::Nothing),
            Variant::Nftables => (&self.nftables, &self.vips, &self.nftables.listeners, Asked::Nothing),
            Variant::HandOver => (&self.mesh, &self.handed, &self.captured, Asked::OwnName),
            Variant::Redirect => (&self.redirect, &self.handed, &self.redirected, Asked::OriginalDst),
        };
        let in_mesh = matches!(variant, Variant::Kernel | Variant::HandOver);
        if in_mesh {
            enter(&self.node);
        }
        let mut samples = trio.client.run(|| vec![("connect", load::connections(to, listeners, asked, slice))]);
        if asked == Asked::Nothing {
            let one = &to[0];
            samples.extend(
                trio.client.run(|| {
                    [("requests", load::exchanges(one, listeners, slice)), ("stream", load::stream(one, listeners, slice))]
                }),
            );
        }
        if in_mesh {
            leave(&self.node);
        }
        samples
    }
}

/// From now on this process's new sockets are in the cgroup that the programs hang on.
fn enter(node: &Node) {
    fs::write(node.cgroup.join("cgroup.procs"), "0").expect("moves");
}

/// From now on they are not.
fn leave(node: &Node) {
    fs::write(node.former().join("cgroup.procs"), "0").expect("moves");
}

fn enrol(kernel: &Kernel, node: &Ns, ns: &Ns, slot: u32, own: &str) -> PodSockets {
    let cookie = ns.handle.cookie().expect("a cookie");
    let pod = Pod { slot, policy: 0, addr4: addr(ip(own)), ..Pod::default() };
    let sockets = mesh_agent::pod::enrol(kernel, cookie, &pod, &ns.handle).unwrap_or_else(|error| panic!("{error}"));
    let ends = node.run(|| kernel.guard(cookie, &pod, &ns.handle)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ends, 1, "guarded");
    sockets
}

fn fill(kernel: &Kernel, vips: &[String], handed: &[String], backends: &[String]) {
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    let services = |all: &[String], mode: u8| -> Vec<_> {
        all.iter().map(|vip| (tcp(&format!("{vip}:80")), port(mode, mesh_common::decide::l4::TCP, &backends))).collect()
    };
    let desired = Desired {
        config: config(),
        services: services(vips, mode::KERNEL).into_iter().chain(services(handed, mode::PROXY)).collect(),
        workloads: [CLIENT, SERVER].map(|text| addr(ip(text))).into(),
        ..Desired::default()
    };
    let mut maps = kernel.maps();
    let ops = mesh_agent::core::reconcile::reconcile(&desired, &maps.read().expect("readable"));
    maps.write(&ops).expect("written");
}
