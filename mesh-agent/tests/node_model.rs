//! The flows that the decision is tested with in user space go through the loaded programs as well, and both agree: `decide::l4` over plain
//! tables here, the same function over maps there, asked by real connect() calls.

mod common;

use common::{Mesh, Ns};
use mesh_agent::core::desired::{Desired, Port, addr, ip};
use mesh_agent::core::egress::Rule;
use mesh_common::abi::{Addr, Config, Dest, Question, Service, choice, egress, mode, policy, way};
use mesh_common::decide::l4::{self, Flow, TCP, Tables, UDP, Verdict};
use mesh_common::reason::{Reason, Steered};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use socket2::{Domain, SockAddr, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

/// Tables and flows in each of them.
const WORLDS: usize = 50;
const FLOWS: usize = 400;
/// The same for the program that only answers.
const MILLION_WORLDS: usize = 200;

/// User space's tables.
struct Plain<'a>(&'a Desired, &'a [Rule]);

/// The standard way, beside the trie's.
fn in_ranges(rule: &Rule, dest: &Dest) -> Option<u8> {
    let to = ip(dest.addr);
    let around = rule.ranges.iter().filter(|(base, bits)| match (base, to) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= u32::from(*bits),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= u32::from(*bits),
        _ => false,
    });
    around.map(|(_, bits)| *bits).max()
}

impl Tables for Plain<'_> {
    fn service(&self, dest: &Dest) -> Option<Service> {
        let port = self.0.services.get(dest)?;
        Some(Service {
            mode: port.mode,
            backends: port.backends.len() as u32,
            scoped: u8::from(port.scoped),
            ..Service::default()
        })
    }
    fn is_protected(&self, dest: &Dest) -> bool {
        self.0.protected.contains(dest)
    }
    fn is_endpoint(&self, dest: &Dest) -> bool {
        self.0.endpoints().contains(dest)
    }
    fn is_workload(&self, addr: &Addr) -> bool {
        self.0.workloads.contains(addr)
    }
    fn egress(&self, policy: u32, dest: &Dest) -> Option<u32> {
        // The longest range; of equals, the proxy.
        let longest = |mine: bool| {
            let rules = self.1.iter().filter(|rule| rule.namespaces.is_empty() != mine);
            let rules = rules.filter(|rule| !mine || rule.namespaces.iter().any(|name| policy::of(name) == policy));
            let here = rules.filter_map(|rule| Some((in_ranges(rule, dest)?, *rule.ports.get(&(dest.proto, dest.port))?)));
            here.max()
        };
        // An address of its own, by whomever, before ranges; of two that are left, the proxy.
        let all = [longest(true), longest(false)];
        let whole = if dest.addr.to_v4().is_some() { 32 } else { 128 };
        let exact = all.iter().flatten().filter(|(bits, _)| *bits == whole).map(|(_, way)| *way).max();
        exact.or_else(|| all.iter().flatten().map(|(_, way)| *way).max())
    }
}

/// Who makes a call.
#[derive(Clone, Copy, Debug)]
enum Who {
    Pod,
    Proxy,
    Stranger,
}

fn v4(rng: &mut StdRng) -> Addr {
    let known = [
        [11, 0, 0, 1],
        [11, 0, 0, 2],
        [11, 255, 255, 255],
        [10, 255, 255, 255],
        [12, 0, 0, 0],
        [9, 0, 1, 1],
        [9, 0, 1, 2],
        [9, 0, 2, 7],
        [192, 0, 2, 11],
        [192, 0, 2, 12],
        [127, 0, 0, 1],
        [127, 0, 0, 11],
        [127, 200, 0, 1],
        [0, 0, 0, 0],
        [203, 0, 113, 5],
        [8, 8, 8, 8],
    ];
    Addr::v4(*known.choose(rng).expect("not empty"))
}

fn v6(rng: &mut StdRng) -> Addr {
    let known = ["::1", "::", "fd01:9::1", "fd01:9::2", "fd01:c::1", "fd01:c::2", "2001:db8::5"];
    let text = known.choose(rng).expect("not empty");
    Addr(text.parse::<std::net::Ipv6Addr>().expect("an address").octets())
}

fn any_addr(rng: &mut StdRng) -> Addr {
    if rng.random_ratio(3, 4) { v4(rng) } else { v6(rng) }
}

fn any_dest(rng: &mut StdRng) -> Dest {
    let port = *[53u16, 80, 81, 5051, 9080, 15001, 15053, 32443].choose(rng).expect("not empty");
    Dest { addr: any_addr(rng), port, proto: if rng.random_ratio(2, 3) { TCP } else { UDP }, pad: 0 }
}

fn world(rng: &mut StdRng) -> Desired {
    let mut services = BTreeMap::new();
    for _ in 0..rng.random_range(0..12) {
        let dest = any_dest(rng);
        let six = dest.addr.to_v4().is_none();
        let mode = *[mode::DIRECT, mode::KERNEL, mode::PROXY, 9].choose(rng).expect("not empty");
        let addr = if six { "fd01:9::1" } else { "9.0.1.1" }.parse().map(addr).expect("an address");
        let backends = (0..rng.random_range(0..4)).map(|i| (Dest { addr, port: 7000 + i, ..dest }, rng.random_range(1..4)));
        let backends = backends.collect();
        let choice = *[choice::LEAST, choice::RANDOM, choice::SOURCE].choose(rng).expect("not empty");
        services.insert(dest, Port { mode, choice, scoped: rng.random_ratio(1, 3), backends });
    }
    let bits = *[0u8, 1, 8, 24, 32, 33].choose(rng).expect("not empty");
    let bits6 = *[0u8, 1, 16, 64, 65, 127, 128, 129].choose(rng).expect("not empty");
    let egress = *[egress::DENY, egress::ALLOW].choose(rng).expect("not empty");
    Desired {
        config: Config { vip4_bits: bits, vip6_bits: bits6, egress, ..common::config() },
        services,
        workloads: (0..rng.random_range(0..5)).map(|_| any_addr(rng)).collect(),
        protected: (0..rng.random_range(0..5)).map(|_| any_dest(rng)).collect(),
        draining: BTreeSet::new(),
    }
}

/// Ranges of every width, overlapping, and single addresses.
fn rules(rng: &mut StdRng) -> Vec<Rule> {
    let rule = |rng: &mut StdRng| {
        let base = ip(any_addr(rng));
        let bits = match base {
            IpAddr::V4(_) => *[0u8, 8, 30, 31, 32].choose(rng).expect("not empty"),
            IpAddr::V6(_) => *[0u8, 16, 64, 127, 128].choose(rng).expect("not empty"),
        };
        let port = |rng: &mut StdRng| {
            let dest = any_dest(rng);
            let way = if dest.proto == TCP && rng.random_ratio(1, 2) { way::PROXY } else { way::PASS };
            ((dest.proto, dest.port), way)
        };
        let ports = (0..rng.random_range(1..4)).map(|_| port(rng)).collect();
        let some: [&[&str]; 4] = [&[], &[common::MINE], &[common::OTHER], &[common::OTHER, common::MINE]];
        let namespaces = some.choose(rng).expect("not empty").iter().map(|name| (*name).to_owned()).collect();
        Rule { ranges: [mesh_agent::core::egress::range(base, bits)].into(), ports, namespaces, ..Rule::default() }
    };
    (0..rng.random_range(0..6)).map(|_| rule(rng)).collect()
}

/// What the kernel is expected to count, and the errno that the caller gets: the shell around the decision, in a few lines.
fn expected(verdict: Verdict, dest: &Dest) -> (u8, Option<i32>) {
    let deny = |reason: Reason| (reason.code(), Some(reason.errno()));
    match verdict {
        Verdict::Pass(why) => (why.code(), None),
        Verdict::Dns if dest.addr.to_v4().is_none() => deny(Reason::Ipv6Dns),
        Verdict::Dns => (Steered::Dns.code(), None),
        Verdict::Proxy => (Steered::Proxy.code(), None),
        Verdict::Backend(_) => (Steered::Backend.code(), None),
        Verdict::Deny(reason) => deny(reason),
    }
}

fn socket(dest: &Dest) -> Socket {
    let domain = if dest.addr.to_v4().is_some() { Domain::IPV4 } else { Domain::IPV6 };
    let kind = if dest.proto == TCP { Type::STREAM } else { Type::DGRAM };
    Socket::new(domain, kind.nonblocking(), None).expect("a socket")
}

/// connect() or, for half of UDP, sendto(). Only an errno of the hook's own choice counts: what comes after it is the network's.
fn call(socket: &Socket, dest: &Dest, datagram: bool) -> Option<i32> {
    let to = SockAddr::from(SocketAddr::new(ip(dest.addr), dest.port));
    let result = if datagram { socket.send_to(b"?", &to).map(drop) } else { socket.connect(&to) };
    result.err().and_then(|error| error.raw_os_error())
}

fn seed() -> u64 {
    let seed = std::env::var("MESH_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    eprintln!("MESH_SEED={seed}");
    seed
}

/// A million flows by the program that only answers: the same function over the same tables, without sockets.
#[test]
fn the_kernels_verdict_is_the_models_over_a_million_flows() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mesh = Mesh::new();
    let judge = mesh.kernel.judge().unwrap_or_else(|error| panic!("{error}"));
    let mut met = [0u32; 256];
    for _ in 0..MILLION_WORLDS {
        let tables = world(&mut rng);
        let rules = rules(&mut rng);
        mesh.write(&tables);
        mesh.allow(&rules);
        let known: Vec<Dest> = tables.services.keys().chain(&tables.protected).copied().collect();
        for _ in 0..1_000_000 / MILLION_WORLDS {
            let dest = match known.choose(&mut rng) {
                Some(dest) if rng.random_ratio(1, 2) => *dest,
                _ => any_dest(&mut rng),
            };
            let (enrolled, brokered) = (rng.random_ratio(3, 4), rng.random_ratio(1, 4));
            let pod = enrolled.then_some(&mesh.pod);
            let verdict = l4::decide(&Flow { dest, pod, brokered }, &tables.config, &Plain(&tables, &rules));
            let question = Question { dest, pod: mesh.pod, enrolled: enrolled.into(), brokered: brokered.into(), pad: [0; 2] };
            let said = judge.ask(&question).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(said, u32::from(verdict.code()), "MESH_SEED={seed} {question:?}: {verdict:?}");
            met[said as usize] += 1;
        }
    }
    for code in [1, 2, 3, 4, 5, 9, 32, 33, 34, 35, 36, 37, 38, 39, 64, 65, 66] {
        assert!(met[code] > 100, "MESH_SEED={seed}: code {code} was met {} times", met[code]);
    }
}

#[test]
fn the_kernel_agrees_with_the_model() {
    let seed = seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mesh = Mesh::new();
    let stranger = common::Pair::new();
    let mut met: BTreeMap<u8, usize> = BTreeMap::new();
    for _ in 0..WORLDS {
        let tables = world(&mut rng);
        let rules = rules(&mut rng);
        mesh.write(&tables);
        mesh.allow(&rules);
        let known: Vec<Dest> = tables.services.keys().chain(&tables.protected).copied().collect();
        let mut flow = || {
            let dest = match known.choose(&mut rng) {
                Some(dest) if rng.random_ratio(1, 2) => *dest,
                _ => any_dest(&mut rng),
            };
            let who = *[Who::Pod, Who::Pod, Who::Pod, Who::Proxy, Who::Stranger].choose(&mut rng).expect("not empty");
            (who, dest, dest.proto == UDP && rng.random_ratio(1, 2))
        };
        let flows: Vec<(Who, Dest, bool)> = (0..FLOWS).map(|_| flow()).collect();
        // One visit of each namespace for all of them: that is what takes time.
        let sockets = |of: &Ns, stranger: bool| {
            let ours = |(who, dest, _): &(Who, Dest, bool)| (matches!(who, Who::Stranger) == stranger).then(|| socket(dest));
            of.run(|| flows.iter().map(ours).collect::<Vec<_>>())
        };
        let sockets = sockets(&mesh.pair.pod, false).into_iter().zip(sockets(&stranger.pod, true));
        let sockets = sockets.map(|(pod, stranger)| pod.or(stranger).expect("one of the two"));
        for ((who, dest, datagram), socket) in flows.iter().copied().zip(sockets) {
            let socket = if matches!(who, Who::Proxy) {
                let fd = OwnedFd::from(socket);
                mesh.kernel.maps().tag(&fd, mesh.pod.slot).expect("tagged");
                Socket::from(fd)
            } else {
                socket
            };
            let pod = (!matches!(who, Who::Stranger)).then_some(&mesh.pod);
            let flow = Flow { dest, pod, brokered: matches!(who, Who::Proxy) };
            let verdict = l4::decide(&flow, &tables.config, &Plain(&tables, &rules));
            let (code, errno) = expected(verdict, &dest);

            let (got, counted) = mesh.counted(|| call(&socket, &dest, datagram));
            let what = format!(
                "MESH_SEED={seed} {who:?} {}:{} proto {} datagram {datagram}: {verdict:?}",
                ip(dest.addr),
                dest.port,
                dest.proto
            );
            assert_eq!(counted, [(code, 1)], "{what}");
            match errno {
                Some(errno) => assert_eq!(got, Some(errno), "{what}"),
                // Whatever the network answers at once (in these namespaces: nothing listens), it is not the hook's refusal.
                None => assert_ne!(got, Some(libc::EPERM), "{what}"),
            }
            *met.entry(code).or_default() += 1;
        }
    }
    let met_codes: Vec<u8> = met.keys().copied().collect();
    for code in [1, 2, 3, 4, 5, 9, 10, 32, 33, 34, 35, 36, 37, 38, 39, 64, 65, 66] {
        assert!(met_codes.contains(&code), "MESH_SEED={seed}: code {code} was never met: {met:?}");
    }
    println!("{} flows, by code: {met:?}", met.values().sum::<usize>());
}
