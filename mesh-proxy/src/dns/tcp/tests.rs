//! A real listener on loopback. A connection to an address other than the listener's own looks as a captured one does.

use super::*;
use crate::dns::core::handler::tests::sample_core;
use crate::dns::core::samples;
use crate::dns::upstream::Upstreams;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use std::net::Ipv4Addr;

struct World {
    server: Arc<Server>,
    port: u16,
}

/// Serves a pod that may have one connection, which may be silent for so long.
async fn world(bind: &str, idle: Duration) -> World {
    let mut server = Server::new(Upstreams::new(&[]));
    server.tcp_idle = idle;
    *server.core.lock() = sample_core();
    let (server, pod) = (Arc::new(server), Arc::new(Pod::with_limits("pod".to_owned(), 1, 1)));
    let fd = std::net::TcpListener::bind(bind).expect("bind").into();
    let (listener, own) = listener(fd).expect("a listener");
    tokio::spawn(serve(Arc::clone(&server), pod, listener, own));
    World { server, port: own.port() }
}

impl World {
    async fn connect(&self, to: [u8; 4]) -> TcpStream {
        TcpStream::connect((Ipv4Addr::from(to), self.port)).await.expect("connected")
    }

    fn count(&self, reason: &str) -> u64 {
        self.server.metrics.count(Transport::Tcp, reason)
    }
}

fn framed(id: u16) -> Vec<u8> {
    let message = samples::query_bytes(id, "many.marathon.l4lb.thisdcos.directory.", RecordType::A);
    [&u16::try_from(message.len()).expect("short").to_be_bytes(), &message[..]].concat()
}

async fn answer(stream: &mut TcpStream) -> Option<Message> {
    let read = timeout(Duration::from_secs(10), read_message(stream, 65_535)).await.expect("in time");
    read.ok().flatten().map(|bytes| Message::from_vec(&bytes).expect("valid"))
}

#[tokio::test]
async fn questions_are_answered_in_order_however_they_are_cut() {
    let world = world("0.0.0.0:0", IDLE).await;
    let mut stream = world.connect([127, 128, 9, 9]).await;
    stream.set_nodelay(true).expect("set");
    for byte in [framed(1), framed(2)].concat() {
        stream.write_all(&[byte]).await.expect("sent");
        tokio::task::yield_now().await;
    }
    for id in [1, 2] {
        let answer = answer(&mut stream).await.expect("an answer");
        assert_eq!((answer.metadata.id, answer.answers.len(), answer.metadata.truncation), (id, 200, false));
    }
    // Both at once, and the client says that no more come.
    stream.write_all(&[framed(3), framed(4)].concat()).await.expect("sent");
    stream.shutdown().await.expect("shut");
    for id in [3, 4] {
        assert_eq!(answer(&mut stream).await.expect("an answer").metadata.id, id);
    }
    assert!(answer(&mut stream).await.is_none());
}

#[tokio::test]
async fn a_connection_to_the_listener_itself_is_refused_and_counted() {
    let world = world("127.0.0.1:0", IDLE).await;
    let mut stream = world.connect([127, 0, 0, 1]).await;
    assert!(answer(&mut stream).await.is_none());
    assert_eq!(world.count("mesh_listener"), 1);
}

#[tokio::test]
async fn the_limits_are_told_apart() {
    let world = world("0.0.0.0:0", IDLE).await;
    let mut first = world.connect([127, 128, 9, 9]).await;
    first.write_all(&framed(1)).await.expect("sent");
    assert!(answer(&mut first).await.is_some());
    let mut second = world.connect([127, 128, 9, 9]).await;
    assert!(answer(&mut second).await.is_none(), "one connection is all this pod may have");
    assert_eq!(world.count("pod_connections"), 1);
    first.write_all(&[0xff, 0xff]).await.expect("sent");
    assert!(answer(&mut first).await.is_none(), "no question is that long");
    assert_eq!(world.count("too_long"), 1);
}

#[tokio::test]
async fn who_stops_in_the_middle_of_a_question_is_disconnected() {
    let world = world("0.0.0.0:0", Duration::from_millis(50)).await;
    let mut stream = world.connect([127, 128, 9, 9]).await;
    stream.write_all(&framed(1)[..9]).await.expect("sent");
    assert!(answer(&mut stream).await.is_none());
    assert_eq!(world.count("idle"), 1);
}
