//! A fake agent over a real socket, passing real descriptors.

use super::fake::FakeAgent;
use super::*;
use mesh_common::broker::{BATCH, ToProxy};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

fn pod(slot: u32, id: &str) -> ToProxy {
    ToProxy::Pod { slot, workload: Workload { id: id.to_owned(), ..Workload::default() }, listeners: vec![Listener::OutboundV4] }
}

#[tokio::test]
async fn pods_come_with_working_listeners_and_sockets() {
    let agent = FakeAgent::new();
    let (client, mut events) = start(agent.path.clone(), Role::Proxy);
    let wire = agent.accept().await;
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    wire.send(&pod(4, "a"), &[listener.as_fd()]).await.expect("send");
    wire.send(&ToProxy::Ready, &[]).await.expect("send");

    let Event::PodAdded { slot: 4, workload, listeners } = events.next().await else { panic!("pod first") };
    assert_eq!(workload.id, "a");
    let [(Listener::OutboundV4, fd)] = <[_; 1]>::try_from(listeners).expect("one listener") else { panic!("v4") };
    assert!(rustix::io::fcntl_getfd(&fd).expect("flags").contains(rustix::io::FdFlags::CLOEXEC));
    let received = TcpListener::from(fd);
    assert_eq!(received.local_addr().expect("address"), listener.local_addr().expect("address"));
    drop(listener);
    let connected = TcpStream::connect(received.local_addr().expect("address")).expect("the received listener is alive");
    assert_eq!(received.accept().expect("accept").1, connected.local_addr().expect("address"));
    assert!(matches!(events.next().await, Event::Ready));

    assert!(client.refill(4, Family::V4, 2));
    assert_eq!(wire.receive::<ToAgent>().await.expect("refill").0, ToAgent::Refill { slot: 4, family: Family::V4, count: 2 });
    wire.send(&ToProxy::Sockets { slot: 4, family: Family::V4, count: 2 }, &[connected.as_fd(), connected.as_fd()])
        .await
        .expect("send");
    let Event::Sockets { slot: 4, family: Family::V4, sockets } = events.next().await else { panic!("sockets") };
    assert_eq!(sockets.len(), 2);
}

#[tokio::test]
async fn after_a_reconnection_an_unlisted_pod_is_gone_and_not_before() {
    let agent = FakeAgent::new();
    let (_client, mut events) = start(agent.path.clone(), Role::Proxy);
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let wire = agent.accept().await;
    for (slot, id) in [(1, "a"), (2, "b")] {
        wire.send(&pod(slot, id), &[listener.as_fd()]).await.expect("send");
        assert!(matches!(events.next().await, Event::PodAdded { .. }));
    }
    wire.send(&ToProxy::Ready, &[]).await.expect("send");
    assert!(matches!(events.next().await, Event::Ready));
    drop(wire);
    assert!(matches!(events.next().await, Event::Lost { .. }), "told, and no pod is taken back");

    let wire = agent.accept().await;
    wire.send(&pod(2, "b"), &[listener.as_fd()]).await.expect("send");
    wire.send(&ToProxy::Ready, &[]).await.expect("send");
    assert!(matches!(events.next().await, Event::PodAdded { slot: 2, .. }));
    assert!(matches!(events.next().await, Event::PodGone { slot: 1 }));
    assert!(matches!(events.next().await, Event::Ready));
    wire.send(&ToProxy::PodGone { slot: 2 }, &[]).await.expect("send");
    assert!(matches!(events.next().await, Event::PodGone { slot: 2 }));
}

#[tokio::test]
async fn missing_descriptors_end_the_conversation() {
    let agent = FakeAgent::new();
    let (_client, mut events) = start(agent.path.clone(), Role::Proxy);
    let wire = agent.accept().await;
    wire.send(&pod(1, "a"), &[]).await.expect("send");
    let Event::Lost { reason } = events.next().await else { panic!("lost") };
    assert_eq!(reason, "a message announces 1 descriptors and carries 0");
}

#[tokio::test]
async fn a_full_batch_fits_and_one_more_is_refused() {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).expect("pair");
    let (a, b) = (Packets::new(a).expect("register"), Packets::new(b).expect("register"));
    let file = std::fs::File::open("/dev/null").expect("file");
    let message = ToProxy::Sockets { slot: 1, family: Family::V6, count: BATCH };
    a.send(&message, &[file.as_fd(); BATCH]).await.expect("a batch fits");
    let (received, fds) = b.receive::<ToProxy>().await.expect("received");
    assert_eq!((received, fds.len()), (message.clone(), BATCH));
    assert!(a.send(&message, &[file.as_fd(); BATCH + 1]).await.is_err());
}

#[tokio::test]
async fn what_was_learned_is_acknowledged_to_the_dns_role_only() {
    let agent = FakeAgent::new();
    let (client, mut events) = start(agent.path.clone(), Role::Dns);
    let wire = agent.accept_role(Role::Dns).await;
    let addresses = vec![IpAddr::from([203, 0, 113, 1])];
    client.learned(7, "a.example".to_owned(), addresses.clone(), 30).await;
    let asked = wire.receive::<ToAgent>().await.expect("learned").0;
    assert_eq!(asked, ToAgent::Learned { id: 7, name: "a.example".to_owned(), addresses, ttl_seconds: 30 });
    wire.send(&ToProxy::Learned { id: 7 }, &[]).await.expect("send");
    assert!(matches!(events.next().await, Event::Learned { id: 7 }));

    let agent = FakeAgent::new();
    let (_client, mut events) = start(agent.path.clone(), Role::Proxy);
    let wire = agent.accept().await;
    wire.send(&ToProxy::Learned { id: 7 }, &[]).await.expect("send");
    let Event::Lost { reason } = events.next().await else { panic!("lost") };
    assert_eq!(reason, "the message \"learned\" is not for this role");
}
