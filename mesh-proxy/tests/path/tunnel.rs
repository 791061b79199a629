//! WebSockets: bytes in both directions after 101, and a 403 for what is no WebSocket.

use super::V1;
use super::world::{World, action, to};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn head(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut byte)).await;
        read.expect("in time").expect("a whole head");
        text.extend(byte);
    }
    String::from_utf8(text).expect("text").to_lowercase()
}

#[tokio::test]
async fn a_websocket_passes_in_both_directions_and_other_upgrades_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let mut world = World::new("0.0.0.0:0");
    world.cluster(V1, &[listener.local_addr().expect("address")]);
    world.routes(vec![to("/", action(V1))]);
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let asked = head(&mut stream).await;
        assert!(asked.contains("\r\nupgrade: websocket\r\n") && asked.contains("\r\nconnection: upgrade\r\n"), "{asked}");
        // The first frame comes with the answer.
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: x\r\n\r\nhello";
        stream.write_all(answer).await.expect("write");
        let mut echo = [0; 4];
        stream.read_exact(&mut echo).await.expect("read");
        stream.write_all(&echo).await.expect("write");
        assert_eq!(stream.read(&mut [0; 1]).await.expect("read"), 0, "the client's end");
    });
    let mut client = TcpStream::connect(("127.0.0.1", world.port)).await.expect("connect");
    let request = b"GET /chat HTTP/1.1\r\nhost: reviews\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-key: k\r\n\r\n";
    client.write_all(request).await.expect("write");
    let answer = head(&mut client).await;
    assert!(answer.starts_with("http/1.1 101 ") && answer.contains("sec-websocket-accept: x"), "{answer}");
    let mut hello = [0; 5];
    client.read_exact(&mut hello).await.expect("read");
    client.write_all(b"echo").await.expect("write");
    let mut echo = [0; 4];
    client.read_exact(&mut echo).await.expect("read");
    assert_eq!((&hello, &echo), (b"hello", b"echo"));
    drop(client);
    server.await.expect("server");

    let mut client = TcpStream::connect(("127.0.0.1", world.port)).await.expect("connect");
    let request = b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n";
    client.write_all(request).await.expect("write");
    assert!(head(&mut client).await.starts_with("http/1.1 403 "));
}
