//! What an allowlist costs a connection: as it is without one, with the mesh's, and with those of ipset and iptables, of 10 to 100,000 entries.
//! Called by `cargo xtask bench egress`, which makes tables of the lines of JSON that this prints; never decides what a figure means.
//!
//! Everything is made for the run and vanishes with it. `egress ROUNDS MILLISECONDS`.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../kernel/load.rs"]
#[allow(dead_code, reason = "its other loads are of connections that stay")]
mod load;

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Mesh, Ns, Pair};
use load::{Asked, Sample};
use mesh_agent::core::desired::addr;
use mesh_agent::core::egress::EgressOp;
use mesh_common::abi::{Dest, EgressKey, maps, policy, way};
use mesh_common::decide::l4::TCP;
use serde_json::json;
use socket2::{Domain, SockAddr, Socket, Type};

/// Allowed addresses, each with one port.
const SIZES: [u32; 3] = [10, 1_000, 100_000];
const PORT: u16 = 443;

#[derive(Clone, Copy, PartialEq)]
enum Variant {
    None,
    Mesh,
    Ipset,
    Iptables,
}

impl Variant {
    const ALL: [Self; 4] = [Self::None, Self::Mesh, Self::Ipset, Self::Iptables];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "no allowlist",
            Self::Mesh => "the mesh",
            Self::Ipset => "ipset",
            Self::Iptables => "iptables",
        }
    }
}

/// The benchmarking range of RFC 2544 has 131,072 addresses; the last are for what nobody allows.
fn host(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + number)
}

fn denied() -> SockAddr {
    SockAddr::from(SocketAddr::from((Ipv4Addr::new(198, 19, 255, 1), PORT)))
}

/// A pod, and a world that answers at every address of the range.
struct Place {
    pair: Pair,
    listeners: Vec<Socket>,
}

impl Place {
    fn new(pair: Pair) -> Self {
        let listeners = vec![listen(&pair)];
        Self { pair, listeners }
    }
}

fn listen(pair: &Pair) -> Socket {
    pair.world.ip(&["route", "add", "local", "198.18.0.0/15", "dev", "lo"]);
    pair.world.run(|| {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        listener.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))).expect("free");
        listener.listen(1024).expect("listens");
        listener.set_nonblocking(true).expect("set");
        listener
    })
}

/// What Linux without the mesh would be told: only SYNs are looked at, as the mesh does.
fn rules(ns: &Ns, program: &[&str], text: &str) {
    let mut child = Command::new("ip")
        .args(["netns", "exec", &ns.name])
        .args(program)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program:?}: {error}"));
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("reads on");
    assert!(child.wait().expect("a child").success(), "{program:?} refuses the rules");
}

fn ipset(pod: &Ns, entries: u32) {
    let mut text = format!("create allow hash:ip,port maxelem {}\n", entries.max(65_536) * 2);
    (0..entries).for_each(|number| text.push_str(&format!("add allow {},tcp:{PORT}\n", host(number))));
    rules(pod, &["ipset", "restore"], &text);
    let reject = "-j REJECT --reject-with tcp-reset";
    rules(
        pod,
        &["iptables-restore"],
        &format!("*filter\n-A OUTPUT -p tcp --syn -m set ! --match-set allow dst,dst {reject}\nCOMMIT\n"),
    );
}

fn iptables(pod: &Ns, entries: u32) {
    let mut text = "*filter\n:ALLOW - [0:0]\n-A OUTPUT -p tcp --syn -j ALLOW\n".to_owned();
    (0..entries).for_each(|number| text.push_str(&format!("-A ALLOW -d {}/32 -p tcp --dport {PORT} -j ACCEPT\n", host(number))));
    rules(pod, &["iptables-restore"], &(text + "-A ALLOW -p tcp -j REJECT --reject-with tcp-reset\nCOMMIT\n"));
}

fn cell(number: u32) -> EgressKey {
    let dest = Dest { addr: addr(host(number).into()), port: PORT, proto: TCP, pad: 0 };
    EgressKey { policy: policy::EVERYBODY, dest }
}

fn allow(mesh: &Mesh, entries: u32) {
    let all: Vec<EgressOp> = (0..entries).map(|number| EgressOp::Add(cell(number), way::PASS)).collect();
    mesh.kernel.maps().allow(&all).expect("fits");
}

/// connect() to what nobody allows.
fn refusals(slice: Duration) -> Vec<u32> {
    let mut nanos = Vec::new();
    let start = Instant::now();
    while start.elapsed() < slice {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let begin = Instant::now();
        socket.connect(&denied()).expect_err("nobody allows it");
        nanos.push(begin.elapsed().as_nanos().try_into().unwrap_or(u32::MAX));
    }
    nanos.sort_unstable();
    nanos
}

/// A cell is written and the first connection made: what an answer of DNS waits for in the kernel, and what comes after.
fn lessons(mesh: &Mesh, listeners: &[Socket], entries: u32, slice: Duration) -> Vec<u32> {
    let mut nanos = Vec::new();
    let (start, key) = (Instant::now(), cell(entries));
    let to = SockAddr::from(SocketAddr::from((host(entries), PORT)));
    while start.elapsed() < slice {
        let begin = Instant::now();
        mesh.kernel.maps().allow(&[EgressOp::Add(key, way::PASS)]).expect("room");
        let client = mesh.pair.pod.run(|| {
            let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            client.connect(&to).map(|()| client)
        });
        nanos.push(begin.elapsed().as_nanos().try_into().unwrap_or(u32::MAX));
        drop(client.expect("allowed just now"));
        while listeners[0].accept_raw().is_ok() {}
        mesh.kernel.maps().allow(&[EgressOp::Delete(key)]).expect("deleted");
    }
    nanos.sort_unstable();
    nanos
}

fn print(case: &str, variant: Variant, (entries, round): (u32, u64), sample: &Sample) {
    let Sample { done, cpu, p50, p99, .. } = sample;
    let line = json!({
        "case": case, "variant": variant.name(), "entries": entries, "round": round, "done": done, "cpu": cpu, "p50": p50, "p99": p99,
    });
    println!("{line}");
}

fn of(nanos: &[u32]) -> Sample {
    let at = |share: usize| nanos.get(nanos.len() * share / 100).copied().unwrap_or_default();
    Sample { done: nanos.len() as u64, seconds: 0.0, cpu: 0.0, p50: at(50), p99: at(99) }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = || arguments.next().and_then(|text| text.parse().ok()).expect("egress ROUNDS MILLISECONDS");
    let (rounds, slice): (u64, u64) = (number(), number());
    let slice = Duration::from_millis(slice);
    for entries in SIZES {
        let mesh = Mesh::new();
        let listeners = vec![listen(&mesh.pair)];
        let Mesh { kernel, cookie, pod, pair, .. } = &mesh;
        pair.world.run(|| kernel.guard(*cookie, pod, &pair.pod.handle)).unwrap_or_else(|error| panic!("{error}"));
        let before = common::map_bytes(&mesh.node.bpffs, maps::EGRESS_EXACT);
        allow(&mesh, entries);
        let bytes = common::map_bytes(&mesh.node.bpffs, maps::EGRESS_EXACT) - before;
        println!(
            "{}",
            json!({ "case": "memory", "variant": Variant::Mesh.name(), "entries": entries, "round": 0, "done": bytes, "cpu": 0.0, "p50": 0, "p99": 0 })
        );
        // From here on this process's sockets are under the programs' cgroup only where that is measured.
        let leave = || fs::write(mesh.node.former().join("cgroup.procs"), "0").expect("moves");
        leave();
        let (none, set, list) = (Place::new(Pair::new()), Place::new(Pair::new()), Place::new(Pair::new()));
        ipset(&set.pair.pod, entries);
        iptables(&list.pair.pod, entries);
        let to: Vec<SockAddr> = (0..entries).map(|number| SockAddr::from(SocketAddr::from((host(number), PORT)))).collect();
        for round in 0..rounds {
            for turn in 0..Variant::ALL.len() {
                let variant = Variant::ALL[(turn + round as usize) % Variant::ALL.len()];
                let (pod, listeners) = match variant {
                    Variant::None => (&none.pair.pod, &none.listeners),
                    Variant::Mesh => (&mesh.pair.pod, &listeners),
                    Variant::Ipset => (&set.pair.pod, &set.listeners),
                    Variant::Iptables => (&list.pair.pod, &list.listeners),
                };
                if variant == Variant::Mesh {
                    fs::write(mesh.node.cgroup.join("cgroup.procs"), "0").expect("moves");
                }
                let sample = pod.run(|| load::connections(&to, listeners, Asked::Nothing, slice));
                print("connect", variant, (entries, round), &sample);
                if variant != Variant::None {
                    print("refuse", variant, (entries, round), &of(&pod.run(|| refusals(slice))));
                }
                if variant == Variant::Mesh {
                    print("learn", variant, (entries, round), &of(&lessons(&mesh, listeners, entries, slice)));
                    leave();
                }
            }
        }
        fs::write(mesh.node.cgroup.join("cgroup.procs"), "0").expect("moves");
    }
}
