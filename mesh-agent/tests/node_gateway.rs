//! The gateway's sockets: at the node's own ports by the real binary, and what they may dial by the loaded programs.

mod common;

use common::scene::{PROXY_UID, Scene};
use common::{Mesh, answer, ask, at, ip, tcp};
use mesh_agent::core::egress::Rule;
use mesh_agent::netns::sockets::unconnected;
use mesh_common::abi::{GATEWAY_SLOT, mode};
use mesh_common::broker::{Family, Refused, Role, ToAgent, ToProxy};
use mesh_common::decide::l4::TCP;
use nix::sys::signal::Signal::SIGTERM;
use socket2::{SockAddr, Socket};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

/// Dials with a socket of the gateway, made where the node's processes live, and reads the answer.
fn dial(mesh: &Mesh, to: &str) -> io::Result<String> {
    let made = mesh.pair.world.run(|| unconnected(Family::V4, 1)).expect("made").remove(0);
    mesh.kernel.maps().tag(&made, GATEWAY_SLOT).expect("tagged");
    through(made, at(to))
}

fn through(socket: OwnedFd, to: SocketAddr) -> io::Result<String> {
    let socket = Socket::from(socket);
    socket.set_nonblocking(false)?;
    socket.connect(&SockAddr::from(to))?;
    let mut text = String::new();
    TcpStream::from(socket).read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn the_gateway_dials_workloads_and_what_rules_allow_and_a_process_of_the_node_is_left_alone() {
    let mesh = Mesh::new();
    mesh.pair.world.owns(&["203.0.113.5/32", "203.0.113.6/32"]);
    let listen = |ns: &common::Ns, address: &str| ns.run(|| TcpListener::bind(address).expect("bound"));
    for address in ["203.0.113.5:80", "203.0.113.6:80", "127.0.0.1:8080"] {
        answer(listen(&mesh.pair.world, address), "outside");
    }
    answer(listen(&mesh.pair.pod, "9.0.1.2:8080"), "pod");
    mesh.fill(&[(tcp("11.1.2.3:80"), mode::PROXY, &["9.0.1.2:8080"])], &["9.0.1.2"], &[]);
    mesh.allow(&[Rule { ranges: [(ip("203.0.113.6"), 32)].into(), ports: [((TCP, 80), 0)].into(), ..Rule::default() }]);

    assert!(dial(&mesh, "9.0.1.2:8080").expect("a workload").starts_with("pod 9.0.1.2:8080 9.0.1.1:"));
    assert!(dial(&mesh, "11.1.2.3:80").expect("never handed over").starts_with("pod 9.0.1.2:8080 "));
    assert!(dial(&mesh, "203.0.113.6:80").expect("a rule allows it").starts_with("outside "));
    for to in ["203.0.113.5:80", "127.0.0.1:8080"] {
        let error = dial(&mesh, to).expect_err("outside the mesh");
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{to}: {error}");
        // Without the tag it is any process of the node.
        let untagged = mesh.pair.world.run(|| unconnected(Family::V4, 1)).expect("made").remove(0);
        assert!(through(untagged, at(to)).expect("not judged").starts_with("outside "));
    }
    // A tag of the gateway is worth nothing in a pod.
    let foreign = mesh.pair.pod.run(|| unconnected(Family::V4, 1)).expect("made").remove(0);
    mesh.kernel.maps().tag(&foreign, GATEWAY_SLOT).expect("tagged");
    through(foreign, at("203.0.113.6:80")).expect_err("another namespace");
}

#[test]
fn the_agent_opens_the_ports_that_it_may_and_holds_them_while_the_proxy_is_away() {
    let mut scene = Scene::new();
    scene.control.publish("1", &[], &[]);
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let ports = format!("{}-{}", free.port(), free.port());
    scene.start(&["--gateway-ports", &ports]);
    scene.wait_ready();
    let forbidden = SocketAddr::from(([127, 0, 0, 1], 22));
    let listening = |addresses: &[SocketAddr]| {
        let proxy = scene.broker(PROXY_UID);
        proxy.hello(Role::Proxy);
        assert!(matches!(proxy.hear(), Some((ToProxy::Ready, _))));
        proxy.say(&ToAgent::Listen { addresses: addresses.to_vec() });
        match proxy.hear() {
            Some((ToProxy::Listening { slot: GATEWAY_SLOT, addresses, refused }, fds)) => (proxy, addresses, refused, fds),
            other => panic!("{other:?}"),
        }
    };
    let (proxy, addresses, refused, fds) = listening(&[free, forbidden]);
    assert_eq!((addresses, fds.len()), (vec![free], 1));
    let reason = format!("port 22 is not in --gateway-ports {}", free.port());
    assert_eq!(refused, [Refused { address: forbidden, reason }]);
    proxy.say(&ToAgent::Refill { slot: GATEWAY_SLOT, family: Family::V4, count: 4 });
    assert!(matches!(proxy.hear(), Some((ToProxy::Sockets { slot: GATEWAY_SLOT, count: 4, .. }, fds)) if fds.len() == 4));

    // The proxy goes; who connects now waits for the next.
    drop((proxy, fds));
    let waiting = TcpStream::connect(free).expect("the agent holds the port");
    let (proxy, _, _, mut fds) = listening(&[free]);
    let listener = TcpListener::from(fds.remove(0));
    listener.set_nonblocking(false).expect("set");
    assert_eq!(listener.accept().expect("waited").1, waiting.local_addr().expect("an address"));
    answer(listener.try_clone().expect("dup"), "gateway");
    assert!(ask(free).expect("served").0.starts_with("gateway "));

    // An upgrade of the agent: the proxy still listens, and the next agent opens the port beside it.
    assert!(scene.stop(SIGTERM).success());
    assert!(ask(free).expect("served by the proxy").0.starts_with("gateway "));
    drop(proxy);
    scene.start(&["--gateway-ports", &ports]);
    scene.wait_ready();
    let proxy = scene.broker(PROXY_UID);
    proxy.hello(Role::Proxy);
    assert!(matches!(proxy.hear(), Some((ToProxy::Ready, _))));
    proxy.say(&ToAgent::Listen { addresses: vec![free] });
    let Some((ToProxy::Listening { addresses, refused, .. }, _)) = proxy.hear() else { panic!("no answer") };
    assert_eq!((addresses, refused), (vec![free], Vec::new()));
}
