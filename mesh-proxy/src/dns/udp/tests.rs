//! A real wildcard socket with IP_PKTINFO on loopback, as the agent opens it in a pod.

use super::*;
use crate::dns::core::handler::tests::sample_core;
use crate::dns::core::samples;
use crate::dns::upstream::Upstreams;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use std::net::{Ipv4Addr, SocketAddr};

struct World {
    server: Arc<Server>,
    port: u16,
    client: UdpSocket,
}

/// Serves a pod with room for `questions` and a resolver that never answers.
async fn world(questions: usize) -> World {
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    let server = Arc::new(Server::new(Upstreams::new(&[silent.local_addr().expect("bound")])));
    // It stays open to the end of the process, so that nobody answers.
    std::mem::forget(silent);
    *server.core.lock() = sample_core();
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("bind");
    let port = socket.local_addr().expect("bound").port();
    let pod = Arc::new(Pod::with_limits("pod".to_owned(), questions, 1));
    let socket = DnsSocket::new(socket.into()).expect("a socket");
    tokio::spawn(serve(Arc::clone(&server), pod, Arc::new(socket)));
    World { server, port, client: UdpSocket::bind("127.0.0.1:0").await.expect("bind") }
}

impl World {
    async fn send(&self, to: [u8; 4], message: &[u8]) {
        let to = SocketAddr::from((Ipv4Addr::from(to), self.port));
        self.client.send_to(message, to).await.expect("sent");
    }

    async fn receive(&self) -> (SocketAddr, Message) {
        let mut buffer = [0; 2048];
        let received = tokio::time::timeout(Duration::from_secs(10), self.client.recv_from(&mut buffer)).await;
        let (length, from) = received.expect("an answer").expect("received");
        (from, Message::from_vec(&buffer[..length]).expect("valid"))
    }
}

fn reviews(id: u16) -> Vec<u8> {
    samples::query_bytes(id, "reviews.marathon.l4lb.thisdcos.directory.", RecordType::A)
}

#[tokio::test]
async fn an_answer_comes_from_the_very_address_that_was_asked() {
    let world = world(8).await;
    for (id, address) in [(1, [127, 128, 3, 4]), (2, [127, 255, 255, 254]), (3, [127, 200, 0, 1])] {
        world.send(address, &reviews(id)).await;
        let (from, answer) = world.receive().await;
        assert_eq!(from, SocketAddr::from((address, world.port)));
        assert_eq!((answer.metadata.id, answer.answers.len()), (id, 1));
    }
    assert_eq!(world.server.metrics.count(Transport::Udp, "mesh"), 3);
}

#[tokio::test]
async fn what_was_not_captured_or_is_no_question_is_dropped_and_counted() {
    let world = world(8).await;
    world.send([127, 0, 0, 1], &reviews(1)).await;
    world.send([127, 127, 255, 255], &reviews(2)).await;
    world.send([127, 128, 0, 1], b"short").await;
    world.send([127, 128, 0, 1], &samples::addresses(3, "a.", 1, 5)).await;
    world.send([127, 128, 0, 1], &[]).await;
    world.send([127, 128, 0, 1], &reviews(4)).await;
    assert_eq!(world.receive().await.1.metadata.id, 4, "only the last is answered");
    let count = |reason| world.server.metrics.count(Transport::Udp, reason);
    assert_eq!((count("mesh_listener"), count("garbage"), count("response"), count("mesh")), (2, 2, 1, 1));
}

#[tokio::test]
async fn a_pod_with_too_many_open_questions_is_told_and_mesh_names_still_work() {
    let world = world(1).await;
    for id in [1, 2] {
        world.send([127, 128, 0, 1], &samples::query_bytes(id, "www.example.com.", RecordType::A)).await;
    }
    let (_, answer) = world.receive().await;
    assert_eq!((answer.metadata.id, answer.metadata.response_code), (2, ResponseCode::ServFail));
    assert_eq!(world.server.metrics.count(Transport::Udp, "pod_limit"), 1);
    world.send([127, 128, 0, 1], &reviews(3)).await;
    assert_eq!(world.receive().await.1.metadata.id, 3);
}
