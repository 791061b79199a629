//! Connections from outside a pod to a port that the proxy takes: who accepts them, whom the application sees, and what is left alone.

mod common;

use common::scene::{PROXY_UID, Scene, wait};
use common::{Mesh, answer, ask, at, ip};
use mesh_agent::core::resources::Workload;
use mesh_agent::netns::Inbound;
use mesh_agent::netns::sockets::unconnected;
use mesh_agent::{inbound, pod};
use mesh_common::broker::{Family, Listener, Role};
use mesh_xds::agent as wire;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{SockAddr, Socket};
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::Duration;

const PORT: u16 = 9080;
/// The port of the same pod that nobody asks to be captured.
const OTHER: u16 = 9081;

/// What the proxy is told of the pod.
fn workload() -> Workload {
    Workload { addresses: vec![ip("9.0.1.2"), ip("fd01:9::2")], inbound: BTreeSet::from([PORT]), ..Workload::default() }
}

fn look(mesh: &Mesh) {
    inbound::look(&mesh.kernel, mesh.pod.slot, &workload(), &mesh.pair.pod.handle).expect("looks");
}

fn captured() -> (Mesh, Inbound) {
    let mesh = Mesh::new();
    let opened = pod::capture(&mesh.kernel, &mesh.pod, &workload().inbound, &mesh.pair.pod.handle).expect("captures");
    look(&mesh);
    (mesh, opened)
}

/// An application in the pod.
fn serve(mesh: &Mesh, at: &str, name: &str) -> SocketAddr {
    let listener = mesh.pair.pod.run(|| TcpListener::bind(at).unwrap_or_else(|error| panic!("{at}: {error}")));
    let local = listener.local_addr().expect("bound");
    answer(listener, name);
    local
}

fn listener(socket: &Option<OwnedFd>) -> TcpListener {
    let listener = TcpListener::from(socket.as_ref().expect("open").try_clone().expect("duplicates"));
    listener.set_nonblocking(false).expect("blocking");
    listener
}

/// Dials as the proxy does: on a socket of the broker's, bound to the client's address.
fn dial(mesh: &Mesh, from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let socket = mesh.pair.pod.run(|| unconnected(family, 1)).expect("made").remove(0);
    mesh.kernel.maps().tag(&socket, mesh.pod.slot).expect("tagged");
    let socket = Socket::from(socket);
    socket.set_nonblocking(false)?;
    setsockopt(&socket, IpBindAddressNoPort, &true)?;
    socket.bind(&SockAddr::from(from))?;
    socket.connect(&SockAddr::from(to))?;
    Ok(socket.into())
}

/// The proxy, for one connection: what it sees, and what the application says when it is dialled as the client.
fn proxy_once(mesh: &Mesh, listener: &TcpListener) -> (SocketAddr, SocketAddr, String) {
    let (client, peer) = listener.accept().expect("captured");
    let local = client.local_addr().expect("connected");
    let mut text = String::new();
    let mut upstream = dial(mesh, peer, local).expect("the application listens");
    upstream.read_to_string(&mut text).expect("answered");
    (local, peer, text)
}

#[test]
fn the_proxy_takes_the_port_and_the_application_sees_the_client() {
    let (mesh, opened) = captured();
    // One socket for both families, as most servers have it; the application begins to listen after the ports were captured.
    serve(&mesh, &format!("[::]:{PORT}"), "app");
    serve(&mesh, &format!("0.0.0.0:{OTHER}"), "other");
    for (to, socket) in [("9.0.1.2", &opened.v4), ("fd01:9::2", &opened.v6)] {
        let to = SocketAddr::new(ip(to), PORT);
        let listener = listener(socket);
        // Twice: what the first connection left behind must not be shown to the second.
        for _ in 0..2 {
            let client = mesh.pair.world.run(|| TcpStream::connect(to).expect("accepted"));
            let (local, peer, text) = proxy_once(&mesh, &listener);
            let own = client.local_addr().expect("connected");
            assert_eq!((local, peer), (to, own), "the proxy sees who asked for what");
            let (shown, wanted) = (text.rsplit_once(' ').expect("three words").1, own);
            let shown: SocketAddr = shown.parse().expect("an address");
            assert_eq!(
                (shown.ip().to_canonical(), shown.port()),
                (wanted.ip(), wanted.port()),
                "accept() shows the client: {text}"
            );
            drop(client);
        }
    }
    let (text, local, _) = mesh.pair.world.run(|| ask(SocketAddr::new(ip("9.0.1.2"), OTHER))).expect("untouched");
    assert_eq!(text, format!("other 9.0.1.2:{OTHER} {local}"));
}

#[test]
fn an_ipv4_socket_shows_the_client_by_getpeername_for_as_long_as_it_lives() {
    let (mesh, opened) = captured();
    let app = mesh.pair.pod.run(|| TcpListener::bind(("0.0.0.0", PORT)).expect("bound"));
    let proxy = listener(&opened.v4);
    let client = mesh.pair.world.run(|| TcpStream::connect(("9.0.1.2", PORT)).expect("accepted"));
    let (_taken, peer) = proxy.accept().expect("captured");
    let _upstream = dial(&mesh, peer, SocketAddr::new(ip("9.0.1.2"), PORT)).expect("listens");
    let (accepted, seen) = app.accept().expect("dialled");
    let own = client.local_addr().expect("connected");
    assert_eq!((seen, accepted.peer_addr().expect("connected"), peer), (own, own, own));
    assert_eq!(accepted.local_addr().expect("connected"), SocketAddr::new(ip("9.0.1.2"), PORT));
    // A socket that nobody made in another's name shows its own address.
    let plain = mesh.pair.pod.run(|| TcpStream::connect(("9.0.1.2", PORT)).expect("its own address is the pod's business"));
    assert_eq!(app.accept().expect("dialled").1, plain.local_addr().expect("connected"));
}

#[test]
fn what_the_pod_and_its_node_ask_is_left_alone() {
    let (mesh, _opened) = captured();
    serve(&mesh, &format!("0.0.0.0:{PORT}"), "app");
    // The executor's health checks come from inside the pod.
    for own in ["9.0.1.2", "127.0.0.1"] {
        let (text, ..) = mesh.ask(&format!("{own}:{PORT}")).unwrap_or_else(|error| panic!("{own}: {error}"));
        assert!(text.starts_with("app "), "{text}");
    }
    // The node's own come from its address, which `common::config` says is this one.
    mesh.pair.world.ip(&["addr", "add", "192.0.2.11/32", "dev", "lo"]);
    let text = mesh.pair.world.run(|| {
        let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("made");
        socket.bind(&SockAddr::from(at("192.0.2.11:0"))).expect("bound");
        socket.connect(&SockAddr::from(SocketAddr::new(ip("9.0.1.2"), PORT))).expect("passes");
        let (mut stream, mut text) = (TcpStream::from(socket), String::new());
        stream.set_read_timeout(Some(Duration::from_secs(3))).expect("set");
        stream.read_to_string(&mut text).expect("answered");
        text
    });
    assert!(text.starts_with("app ") && text.contains(" 192.0.2.11:"), "{text}");
}

#[test]
fn where_nobody_listens_the_client_is_refused_as_without_the_mesh() {
    let (mesh, opened) = captured();
    let to = SocketAddr::new(ip("9.0.1.2"), PORT);
    let refused = || mesh.pair.world.run(|| TcpStream::connect(to)).expect_err("nobody listens").kind();
    assert_eq!(refused(), io::ErrorKind::ConnectionRefused);
    // From listen() on it is captured, without anybody having looked.
    let app = mesh.pair.pod.run(|| TcpListener::bind(("0.0.0.0", PORT)).expect("bound"));
    let proxy = listener(&opened.v4);
    let first = mesh.pair.world.run(|| TcpStream::connect(to).expect("accepted"));
    assert_eq!(proxy.accept().expect("by the proxy").1, first.local_addr().expect("connected"));
    look(&mesh);
    let second = mesh.pair.world.run(|| TcpStream::connect(to).expect("accepted"));
    assert_eq!(proxy.accept().expect("by the proxy").1, second.local_addr().expect("connected"));
    // It ends: the next look finds nobody.
    drop(app);
    look(&mesh);
    assert_eq!(refused(), io::ErrorKind::ConnectionRefused);
    // A note of before the application listened does not hold any more: here it is written late.
    let stale = mesh.kernel.maps().listens(mesh.pod.slot, &workload().inbound).expect("counted")[0].1;
    let _app = mesh.pair.pod.run(|| TcpListener::bind(("0.0.0.0", PORT)).expect("bound"));
    mesh.kernel.maps().hear(mesh.pod.slot, PORT, Some(stale)).expect("noted");
    let third = mesh.pair.world.run(|| TcpStream::connect(to).expect("accepted"));
    assert_eq!(proxy.accept().expect("by the proxy").1, third.local_addr().expect("connected"));
}

#[test]
fn without_its_listener_a_captured_port_lets_nobody_in_and_released_it_lets_everybody() {
    let (mesh, opened) = captured();
    serve(&mesh, &format!("0.0.0.0:{PORT}"), "app");
    drop(opened);
    let to = SocketAddr::new(ip("9.0.1.2"), PORT);
    let error = mesh.pair.world.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(3))).expect_err("closed");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    pod::capture(&mesh.kernel, &mesh.pod, &BTreeSet::new(), &mesh.pair.pod.handle).expect("releases");
    assert!(mesh.pair.world.run(|| ask(to)).expect("untouched").0.starts_with("app "));
}

#[test]
fn nobody_but_the_broker_binds_as_another() {
    let (mesh, _opened) = captured();
    let error = mesh.pair.pod.run(|| TcpListener::bind("9.0.1.1:0").expect_err("another machine's"));
    assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL));
}

#[test]
fn the_agent_captures_what_it_is_told_and_gives_the_proxy_the_listener() {
    let mut scene = Scene::new();
    scene.run_container("c1");
    let told = wire::Workload { inbound_ports: vec![PORT.into()], ..scene.workload() };
    scene.control.publish("1", &[told], &[]);
    scene.start(&[]);
    scene.wait_ready();
    let proxy = scene.broker(PROXY_UID);
    proxy.hello(Role::Proxy);
    let (_, _, listeners) = proxy.pod();
    let inbound = listeners.into_iter().find(|(which, _)| *which == Listener::InboundV4).map(|(_, socket)| socket);
    let inbound = listener(&inbound);
    // The agent looks by itself who listens.
    let to = SocketAddr::new(ip("9.0.1.2"), PORT);
    let ask = || scene.pair.world.run(|| TcpStream::connect(to));
    wait("the port that nobody serves", || ask().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused));
    let _app = scene.pair.pod.run(|| TcpListener::bind(("0.0.0.0", PORT)).expect("bound"));
    let client = ask().expect("captured");
    let own = client.local_addr().expect("connected");
    // What was accepted before the agent had looked comes first.
    while inbound.accept().expect("captured").1 != own {}
}
