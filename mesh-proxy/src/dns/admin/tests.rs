//! The process as its neighbours see it: a pod's sockets handed over, names told, questions answered, and the admin socket.

use super::*;
use crate::broker::Event;
use crate::dns::core::handler::tests::sample_core;
use crate::dns::core::samples;
use crate::dns::upstream::Upstreams;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use mesh_common::broker::{Listener, Workload};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UdpSocket, UnixStream};

async fn get(path: &Path, target: &str) -> String {
    let mut stream = UnixStream::connect(path).await.expect("connected");
    let request = format!("GET {target} HTTP/1.1\r\nhost: dns\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

fn added(slot: u32, id: &str, socket: &std::net::UdpSocket) -> Event {
    let workload = Workload { id: id.to_owned(), ..Workload::default() };
    Event::PodAdded { slot, workload, listeners: vec![(Listener::DnsUdp, socket.try_clone().expect("dup").into())] }
}

async fn resolves(port: u16) -> bool {
    let client = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let query = samples::query_bytes(7, "reviews.marathon.l4lb.thisdcos.directory.", RecordType::A);
    client.send_to(&query, ("127.128.0.9", port)).await.expect("sent");
    let mut buffer = [0; 512];
    let length = client.recv(&mut buffer).await.expect("an answer");
    !Message::from_vec(&buffer[..length]).expect("valid").answers.is_empty()
}

#[tokio::test]
async fn ready_when_both_have_told_and_an_outage_of_either_changes_nothing() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("admin.sock");
    std::fs::write(&path, "left by a former process").expect("written");
    let server = Arc::new(Server::new(Upstreams::new(&["198.51.100.1:53".parse().expect("literal")])));
    let pods = Arc::new(Pods::default());
    let admin = Admin { server: Arc::clone(&server), pods: Arc::clone(&pods) };
    let listener = UnixListener::from_std(bind(&path).expect("bound")).expect("registered");
    tokio::spawn(serve(listener, admin));
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("bind");
    let port = socket.local_addr().expect("bound").port();

    let answer = get(&path, "/ready").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("agent"), "{answer}");
    pods.handle(&server, added(4, "a", &socket));
    assert!(!resolves(port).await, "not told yet");
    pods.handle(&server, Event::Ready);
    let answer = get(&path, "/ready").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("control plane"), "{answer}");
    *server.core.lock() = sample_core();
    assert!(get(&path, "/ready").await.starts_with("HTTP/1.1 200"));

    pods.handle(&server, Event::Lost { reason: "restart".to_owned() });
    assert!(resolves(port).await, "keeps the sockets it has");
    assert!(get(&path, "/ready").await.starts_with("HTTP/1.1 200"));
    let status = get(&path, "/status").await;
    for part in ["\"away\": \"restart\"", "\"id\": \"a\"", "l4lb.thisdcos.directory.", "198.51.100.1:53"] {
        assert!(status.contains(part), "{part} in {status}");
    }
    let metrics = get(&path, "/metrics").await;
    for part in
        ["mesh_dns_queries_total{transport=\"udp\",result=\"mesh\"} 1", "mesh_dns_held{what=\"pods\"} 1", "what=\"services\"} 3"]
    {
        assert!(metrics.contains(part), "{part} in {metrics}");
    }
    assert!(get(&path, "/nothing").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_at_the_start_is_answered_once_the_names_are_there() {
    let server = Arc::new(Server::new(Upstreams::new(&[])));
    let (socket, pods) = (std::net::UdpSocket::bind("0.0.0.0:0").expect("bind"), Pods::default());
    let asked = tokio::spawn(resolves(socket.local_addr().expect("bound").port()));
    socket.peek(&mut [0]).expect("the question waits in the socket, as in a pod whose DNS was killed");
    pods.handle(&server, added(4, "a", &socket));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!asked.is_finished(), "a mesh without names would deny that there is one");
    *server.core.lock() = sample_core();
    server.is_told();
    assert!(asked.await.expect("ends"));
}

#[tokio::test]
async fn a_pod_described_anew_is_served_on_and_one_that_left_is_not() {
    let server = Arc::new(Server::new(Upstreams::new(&[])));
    *server.core.lock() = sample_core();
    server.is_told();
    let pods = Pods::default();
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("bind");
    let port = socket.local_addr().expect("bound").port();
    for id in ["a", "a", "b"] {
        pods.handle(&server, added(4, id, &socket));
        assert!(resolves(port).await);
    }
    assert_eq!(pods.status().0, [(4, "b".to_owned(), 1)]);
    drop(socket);
    pods.handle(&server, Event::PodGone { slot: 4 });
    // The last holder of the socket is gone as soon as the task is: then the port is refused.
    let client = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    client.connect(("127.128.0.9", port)).await.expect("connected");
    let refused = async {
        while client.send(b"x").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused).await.expect("closed in time");
    assert!(pods.status().0.is_empty());
}
