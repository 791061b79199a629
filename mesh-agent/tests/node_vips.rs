//! VIPs for whoever lives on the node, by real connects through the loaded programs: who gets them, which backend is chosen, and what becomes
//! of flows when backends go.

mod common;

use common::{Mesh, Ns, Pair, at, port, tcp, udp};
use mesh_agent::balance::{Balance, sweep};
use mesh_agent::core::desired::{Desired, Port};
use mesh_agent::core::reconcile::{Op, reconcile};
use mesh_common::abi::{Backend, BackendKey, Dest, Endpoint, Service, choice, maps, mode};
use mesh_common::decide::l4::{TCP, UDP};
use mesh_common::reason::Reason;
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

const V4: &str = "11.1.2.3:80";
const V6: &str = "[fd01:c::3]:80";
const MAPPED: &str = "[::ffff:11.1.2.3]:80";

/// Serves TCP and UDP at an address, with its name for an answer.
fn serve(ns: &Ns, address: &'static str) {
    let (stream, datagram) =
        ns.run(|| (TcpListener::bind(at(address)).expect("bound"), UdpSocket::bind(at(address)).expect("bound")));
    common::answer(stream, address);
    std::thread::spawn(move || {
        let mut buffer = [0; 8];
        while let Ok((_, from)) = datagram.recv_from(&mut buffer) {
            let _ = datagram.send_to(address.as_bytes(), from);
        }
    });
}

fn is_v6(to: SocketAddr) -> bool {
    to.is_ipv6()
}

fn datagrams(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(if is_v6(to) { "[::]:0" } else { "0.0.0.0:0" }).expect("bound");
    socket.set_read_timeout(Some(Duration::from_secs(3))).expect("set");
    socket
}

/// Who has answered, after the caller has seen only the VIP.
fn exchange(kind: &str, vip: &str) -> io::Result<String> {
    let to = at(vip);
    let mut buffer = [0; 64];
    let (length, from) = match kind {
        "TCP" => {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            assert_eq!(stream.peer_addr()?, to);
            return Ok(text.split(' ').next().unwrap_or_default().to_owned());
        }
        "UDP connected" => {
            let socket = datagrams(to);
            socket.connect(to)?;
            assert_eq!(socket.peer_addr()?, to);
            socket.send(b"?")?;
            socket.recv_from(&mut buffer)?
        }
        _ => {
            let socket = datagrams(to);
            socket.send_to(b"?", to)?;
            socket.recv_from(&mut buffer)?
        }
    };
    assert_eq!(from, to, "{kind}");
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
fn every_process_of_the_node_has_vips_of_both_families() {
    let mesh = Mesh::new();
    let world = &mesh.pair.world;
    for address in ["9.0.1.1:8080", "[fd01:9::1]:8080", "9.0.1.1:8081"] {
        serve(world, address);
    }
    serve(&mesh.pair.pod, "9.0.1.2:8090");
    let kernel = |dest: Dest, backend| (dest, mode::KERNEL, backend);
    mesh.fill(
        &[
            kernel(tcp(V4), &["9.0.1.1:8080"][..]),
            kernel(udp(V4), &["9.0.1.1:8080"]),
            kernel(tcp(V6), &["[fd01:9::1]:8080"]),
            kernel(udp(V6), &["[fd01:9::1]:8080"]),
            // A second port of this VIP, a second VIP of that port, and a pod's own.
            kernel(tcp("11.1.2.3:81"), &["9.0.1.1:8081"]),
            kernel(tcp("11.7.7.7:80"), &["9.0.1.1:8080"]),
            kernel(tcp("11.5.5.5:80"), &["9.0.1.2:8090"]),
        ],
        &["9.0.1.1", "9.0.1.2"],
        &[],
    );
    // Beside the pod: a container that is not in the mesh, in a namespace of its own, and a process of the node, which has the backend's.
    let container = Pair::new();
    for address in ["9.0.1.1:8080", "[fd01:9::1]:8080"] {
        serve(&container.world, address);
    }
    println!("{:24} {:16} {:22} answered by", "who", "how", "VIP");
    for (who, ns) in [("a pod", &mesh.pair.pod), ("a container", &container.pod), ("the node", world)] {
        for vip in [V4, MAPPED, V6] {
            for kind in ["TCP", "UDP connected", "UDP"] {
                let by = ns.run(|| exchange(kind, vip)).unwrap_or_else(|error| panic!("{who} {kind} {vip}: {error}"));
                println!("{who:24} {kind:16} {vip:22} {by}");
                assert_eq!(by, if vip == V6 { "[fd01:9::1]:8080" } else { "9.0.1.1:8080" });
            }
        }
    }
    for (vip, wanted) in [("11.1.2.3:81", "9.0.1.1:8081"), ("11.7.7.7:80", "9.0.1.1:8080"), ("11.5.5.5:80", "9.0.1.2:8090")] {
        assert_eq!(mesh.pair.pod.run(|| exchange("TCP", vip)).expect(vip), wanted);
    }
    for ns in [&mesh.pair.pod, &container.pod] {
        let error = ns.run(|| exchange("TCP", "[fd01:c::9]:80")).expect_err("nobody's");
        assert_eq!(error.raw_os_error(), Some(Reason::UnknownVip.errno()), "an unknown VIP of IPv6 is one as well");
    }
}

fn connect(to: &SockAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("made");
    socket.connect(to).expect("connects");
    socket
}

/// A desired world of one VIP.
fn one(choice: u8, weights: &[(&str, u32)]) -> Desired {
    let backends = weights.iter().filter(|(_, weight)| *weight > 0).map(|(to, weight)| (tcp(to), *weight)).collect();
    let draining = weights.iter().filter(|(_, weight)| *weight == 0).map(|(to, _)| tcp(to)).collect();
    let services = [(tcp(V4), Port { mode: mode::KERNEL, choice, backends, ..Port::default() })].into();
    Desired { config: common::config(), services, workloads: [tcp("9.0.1.1:1").addr].into(), draining, ..Desired::default() }
}

fn active(mesh: &Mesh, to: &str) -> i64 {
    let maps = mesh.kernel.maps();
    let endpoints = maps.read().expect("readable").endpoints;
    maps.active(endpoints[&tcp(to)])
}

const A: &str = "9.0.1.1:7001";
const B: &str = "9.0.1.1:7002";
const C: &str = "9.0.1.1:7003";

/// Listeners that keep what they accept.
fn accept(mesh: &Mesh, addresses: &[&str]) {
    for address in addresses {
        let listener = mesh.pair.world.run(|| TcpListener::bind(at(address)).expect("bound"));
        std::thread::spawn(move || {
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept() {
                open.push(stream);
            }
        });
    }
}

#[test]
fn weights_come_out_over_20_000_connects_and_every_count_ends_at_zero() {
    let mesh = Mesh::new();
    const EACH: u32 = 10_000;
    for choice in [choice::LEAST, choice::RANDOM] {
        mesh.write(&one(choice, &[(A, 1), (B, 3)]));
        let maps = mesh.kernel.maps();
        let endpoints = maps.read().expect("readable").endpoints;
        let count = |to: &str| maps.active(endpoints[&tcp(to)]);
        let mut chosen = [0u32; 2];
        mesh.pair.pod.run(|| {
            let to = SockAddr::from(at(V4));
            for _ in 0..EACH {
                // Nobody listens, which is none of the choice's business: it was made when connect() returns, and counts until the close.
                let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("made");
                let errno = socket.connect(&to).expect_err("in progress").raw_os_error();
                assert_eq!(errno, Some(libc::EINPROGRESS));
                let now = [count(A), count(B)];
                assert_eq!(now[0] + now[1], 1);
                chosen[usize::from(now[1] == 1)] += 1;
            }
        });
        let share = f64::from(chosen[1]) / f64::from(EACH);
        println!("weights 1:3, choice {choice}: the heavier has {:.2} %", share * 100.0);
        assert!((0.7275..=0.7725).contains(&share), "choice {choice}: {share}");
        assert_eq!((count(A), count(B)), (0, 0));
    }
}

#[test]
fn least_connections_are_counted_drained_and_corrected() {
    let mesh = Mesh::new();
    accept(&mesh, &[A, B, C]);
    mesh.write(&one(choice::LEAST, &[(A, 1), (B, 1)]));
    let pod = &mesh.pair.pod;
    let to = SockAddr::from(at(V4));
    let mut held: Vec<Socket> = pod.run(|| (0..200).map(|_| connect(&to)).collect());
    assert_eq!(active(&mesh, A) + active(&mesh, B), 200);
    assert!(active(&mesh, A).abs_diff(active(&mesh, B)) <= 8, "{} and {}", active(&mesh, A), active(&mesh, B));
    // A new one takes nearly all until it has as many.
    mesh.write(&one(choice::LEAST, &[(A, 1), (B, 1), (C, 1)]));
    held.extend(pod.run(|| (0..100).map(|_| connect(&to)).collect::<Vec<_>>()));
    assert!(active(&mesh, C) >= 45, "{}", active(&mesh, C));
    // Weight 0: what it has stays, nothing new comes.
    let drained = active(&mesh, A);
    mesh.write(&one(choice::LEAST, &[(A, 0), (B, 1), (C, 1)]));
    held.extend(pod.run(|| (0..50).map(|_| connect(&to)).collect::<Vec<_>>()));
    assert_eq!(active(&mesh, A), drained);
    assert!(held.iter().all(|socket| socket.take_error().expect("asked").is_none()));

    // The kernel's list of sockets says the same; a count that is wrong is put right at the second look.
    let namespaces = [pod.handle.clone()];
    let mut balance = Balance::default();
    let look = |balance: &mut Balance| balance.look(&mesh.kernel, &namespaces).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((look(&mut balance), look(&mut balance)), (0, 0));
    let endpoint = mesh.kernel.maps().read().expect("readable").endpoints[&tcp(B)];
    mesh.kernel.maps().correct(endpoint, -7);
    assert_eq!((look(&mut balance), look(&mut balance), look(&mut balance)), (0, 7, 0));

    drop(held);
    assert_eq!([A, B, C].map(|to| active(&mesh, to)), [0; 3]);
    mesh.write(&one(choice::LEAST, &[(A, 0), (B, 0), (C, 0)]));
    let error = pod.run(|| exchange("TCP", V4)).expect_err("none takes connections");
    assert_eq!(error.raw_os_error(), Some(Reason::NoBackend.errno()));
}

#[test]
fn one_source_stays_with_one_backend() {
    let mesh = Mesh::new();
    accept(&mesh, &[A, B, C]);
    mesh.write(&one(choice::SOURCE, &[(A, 1), (B, 1), (C, 1)]));
    let to = SockAddr::from(at(V4));
    let held: Vec<Socket> = mesh.pair.pod.run(|| (0..30).map(|_| connect(&to)).collect());
    let mut met = [A, B, C].map(|to| active(&mesh, to));
    met.sort_unstable();
    assert_eq!(met, [0, 0, 30]);
    drop(held);
}

#[test]
fn datagrams_go_on_elsewhere_when_their_backend_is_gone() {
    let mesh = Mesh::new();
    for address in [A, B] {
        serve(&mesh.pair.world, address);
    }
    let fill = |backends: &[&str]| mesh.fill(&[(udp(V4), mode::KERNEL, backends)], &[], &[]);
    fill(&[A]);
    mesh.pair.pod.run(|| {
        let (free, bound) = (datagrams(at(V4)), datagrams(at(V4)));
        bound.connect(at(V4)).expect("connects");
        // Dialled by its own address: none of a VIP's business.
        let plain = datagrams(at(A));
        mesh.fill(&[(udp(V4), mode::KERNEL, &[A])], &["9.0.1.1"], &[]);
        plain.connect(at(A)).expect("connects");
        let mut buffer = [0; 64];
        let mut ask = |socket: &UdpSocket, to: Option<&str>| -> io::Result<String> {
            match to {
                Some(to) => socket.send_to(b"?", at(to))?,
                None => socket.send(b"?")?,
            };
            let length = socket.recv(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        assert_eq!([ask(&free, Some(V4)).expect("served"), ask(&bound, None).expect("served")], [A, A]);
        // Another one comes, and the flow stays; the first goes, and it moves.
        mesh.fill(&[(udp(V4), mode::KERNEL, &[A, B])], &["9.0.1.1"], &[]);
        for _ in 0..10 {
            assert_eq!(ask(&free, Some(V4)).expect("served"), A);
        }
        mesh.fill(&[(udp(V4), mode::KERNEL, &[B])], &["9.0.1.1"], &[]);
        assert_eq!(ask(&free, Some(V4)).expect("served"), B);
        let namespaces = [mesh.pair.pod.handle.clone()];
        assert_eq!(sweep(&mesh.kernel, &namespaces).unwrap_or_else(|error| panic!("{error}")), 1);
        assert_eq!(ask(&plain, None).expect("served"), A);
        let heard = bound.recv(&mut [0; 8]).expect_err("its owner hears of it, also where it waits for an answer");
        assert_eq!(heard.raw_os_error(), Some(libc::ECONNABORTED), "{heard}");
        assert_eq!(bound.send(b"?").expect_err("not connected").raw_os_error(), Some(libc::EDESTADDRREQ));
        bound.connect(at(V4)).expect("connects again");
        assert_eq!(ask(&bound, None).expect("served"), B);
        assert_eq!(sweep(&mesh.kernel, &namespaces).unwrap_or_else(|error| panic!("{error}")), 0);
    });
}

/// 10,000 services with 50,000 backends of their own.
#[test]
fn a_mesh_of_50_000_backends_fits_and_a_change_of_one_is_a_few_writes() {
    let mesh = Mesh::new();
    serve(&mesh.pair.world, "9.0.1.1:8080");
    let at =
        |base: u32, n: u32| Dest { addr: mesh_common::abi::Addr::v4((base + n).to_be_bytes()), port: 80, proto: TCP, pad: 0 };
    let backends = |n: u32| (n * 5..n * 5 + 5).map(|n| (at(0x0964_0000, n), 1)).collect();
    let port = |n: u32| Port { mode: mode::KERNEL, backends: backends(n), ..Port::default() };
    let mut desired = one(choice::LEAST, &[("9.0.1.1:8080", 1)]);
    mesh.write(&desired);
    let alone = median_connect(&mesh);
    desired.services.extend((0..10_000).map(|n| (at(0x0b64_0000, n), port(n))));
    mesh.write(&desired);
    let actual = mesh.kernel.maps().read().expect("readable");
    assert_eq!((actual.services.len(), actual.backends.len(), actual.endpoints.len()), (10_001, 50_001, 50_001));
    assert_eq!(mesh.pair.pod.run(|| exchange("TCP", V4)).expect("served"), "9.0.1.1:8080");
    println!("connect() to a VIP: {alone:?} among none, {:?} among 10,000", median_connect(&mesh));

    let one_of_many = &mut desired.services.get_mut(&at(0x0b64_0000, 5000)).expect("there").backends;
    one_of_many.remove(&at(0x0964_0000, 25_002));
    one_of_many.insert(at(0x0964_0000, 70_000), 1);
    let ops = reconcile(&desired, &actual);
    assert!((1..=4).contains(&ops.len()), "{ops:?}");
    mesh.kernel.maps().write(&ops).expect("written");
    assert_eq!(reconcile(&desired, &mesh.kernel.maps().read().expect("readable")), []);
}

/// For the log only: what it is worth depends on what else the machine does.
fn median_connect(mesh: &Mesh) -> Duration {
    mesh.pair.pod.run(|| {
        let to = SockAddr::from(at(V4));
        let mut took: Vec<Duration> = (0..1000)
            .map(|_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).expect("made");
                let start = std::time::Instant::now();
                let _ = socket.connect(&to);
                start.elapsed()
            })
            .collect();
        took.sort_unstable();
        took[500]
    })
}

/// As if somebody else had filled the tables: the next entry is refused with the table's name, and what is there works.
#[test]
fn each_full_table_of_services_refuses_by_name() {
    let mesh = Mesh::new();
    serve(&mesh.pair.world, "9.0.1.1:8080");
    mesh.write(&Desired { services: [(tcp(V4), port(mode::KERNEL, TCP, &["9.0.1.1:8080"]))].into(), ..one(choice::LEAST, &[]) });
    let vip = |n: u32| Dest { addr: mesh_common::abi::Addr::v4((0x0c00_0000 + n).to_be_bytes()), port: 1, proto: UDP, pad: 0 };
    let service = |n: u32| Op::SetService(vip(n), Service { id: u32::MAX, mode: mode::KERNEL, ..Service::default() });
    let backend = |n: u32| Op::SetBackend(BackendKey { service: u32::MAX, index: n }, Backend::default());
    let endpoint = |n: u32| Op::Claim(vip(n), Endpoint { cell: 2, stamp: 7 });
    type Entry<'a> = &'a dyn Fn(u32) -> Op;
    let tables: [(&str, u32, Entry<'_>); 3] = [
        (maps::SERVICES, maps::SERVICES_MAX, &service),
        (maps::BACKENDS, maps::BACKENDS_MAX, &backend),
        (maps::ENDPOINTS, maps::ENDPOINTS_MAX, &endpoint),
    ];
    for (name, capacity, op) in tables {
        let ops: Vec<Op> = (0..capacity - 1).map(op).collect();
        mesh.kernel.maps().write(&ops).unwrap_or_else(|error| panic!("{name} takes all that it should: {error}"));
        let error = mesh.kernel.maps().write(&[op(capacity)]).expect_err("full").to_string();
        assert!(error.starts_with(&format!("eBPF map {name}: ")), "{error}");
        assert_eq!(mesh.pair.pod.run(|| exchange("TCP", V4)).expect("what is there works"), "9.0.1.1:8080", "{name}");
    }
    let error = mesh.pair.pod.run(|| exchange("TCP", "11.9.9.9:80")).expect_err("what did not fit is refused");
    assert_eq!(error.raw_os_error(), Some(Reason::UnknownVip.errno()));
}
