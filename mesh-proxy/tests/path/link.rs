//! Connections to endpoints that are driven by their requests: what leaves together, what goes both ways at once, and who looks after a
//! connection that rests.

use super::V1;
use super::world::{World, action, to};
use std::future::Future;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(30);
/// More than all buffers on the way hold together.
const LARGE: usize = 32 << 20;

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("in time")
}

async fn world() -> (World, TcpListener, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[listener.local_addr().expect("address")]);
    world.routes(vec![to("/", action(V1))]);
    let client = TcpStream::connect(("127.0.0.1", world.port)).await.expect("connect");
    (world, listener, client)
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

#[tokio::test]
async fn a_head_and_its_body_reach_the_client_together() {
    let (_world, listener, mut client) = world().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        loop {
            head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await.expect("answer");
        }
    });
    let mut answer = [0; 4096];
    for round in 0..20 {
        client.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await.expect("ask");
        let length = in_time(client.read(&mut answer)).await.expect("answer");
        let text = String::from_utf8_lossy(&answer[..length]);
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\nhello"), "round {round}: {text:?}");
    }
}

#[tokio::test]
async fn a_response_that_begins_before_its_request_has_ended_lets_it_go_on() {
    let (_world, listener, mut client) = world().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        head(&mut stream).await;
        let (mut reader, mut writer) = stream.split();
        let answer = async {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
            writer.write_all(head.as_bytes()).await.expect("head");
            writer.write_all(&vec![b'a'; LARGE]).await.expect("body");
        };
        let read = async {
            let mut body = vec![0; LARGE];
            reader.read_exact(&mut body).await.expect("the request's body");
        };
        tokio::join!(answer, read);
    });
    let head_of_request = format!("POST / HTTP/1.1\r\nhost: reviews\r\ncontent-length: {LARGE}\r\n\r\n");
    client.write_all(head_of_request.as_bytes()).await.expect("ask");
    // Nothing is read before all is sent.
    let whole = vec![b'q'; LARGE];
    in_time(client.write_all(&whole)).await.expect("the body");
    assert!(in_time(head(&mut client)).await.starts_with("HTTP/1.1 200"));
    let mut body = whole;
    in_time(client.read_exact(&mut body)).await.expect("the answer's body");
    assert!(body.iter().all(|byte| *byte == b'a'));
    in_time(server).await.expect("server");
}

#[tokio::test]
async fn a_connection_that_its_endpoint_closes_at_rest_is_closed_at_once() {
    let (_world, listener, mut client) = world().await;
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("answer");
        stream.shutdown().await.expect("the server's end");
        // The proxy's end, though nobody asks for anything.
        stream.read(&mut [0; 1]).await.expect("end")
    });
    client.write_all(b"GET / HTTP/1.1\r\nhost: reviews\r\n\r\n").await.expect("ask");
    assert!(in_time(head(&mut client)).await.starts_with("HTTP/1.1 200"));
    assert_eq!(in_time(server).await.expect("server"), 0);
}
